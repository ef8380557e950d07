//! What systemd is told, by a socket that stands in for it.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;

use crate::support::origin::Origin;
use crate::support::proxy::{BINARY, Builder, Proxy, single};
use crate::support::{Ended, PATIENCE};

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

impl Manager {
    /// The next so many sockets that it is given to keep, with their names; and what it is told to keep no more until then.
    fn given(&self, count: usize) -> (Vec<(String, OwnedFd)>, Vec<String>) {
        let (mut given, mut removed) = (Vec::new(), Vec::new());
        let mut chunk = [0; 4096];
        while given.len() < count {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = [IoSliceMut::new(&mut chunk)];
            let received = recvmsg(
                &self.socket,
                &mut bytes,
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            );
            let n = received.expect("a message").bytes;
            let message = String::from_utf8_lossy(&chunk[..n]).into_owned();
            let name = message.lines().find_map(|l| l.strip_prefix("FDNAME="));
            let rights = control.drain().filter_map(|m| match m {
                RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                _ => None,
            });
            let fds: Vec<OwnedFd> = rights.flatten().collect();
            let name = || name.expect("a name").to_owned();
            match message.lines().next() {
                Some("FDSTORE=1") => given.extend(fds.into_iter().map(|fd| (name(), fd))),
                Some("FDSTOREREMOVE=1") => removed.push(name()),
                _ => assert!(fds.is_empty(), "{message}"),
            }
        }
        (given, removed)
    }
}

/// A proxy that is started with these three sockets, as the service manager passes them.
fn restarted_with(sockets: Vec<(String, OwnedFd)>, proxy: &Proxy) -> Ended {
    let names: Vec<String> = sockets.iter().map(|(name, _)| name.clone()).collect();
    let mut fds = sockets.into_iter().map(|(_, fd)| Stdio::from(fd));
    let mut next = || fds.next().expect("three sockets");
    let script = "exec 3<&0 4<&1 5<&2 </dev/null >/dev/null 2>\"$3\"; \
        LISTEN_PID=$$ LISTEN_FDS=3 LISTEN_FDNAMES=\"$2\" exec \"$0\" run -c \"$1\"";
    let child = Command::new("sh")
        .args(["-c", script, BINARY])
        .arg(proxy.file())
        .arg(names.join(":"))
        .arg(proxy.dir().join("log"))
        .stdin(next())
        .stdout(next())
        .stderr(next())
        .spawn();
    Ended(child.expect("start the binary"))
}

#[test]
fn sockets_are_kept_by_the_manager_over_a_crash_and_so_is_whoever_waits_on_them() {
    kept_over(Signal::KILL);
}

#[test]
fn sockets_are_kept_by_the_manager_over_a_restart_and_so_is_whoever_waits_on_them() {
    kept_over(Signal::TERM);
}

fn kept_over(signal: Signal) {
    let manager = Manager::new();
    let origin = Origin::named("blue");
    let head = "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n\
        [listen.default]\nbind = \"127.0.0.1:$PORT\"\n";
    let local = "[listen.local]\nbind = \"unix:$DIR/in.sock\"\n";
    let text = |listeners: &str| format!("{head}{listeners}{}", single(&origin.at(), ""));
    let mut proxy = Builder::new(&text(local))
        .env("NOTIFY_SOCKET", manager.dir.path().join("notify"))
        .start();
    let (mut given, removed) = manager.given(3);
    given.sort_by(|(a, _), (b, _)| a.cmp(b));
    let names: Vec<&str> = given.iter().map(|(name, _)| name.as_str()).collect();
    let each = ["listener.default", "listener.default", "listener.local"];
    assert_eq!((names, removed), (each.to_vec(), Vec::new()));
    assert_eq!(proxy.get("/").text(), "blue");
    proxy.signal(signal);
    proxy.ended();
    // Nobody serves, and nobody is refused.
    let mut waiting: Vec<_> = (0..20).map(|_| proxy.client()).collect();
    for client in &mut waiting {
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    }
    let mut local = UnixStream::connect(proxy.dir().join("in.sock")).expect("it is open");
    local.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sent");
    let _restarted = restarted_with(given, &proxy);
    for client in &mut waiting {
        assert_eq!(client.answer("GET").text(), "blue");
    }
    let mut answer = String::new();
    local.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("blue"), "{answer}");
    for _ in 0..20 {
        assert_eq!(proxy.get("/").text(), "blue");
    }
    let log = std::fs::read_to_string(proxy.dir().join("log")).expect("its log");
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

#[test]
fn the_manager_forgets_a_listener_that_is_taken_out_of_the_file() {
    let manager = Manager::new();
    let origin = Origin::named("blue");
    let head = "admin = \"127.0.0.1:$ADMIN\"\nworkers = 1\nstate_dir = \"$DIR/state\"\n\
        [listen.default]\nbind = \"127.0.0.1:$PORT\"\n";
    let more = "[listen.more]\nbind = \"127.0.0.1:$PORT2\"\n";
    let text = |more: &str| format!("{head}{more}{}", single(&origin.at(), ""));
    let proxy = Builder::new(&text(more))
        .env("NOTIFY_SOCKET", manager.dir.path().join("notify"))
        .start();
    assert_eq!(manager.given(2).0.len(), 2);
    std::fs::write(proxy.file(), proxy.filled(&text(""))).expect("write");
    let (given, removed) = manager.given(1);
    assert_eq!(given[0].0, "listener.default", "kept on");
    assert_eq!(removed, ["listener.default", "listener.more"]);
}
