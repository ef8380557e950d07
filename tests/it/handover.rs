//! Handover: from process to process without a refused, reset or failed request.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::tls::secure;
use crate::support::client::{Client, End, dial};
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, before, serve, single};
use crate::support::tls::Authority;
use crate::support::{Ended, PATIENCE, pause, until};

const GET: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";

/// Tells the clients to stop, however the test ends.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Requests on connections that are kept as long as the proxy keeps them, until told to stop; what failed.
pub fn kept(port: u16, think: Duration, stop: &AtomicBool, done: &AtomicUsize) -> Vec<String> {
    let mut failures = Vec::new();
    let mut client = Client::new(port);
    while !stop.load(Ordering::Relaxed) {
        let answer = client.try_send(GET).and_then(|()| client.try_answer("GET"));
        match answer {
            Ok(answer) if answer.text() == "blue" => {
                done.fetch_add(1, Ordering::Relaxed);
                if answer.says_close() {
                    client = Client::new(port);
                }
            }
            other => {
                failures.push(format!("{other:?}"));
                client = Client::new(port);
            }
        }
        pause(think);
    }
    failures
}

/// A connection for each request.
pub fn fresh(port: u16, stop: &AtomicBool, done: &AtomicUsize) -> Vec<String> {
    let mut failures = Vec::new();
    let one = || -> io::Result<()> {
        let mut client = Client::over(std::net::TcpStream::connect(("127.0.0.1", port))?);
        client.try_send(GET)?;
        client.try_answer("GET").map(drop)
    };
    while !stop.load(Ordering::Relaxed) {
        match one() {
            Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
            Err(error) => failures.push(error.to_string()),
        }
        pause(Duration::from_millis(1));
    }
    failures
}

#[test]
fn five_in_a_row_under_load_cost_nobody_anything() {
    let origin = Origin::named("blue");
    let first = before(&origin.at());
    let port = first.port;
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut all = vec![first];
    let failures: Vec<String> = std::thread::scope(|scope| {
        let (stop, done) = (&stop, &done);
        let clients: Vec<_> = (0..6)
            .map(|n| match n {
                0..4 => {
                    let think = Duration::from_millis([0, 3, 40, 400][n]);
                    scope.spawn(move || kept(port, think, stop, done))
                }
                _ => scope.spawn(move || fresh(port, stop, done)),
            })
            .collect();
        // A failure here must end the clients too.
        let guard = Stop(stop);
        for _ in 0..5 {
            let served = done.load(Ordering::Relaxed);
            until("traffic flows", || {
                (done.load(Ordering::Relaxed) > served + 50).then_some(())
            });
            let next = all.last().expect("one").successor().expect("it takes over");
            all.push(next);
        }
        let served = done.load(Ordering::Relaxed);
        until("traffic flows", || {
            (done.load(Ordering::Relaxed) > served + 50).then_some(())
        });
        drop(guard);
        let ended = clients.into_iter().map(|c| c.join().expect("a client"));
        ended.flatten().collect()
    });
    assert!(failures.is_empty(), "{failures:?}");
    let mut last = all.pop().expect("the last");
    for mut old in all {
        assert_eq!(old.ended().code(), Some(0), "{}", old.log());
    }
    assert_eq!(last.status()["generation"], 6, "generations go on");
    assert_eq!(last.command(&["status"]).code, 0);
    // The control socket went from hand to hand as well.
    let file = last.file();
    let by_file = ["status", "-c", file.to_str().expect("UTF-8")];
    let status = crate::support::proxy::command(&by_file, last.dir());
    let pid = format!("pid {}", last.pid());
    assert!(status.stdout.contains(&pid), "{status:?}");
    last.signal(rustix::process::Signal::TERM);
    assert_eq!(last.ended().code(), Some(0));
    let refused = std::net::TcpStream::connect(("127.0.0.1", port)).is_err();
    assert!(refused, "nobody holds the socket any more");
    let left = std::fs::read_dir(last.dir().join("state")).expect("the state directory");
    let sockets = left.filter(|entry| {
        let name = entry.as_ref().expect("an entry").file_name();
        name.to_string_lossy().ends_with(".sock")
    });
    assert_eq!(sockets.count(), 0);
}

