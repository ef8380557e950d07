//! A whole proxy inside the test process, with real files and sockets.

use super::in_process::Server;
use super::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// An origin that answers every request on every connection with its name; ends with the process.
pub(super) fn origin(name: &'static str) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream, name));
        }
    });
    address
}

fn answer(mut stream: TcpStream, name: &str) {
    let mut seen = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut chunk) {
        seen.extend_from_slice(&chunk[..n]);
        if seen.ends_with(b"\r\n\r\n") {
            // Slow enough that a stop comes in between.
            if seen.starts_with(b"GET /slow") {
                std::thread::park_timeout(Duration::from_millis(300));
            }
            seen.clear();
            let text = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}",
                name.len()
            );
            if stream.write_all(text.as_bytes()).is_err() {
                return;
            }
        }
    }
}

struct Harness {
    dir: tempfile::TempDir,
    server: Server,
    origins: [SocketAddr; 2],
}

impl Harness {
    /// A proxy with two workers in front of two origins.
    fn new() -> Self {
        let head = "listen = \"127.0.0.1:0\"\n";
        let dir = tempfile::tempdir().unwrap();
        let origins = [origin("blue"), origin("green")];
        let file = dir.path().join("cutover.toml");
        std::fs::write(&file, text(dir.path(), head, &origins, "blue")).unwrap();
        let server = Server::start(Options {
            config: file,
            takeover: false,
        })
        .unwrap();
        Self {
            dir,
            server,
            origins,
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("cutover.toml")
    }

    fn text(&self, head: &str, stable: &str) -> String {
        text(self.dir.path(), head, &self.origins, stable)
    }

    fn save(&self, text: &str) {
        let fresh = self.dir.path().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, self.file()).unwrap();
    }

    fn get(&self) -> String {
        get(self.server.address("default").unwrap(), "/")
    }

    fn adopted(&self, generation: u64) {
        until(|| self.server.live().adopted() >= generation);
    }

    fn refused(&self, count: u64) -> String {
        until(|| self.server.live().source().refused >= count);
        self.server.live().source().error.expect("a refusal")
    }
}

fn text(dir: &Path, head: &str, [blue, green]: &[SocketAddr; 2], stable: &str) -> String {
    format!(
        "{head}\nworkers = 2\nstate_dir = \"{}/state\"\n[service.shop]\nstable = \"{stable}\"\n[service.shop.versions]\nblue = [\"{blue}\"]\ngreen = [\"{green}\"]\n",
        dir.display()
    )
}

/// One request on a connection of its own; the body.
pub(super) fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or(text)
}

#[track_caller]
pub(super) fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not in time");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn an_edit_moves_the_traffic() {
    let harness = Harness::new();
    assert_eq!(harness.get(), "blue");
    harness.save(&harness.text("listen = \"127.0.0.1:0\"", "green"));
    harness.adopted(2);
    assert_eq!(harness.get(), "green");
    assert_eq!(harness.server.live().source().error, None);
    harness.server.stop().unwrap();
}

#[test]
fn every_kind_of_bad_file_is_refused_and_the_next_good_one_adopted() {
    let harness = Harness::new();
    let good = harness.text("listen = \"127.0.0.1:0\"", "green");
    let bad = [
        String::new(),
        good[..good.len() / 2].to_owned(),
        good.replace("stable = \"green\"", "stable = \"gren\""),
        good.replace("[service.shop.versions]", "[service.shop.versionz]"),
    ];
    for (n, text) in bad.iter().enumerate() {
        harness.save(text);
        let error = harness.refused(n as u64 + 1);
        assert!(error.contains("cutover.toml"), "{error}");
        assert_eq!(harness.get(), "blue");
        assert_eq!(harness.server.live().current().generation, 1);
    }
    std::fs::remove_file(harness.file()).unwrap();
    harness.refused(bad.len() as u64 + 1);
    assert_eq!(harness.get(), "blue");
    harness.save(&good);
    harness.adopted(2);
    assert_eq!(harness.get(), "green");
    let source = harness.server.live().source();
    assert_eq!((source.error, source.refused_hash), (None, None));
}

#[test]
fn the_running_text_again_clears_a_refusal_without_a_new_generation() {
    let harness = Harness::new();
    let running = std::fs::read_to_string(harness.file()).unwrap();
    harness.save("nonsense");
    harness.refused(1);
    harness.save(&running);
    until(|| harness.server.live().source().error.is_none());
    assert_eq!(harness.server.live().current().generation, 1);
}

#[test]
fn an_address_in_use_refuses_the_reload_and_leaves_all_as_it_was() {
    let harness = Harness::new();
    let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = foreign.local_addr().unwrap();
    let head =
        format!("[listen.default]\nbind = \"127.0.0.1:0\"\n[listen.more]\nbind = \"{taken}\"\n");
    let body = harness.text("", "green");
    // The tables come last in the file.
    harness.save(&format!("{body}\n{head}"));
    let error = harness.refused(1);
    assert!(
        error.contains("listener more") && error.contains(&taken.to_string()),
        "{error}"
    );
    assert_eq!(harness.get(), "blue");
    drop(foreign);
    let runtime = runtime().unwrap();
    assert_eq!(runtime.block_on(harness.server.reload()), Ok(2));
    assert_eq!(get(taken, "/"), "green");
}

