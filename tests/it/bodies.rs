//! Bodies: they stream both ways, with back-pressure, in bounded memory.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::client::End;
use crate::support::origin::{Conn, Origin};
use crate::support::proxy::{before, serve, single};
use crate::support::{noise, pause, until};

const MIB: usize = 1024 * 1024;
/// How much the process may grow.
const GROWTH: u64 = 32 * MIB as u64;

/// One piece of a long body: long enough that its repetition doesn't fit any buffer's size.
fn piece() -> Vec<u8> {
    noise(7, 65_521)
}

/// Checks a stream that should repeat [`piece`].
struct Check {
    piece: Vec<u8>,
    at: usize,
}

impl Check {
    fn new() -> Self {
        Self {
            piece: piece(),
            at: 0,
        }
    }

    #[track_caller]
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let from = self.at % self.piece.len();
            let n = bytes.len().min(self.piece.len() - from);
            assert!(
                bytes[..n] == self.piece[from..from + n],
                "damage after {}",
                self.at
            );
            bytes = &bytes[n..];
            self.at += n;
        }
    }
}

/// Writes `len` bytes that repeat [`piece`], counting.
fn pour(conn: &mut Conn, len: usize, poured: &AtomicU64) -> io::Result<()> {
    let piece = piece();
    let mut left = len;
    while left > 0 {
        let n = left.min(piece.len());
        conn.write(&piece[..n])?;
        poured.fetch_add(n as u64, Ordering::SeqCst);
        left -= n;
    }
    Ok(())
}

fn big(len: usize) -> (Origin, Arc<AtomicU64>) {
    let poured = Arc::new(AtomicU64::new(0));
    let count = poured.clone();
    let origin = Origin::each(move |_, conn| {
        conn.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n").as_bytes())?;
        pour(conn, len, &count)
    });
    (origin, poured)
}

#[test]
fn a_big_download_arrives_whole_in_little_memory() {
    const LEN: usize = 1024 * MIB;
    let (origin, _) = big(LEN);
    let proxy = before(&origin.at());
    let start = proxy.resident();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    let head = client.head().unwrap();
    assert_eq!(head.field("content-length"), Some(LEN.to_string()));
    let (mut check, mut most) = (Check::new(), start);
    while check.at < LEN {
        check.take(&client.piece().unwrap());
        if check.at % (16 * MIB) < 20_000 {
            most = most.max(proxy.resident());
        }
    }
    assert_eq!(check.at, LEN);
    assert!(most - start < GROWTH, "{} bytes more", most - start);
}

#[test]
fn a_reader_that_stalls_holds_the_origin_back() {
    const LEN: usize = 256 * MIB;
    let (origin, poured) = big(LEN);
    let proxy = before(&origin.at());
    let start = proxy.resident();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    let mut check = Check::new();
    client.head().unwrap();
    // Full when nothing more goes in for a while.
    let mut last = (0, std::time::Instant::now());
    until("the way is full", || {
        let now = poured.load(Ordering::SeqCst);
        if now != last.0 {
            last = (now, std::time::Instant::now());
        }
        (now > 0 && last.1.elapsed() > Duration::from_millis(300)).then_some(())
    });
    assert!(last.0 < LEN as u64 / 4, "{} bytes went in unread", last.0);
    assert!(proxy.resident() - start < GROWTH);
    while check.at < 64 * MIB {
        check.take(&client.piece().unwrap());
    }
    client.reset();
    until("the origin is let go", || {
        (origin.open() == 0).then_some(())
    });
}

#[test]
fn a_big_upload_in_chunks_arrives_whole_in_little_memory() {
    const LEN: usize = 200 * MIB;
    let origin = Origin::script(|conn| {
        let head = conn.head()?.expect("a request");
        assert_eq!(head.field("transfer-encoding").as_deref(), Some("chunked"));
        let mut check = Check::new();
        loop {
            let line = conn.through(b"\r\n")?.expect("a chunk");
            let line = String::from_utf8_lossy(&line).into_owned();
            let size = usize::from_str_radix(line.trim(), 16).expect("a chunk's size");
            let bytes = conn.exact(size + 2)?;
            if size == 0 {
                return conn.reply(200, &check.at.to_string());
            }
            check.take(&bytes[..size]);
        }
    });
    let proxy = before(&origin.at());
    let start = proxy.resident();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n");
    let piece = piece();
    let (mut sent, mut most) = (0, start);
    while sent < LEN {
        let n = piece.len().min(LEN - sent);
        client.send([format!("{n:x}\r\n").as_bytes(), &piece[..n], b"\r\n"].concat());
        sent += n;
        if sent % (8 * MIB) < piece.len() {
            most = most.max(proxy.resident());
        }
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.answer("POST").text(), LEN.to_string());
    assert!(most - start < GROWTH, "{} bytes more", most - start);
}