#[test]
fn what_is_in_flight_ends_where_it_began_and_idle_ones_are_told() {
    let origin = Origin::script(|conn| {
        while let Some(request) = conn.request()? {
            if request.target() == "/slow" {
                conn.wait(Duration::from_millis(700))?;
            }
            conn.reply(200, "blue")?;
        }
        Ok(())
    });
    let mut old = before(&origin.at());
    let mut idle = old.client();
    assert!(!idle.get("/").says_close());
    let mut slow = old.client();
    slow.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n");
    until("it is there", || (origin.hits() == 2).then_some(()));
    let new = old.successor().expect("it takes over");
    assert_eq!(slow.answer("GET").text(), "blue");
    // Longer than any announcement takes: whoever comes back now still finds the connection open.
    pause(Duration::from_millis(2500));
    let answer = idle.get("/");
    assert_eq!(
        (answer.text().as_str(), answer.says_close()),
        ("blue", true)
    );
    assert_eq!(idle.end_within(PATIENCE), End::Closed);
    assert_eq!(old.ended().code(), Some(0));
    assert!(!new.get("/").says_close());
}

#[test]
fn a_handshake_is_completed_by_the_process_that_began_it() {
    let (authority, origin) = (Authority::new(), Origin::named("blue"));
    let identity = authority.issue(&["shop.test"]);
    let mut old = secure(&[("shop", &identity)], &origin.at());
    let name = ServerName::try_from("shop.test").expect("a name");
    let mut session = ClientConnection::new(authority.client(&[]), name).expect("a session");
    let mut socket = dial(old.port);
    session.write_tls(&mut socket).expect("our first flight");
    while session.is_handshaking() {
        session.read_tls(&mut socket).expect("their flight");
        session.process_new_packets().expect("a handshake");
    }
    // Our last flight is still to be sent, and no other connection keeps the old process alive.
    let _new = old.successor().expect("it takes over");
    let mut client = Client::over(StreamOwned::new(session, socket));
    let answer = client.ask("GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n");
    assert_eq!(answer.text(), "blue");
    drop(client);
    assert_eq!(old.ended().code(), Some(0));
}

#[test]
fn a_process_that_can_not_start_leaves_the_old_one_serving() {
    let origin = Origin::named("blue");
    let mut proxy = before(&origin.at());
    let mut kept = proxy.client();
    kept.get("/");
    let good = std::fs::read_to_string(proxy.file()).expect("the file");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("its address");
    let elsewhere = good.replace(
        &format!("listen = \"127.0.0.1:{}\"", proxy.port),
        &format!("listen = \"{taken}\""),
    );
    for (bad, why) in [("nonsense", "cutover.toml"), (&elsewhere, "already in use")] {
        std::fs::write(proxy.file(), bad).expect("write the configuration");
        let log = proxy.successor().err().expect("it does not start");
        assert!(log.contains(why), "{log}");
        assert!(proxy.runs());
        let answer = kept.get("/");
        assert_eq!(
            (answer.text().as_str(), answer.says_close()),
            ("blue", false)
        );
        assert_eq!(proxy.get("/").text(), "blue");
    }
    std::fs::write(proxy.file(), &good).expect("write the configuration");
    let next = proxy.successor().expect("it takes over after all");
    assert_eq!(proxy.ended().code(), Some(0));
    assert_eq!(next.get("/").text(), "blue");
}

#[test]
fn a_process_that_dies_with_the_sockets_in_its_hands_changes_nothing() {
    let origin = Origin::named("blue");
    let mut proxy = before(&origin.at());
    let mut kept = proxy.client();
    kept.get("/");
    let mut state = std::fs::read_dir(proxy.dir().join("state")).expect("the state directory");
    let handover = state.find_map(|entry| {
        let name = entry.as_ref().ok()?.file_name();
        let found = name.to_str()?.starts_with("handover-");
        found.then(|| entry.expect("an entry").path())
    });
    let path = handover.expect("a handover socket");
    // The last one says nothing: somebody looks whether the socket is alive.
    for hello in [r#"{"protocol":1}"#, r#"{"protocol":99}"#, "nonsense", ""] {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("it listens");
        let frame = [&(hello.len() as u32).to_be_bytes(), hello.as_bytes()].concat();
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(&frame).expect("sent");
        if hello.starts_with("{\"protocol") {
            let mut length = [0; 4];
            stream.read_exact(&mut length).expect("an offer");
            let mut offer = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut offer).expect("an offer");
            assert!(String::from_utf8_lossy(&offer).contains("sockets"));
        }
    }
    until("all of them are given up", || {
        let times = proxy
            .log()
            .matches("takeover failed, this process keeps serving")
            .count();
        (times == 3).then_some(())
    });
    let answer = kept.get("/");
    assert_eq!(
        (answer.text().as_str(), answer.says_close()),
        ("blue", false)
    );
    assert!(proxy.runs());
    let next = proxy.successor().expect("it takes over after all");
    assert_eq!(next.get("/").text(), "blue");
    assert_eq!(proxy.ended().code(), Some(0));
}

