//! What systemd is told, by a socket that stands in for it.

use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use rustix::process::Signal;

use crate::support::PATIENCE;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, single};

struct Manager {
    socket: UnixDatagram,
    dir: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = UnixDatagram::bind(dir.path().join("notify")).expect("bind");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { socket, dir }
    }

    /// A proxy that this manager started, with more keys of the service.
    fn start(&self, watchdog_usec: &str) -> (Proxy, Origin) {
        let origin = Origin::named("blue");
        let proxy = Builder::rest(&single(&origin.at(), ""))
            .env("NOTIFY_SOCKET", self.dir.path().join("notify"))
            .env("WATCHDOG_USEC", watchdog_usec)
            .start();
        (proxy, origin)
    }

    /// The next message that begins with this line.
    #[track_caller]
    fn told(&self, line: &str) -> String {
        let end = Instant::now() + PATIENCE;
        let mut chunk = [0; 4096];
        let mut seen = Vec::new();
        while Instant::now() < end {
            let n = self.socket.recv(&mut chunk).unwrap_or(0);
            let message = String::from_utf8_lossy(&chunk[..n]).into_owned();
            if message.lines().next() == Some(line) {
                return message;
            }
            seen.push(message);
        }
        panic!("never told {line}, only {seen:?}");
    }
}

#[test]
fn readiness_reload_and_the_end_are_told_in_order() {
    let manager = Manager::new();
    let (mut proxy, _origin) = manager.start("");
    let ready = manager.told("READY=1");
    assert!(ready.contains("STATUS=generation 1, 1 services"), "{ready}");
    proxy.signal(Signal::HUP);
    let reloading = manager.told("RELOADING=1");
    let since = reloading
        .lines()
        .find_map(|l| l.strip_prefix("MONOTONIC_USEC="));
    assert!(
        since.is_some_and(|usec| usec.parse::<u64>().is_ok()),
        "{reloading}"
    );
    manager.told("READY=1");
    proxy.signal(Signal::TERM);
    let stopping = manager.told("STOPPING=1");
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC="), "{stopping}");
    assert_eq!(proxy.ended().code(), Some(0));
}

#[test]
fn a_refusal_is_in_the_status_line_and_leaves_it_with_the_next_good_file() {
    let manager = Manager::new();
    let (proxy, origin) = manager.start("");
    std::fs::write(proxy.file(), "nonsense").expect("write the configuration");
    let told = |wanted: bool| {
        let end = Instant::now() + PATIENCE;
        let mut chunk = [0; 4096];
        while Instant::now() < end {
            let n = manager.socket.recv(&mut chunk).expect("a message");
            let message = String::from_utf8_lossy(&chunk[..n]).into_owned();
            let is_status = message.contains("STATUS=generation");
            if is_status
                && message.contains("refused") == wanted
                && (wanted || message.contains("generation 2"))
            {
                return;
            }
        }
        panic!("no such status");
    };
    told(true);
    let good = single(&origin.at(), "labels = { edited = \"yes\" }");
    std::fs::write(proxy.file(), proxy.whole(&good)).expect("write the configuration");
    told(false);
}

#[test]
fn the_watchdog_is_fed_while_all_is_well() {
    let manager = Manager::new();
    let (_proxy, _origin) = manager.start("900000");
    manager.told("READY=1");
    for _ in 0..3 {
        manager.told("WATCHDOG=1");
    }
}
