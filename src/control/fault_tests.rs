//! Injected panics: which connections, threads or processes they end, which they don't, and that they are logged and counted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::faults::{ArmedFault, Fault};
use super::in_process::Server;
use super::tests::{PATIENCE, get, origin, until};
use super::{Options, RunError};
use crate::admin::ControlCommand;
use crate::snapshot::Version;

/// A proxy in front of one origin.
struct Harness {
    dir: tempfile::TempDir,
    server: Server,
    text: String,
    /// The faults of requests whose path names one of [`PLACES`].
    _faults: Vec<ArmedFault>,
}

impl Harness {
    fn new(workers: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (place, origin) = (dir.path().display(), origin("blue"));
        let text = format!(
            "admin = \"127.0.0.1:0\"\nworkers = {workers}\nstate_dir = \"{place}/state\"\n\
             [listen.default]\nbind = \"127.0.0.1:0\"\n[listen.local]\nbind = \"unix:{place}/in.sock\"\n\
             [service.shop]\nlimits = {{ requests = 4, connections = 6, pending = 2, retries = 1 }}\n\
             versions = {{ blue = [\"{origin}\"] }}\n"
        );
        let file = dir.path().join("cutover.toml");
        std::fs::write(&file, &text).unwrap();
        let options = Options {
            config: file,
            takeover: false,
        };
        let server = Server::start(options).unwrap();
        let fault = |(place, event)| Fault::wherever(event, format!("/panic/{place}")).arm();
        Self {
            dir,
            server,
            text,
            _faults: PLACES.into_iter().map(fault).collect(),
        }
    }

    fn at(&self) -> SocketAddr {
        self.server.address("default").unwrap()
    }

    fn kept(&self) -> TcpStream {
        let stream = TcpStream::connect(self.at()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Makes the accept loop of a worker panic, and the worker with it: the one that gets the next connection.
    fn panic_worker(&self) {
        let fault = Fault::next("connection accepted", self.at()).arm();
        // Fails once the proxy has ended.
        if let Ok(mut stream) = TcpStream::connect(self.at()) {
            let _ends_without_a_byte = stream.read(&mut [0]);
        }
        drop(fault);
    }

    /// Makes the control thread panic at this event, which `cause` brings about.
    fn panic_control(&self, event: &'static str, cause: impl FnOnce(&Server)) {
        let control = self.server.thread.as_ref().unwrap();
        let fault = Fault::next_on(event, control.thread().id()).arm();
        cause(&self.server);
        until(|| control.is_finished());
        drop(fault);
    }

    /// Connections and streams that panics ended, as the metrics say.
    fn panics(&self) -> f64 {
        let page = get(self.server.admin()[0], "/metrics");
        let line = "cutover_panics_total{listener=\"default\"} ";
        let value = page.lines().find_map(|l| l.strip_prefix(line));
        value.unwrap_or_else(|| panic!("{page}")).parse().unwrap()
    }
}

/// Sends a request and reads the first bytes of the response; `None` if the connection has ended.
fn ask(stream: &mut (impl Read + Write), path: &str) -> Option<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").ok()?;
    let mut chunk = [0; 4096];
    match stream.read(&mut chunk) {
        Ok(n @ 1..) => Some(String::from_utf8_lossy(&chunk[..n]).into_owned()),
        _ => None,
    }
}

fn is_blue(answer: Option<String>) -> bool {
    answer.is_some_and(|a| a.starts_with("HTTP/1.1 200") && a.ends_with("\r\n\r\nblue"))
}

/// Whether every request has returned its connection and its places under the limits.
fn is_at_rest(version: &Version) -> bool {
    let totals = version.metrics.totals();
    (totals.in_flight, totals.queued) == (0, 0)
        && (version.load.requests.now(), version.load.retries.now()) == (0, 0)
        && version.load.connections.waiting() == 0
        && i64::from(version.load.connections.open()) == totals.connections
        && version.pool.members[0].endpoint.load.active() == 0
}

/// Where a request can panic: before it has a version, with a connection to the endpoint, with half a response sent.
/// Each with the event at which it does.
const PLACES: [(&str, &str); 3] = [
    ("routing", "request received"),
    ("asked", "request sent upstream"),
    ("answering", "response started"),
];

#[test]
fn a_panic_in_a_request_affects_no_other_and_releases_what_it_held() {
    let harness = Harness::new(1);
    let address = harness.at();
    let mut kept = harness.kept();
    assert!(is_blue(ask(&mut kept, "/")));
    let slow = std::thread::spawn(move || get(address, "/slow"));
    let live = harness.server.live().current();
    let version = &live.services[0].versions[0];
    until(|| version.load.requests.now() == 1);
    // More often than any limit allows, so that a leak of one place would be noticed.
    let mut panicked = 0.0;
    for (place, _) in PLACES.iter().cycle().take(30) {
        let mut stream = harness.kept();
        let path = format!("/panic/{place}");
        let mut answer = ask(&mut stream, &path).unwrap_or_default();
        let _ends_by_a_close_or_a_reset = stream.read_to_string(&mut answer);
        assert!(!answer.ends_with("blue"), "{place}: {answer}");
        panicked += 1.0;
    }
    assert_eq!(slow.join().unwrap(), "blue");
    assert!(
        is_blue(ask(&mut kept, "/")),
        "the same worker keeps serving"
    );
    assert_eq!(get(address, "/"), "blue");
    until(|| is_at_rest(version));
    assert_eq!(harness.panics(), panicked);
    harness.server.stop().unwrap();
}

#[test]
fn a_panic_in_one_stream_affects_no_other_of_its_connection() {
    let harness = Harness::new(1);
    let live = harness.server.live().current();
    let version = &live.services[0].versions[0];
    let client = async {
        let socket = tokio::net::TcpStream::connect(harness.at()).await.unwrap();
        let (sender, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::task::spawn_local(connection);
        let ask = async |path: &str| {
            let request = http::Request::get(format!("http://a{path}")).body(());
            let mut ready = sender.clone().ready().await.ok()?;
            let (answer, _) = ready.send_request(request.ok()?, true).ok()?;
            let mut body = answer.await.ok()?.into_body();
            let mut text = Vec::new();
            while let Some(piece) = body.data().await {
                text.extend_from_slice(&piece.ok()?);
            }
            Some(String::from_utf8_lossy(&text).into_owned())
        };
        let blue = Some("blue".to_owned());
        let panics = async {
            for (place, _) in PLACES.iter().cycle().take(30) {
                assert_eq!(ask(&format!("/panic/{place}")).await, None, "{place}");
            }
        };
        let (slow, ()) = tokio::join!(ask("/slow"), panics);
        assert_eq!((slow, ask("/").await), (blue.clone(), blue));
    };
    let runtime = super::runtime().unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, client).await });
    ended.expect("every stream ends");
    until(|| is_at_rest(version));
    assert_eq!(harness.panics(), 30.0);
    harness.server.stop().unwrap();
}