#[test]
fn nobody_to_take_over_from_is_no_obstacle() {
    let origin = Origin::named("blue");
    let mut proxy = before(&origin.at());
    proxy.signal(rustix::process::Signal::KILL);
    proxy.ended();
    let next = proxy.successor().expect("it starts");
    until("that is said", || {
        next.log().contains("nothing to take over").then_some(())
    });
    assert_eq!(next.get("/").text(), "blue");
}

#[test]
fn other_workers_and_listeners_find_their_sockets() {
    let origin = Origin::named("blue");
    let mut proxy = serve(&single(&origin.at(), ""));
    let socket = proxy.dir().join("in.sock");
    let (file, port) = (proxy.file(), proxy.port);
    let whole = proxy.whole(&single(&origin.at(), ""));
    let write = |workers: &str, listen: &str| {
        let text = whole
            .replace("workers = 2", workers)
            .replace(&format!("listen = \"127.0.0.1:{port}\"\n"), "");
        std::fs::write(&file, format!("{text}\n{listen}")).expect("write");
    };
    let one = format!("[listen.default]\nbind = \"127.0.0.1:{port}\"\n");
    let two = format!(
        "{one}[listen.local]\nbind = \"unix:{}\"\n",
        socket.display()
    );
    write("workers = 1", &two);
    let mut second = proxy.successor().expect("it takes over");
    assert_eq!(proxy.ended().code(), Some(0));
    for _ in 0..20 {
        assert_eq!(second.get("/").text(), "blue");
    }
    write("workers = 3", &two);
    let mut third = second.successor().expect("it takes over");
    assert_eq!(second.ended().code(), Some(0));
    let mut local = std::os::unix::net::UnixStream::connect(&socket).expect("it still listens");
    local.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sent");
    let mut answer = String::new();
    local.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("blue"), "{answer}");
    for _ in 0..20 {
        assert_eq!(third.get("/").text(), "blue");
    }
    write("workers = 3", &one);
    let fourth = third.successor().expect("it takes over");
    assert_eq!(third.ended().code(), Some(0));
    assert_eq!(fourth.get("/").text(), "blue");
    assert!(!socket.exists(), "what is not wanted is closed");
}

#[test]
fn sockets_of_the_service_manager_are_served_with_whoever_waits_on_them() {
    let origin = Origin::named("blue");
    let mut proxy = before(&origin.at());
    proxy.signal(rustix::process::Signal::TERM);
    proxy.ended();
    let socket = std::net::TcpListener::bind(("127.0.0.1", proxy.port)).expect("the port is free");
    let mut early = proxy.client();
    early.send(GET);
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=listener.default exec \"$0\" run -c \"$1\"";
    let child = std::process::Command::new("sh")
        .args(["-c", script, crate::support::proxy::BINARY])
        .arg(proxy.file())
        .stdin(std::os::fd::OwnedFd::from(
            socket.try_clone().expect("a duplicate"),
        ))
        .stderr(std::process::Stdio::null())
        .spawn();
    let _started = Ended(child.expect("start the binary"));
    assert_eq!(early.answer("GET").text(), "blue");
    for _ in 0..10 {
        assert_eq!(proxy.get("/").text(), "blue");
    }
}

fn stream(proxy: &Proxy) -> std::net::TcpStream {
    let mut tunnel = dial(proxy.port);
    let ask = "GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    tunnel.write_all(ask.as_bytes()).expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tunnel.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{head:?}");
    tunnel
}

#[test]
fn a_tunnel_lives_through_it_as_long_as_streams_may() {
    let origin = Origin::script(|conn| {
        conn.head()?;
        conn.write(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
        )?;
        loop {
            let piece = conn.piece()?;
            if piece.is_empty() {
                return Ok(());
            }
            conn.write(&piece)?;
        }
    });
    let file = format!(
        "[shutdown]\ndeadline = \"200ms\"\n{}",
        single(&origin.at(), "drain.streams = \"1500ms\"")
    );
    let mut old = serve(&file);
    let mut tunnel = stream(&old);
    let began = std::time::Instant::now();
    let _new = old.successor().expect("it takes over");
    let mut echo = [0; 4];
    while began.elapsed() < Duration::from_millis(1000) {
        tunnel.write_all(b"ping").expect("it goes on");
        tunnel.read_exact(&mut echo).expect("it goes on");
        assert_eq!(&echo, b"ping");
    }
    assert!(old.runs());
    assert_eq!(tunnel.read(&mut echo).unwrap_or(0), 0, "then it is cut");
    assert_eq!(old.ended().code(), Some(0));
}
