//! Takeovers that fail: whichever process dies, stops or can't go on, the other one serves, on every socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, command};
use crate::support::until;

/// An origin whose checks, and answers to `/slow`, hang while it is told so. A successor waits up to a second for its first checks; during that time it has
/// the sockets and does not serve yet.
struct Slow {
    origin: Origin,
    hangs: Arc<AtomicBool>,
}

impl Slow {
    fn new() -> Self {
        let hangs = Arc::new(AtomicBool::new(false));
        let told = hangs.clone();
        let origin = Origin::each(move |request, conn| {
            let slow = matches!(request.target().as_str(), "/ready" | "/slow");
            let held = || slow && told.load(Ordering::SeqCst);
            while held() {
                conn.wait(std::time::Duration::from_millis(10))?;
            }
            conn.reply(200, "blue")
        });
        Self { origin, hangs }
    }

    fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
    }

    /// A whole file: traffic and admin by TCP and by Unix sockets.
    fn file(&self, more: &str) -> String {
        format!(
            "workers = 2\nstate_dir = \"$DIR/state\"\n\
             [admin]\nlisten = [\"127.0.0.1:$ADMIN\", \"unix:$DIR/admin.sock\"]\n\
             [listen.default]\nbind = \"127.0.0.1:$PORT\"\n\
             [listen.local]\nbind = \"unix:$DIR/in.sock\"\n{more}\
             [service.app]\nstable = \"v1\"\nversions = {{ v1 = [\"{at}\"] }}\n\
             [service.checked]\nhosts = [\"checked.test\"]\nstable = \"v1\"\nversions = {{ v1 = [\"{at}\"] }}\n\
             [service.checked.health]\npath = \"/ready\"\ninterval = \"50ms\"\ntimeout = \"30s\"\n",
            at = self.origin.at()
        )
    }

    fn serve(&self) -> Proxy {
        Builder::new(&self.file("")).start()
    }

    fn edit(&self, proxy: &Proxy, more: &str) {
        std::fs::write(proxy.file(), proxy.filled(&self.file(more)))
            .expect("write the configuration");
    }
}

fn over(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket)
        .unwrap_or_else(|e| panic!("nothing listens at {}: {e}", socket.display()));
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Sends SIGTERM to a proxy and waits until it has heard.
fn is_asked_to_stop(proxy: &Proxy) {
    proxy.signal(Signal::TERM);
    until("it has heard", || {
        proxy.log().contains("asked to stop").then_some(())
    });
}

/// Waits until a successor serves, on every socket.
#[track_caller]
fn serves(successor: &Proxy) {
    until("its admin API answers", || {
        successor.is_ready().then_some(())
    });
    answers_everywhere(successor);
}

/// Every socket of the configuration is answered, by this process.
#[track_caller]
fn answers_everywhere(proxy: &Proxy) {
    for _ in 0..10 {
        assert_eq!(proxy.get("/").text(), "blue");
    }
    let local = over(&proxy.dir().join("in.sock"), "GET / HTTP/1.0\r\n\r\n");
    assert!(local.ends_with("blue"), "{local}");
    let pid = proxy.pid().to_string();
    let ask = "GET /api/v1/status HTTP/1.0\r\nhost: localhost\r\n\r\n";
    let admin = over(&proxy.dir().join("admin.sock"), ask);
    assert!(admin.contains(&format!("\"pid\": {pid}")), "{admin}");
    assert_eq!(proxy.status()["pid"], proxy.pid());
    let file = proxy.file();
    let control = ["status", "--json", "-c", file.to_str().expect("UTF-8")];
    // Whatever the file says about `admin`: the control socket is asked first.
    let control = command(&control, proxy.dir());
    assert!(
        control.stdout.contains(&format!("\"pid\": {pid}")),
        "{control:?}"
    );
    let sockets = std::fs::read_dir(proxy.dir().join("state")).expect("the state directory");
    let sockets = sockets.filter(|entry| {
        let name = entry.as_ref().expect("an entry").file_name();
        name.to_string_lossy().ends_with(".sock")
    });
    assert_eq!(sockets.count(), 2, "control and handover");
}

/// A successor that has been offered the sockets, and waits for its checks.
#[track_caller]
fn offered(slow: &Slow, proxy: &Proxy) -> Proxy {
    slow.hang(true);
    let successor = proxy.start_successor();
    let sign = format!("a new process is taking over pid={} ", successor.pid());
    until("it is offered the sockets", || {
        proxy.log().contains(&sign).then_some(())
    });
    until("it has them", || {
        successor.log().contains("taking over from").then_some(())
    });
    successor
}

/// After a failure: the next takeover works.
#[track_caller]
fn takes_over(slow: &Slow, proxy: &mut Proxy) -> Proxy {
    slow.hang(false);
    slow.edit(proxy, "");
    let next = proxy.successor().expect("it takes over after all");
    assert_eq!(proxy.ended().code(), Some(0));
    answers_everywhere(&next);
    next
}

#[test]
fn a_successor_that_is_killed_or_stopped_with_the_sockets_in_its_hands_removes_nothing() {
    let slow = Slow::new();
    let mut proxy = slow.serve();
    for (signal, code) in [(Signal::KILL, None), (Signal::TERM, Some(0))] {
        let mut successor = offered(&slow, &proxy);
        successor.signal(signal);
        assert_eq!(successor.ended().code(), code, "{}", successor.log());
        answers_everywhere(&proxy);
        assert!(proxy.runs());
    }
    takes_over(&slow, &mut proxy);
}

