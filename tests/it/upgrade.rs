//! Tunnels: opened by a valid 101 to a valid handshake, untouched by reloads.

use std::io::{self, Read, Write};

use tokio_tungstenite::tungstenite::{self, Message};

use crate::support::client::{Client, dial};
use crate::support::h2_origin::H2Origin;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, before, serve, single};
use crate::support::tls::Authority;
use crate::support::{noise, until};

pub type Socket = tungstenite::WebSocket<std::net::TcpStream>;

/// Echoes WebSocket messages.
pub fn echoing() -> Origin {
    Origin::script(|conn| {
        let mut socket =
            tungstenite::accept(&mut conn.io).map_err(|e| io::Error::other(e.to_string()))?;
        while let Ok(message) = socket.read() {
            if message.is_binary() || message.is_text() {
                socket.send(message).map_err(io::Error::other)?;
            }
        }
        Ok(())
    })
}

#[track_caller]
pub fn open(proxy: &Proxy) -> Socket {
    let url = format!("ws://127.0.0.1:{}/chat", proxy.port);
    let (socket, answer) = tungstenite::client(url, dial(proxy.port)).expect("a tunnel");
    assert_eq!(answer.status(), 101);
    socket
}

#[track_caller]
fn echo(socket: &mut Socket, seed: u64) {
    let body = noise(seed, 1024 * 1024);
    socket.send(Message::binary(body.clone())).expect("sent");
    let back = socket.read().expect("an echo").into_data();
    assert!(back[..] == body[..], "the echo is not what was sent");
}

#[test]
fn a_tunnel_is_intact_before_during_and_after_a_reload() {
    let (origin, other) = (echoing(), echoing());
    let proxy = before(&origin.at());
    let mut socket = open(&proxy);
    echo(&mut socket, 1);
    std::thread::scope(|scope| {
        let edits = scope.spawn(|| {
            for n in 1..=10 {
                proxy.edit(&single(
                    &origin.at(),
                    &format!("timeouts.first_byte = \"{n}s\""),
                ));
            }
        });
        let mut seed = 2;
        while !edits.is_finished() {
            echo(&mut socket, seed);
            seed += 1;
        }
    });
    // Even the endpoint may go: the tunnel stays, new ones go elsewhere.
    proxy.edit(&single(&other.at(), ""));
    echo(&mut socket, 100);
    echo(&mut open(&proxy), 101);
    assert_eq!((origin.connections(), other.connections()), (1, 1));
    socket.close(None).expect("a close");
    while socket.read().is_ok() {}
    drop(socket);
    until("the tunnel is closed", || {
        (origin.open() == 0).then_some(())
    });
}

pub const HANDSHAKE: &str =
    "GET /x HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: lines\r\n\r\n";

/// Opens a tunnel in which each byte comes back.
pub fn bytes_back() -> Origin {
    Origin::script(|conn| {
        let request = conn.request()?.expect("a request");
        assert_eq!(request.field("upgrade").as_deref(), Some("lines"));
        assert!(
            request
                .field("connection")
                .is_some_and(|c| c.to_lowercase().contains("upgrade"))
        );
        conn.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: lines\r\n\r\nfirst")?;
        loop {
            let piece = conn.piece()?;
            if piece.is_empty() {
                return conn.write(b"last");
            }
            conn.write(&piece)?;
        }
    })
}

#[test]
fn bytes_beside_the_handshake_are_not_lost_and_half_a_close_is_one() {
    let origin = bytes_back();
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    client.send(format!("{HANDSHAKE}early"));
    let head = client.head().unwrap();
    assert_eq!(head.status(), 101);
    assert_eq!(head.field("upgrade").as_deref(), Some("lines"));
    assert_eq!(client.exact(10), b"firstearly");
    client.send("later");
    assert_eq!(client.exact(5), b"later");
    client.finish();
    assert_eq!(client.rest(), b"last");
    until("the tunnel is closed", || {
        (origin.open() == 0).then_some(())
    });
}

#[test]
fn a_tunnel_ends_when_the_origin_ends_it() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.write(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: lines\r\n\r\nbye",
        )
    });
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    client.send(HANDSHAKE);
    assert_eq!(client.head().unwrap().status(), 101);
    assert_eq!(client.rest(), b"bye");
}

