//! Clients that don't read what they asked for, in crowds that fill the default limits: other requests don't notice.
//! The p99 of good traffic beside them is measured by `cutover-bench bench --case pressure`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::support::client::Client;
use crate::support::frames::{self, frame, get_fields, kind};
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, serve, single};
use crate::support::{PATIENCE, pause, until};

/// Requests that must not fail meanwhile.
const GOOD: usize = 2_000;
const LARGE: usize = 8 << 20;

/// `/large` is 8 MiB, `/events` a stream that says one thing and falls silent; all else is one word.
fn origin() -> Origin {
    static BODY: [u8; 64 * 1024] = [b'x'; 64 * 1024];
    Origin::each(|request, conn| match request.target().as_str() {
        "/large" => {
            // What isn't taken shall wait here, not in the kernel.
            conn.send_buffer(64 * 1024);
            conn.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n").as_bytes())?;
            (0..LARGE / BODY.len()).try_for_each(|_| conn.write(&BODY))
        }
        "/events" => {
            conn.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")?;
            conn.peer_closes(4 * PATIENCE).map(drop)
        }
        _ => conn.reply(200, "good"),
    })
}

/// A client that asks for `/large` and reads nothing of it, with a receive buffer as small as can be and segments as on
/// Ethernet: with those of loopback the kernel would take a MiB for it.
fn stalled(proxy: &Proxy) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_tcp_mss(1460).unwrap();
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.port));
    socket.connect(&at.into()).unwrap();
    let mut socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
        .write_all(b"GET /large HTTP/1.1\r\nhost: test\r\n\r\n")
        .unwrap();
    socket
}

/// Reads on, with a usual buffer now, until the response is whole or cut: how many bytes of its body there were.
fn read_on(socket: &mut TcpStream, already: &[u8]) -> usize {
    SockRef::from(&*socket)
        .set_recv_buffer_size(1 << 20)
        .unwrap();
    let mut bytes = already.to_vec();
    let mut piece = vec![0; 256 * 1024];
    loop {
        let body = memchr::memmem::find(&bytes, b"\r\n\r\n").map(|end| bytes.len() - end - 4);
        if body == Some(LARGE) {
            return LARGE;
        }
        match socket.read(&mut piece) {
            Ok(n @ 1..) => bytes.extend_from_slice(&piece[..n]),
            // Cut, by an end or by a reset.
            _ => return body.unwrap_or(0),
        }
    }
}

/// A connection with 128 streams that ask for a page and open no window for it.
fn windowless(proxy: &Proxy) -> Client {
    let no_window = frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(no_window);
    for stream in (0..128).map(|n| 2 * n + 1) {
        bytes.extend(frames::request(stream, &get_fields("/page")));
    }
    let mut client = proxy.client();
    client.send(bytes);
    client
}

/// As [`windowless`], once the origin has answered all of them: until then they are in flight like any other request.
fn answered(proxy: &Proxy) -> Client {
    let labels = [("service", "app"), ("version", "v1")];
    let open = || proxy.metrics().sum("http_requests_in_flight", &labels);
    let before = open();
    let client = windowless(proxy);
    until("its streams are there", || {
        (open() >= before + 100.0).then_some(())
    });
    pause(Duration::from_millis(200));
    client
}

/// What good requests saw.
#[derive(Debug, Default)]
struct Seen {
    /// Other statuses than 200, and connections that broke.
    failed: Vec<String>,
    slowest: Duration,
}

/// Asks from four kept connections, `GOOD` times and until `stop` is set.
fn good(proxy: &Proxy, stop: &AtomicBool) -> Seen {
    let one = || {
        let (mut seen, mut client) = (Seen::default(), proxy.client());
        let mut asked = 0;
        while asked < GOOD / 4 || !stop.load(Ordering::SeqCst) {
            asked += 1;
            let start = Instant::now();
            let sent = client.try_send("GET /good HTTP/1.1\r\nhost: test\r\n\r\n");
            let failure = match sent.and_then(|()| client.try_answer("GET")) {
                Ok(answer) if answer.status() == 200 => None,
                Ok(answer) => Some(format!("{} {}", answer.status(), answer.text().trim())),
                Err(error) => Some(error.to_string()),
            };
            seen.slowest = seen.slowest.max(start.elapsed());
            if let Some(failure) = failure {
                seen.failed.push(failure);
                client = proxy.client();
            }
        }
        seen
    };
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
        let mut all = Seen::default();
        for asker in askers {
            let seen = asker.join().expect("an asker");
            all.failed.extend(seen.failed);
            all.slowest = all.slowest.max(seen.slowest);
        }
        all
    })
}

/// Good traffic from before the crowd comes until it is there and a while longer: nothing of it fails. What the crowd
/// was, and the memory that it took.
#[track_caller]
fn unnoticed<C: Send>(proxy: &Proxy, gather: impl FnOnce() -> C + Send) -> (C, u64) {
    let stop = AtomicBool::new(false);
    let before = proxy.resident();
    let (crowd, seen) = std::thread::scope(|scope| {
        let good = scope.spawn(|| good(proxy, &stop));
        let crowd = gather();
        // Beside all of it, not only while it comes.
        pause(Duration::from_secs(1));
        stop.store(true, Ordering::SeqCst);
        (crowd, good.join().expect("good traffic"))
    });
    let first: Vec<_> = seen.failed.iter().take(5).collect();
    assert!(
        seen.failed.is_empty(),
        "{} failed: {first:?}",
        seen.failed.len()
    );
    assert!(seen.slowest < Duration::from_secs(2), "{:?}", seen.slowest);
    (crowd, proxy.resident().saturating_sub(before))
}

#[test]
fn streams_without_a_window_harm_no_good_request() {
    let origin = origin();
    // The origin's queue of connections is short: a dropped SYN comes again after a second.
    let proxy = serve(&single(&origin.at(), "timeouts.connect = \"5s\""));
    let gather = || (0..8).map(|_| answered(&proxy)).collect::<Vec<_>>();
    let (crowd, memory) = unnoticed(&proxy, gather);
    assert!(origin.hits() >= 8 * 128 + GOOD, "{}", origin.hits());
    assert!(memory < 32 << 20, "{memory} bytes for 1,024 small answers");
    drop(crowd);
    assert_eq!(proxy.get("/good").status(), 200);
}

#[test]
fn a_download_that_moves_is_cut_after_one_that_stands_still() {
    let origin = origin();
    let proxy = serve(&single(&origin.at(), "limits.requests = 2"));
    let (mut moves, mut stands) = (stalled(&proxy), stalled(&proxy));
    let mut taken = Vec::new();
    let start = Instant::now();
    let mut piece = [0; 8192];
    // Long enough for the rates to differ.
    while start.elapsed() < Duration::from_millis(1500) {
        let n = moves.read(&mut piece).unwrap();
        taken.extend_from_slice(&piece[..n]);
        pause(Duration::from_millis(10));
    }
    until("room is made", || {
        (proxy.get("/good").status() == 200).then_some(())
    });
    assert_eq!(read_on(&mut moves, &taken), LARGE);
    let rest = read_on(&mut stands, b"");
    assert!(rest < LARGE, "{rest} bytes of the one that stood still");
}