#[test]
fn a_worker_that_panics_is_restarted_on_its_sockets_and_the_others_keep_running() {
    let harness = Harness::new(2);
    let mut kept: Vec<TcpStream> = (0..16).map(|_| harness.kept()).collect();
    assert!(kept.iter_mut().all(|stream| is_blue(ask(stream, "/"))));
    harness.panic_worker();
    until(|| harness.panics() > 0.0);
    let (stay, gone): (Vec<_>, Vec<_>) = kept
        .iter_mut()
        .map(|stream| ask(stream, "/"))
        .partition(Option::is_some);
    assert!(stay.into_iter().all(is_blue));
    assert!(
        !gone.is_empty() && gone.len() < 16,
        "{} are gone",
        gone.len()
    );
    assert_eq!(harness.panics(), gone.len() as f64);
    for _ in 0..50 {
        assert_eq!(get(harness.at(), "/"), "blue");
        let mut local = UnixStream::connect(harness.dir.path().join("in.sock")).unwrap();
        assert!(is_blue(ask(&mut local, "/")));
    }
    // The restarted worker adopts new configurations, too.
    let edited = format!("{}labels = {{ a = \"b\" }}\n", harness.text);
    std::fs::write(harness.dir.path().join("cutover.toml"), edited).unwrap();
    until(|| harness.server.live().adopted() == 2);
    let live = harness.server.live().current();
    until(|| is_at_rest(&live.services[0].versions[0]));
    harness.server.stop().unwrap();
}

#[test]
fn workers_that_keep_panicking_end_the_proxy_with_an_error() {
    let harness = Harness::new(2);
    let ended = || {
        harness.panic_worker();
        std::thread::park_timeout(Duration::from_millis(20));
        harness.server.thread.as_ref().unwrap().is_finished()
    };
    until(ended);
    assert!(matches!(harness.server.stop(), Err(RunError::Worker)));
}

#[test]
fn a_panic_of_the_control_thread_or_one_of_its_tasks_ends_the_proxy_with_an_error() {
    let command = |server: &Server| {
        let (answer, _) = tokio::sync::oneshot::channel();
        let sent = server.commands.try_send(ControlCommand::Reload { answer });
        sent.unwrap();
    };
    let request = |server: &Server| drop(TcpStream::connect(server.admin()[0]).unwrap());
    type Cause = fn(&Server);
    let faults = [
        ("operator command received", command as Cause),
        ("admin connection accepted", request),
    ];
    for (event, cause) in faults {
        let harness = Harness::new(2);
        let address = harness.at();
        let slow = std::thread::spawn(move || get(address, "/slow"));
        let live = harness.server.live().current();
        let busy = live.services[0].versions[0].pool.members[0]
            .endpoint
            .clone();
        until(|| busy.load.active() == 1);
        harness.panic_control(event, cause);
        let ended = harness.server.stop();
        assert!(matches!(ended, Err(RunError::Control)), "{ended:?}");
        until(|| TcpStream::connect(address).is_err());
        assert_eq!(slow.join().unwrap(), "blue", "in flight, it is finished");
    }
}

#[test]
fn a_worker_whose_accept_loop_panics_is_restarted() {
    let harness = Harness::new(1);
    let fault = Fault::next("connection accepted", harness.at()).arm();
    let lost = || {
        let mut stream = harness.kept();
        ask(&mut stream, "/").is_none()
    };
    until(lost);
    drop(fault);
    for _ in 0..10 {
        assert_eq!(get(harness.at(), "/"), "blue");
    }
    harness.server.stop().unwrap();
}

#[test]
fn a_file_whose_parsing_panics_is_refused() {
    let harness = Harness::new(1);
    let file = harness.dir.path().join("cutover.toml");
    let fault = Fault::wherever("reading the configuration", file.display()).arm();
    std::fs::write(&file, format!("{}# edited", harness.text)).unwrap();
    until(|| harness.server.live().source().refused > 0);
    let error = harness.server.live().source().error.unwrap();
    assert!(
        error.contains("cutover panicked while reading this file"),
        "{error}"
    );
    assert_eq!(get(harness.at(), "/"), "blue");
    drop(fault);
    std::fs::write(&file, format!("{}# good again", harness.text)).unwrap();
    until(|| harness.server.live().adopted() == 2);
    harness.server.stop().unwrap();
}
