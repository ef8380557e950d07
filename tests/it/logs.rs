//! `cutover logs`: follows requests, with and without an access log, through a takeover and to the end of the proxy.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, ExitStatus};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::origin::Origin;
use crate::support::proxy::{BINARY, Proxy, before, serve, single};
use crate::support::{free_port, until};
use crate::undo::with_token;

/// A running `cutover logs`; killed when dropped.
struct Logs {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    stderr: Option<ChildStderr>,
}

impl Logs {
    /// Follows the proxy over its control socket.
    fn of(proxy: &Proxy, arguments: &[&str]) -> Self {
        let mut child = proxy.start_local(&[&["logs"], arguments].concat());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = lines.clone();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                into.lock().unwrap().push(line);
            }
        });
        let stderr = child.stderr.take();
        Self {
            child,
            lines,
            stderr,
        }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn json(&self) -> Vec<Value> {
        let parse = |line: &String| serde_json::from_str(line).unwrap();
        self.lines().iter().map(parse).collect()
    }

    /// Sends requests until a line with this path is there: workers learn of a follower within a tick.
    #[track_caller]
    fn until_shown(&self, proxy: &Proxy, path: &str) {
        until("the line is shown", || {
            proxy.get(path);
            self.lines().iter().any(|l| l.contains(path)).then_some(())
        });
    }

    /// How it ended, and what it said.
    #[track_caller]
    fn ended(mut self) -> (ExitStatus, String) {
        let status = until("it ends", || self.child.try_wait().unwrap());
        let mut said = String::new();
        let stderr = self.stderr.as_mut().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        (status, said)
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

/// Two services, one of which fails.
fn two() -> (Origin, Origin, Proxy) {
    let good = Origin::named("good");
    let bad = Origin::each(|_, conn| conn.reply(500, "bad"));
    let proxy = serve(&format!(
        "[service.shop]\npaths = [\"/shop/*\"]\nversions = {{ v1 = [\"{}\"] }}\n\
         [service.api]\npaths = [\"/api/*\"]\nstable = \"v1\"\n\
         [service.api.versions]\nv1 = [\"{}\"]\nv2 = [\"{}\"]\n\
         [[service.api.match]]\nwhen = {{ path = \"/api/bad\" }}\nto = \"v2\"\n",
        good.at(),
        good.at(),
        bad.at(),
    ));
    (good, bad, proxy)
}

#[test]
fn requests_are_followed_without_an_access_log() {
    let (_good, _bad, proxy) = two();
    let [all, shop, failed, canary] = [
        &["--json"][..],
        &["--json", "shop"],
        &["--json", "--failed"],
        &["--json", "--canary", "api"],
    ]
    .map(|arguments| Logs::of(&proxy, arguments));
    let plain = Logs::of(&proxy, &[]);
    all.until_shown(&proxy, "/api/first");
    shop.until_shown(&proxy, "/shop/first");
    failed.until_shown(&proxy, "/api/bad");
    canary.until_shown(&proxy, "/api/bad");
    plain.until_shown(&proxy, "/shop/plain");
    let mut client = proxy.client();
    for path in ["/shop/1", "/api/1", "/api/bad", "/shop/last"] {
        client.get(path);
    }
    until("the last line", || {
        let last = all.lines();
        last.iter().any(|l| l.contains("/shop/last")).then_some(())
    });
    let ours = |line: &Value, path: &str| line["path"] == path;
    assert!(all.json().iter().any(|line| ours(line, "/api/1")));
    assert!(shop.json().iter().all(|line| line["service"] == "shop"));
    assert!(failed.json().iter().all(|line| line["status"] == 500));
    assert!(
        canary
            .json()
            .iter()
            .all(|l| l["version"] == "v2" && l["canary"] == true)
    );
    let shown = plain.lines();
    let line = shown.iter().find(|l| l.contains("/shop/plain")).unwrap();
    assert!(
        line.contains("Z 200 GET test/shop/plain ") && line.contains("ms shop/v1 127.0.0.1:"),
        "{line}"
    );
}

#[test]
fn nobody_follows_who_may_not() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let refused = proxy.ask_admin("/api/v1/logs");
    assert_eq!(refused.status(), 403, "over TCP it needs the token");
    let unknown = Logs::of(&proxy, &["ap"]).ended();
    assert_eq!(unknown.0.code(), Some(1));
    assert!(
        unknown.1.contains("no service") && unknown.1.contains("app"),
        "{}",
        unknown.1
    );
    let nobody = Command::new(BINARY)
        .args(["logs", "--admin"])
        .arg(format!("127.0.0.1:{}", free_port()))
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(3));
}

#[test]
fn the_token_lets_other_machines_follow() {
    let origin = Origin::named("blue");
    let proxy = with_token(&single(&origin.at(), ""));
    let token = proxy.dir().join("token");
    let address = format!("127.0.0.1:{}", proxy.admin);
    let token = token.to_str().unwrap();
    let logs = Logs::of(&proxy, &["--admin", &address, "--token-file", token]);
    logs.until_shown(&proxy, "/remote");
}

#[test]
fn it_ends_well() {
    let origin = Origin::named("blue");
    let mut proxy = before(&origin.at());
    let interrupted = Logs::of(&proxy, &[]);
    let stopped = Logs::of(&proxy, &["--json"]);
    interrupted.until_shown(&proxy, "/first");
    kill_process(Pid::from_child(&interrupted.child), Signal::INT).unwrap();
    assert_eq!(interrupted.ended().0.code(), Some(0));
    stopped.until_shown(&proxy, "/first");
    // The last requests are shown before it says that the proxy has stopped.
    let mut client = proxy.client();
    client.get("/last");
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.ended().code(), Some(0));
    let lines = stopped.lines.clone();
    let (status, said) = stopped.ended();
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("the proxy has stopped"), "{said}");
    until("the last line", || {
        let lines = lines.lock().unwrap();
        lines.iter().any(|l| l.contains("/last")).then_some(())
    });
}

#[test]
fn a_proxy_that_is_killed_is_gone() {
    let origin = Origin::named("blue");
    let mut proxy = before(&origin.at());
    let logs = Logs::of(&proxy, &[]);
    logs.until_shown(&proxy, "/first");
    proxy.signal(Signal::KILL);
    proxy.ended();
    let (status, said) = logs.ended();
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("the proxy has stopped"), "{said}");
}

#[test]
fn a_takeover_is_followed() {
    let origin = Origin::named("blue");
    let mut proxy = before(&origin.at());
    let logs = Logs::of(&proxy, &[]);
    logs.until_shown(&proxy, "/before");
    let mut successor = proxy.successor().expect("it takes over");
    assert_eq!(proxy.ended().code(), Some(0));
    logs.until_shown(&successor, "/after");
    successor.signal(Signal::TERM);
    assert_eq!(successor.ended().code(), Some(0));
    let (status, said) = logs.ended();
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(
        said.contains(&format!("process {} has taken over", successor.pid())),
        "{said}"
    );
}
