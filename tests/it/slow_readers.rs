//! Clients that don't read what they asked for, in crowds that fill the default limits: other requests don't notice.
//! The p99 of good traffic beside them is measured by `cutover-bench bench --case pressure`.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::support::client::{Client, End};
use crate::support::frames::{self, frame, get_fields, kind};
use crate::support::origin::{Conn, Origin};
use crate::support::proxy::{Proxy, serve, single};
use crate::support::wire::Message;
use crate::support::{PATIENCE, pause, until};

/// More than the 1,024 requests that a version may have by default.
const CROWD: usize = 1_100;
/// So many of them come first, so that memory is measured by those after them.
const FIRST: usize = 100;
/// Requests that must not fail meanwhile.
const GOOD: usize = 2_000;
const LARGE: usize = 8 << 20;

/// `/large` is 8 MiB, `/events` a stream that says one thing and falls silent; all else is one word.
fn origin() -> Origin {
    crowded().0
}

/// The same, and how many requests other than `/good` it has begun to answer.
fn crowded() -> (Origin, Arc<AtomicUsize>) {
    let begun = Arc::new(AtomicUsize::new(0));
    let count = begun.clone();
    let origin = Origin::each(move |request, conn| answer(request, conn, &count));
    (origin, begun)
}

fn answer(request: &Message, conn: &mut Conn, begun: &AtomicUsize) -> io::Result<()> {
    static BODY: [u8; 64 * 1024] = [b'x'; 64 * 1024];
    match request.target().as_str() {
        "/large" => {
            // What isn't taken shall wait here, not in the kernel.
            conn.send_buffer(64 * 1024);
            conn.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n").as_bytes())?;
            conn.write(&BODY)?;
            begun.fetch_add(1, Ordering::SeqCst);
            (1..LARGE / BODY.len()).try_for_each(|_| conn.write(&BODY))
        }
        "/events" => {
            conn.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")?;
            conn.peer_closes(4 * PATIENCE).map(drop)
        }
        "/good" => conn.reply(200, "good"),
        _ => {
            let answered = conn.reply(200, "good");
            begun.fetch_add(1, Ordering::SeqCst);
            answered
        }
    }
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

/// Part of a crowd, once the origin has begun to answer most of it: the version is to be full of slow readers, not of requests that
/// the origin, a script, hasn't come to. Those would make no room, and good requests fail rightly.
fn asked<C>(begun: &AtomicUsize, come: impl FnOnce() -> C) -> C {
    let before = begun.load(Ordering::SeqCst);
    let part = come();
    until("the origin answers them", || {
        (begun.load(Ordering::SeqCst) >= before + 80).then_some(())
    });
    part
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

/// The origin's queue of connections is short: a dropped SYN comes again after a second.
fn patient(origin: &Origin) -> Proxy {
    serve(&single(&origin.at(), "timeouts.connect = \"5s\""))
}

fn in_flight(proxy: &Proxy) -> f64 {
    let labels = [("service", "app"), ("version", "v1")];
    proxy.metrics().sum("http_requests_in_flight", &labels)
}

#[test]
fn a_crowd_of_stalled_downloads_harms_no_good_request() {
    let (origin, begun) = crowded();
    let proxy = patient(&origin);
    let gather = || {
        let some = || (0..FIRST).map(|_| stalled(&proxy)).collect::<Vec<_>>();
        let mut crowd = vec![asked(&begun, some)];
        // From here on what the process needs once is there.
        let before = proxy.resident();
        crowd.extend((1..CROWD / FIRST).map(|_| asked(&begun, some)));
        (crowd, before)
    };
    let ((crowd, before), _) = unnoticed(&proxy, gather);
    // They were really there: all asked, and those for whom there was room are being served.
    assert!(origin.hits() >= CROWD + GOOD, "{}", origin.hits());
    assert!(in_flight(&proxy) > 900.0, "{}", in_flight(&proxy));
    let each = proxy.resident().saturating_sub(before) / (CROWD - FIRST) as u64;
    // 0.1 MiB, and what the futures of a build without optimisation need beyond those of a release.
    assert!(each < 128 * 1024, "{each} bytes for a stalled download");
    drop(crowd);
    until("their places are free", || {
        (in_flight(&proxy) == 0.0).then_some(())
    });
    assert_eq!(proxy.get("/good").status(), 200);
}

#[test]
fn streams_without_a_window_harm_no_good_request() {
    let (origin, begun) = crowded();
    let proxy = patient(&origin);
    let gather = || {
        (0..8)
            .map(|_| asked(&begun, || windowless(&proxy)))
            .collect::<Vec<_>>()
    };
    let (crowd, memory) = unnoticed(&proxy, gather);
    assert!(origin.hits() >= 8 * 128 + GOOD, "{}", origin.hits());
    assert!(memory < 32 << 20, "{memory} bytes for 1,024 small answers");
    drop(crowd);
    assert_eq!(proxy.get("/good").status(), 200);
}

#[test]
fn both_crowds_at_once_harm_no_good_request() {
    let (origin, begun) = crowded();
    let proxy = patient(&origin);
    let gather = || {
        let streams: Vec<_> = (0..8)
            .map(|_| asked(&begun, || windowless(&proxy)))
            .collect();
        let downloads: Vec<_> = (0..CROWD / 100)
            .map(|_| {
                asked(&begun, || {
                    (0..100).map(|_| stalled(&proxy)).collect::<Vec<_>>()
                })
            })
            .collect();
        (streams, downloads)
    };
    let (crowd, memory) = unnoticed(&proxy, gather);
    assert!(memory < 150 << 20, "{memory} bytes");
    drop(crowd);
}

#[test]
fn what_is_waiting_for_its_origin_never_makes_room() {
    let origin = origin();
    let proxy = serve(&single(&origin.at(), "limits.requests = 6"));
    let mut events: Vec<Client> = (0..3)
        .map(|_| {
            let mut client = proxy.client();
            client.send("GET /events HTTP/1.1\r\nhost: test\r\n\r\n");
            client.through(b"data: 1\n\n\r\n");
            client
        })
        .collect();
    let mut downloads: Vec<TcpStream> = (0..3).map(|_| stalled(&proxy)).collect();
    until("all places are taken", || {
        (in_flight(&proxy) == 6.0).then_some(())
    });
    // A download is known as blocked once it has stood still for a moment.
    until("a download makes room", || {
        (proxy.get("/good").status() == 200).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(proxy.get("/good").status(), 200);
    }
    for client in &mut events {
        assert_eq!(client.end_within(Duration::from_millis(20)), End::Open);
    }
    // One of them was enough. It is cut, and the others go on.
    let whole = downloads
        .iter_mut()
        .map(|d| read_on(d, b""))
        .filter(|n| *n == LARGE);
    assert_eq!(whole.count(), 2);
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