#[test]
fn a_refused_upgrade_is_an_ordinary_answer() {
    let origin = Origin::named("no tunnel");
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    assert_eq!(client.ask(HANDSHAKE).text(), "no tunnel");
    assert_eq!(client.get("/").text(), "no tunnel");
}

#[test]
fn a_tunnel_to_another_protocol_than_asked_is_502() {
    let origin = Origin::raw(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: evil\r\n\r\n",
    );
    let proxy = before(&origin.at());
    assert_eq!(proxy.client().ask(HANDSHAKE).status(), 502);
}

#[test]
fn a_tunnel_moves_much_data_both_ways_at_once() {
    let origin = bytes_back();
    let proxy = serve(&single(&origin.at(), ""));
    let mut socket = dial(proxy.port);
    socket.write_all(HANDSHAKE.as_bytes()).unwrap();
    let mut client = Client::over(socket.try_clone().unwrap());
    assert_eq!(client.head().unwrap().status(), 101);
    assert_eq!(client.exact(5), b"first");
    let body = noise(3, 8 * 1024 * 1024);
    let back = std::thread::scope(|scope| {
        scope.spawn(|| socket.try_clone().unwrap().write_all(&body).unwrap());
        let mut back = vec![0; body.len()];
        (&socket).read_exact(&mut back).map(|()| back)
    });
    assert!(back.unwrap() == body);
}

const WEBSOCKET: &str = "GET /x HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn a_tunnel_to_an_endpoint_that_speaks_http2_is_refused_by_us() {
    let origin = H2Origin::named("h2");
    let proxy = before(&origin.h2c());
    let mut client = proxy.client();
    let answer = client.ask(WEBSOCKET);
    assert_eq!(answer.status(), 502);
    assert_eq!(
        answer.field("x-cutover-reason").as_deref(),
        Some("upstream-no-upgrade")
    );
    // WebSocket may be one of several protocols that the client offers (RFC 6455 §4.2.1).
    let list = WEBSOCKET.replace("upgrade: websocket", "upgrade: lines, WebSocket");
    assert_eq!(proxy.client().ask(&list).status(), 502);
    assert!(origin.heads().is_empty());
    // Other upgrades may be ignored (RFC 9110 §7.8).
    assert_eq!(proxy.client().ask(HANDSHAKE).text(), "h2");
}

#[test]
fn a_tunnel_by_https_goes_over_http1() {
    let authority = Authority::new();
    let identity = authority.issue(&["127.0.0.1"]);
    // Whoever offers it HTTP/2 gets that agreed on, and an HTTP/1 answer.
    let origin = Origin::tls("http1", &identity, &["h2", "http/1.1"]);
    let builder = Builder::rest(&single(&format!("https://{}", origin.at()), ""));
    let roots = builder.dir().join("ca.pem");
    authority.save(&roots);
    let proxy = builder.env("SSL_CERT_FILE", roots).start();
    assert_eq!(proxy.client().ask(WEBSOCKET).text(), "http1");
}

/// An origin that switches protocols as soon as it has the head, whatever body was declared.
fn hasty() -> Origin {
    Origin::script(|conn| {
        conn.head()?;
        conn.write(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: lines\r\n\r\n",
        )?;
        conn.peer_closes(crate::support::PATIENCE).map(drop)
    })
}

#[test]
fn a_client_that_stalls_in_its_body_before_a_tunnel_is_to_blame() {
    let origin = hasty();
    let proxy = before(&origin.at());
    let head = HANDSHAKE.trim_end().replacen("GET", "POST", 1);
    for _ in 0..4 {
        let mut client = proxy.client();
        client.send(format!(
            "{head}\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab"
        ));
        let answer = client.answer("POST");
        assert_eq!(answer.status(), 408);
        assert_eq!(
            answer.field("x-cutover-reason").as_deref(),
            Some("body-timeout")
        );
    }
    let blamed = [("reason", "body-timeout")];
    // A client has its answer before its request has ended.
    let metrics = until("all are counted", || {
        let metrics = proxy.metrics();
        (metrics.sum("cutover_client_failures_total", &blamed) == 4.0).then_some(metrics)
    });
    assert_eq!(
        metrics.sum("http_requests_total", &[]),
        0.0,
        "nothing is charged"
    );
    assert_eq!(metrics.sum("cutover_ejections_total", &[]), 0.0);
}