#[test]
fn bodies_of_every_framing_and_size_arrive() {
    let origin = Origin::each(|request, conn| {
        let n = request.body.len();
        conn.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {n}\r\n\r\n").as_bytes())?;
        conn.write(&request.body)
    });
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    for (seed, len) in [
        0, 1, 2, 100, 8191, 8192, 8193, 65_535, 65_536, 70_000, 1_000_000,
    ]
    .into_iter()
    .enumerate()
    {
        let body = noise(seed as u64, len);
        let mut chunked = Vec::new();
        for chunk in body.chunks(1 + len / 3) {
            chunked.extend(format!("{:X};ext=\"a\"\r\n", chunk.len()).as_bytes());
            chunked.extend(chunk);
            chunked.extend(b"\r\n");
        }
        chunked.extend(b"0\r\n\r\n");
        let framings = [
            (format!("content-length: {len}"), body.clone()),
            ("transfer-encoding: chunked".to_owned(), chunked),
        ];
        for (field, bytes) in framings {
            let head = format!("POST / HTTP/1.1\r\nhost: test\r\n{field}\r\n\r\n");
            client.send([head.as_bytes(), &bytes].concat());
            assert!(client.answer("POST").body == body, "{len} bytes, {field}");
        }
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn bytes_may_come_one_at_a_time() {
    let origin = Origin::echo();
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    let request = "POST /x HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nx-t: 1\r\n\r\n";
    for byte in request.as_bytes() {
        client.send([*byte]);
    }
    let answer = client.answer("POST");
    assert_eq!(answer.status(), 200);
    assert_eq!(origin.last().text(), "hello");
    assert_eq!(origin.last().trailer("x-t").as_deref(), Some("1"));
}

#[test]
fn trailers_go_both_ways_and_forbidden_ones_are_dropped() {
    let origin = Origin::raw(
        "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 2\r\ncontent-length: 9\r\n\r\n",
    );
    let proxy = before(&origin.at());
    let answer = proxy.client().ask(
        "POST / HTTP/1.1\r\nhost: test\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n\
         1\r\nx\r\n0\r\nx-up: 1\r\nhost: evil\r\nauthorization: x\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    assert_eq!(answer.text(), "ok");
    assert_eq!(answer.trailer("x-sum").as_deref(), Some("2"));
    assert_eq!(answer.trailer("content-length"), None);
    let seen = origin.last();
    assert_eq!(seen.trailer("x-up").as_deref(), Some("1"));
    for forbidden in ["host", "authorization", "transfer-encoding"] {
        assert_eq!(seen.trailer(forbidden), None, "{forbidden}");
    }
}

#[test]
fn who_expects_a_continue_gets_it_from_the_origin() {
    let origin = Origin::script(|conn| {
        while let Some(mut request) = conn.head()? {
            assert_eq!(request.field("expect").as_deref(), Some("100-continue"));
            conn.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            conn.body(&mut request)?;
            conn.reply(200, &request.text())?;
        }
        Ok(())
    });
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send(
            "POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n",
        );
        assert_eq!(client.head().unwrap().status(), 100);
        client.send("body");
        assert_eq!(client.answer("POST").text(), "body");
    }
}

#[test]
fn a_refusal_in_place_of_a_continue_is_passed_on() {
    let origin = Origin::script(|conn| {
        conn.head()?;
        conn.write(b"HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno")
    });
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    client.send(
        "POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n",
    );
    let answer = client.answer("POST");
    assert_eq!((answer.status(), answer.text().as_str()), (403, "no"));
}

#[test]
fn an_unknown_expectation_is_417() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let answer = proxy
        .client()
        .ask("GET / HTTP/1.1\r\nhost: test\r\nexpect: miracles\r\n\r\n");
    assert_eq!(answer.status(), 417);
    assert_eq!(origin.hits(), 0);
}

#[test]
fn early_hints_are_passed_on_but_not_to_http_1_0() {
    let origin = Origin::raw(
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    );
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    let hints = client.head().unwrap();
    assert_eq!(hints.status(), 103);
    assert_eq!(hints.field("link").as_deref(), Some("</a.css>"));
    assert_eq!(client.answer("GET").text(), "ok");
    let mut old = proxy.client();
    old.send("GET / HTTP/1.0\r\nhost: test\r\n\r\n");
    assert_eq!(old.head().unwrap().status(), 200);
}

#[test]
fn server_sent_events_arrive_as_they_are_sent() {
    let (next, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let origin = Origin::script(move |conn| {
        conn.request()?;
        conn.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")?;
        for n in 0..5 {
            let event = format!("data: {n}\n\n");
            conn.write(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())?;
            // The next one is sent only when this one was seen.
            let seen = wait.lock().unwrap().recv_timeout(crate::support::PATIENCE);
            seen.map_err(io::Error::other)?;
        }
        conn.write(b"0\r\n\r\n")
    });
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: test\r\naccept: text/event-stream\r\n\r\n");
    assert_eq!(client.head().unwrap().status(), 200);
    for n in 0..5 {
        let seen = client.through(b"\n\n");
        assert!(String::from_utf8_lossy(&seen).ends_with(&format!("data: {n}\n\n")));
        next.send(()).unwrap();
    }
    client.through(b"0\r\n\r\n");
}

#[test]
fn an_early_answer_is_passed_on_while_the_upload_goes_on() {
    let origin = Origin::script(|conn| {
        let mut request = conn.head()?.expect("a request");
        conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")?;
        conn.write(b"early")?;
        conn.body(&mut request)
    });
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n");
    assert_eq!(client.answer("POST").text(), "early");
}

#[test]
fn a_body_that_is_too_large_is_413() {
    let origin = Origin::echo();
    let proxy = serve(&format!(
        "[limits]\nbody_bytes = \"1KiB\"\n{}",
        single(&origin.at(), "")
    ));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 1025\r\n\r\n");
    assert_eq!(client.answer("POST").status(), 413);
    let mut client = proxy.client();
    let chunk = "x".repeat(2000);
    let _may_be_refused_midway = client.try_send(format!(
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n7d0\r\n{chunk}\r\n0\r\n\r\n"
    ));
    assert_eq!(client.answer("POST").status(), 413);
    let fits = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nfits";
    assert_eq!(proxy.client().ask(fits).status(), 200);
    assert!(origin.requests().iter().all(|r| r.text() == "fits"));
}

#[test]
fn a_body_that_falls_silent_is_408() {
    let origin = Origin::echo();
    let proxy = serve(&format!(
        "[limits]\nbody_timeout = \"200ms\"\n{}",
        single(&origin.at(), "")
    ));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 8\r\n\r\nhalf");
    assert_eq!(client.answer("POST").status(), 408);
    assert_eq!(client.end_within(Duration::from_secs(5)), End::Closed);
    until("the origin is let go", || {
        (origin.open() == 0).then_some(())
    });
}

#[test]
fn a_body_that_trickles_is_408_and_one_that_keeps_the_rate_is_not() {
    let origin = Origin::echo();
    let proxy = serve(&format!(
        "[limits]\nbody_timeout = \"1s\"\n{}",
        single(&origin.at(), "")
    ));
    let head = "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n";
    let (mut slow, mut fair) = (proxy.client(), proxy.client());
    slow.send(head);
    fair.send(head);
    let piece = format!("64\r\n{}\r\n", "x".repeat(100));
    // Two seconds, never silent for longer than 100 ms: one at 10 bytes a second, one at 1,000.
    for _ in 0..20 {
        pause(Duration::from_millis(100));
        let _cut_midway = slow.try_send("1\r\nx\r\n");
        fair.send(&piece);
    }
    assert_eq!(origin.open(), 1, "only the fair one is still let in");
    fair.send("0\r\n\r\n");
    assert_eq!(slow.answer("POST").status(), 408);
    assert_eq!(fair.answer("POST").status(), 200);
}
