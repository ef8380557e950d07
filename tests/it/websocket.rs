//! A WebSocket opens only by a valid handshake: the request's key and version, and the answer to that key.

use std::io;

use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, before};
use crate::support::wire::Message;

/// The example of RFC 6455 §1.3.
const KEY: &str = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const ACCEPT: &str = "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
const VERSION: &str = "sec-websocket-version: 13\r\n";

fn request(method: &str, upgrade: &str, lines: &str) -> String {
    format!(
        "{method} /x HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: {upgrade}\r\n{lines}\r\n"
    )
}

/// Switches protocols with these lines, then sends each byte back.
fn switching(lines: &'static str) -> Origin {
    Origin::script(move |conn| {
        conn.request()?;
        let head =
            format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n{lines}\r\n");
        conn.write(head.as_bytes())?;
        loop {
            let piece = conn.piece()?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            conn.write(&piece)?;
        }
    })
}

fn ask(proxy: &Proxy, request: &str) -> Message {
    let mut client = proxy.client();
    client.send(format!(
        "{request}GET /smuggled HTTP/1.1\r\nhost: test\r\n\r\n"
    ));
    client.head().expect("an answer")
}

#[test]
fn a_handshake_that_is_not_valid_reaches_no_origin() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let bad_key = |key: &str| format!("{VERSION}sec-websocket-key: {key}\r\n");
    for (method, lines, status) in [
        ("GET", String::new(), 400),
        ("GET", VERSION.to_owned(), 400),
        ("GET", KEY.to_owned(), 400),
        ("GET", bad_key(""), 400),
        ("GET", bad_key("dGhlIHNhbXBsZSBub25jZQ"), 400),
        ("GET", bad_key("c2hvcnQ="), 400),
        ("GET", bad_key("!!!!!!!!!!!!!!!!!!!!!!=="), 400),
        ("GET", format!("{VERSION}{KEY}{KEY}"), 400),
        ("POST", format!("{VERSION}{KEY}"), 400),
        ("GET", format!("{KEY}sec-websocket-version: 8\r\n"), 426),
        ("GET", format!("{KEY}{VERSION}{VERSION}"), 426),
    ] {
        let mut client = proxy.client();
        client.send(request(method, "websocket", &lines));
        let answer = client.answer(method);
        assert_eq!(answer.status(), status, "{method} {lines:?}");
        if status == 426 {
            assert_eq!(answer.field("sec-websocket-version").as_deref(), Some("13"));
            assert_eq!(answer.field("upgrade").as_deref(), Some("websocket"));
        }
    }
    assert_eq!(origin.hits(), 0);
    // Without `Connection: upgrade` it is an ordinary request.
    let plain = "GET / HTTP/1.1\r\nhost: test\r\nupgrade: websocket\r\n\r\n";
    assert_eq!(proxy.client().ask(plain).text(), "blue");
}

#[test]
fn an_upgrade_and_te_are_named_in_one_line() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    client.ask("GET / HTTP/1.1\r\nhost: test\r\nconnection: te, upgrade\r\nte: trailers\r\nupgrade: echo\r\n\r\n");
    let seen = origin.last();
    assert_eq!(seen.field("connection").as_deref(), Some("upgrade, te"));
    assert_eq!(seen.field("te").as_deref(), Some("trailers"));
    assert_eq!(seen.field("upgrade").as_deref(), Some("echo"));
}

#[test]
fn a_tunnel_opens_only_where_the_answer_belongs_to_the_key() {
    const UPGRADE: &str = "upgrade: websocket\r\n";
    let valid = format!("{VERSION}{KEY}");
    for lines in [
        UPGRADE,
        "upgrade: websocket\r\nsec-websocket-accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n",
        "upgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
    ] {
        let origin = switching(lines);
        let proxy = before(&origin.at());
        let answer = ask(&proxy, &request("GET", "websocket", &valid));
        assert_eq!(answer.status(), 502, "{lines:?}");
        let reason = answer.field("x-cutover-reason");
        assert_eq!(reason.as_deref(), Some("upstream-malformed"));
    }
    let lines = format!("{UPGRADE}{ACCEPT}").leak();
    let origin = switching(lines);
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    client.send(request("GET", "WebSocket", &valid));
    let answer = client.head().expect("an answer");
    assert_eq!(answer.status(), 101);
    assert_eq!(
        answer.field("sec-websocket-accept").as_deref(),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    client.send("bytes");
    assert_eq!(client.exact(5), b"bytes");
}
