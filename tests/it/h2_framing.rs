//! HTTP/2 upstreams whose DATA contradicts the response's head: none of it reaches a client as anything else.

use std::io;
use std::sync::mpsc;

use bytes::Bytes;
use http::Response;

use crate::support::client::{Client, End};
use crate::support::frames::{self, END_HEADERS, END_STREAM, Outcome, kind};
use crate::support::h2_client::send;
use crate::support::h2_origin::{Exchange, H2Origin};
use crate::support::origin::{Conn, Origin};
use crate::support::proxy::{Proxy, before};
use crate::support::until;

/// A whole response, as the bytes of a body.
const FORGED: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";

/// Answers the path `/STATUS/LENGTH` with this status, this `content-length` (`-`: none), and the forged response as DATA; every
/// other path with `fine`.
async fn answer_and_forge(mut x: Exchange) -> Result<(), h2::Error> {
    let path = x.path();
    let mut parts = path[1..].split('/');
    let Some(status) = parts.next().and_then(|s| s.parse::<u16>().ok()) else {
        return x.reply("fine").await;
    };
    let mut head = Response::builder().status(status);
    if let Some(length) = parts.next().filter(|l| *l != "-") {
        head = head.header("content-length", length);
    }
    let head = head.body(()).expect("a response");
    let mut stream = x.respond.send_response(head, false)?;
    let sent = send(&mut stream, Bytes::from_static(FORGED), false).await;
    // The stream may have been reset between its head and its DATA.
    if sent.is_err()
        || std::future::poll_fn(|cx| stream.poll_reset(cx))
            .await
            .is_ok()
    {
        x.active.was_reset();
    }
    Ok(())
}

fn forger() -> (H2Origin, Proxy) {
    let origin = H2Origin::script(answer_and_forge);
    let proxy = before(&origin.h2c());
    (origin, proxy)
}

/// Sends a request whose response has no body, and one more on the same connection: what follows the first head.
#[track_caller]
fn after_the_head(proxy: &Proxy, method: &str, path: &str) -> Vec<u8> {
    let mut client = Client::new(proxy.port);
    client.send(format!("{method} {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
    client.head().expect("a head");
    // The connection may be closed by now; if it isn't, what follows must be the answer to this request.
    let _ = client.try_send("GET /fine HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    client.rest()
}

#[test]
fn no_byte_follows_a_head_that_has_no_body() {
    let (origin, proxy) = forger();
    let cases = [
        ("GET", "/204"),
        ("GET", "/304"),
        ("GET", "/304/46"),
        ("GET", "/204/46"),
        ("HEAD", "/200"),
        ("HEAD", "/200/46"),
    ];
    for (n, (method, path)) in cases.into_iter().enumerate() {
        let rest = after_the_head(&proxy, method, path);
        let text = String::from_utf8_lossy(&rest);
        assert!(!text.contains("forged"), "{method} {path}: {text}");
        assert!(
            rest.is_empty() || text.ends_with("fine"),
            "{method} {path}: {text}"
        );
        until("the stream is reset", || {
            (origin.resets() > n).then_some(())
        });
    }
    assert_eq!(proxy.get("/fine").text(), "fine");
}

#[test]
fn data_beyond_the_content_length_is_not_passed_on() {
    let (origin, proxy) = forger();
    let mut client = Client::new(proxy.port);
    client.send("GET /200/5 HTTP/1.1\r\nhost: test\r\n\r\n");
    let rest = String::from_utf8_lossy(&client.rest()).into_owned();
    assert!(!rest.contains("forged"), "{rest}");
    until("the stream is reset", || {
        (origin.resets() == 1).then_some(())
    });
    assert_eq!(proxy.get("/fine").text(), "fine");
}

#[test]
fn a_bodiless_head_that_ends_by_an_empty_frame_keeps_the_connection() {
    let origin = H2Origin::script(|mut x: Exchange| async move {
        let head = Response::builder()
            .status(204)
            .body(())
            .expect("a response");
        x.respond
            .send_response(head, false)?
            .send_data(Bytes::new(), true)
    });
    let proxy = before(&origin.h2c());
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").status(), 204);
    }
    assert_eq!(origin.connections(), 1);
    let quiet = std::time::Duration::from_millis(50);
    assert_eq!(client.end_within(quiet), End::Open);
}

/// The frames in which an endpoint gets a request, until its end: kind, whether it ends the stream, and length of the payload of DATA.
fn request_frames(conn: &mut Conn) -> io::Result<Vec<(u8, bool, usize)>> {
    let mut frames = Vec::new();
    loop {
        let frame = frames::received(conn)?;
        if !matches!(frame.kind, kind::HEADERS | kind::DATA) {
            continue;
        }
        let ends = frame.flags & END_STREAM != 0;
        let length = match frame.kind {
            kind::DATA => frame.payload.len(),
            _ => 0,
        };
        frames.push((frame.kind, ends, length));
        if ends {
            // A 200 without a body.
            conn.write(&frames::frame(
                kind::HEADERS,
                END_STREAM | END_HEADERS,
                frame.stream,
                &[0x88],
            ))?;
            return Ok(frames);
        }
    }
}

/// gRPC ends a call without messages by an empty DATA frame, and some servers don't see its end otherwise.
#[test]
fn a_request_without_a_body_ends_upstream_as_it_has_ended_downstream() {
    let (seen, frames_of) = mpsc::channel();
    let origin = Origin::script(move |conn| {
        frames::accept(conn)?;
        loop {
            let frames = request_frames(conn)?;
            seen.send(frames).expect("the test runs");
        }
    });
    let proxy = before(&format!("h2c://{}", origin.at()));
    let mut client = Client::new(proxy.port);
    client.send(frames::preface());
    let head = frames::block(&frames::get_fields("/"));
    let by_data = [
        frames::frame(kind::HEADERS, END_HEADERS, 1, &head),
        frames::frame(kind::DATA, END_STREAM, 1, &[]),
    ];
    client.send(by_data.concat());
    assert_eq!(frames::outcome(&mut client, 1), Outcome::Status(200));
    let ended_by_data = [(kind::HEADERS, false, 0), (kind::DATA, true, 0)];
    assert_eq!(frames_of.recv().expect("a request"), ended_by_data);
    client.send(frames::request(3, &frames::get_fields("/")));
    assert_eq!(frames::outcome(&mut client, 3), Outcome::Status(200));
    let ended_by_head = [(kind::HEADERS, true, 0)];
    assert_eq!(frames_of.recv().expect("a request"), ended_by_head);
}