#[test]
fn a_successor_that_can_not_open_a_further_socket_removes_nothing_but_what_it_made() {
    let slow = Slow::new();
    let mut proxy = slow.serve();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("its address");
    let further = format!(
        "[listen.new]\nbind = \"unix:$DIR/new.sock\"\n[listen.taken]\nbind = \"{taken}\"\n"
    );
    for (more, why) in [
        (further.as_str(), "already in use"),
        ("nonsense\n", "cutover.toml"),
    ] {
        slow.edit(&proxy, more);
        let log = proxy.successor().err().expect("it does not start");
        assert!(log.contains(why), "{log}");
        answers_everywhere(&proxy);
        assert!(!proxy.dir().join("new.sock").exists());
    }
    // The admin addresses come after the listeners.
    let text = proxy.filled(&slow.file(""));
    let admin = format!("127.0.0.1:{}", proxy.admin);
    let text = text.replace(
        &format!("\"{admin}\""),
        &format!("\"{admin}\", \"{taken}\""),
    );
    std::fs::write(proxy.file(), text).expect("write the configuration");
    let log = proxy.successor().err().expect("it does not start");
    assert!(log.contains(&taken.to_string()), "{log}");
    answers_everywhere(&proxy);
    takes_over(&slow, &mut proxy);
}

#[test]
fn a_successor_whose_predecessor_is_killed_goes_on_without_it() {
    let slow = Slow::new();
    let mut proxy = slow.serve();
    let mut successor = offered(&slow, &proxy);
    proxy.signal(Signal::KILL);
    proxy.ended();
    // No connection is refused meanwhile: the successor has the sockets.
    assert_eq!(proxy.get("/").text(), "blue");
    until("it serves", || {
        successor.log().contains("serving without it").then_some(())
    });
    serves(&successor);
    let mut next = takes_over(&slow, &mut successor);
    next.signal(Signal::TERM);
    assert_eq!(next.ended().code(), Some(0));
    for gone in ["in.sock", "admin.sock"] {
        assert!(
            !next.dir().join(gone).exists(),
            "the last one removes {gone}"
        );
    }
}

#[test]
fn a_predecessor_that_is_asked_to_stop_meanwhile_waits_for_what_comes_of_it() {
    let slow = Slow::new();
    let mut proxy = slow.serve();
    let mut kept = proxy.client();
    kept.get("/");
    let mut successor = offered(&slow, &proxy);
    is_asked_to_stop(&proxy);
    assert!(proxy.runs());
    assert_eq!(kept.get("/").text(), "blue");
    assert_eq!(proxy.ended().code(), Some(0));
    assert!(proxy.log().contains("handed over"), "{}", proxy.log());
    serves(&successor);
    takes_over(&slow, &mut successor);
}

#[test]
fn a_predecessor_that_is_asked_to_stop_stops_when_the_successor_fails() {
    let slow = Slow::new();
    let mut proxy = slow.serve();
    let mut successor = offered(&slow, &proxy);
    is_asked_to_stop(&proxy);
    assert_eq!(proxy.get("/").text(), "blue");
    successor.signal(Signal::TERM);
    assert_eq!(successor.ended().code(), Some(0));
    assert_eq!(proxy.ended().code(), Some(0));
    assert!(!proxy.dir().join("in.sock").exists());
    assert!(std::net::TcpStream::connect(("127.0.0.1", proxy.port)).is_err());
}

#[test]
fn a_predecessor_that_is_stopped_at_once_leaves_the_sockets_to_the_successor() {
    let slow = Slow::new();
    let mut proxy = slow.serve();
    let mut successor = offered(&slow, &proxy);
    is_asked_to_stop(&proxy);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.ended().code(), Some(0));
    until("it serves", || {
        successor.log().contains("serving without it").then_some(())
    });
    serves(&successor);
    takes_over(&slow, &mut successor);
}

#[test]
fn a_reload_meanwhile_is_done_by_the_process_that_serves_then() {
    let slow = Slow::new();
    let mut proxy = slow.serve();
    let mut busy = proxy.client();
    slow.hang(true);
    busy.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n");
    until("it is in flight", || {
        let requests = slow.origin.requests();
        requests.iter().any(|r| r.target() == "/slow").then_some(())
    });
    let successor = offered(&slow, &proxy);
    slow.edit(&proxy, "[listen.new]\nbind = \"unix:$DIR/new.sock\"\n");
    let file = proxy.file();
    let reload = ["reload", "-c", file.to_str().expect("UTF-8")];
    let said = command(&reload, proxy.dir());
    assert_eq!(said.code, 0, "{said:?}");
    assert!(proxy.runs(), "the old process did not have to end for it");
    assert_eq!(successor.status()["pid"], successor.pid());
    let new = over(&proxy.dir().join("new.sock"), "GET / HTTP/1.0\r\n\r\n");
    assert!(new.ends_with("blue"), "{new}");
    slow.hang(false);
    assert_eq!(busy.answer("GET").text(), "blue");
    assert_eq!(proxy.ended().code(), Some(0));
}

#[test]
fn an_admin_socket_that_the_successor_does_not_want_goes_with_the_old_process() {
    let slow = Slow::new();
    let mut proxy = slow.serve();
    let text = proxy.filled(&slow.file(""));
    let less = text.replace(
        &format!(", \"unix:{}/admin.sock\"", proxy.dir().display()),
        "",
    );
    assert_ne!(less, text);
    std::fs::write(proxy.file(), less).expect("write the configuration");
    let next = proxy.successor().expect("it takes over");
    assert_eq!(proxy.ended().code(), Some(0));
    assert!(!proxy.dir().join("admin.sock").exists());
    assert!(next.dir().join("in.sock").exists());
    assert_eq!(next.get("/").text(), "blue");
}