#[test]
fn kept_connections_survive_when_listeners_are_added_and_removed() {
    let harness = Harness::new();
    let mut kept = TcpStream::connect(harness.server.address("default").unwrap()).unwrap();
    kept.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut ask = || {
        kept.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        let mut chunk = [0; 4096];
        let n = kept.read(&mut chunk).unwrap();
        String::from_utf8_lossy(&chunk[..n]).into_owned()
    };
    assert!(ask().ends_with("blue"));
    let socket = harness.dir.path().join("more.sock");
    let body = harness.text("", "green");
    let both = format!(
        "{body}\n[listen.default]\nbind = \"127.0.0.1:0\"\n[listen.more]\nbind = \"unix:{}\"\n",
        socket.display()
    );
    harness.save(&both);
    harness.adopted(2);
    until(|| std::os::unix::net::UnixStream::connect(&socket).is_ok());
    assert!(
        ask().ends_with("green"),
        "the kept connection uses the new generation"
    );
    harness.save(&harness.text("listen = \"127.0.0.1:0\"", "blue"));
    harness.adopted(3);
    until(|| !socket.exists());
    assert!(ask().ends_with("blue"));
}

#[test]
fn only_connections_of_a_removed_listener_are_closed() {
    let harness = Harness::new();
    let body = harness.text("", "blue");
    let (one, two) = (
        harness.dir.path().join("one.sock"),
        harness.dir.path().join("two.sock"),
    );
    let listen = |name: &str, path: &Path| {
        format!("\n[listen.{name}]\nbind = \"unix:{}\"\n", path.display())
    };
    harness.save(&format!(
        "{body}{}{}",
        listen("one", &one),
        listen("two", &two)
    ));
    harness.adopted(2);
    let connect = |path: &Path| {
        until(|| std::os::unix::net::UnixStream::connect(path).is_ok());
        let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let ask = |stream: &mut std::os::unix::net::UnixStream| {
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        let mut chunk = [0; 4096];
        let n = stream.read(&mut chunk).unwrap();
        String::from_utf8_lossy(&chunk[..n]).into_owned()
    };
    let (mut leaves, mut stays) = (connect(&one), connect(&two));
    assert!(ask(&mut leaves).ends_with("blue") && ask(&mut stays).ends_with("blue"));
    harness.save(&format!("{body}{}", listen("two", &two)));
    harness.adopted(3);
    assert_eq!(leaves.read(&mut [0]).unwrap(), 0, "closed after its grace");
    assert!(ask(&mut stays).ends_with("blue"));
}

#[test]
fn edits_are_adopted_within_a_tenth_of_a_second() {
    let harness = Harness::new();
    let mut took = Vec::new();
    for n in 0..30_u64 {
        let stable = if n % 2 == 0 { "green" } else { "blue" };
        let text = harness.text("listen = \"127.0.0.1:0\"", stable);
        let began = if n % 3 == 0 {
            std::fs::write(harness.file(), &text).unwrap();
            Instant::now()
        } else {
            harness.save(&text);
            Instant::now()
        };
        harness.adopted(n + 2);
        took.push(began.elapsed());
    }
    took.sort();
    assert!(took[28] < Duration::from_millis(100), "{took:?}");
}

#[test]
fn stopping_finishes_what_is_in_flight() {
    let harness = Harness::new();
    let address = harness.server.address("default").unwrap();
    let slow = std::thread::spawn(move || get(address, "/slow"));
    let in_flight = || {
        let live = harness.server.live().current();
        live.services[0].versions[0].pool.members[0]
            .endpoint
            .load
            .active()
            == 1
    };
    until(in_flight);
    let began = Instant::now();
    harness.server.stop().unwrap();
    assert_eq!(slow.join().unwrap(), "blue");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn an_idle_connection_is_closed_after_a_grace_period() {
    let harness = Harness::new();
    let address = harness.server.address("default").unwrap();
    let mut idle = TcpStream::connect(address).unwrap();
    idle.set_read_timeout(Some(PATIENCE)).unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    let mut chunk = [0; 4096];
    assert!(idle.read(&mut chunk).unwrap() > 0);
    let stopping = std::thread::spawn(move || harness.server.stop());
    let began = Instant::now();
    // A request within the grace is still answered, with the end announced.
    until(|| TcpStream::connect(address).is_err());
    idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    let mut rest = String::new();
    idle.read_to_string(&mut rest).unwrap();
    assert!(
        rest.to_ascii_lowercase().contains("connection: close"),
        "{rest}"
    );
    stopping.join().unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_bad_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cutover.toml");
    let start = || {
        Server::start(Options {
            config: file.clone(),
            takeover: false,
        })
        .unwrap_err()
    };
    assert!(matches!(start(), RunError::Config(text) if text.contains("cutover.toml")));
    let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = foreign.local_addr().unwrap();
    std::fs::write(
        &file,
        text(
            dir.path(),
            &format!("listen = \"{taken}\""),
            &[taken, taken],
            "blue",
        ),
    )
    .unwrap();
    assert!(matches!(start(), RunError::Listen(text) if text.contains(&taken.to_string())));
}
