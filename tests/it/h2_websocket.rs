//! WebSocket over HTTP/2 by extended CONNECT (RFC 8441).

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::support::client::Client;
use crate::support::frames::{self, END_HEADERS, END_STREAM, Frame, frame, kind};
use crate::support::h2_client::{H2, piece, send, whole};
use crate::support::h2_origin::{Exchange, H2Origin};
use crate::support::origin::{Conn, Origin};
use crate::support::proxy::{Builder, Proxy, before, serve, single};
use crate::support::tls::Authority;
use crate::support::{block_on, noise, pause, until};

/// Takes a handshake and answers its key.
fn accept(conn: &mut Conn) -> io::Result<()> {
    let request = conn.request()?.expect("a request");
    let key = request.field("sec-websocket-key").expect("a key");
    let accept = derive_accept_key(key.as_bytes());
    conn.write(
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: WebSocket\r\n\
             sec-websocket-accept: {accept}\r\nsec-websocket-protocol: chat\r\n\r\n"
        )
        .as_bytes(),
    )
}

/// Sends each byte of a tunnel back, and `last` at its end.
fn echoing() -> Origin {
    Origin::script(|conn| {
        accept(conn)?;
        loop {
            let piece = conn.piece()?;
            if piece.is_empty() {
                return conn.write(b"last");
            }
            conn.write(&piece)?;
        }
    })
}

const FIELDS: [(&str, &str); 6] = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "http"),
    (":authority", "test"),
    (":path", "/chat?room=1"),
    ("sec-websocket-version", "13"),
];

/// A connection by exact frames, whose settings are these.
fn open(proxy: &Proxy, settings: &[u8]) -> Client {
    let mut client = proxy.client();
    let preface = frames::preface();
    client.send(&preface[..preface.len() - 9]);
    client.send(frame(kind::SETTINGS, 0, 0, settings));
    let first = frames::next(&mut client).expect("settings");
    let mut settings = first.payload.chunks(6);
    assert!(settings.any(|setting| setting == [0, 8, 0, 0, 0, 1]));
    client
}

fn connect(client: &mut Client, stream: u32, fields: &[(&str, &str)]) {
    let block = frames::block(fields);
    client.send(frame(kind::HEADERS, END_HEADERS, stream, &block));
}

/// The next frame of a stream, other than a window.
#[track_caller]
fn next(client: &mut Client, stream: u32) -> Frame {
    loop {
        let frame = frames::next(client).expect("a frame");
        if frame.stream == stream && frame.kind != kind::WINDOW_UPDATE {
            return frame;
        }
    }
}

/// A tunnel on stream 1.
fn tunnel(proxy: &Proxy) -> Client {
    let mut client = open(proxy, &[]);
    connect(&mut client, 1, &FIELDS);
    let head = next(&mut client, 1);
    assert_eq!(
        (head.kind, frames::status(&head.payload)),
        (kind::HEADERS, 200)
    );
    client
}

#[track_caller]
fn echo(client: &mut Client, bytes: &[u8]) {
    client.send(frame(kind::DATA, 0, 1, bytes));
    let back = next(client, 1);
    assert_eq!((back.kind, &back.payload[..]), (kind::DATA, bytes));
}

async fn ask(client: &H2, more: &[(&str, &str)]) -> (ResponseFuture, SendStream<Bytes>) {
    client.allows_connect().await;
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://test/chat?room=1")
        .extension(Protocol::from_static("websocket"));
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    let request = request.body(()).expect("a request");
    client.open(request, false).await.expect("a stream")
}

const VERSION: (&str, &str) = ("sec-websocket-version", "13");

async fn answer(client: &H2, more: &[(&str, &str)]) -> Response<RecvStream> {
    ask(client, more).await.0.await.expect("a response")
}

#[test]
fn an_extended_connect_becomes_the_handshake_of_http1() {
    let origin = echoing();
    let log = "[access_log]\nto = \"$DIR/access.log\"\nformat = \"json\"\n";
    let proxy = serve(&format!("{log}{}", single(&origin.at(), "")));
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let given = ("sec-websocket-key", "not one");
        let offer = ("sec-websocket-protocol", "chat, other");
        let (response, mut up) = ask(&client, &[VERSION, given, offer]).await;
        let response = response.await.expect("a response");
        assert_eq!(response.status(), 200);
        let field = |name: &str| response.headers().get(name).map(|v| v.to_str().unwrap());
        assert_eq!(field("sec-websocket-protocol"), Some("chat"));
        for name in [
            "sec-websocket-accept",
            "upgrade",
            "connection",
            "content-length",
        ] {
            assert_eq!(field(name), None, "{name}");
        }
        assert!(field("date").is_some());
        let body = noise(1, 3 * 1024 * 1024);
        let sent = Bytes::from(body.clone());
        let (_, back) = tokio::join!(
            async { send(&mut up, sent, true).await.expect("sent") },
            async { whole(response).await.expect("all of it").body }
        );
        assert!(back == [&body[..], b"last"].concat());
    });
    let request = origin.last();
    assert_eq!(request.line(), "GET /chat?room=1 HTTP/1.1");
    assert_eq!(request.field("upgrade").as_deref(), Some("websocket"));
    assert_eq!(request.field("connection").as_deref(), Some("upgrade"));
    assert_eq!(request.all("sec-websocket-key").len(), 1);
    assert_eq!(request.field("content-length"), None);
    assert_eq!(request.field("transfer-encoding"), None);
    let offered = request.field("sec-websocket-protocol");
    assert_eq!(offered.as_deref(), Some("chat, other"));
    let line = until("a line of the access log", || {
        let text = std::fs::read_to_string(proxy.dir().join("access.log")).ok()?;
        serde_json::from_str::<serde_json::Value>(text.lines().next()?).ok()
    });
    assert_eq!(
        (&line["method"], &line["status"]),
        (&"GET".into(), &200.into())
    );
    assert_eq!(line["tunnel"], true);
    assert_eq!(line["bytes_received"], 3 * 1024 * 1024);
    assert_eq!(line["bytes_sent"], 3 * 1024 * 1024 + 4);
}

#[test]
fn both_sides_may_end_first() {
    let origin = Origin::script(|conn| {
        accept(conn)?;
        conn.write(b"bye")?;
        // The other direction stays open.
        conn.finish()?;
        assert_eq!(conn.exact(4)?, b"late");
        conn.peer_closes(crate::support::PATIENCE).map(drop)
    });
    let proxy = before(&origin.at());
    let mut client = tunnel(&proxy);
    let mut got = Vec::new();
    loop {
        let data = next(&mut client, 1);
        assert_eq!(data.kind, kind::DATA);
        got.extend(data.payload);
        if data.flags & END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(got, b"bye");
    client.send(frame(kind::DATA, END_STREAM, 1, b"late"));
    until("the origin has closed", || {
        (origin.open() == 0).then_some(())
    });
    assert_eq!(origin.hits(), 1);
}

#[test]
fn a_reset_ends_the_tunnel_on_the_other_side() {
    let origin = echoing();
    let proxy = before(&origin.at());
    let mut client = tunnel(&proxy);
    echo(&mut client, b"one");
    client.send(frame(kind::RST_STREAM, 0, 1, &8_u32.to_be_bytes()));
    until("the origin is let go", || {
        (origin.open() == 0).then_some(())
    });
    let origin = Origin::script(|conn| {
        accept(conn)?;
        conn.exact(2)?;
        conn.reset()
    });
    let proxy = before(&origin.at());
    let mut client = tunnel(&proxy);
    client.send(frame(kind::DATA, 0, 1, b"go"));
    let end = next(&mut client, 1);
    assert_eq!(
        (end.kind, &end.payload[..]),
        (kind::RST_STREAM, &[0, 0, 0, 8][..])
    );
}

#[test]
fn a_handshake_that_is_refused_is_an_ordinary_answer() {
    let origin = Origin::named("no tunnel");
    let proxy = before(&origin.at());
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let refused = whole(answer(&client, &[VERSION]).await)
            .await
            .expect("whole");
        assert_eq!(
            (refused.status, &refused.body[..]),
            (200, &b"no tunnel"[..])
        );
        assert_eq!(refused.headers["content-length"], "9");
        for (more, status) in [
            (&[][..], 400),
            (&[("sec-websocket-version", "8")], 426),
            (&[VERSION, ("content-length", "5")], 400),
        ] {
            let answer = answer(&client, more).await;
            assert_eq!(answer.status(), status, "{more:?}");
            assert!(answer.headers().get("upgrade").is_none());
        }
    });
    assert_eq!(origin.hits(), 1);
}

#[test]
fn a_wrong_answer_to_the_key_is_the_origins_failure() {
    let origin = Origin::raw(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    );
    let proxy = before(&origin.at());
    let answer = block_on(async {
        let client = H2::connect(proxy.port).await;
        whole(answer(&client, &[VERSION]).await)
            .await
            .expect("whole")
    });
    assert_eq!(answer.status, 502);
    assert_eq!(answer.headers["x-cutover-reason"], "upstream-malformed");
    let charged = [("reason", "upstream-malformed")];
    let failures = proxy
        .metrics()
        .sum("cutover_upstream_failures_total", &charged);
    assert!(failures >= 1.0, "the version is charged");
}

#[test]
fn a_small_window_slows_the_origin_down_and_a_trailer_is_an_error() {
    let origin = Origin::script(|conn| {
        accept(conn)?;
        conn.write(&noise(4, 2_000))?;
        conn.peer_closes(crate::support::PATIENCE).map(drop)
    });
    let proxy = before(&origin.at());
    // SETTINGS_INITIAL_WINDOW_SIZE
    let mut client = open(&proxy, &[0, 4, 0, 0, 0, 10]);
    connect(&mut client, 1, &FIELDS);
    assert_eq!(next(&mut client, 1).kind, kind::HEADERS);
    let mut got = Vec::new();
    while got.len() < 2_000 {
        let data = next(&mut client, 1);
        assert_eq!(data.kind, kind::DATA);
        got.extend_from_slice(&data.payload);
        assert!(got.len() <= 10 || data.payload.len() <= 400);
        if got.len() % 10 == 0 {
            client.send(frame(kind::WINDOW_UPDATE, 0, 1, &400_u32.to_be_bytes()));
        }
    }
    assert!(got == noise(4, 2_000));
    let trailers = frames::block(&[("x", "y")]);
    client.send(frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &trailers));
    assert_eq!(frames::outcome(&mut client, 1), frames::Outcome::Reset(1));
}

#[test]
fn a_tunnel_has_the_time_of_its_drain() {
    let (origin, other) = (echoing(), echoing());
    let keys = "drain.streams = \"300ms\"";
    let proxy = serve(&single(&origin.at(), keys));
    let mut client = tunnel(&proxy);
    echo(&mut client, b"one");
    let began = Instant::now();
    proxy.edit(&single(&other.at(), keys));
    echo(&mut client, b"two");
    // The connection goes on, and so does a tunnel to the new endpoint.
    connect(&mut client, 3, &FIELDS);
    assert_eq!(next(&mut client, 3).kind, kind::HEADERS);
    let end = next(&mut client, 1);
    assert_eq!(end.kind, kind::RST_STREAM);
    assert!(began.elapsed() >= Duration::from_millis(290));
    client.send(frame(kind::DATA, 0, 3, b"three"));
    assert_eq!(next(&mut client, 3).payload, b"three");
}

#[test]
fn a_client_that_reads_nothing_holds_the_origin_back() {
    let origin = Origin::script(|conn| {
        accept(conn)?;
        let piece = [7; 64 * 1024];
        for _ in 0..400 {
            conn.write(&piece)?;
        }
        Ok(())
    });
    let proxy = before(&origin.at());
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let (response, _up) = ask(&client, &[VERSION]).await;
        let mut body = response.await.expect("a response").into_body();
        // The window of the client is 64 KiB; the rest stays at the origin or in the sockets' buffers.
        pause(Duration::from_millis(100));
        assert_eq!(origin.open(), 1, "25 MiB are not taken in advance");
        let mut got = 0;
        while let Some(bytes) = piece(&mut body).await {
            got += bytes.expect("bytes").len();
        }
        assert_eq!(got, 400 * 64 * 1024);
    });
}

/// Accepts WebSockets by extended CONNECT, and sends each byte back; `/refused` is 403, and a GET is 200.
async fn connected(mut x: Exchange) -> Result<(), h2::Error> {
    if x.request.method() == Method::GET {
        return x.reply("plain").await;
    }
    let protocol = x.request.extensions().get::<Protocol>();
    assert_eq!(protocol.map(Protocol::as_str), Some("websocket"));
    if x.path() == "/refused" {
        let refusal = Response::builder().status(403).body(()).expect("a head");
        let mut body = x.respond.send_response(refusal, false)?;
        return send(&mut body, Bytes::from_static(b"no"), true).await;
    }
    x.echo(HeaderMap::new()).await
}

const HANDSHAKE: &str = "host: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Opens a tunnel over HTTP/1 and talks through it.
#[track_caller]
fn talk(client: &mut Client) {
    client.send(format!("GET /chat HTTP/1.1\r\n{HANDSHAKE}"));
    let head = client.head().expect("a response");
    assert_eq!(head.status(), 101);
    assert_eq!(head.field("upgrade").as_deref(), Some("websocket"));
    let accept = head.all("sec-websocket-accept");
    assert_eq!(accept, ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]);
    client.send(b"there and back");
    assert_eq!(client.exact(14), b"there and back");
    client.finish();
    assert_eq!(client.rest(), b"");
}

#[test]
fn an_http2_endpoint_gets_an_extended_connect_if_it_accepts_one() {
    let origin = H2Origin::script(connected);
    origin.accept_connect();
    let proxy = before(&origin.h2c());
    talk(&mut proxy.client());
    let head = origin.heads().pop().expect("a request");
    assert_eq!(
        (head.method(), head.uri().path()),
        (&Method::CONNECT, "/chat")
    );
    assert_eq!(head.headers()["sec-websocket-version"], "13");
    for name in ["sec-websocket-key", "upgrade", "connection"] {
        assert!(!head.headers().contains_key(name), "{name}");
    }
    // From HTTP/2 to HTTP/2.
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let (response, mut up) = ask(&client, &[VERSION]).await;
        let response = response.await.expect("a response");
        assert!(!response.headers().contains_key("sec-websocket-accept"));
        let body = noise(5, 1024 * 1024);
        let sent = Bytes::from(body.clone());
        let (_, back) = tokio::join!(
            async { send(&mut up, sent, true).await.expect("sent") },
            async { whole(response).await.expect("all of it").body }
        );
        assert!(back == body);
    });
    // A refusal is an ordinary response, after which the connection carries other requests.
    let mut client = proxy.client();
    let refused = client.ask(&format!("GET /refused HTTP/1.1\r\n{HANDSHAKE}"));
    assert_eq!((refused.status(), refused.text().as_str()), (403, "no"));
    assert_eq!(client.get("/").text(), "plain");
}

#[test]
fn a_tunnel_shares_the_connection_to_an_https_endpoint_that_accepts_it() {
    let authority = Authority::new();
    let identity = authority.issue(&["127.0.0.1"]);
    let origin = H2Origin::script_tls(identity.server(&["h2"]), connected);
    origin.accept_connect();
    let endpoint = format!("https://{}", origin.at());
    let builder = Builder::rest(&single(&endpoint, ""));
    let roots = builder.dir().join("ca.pem");
    authority.save(&roots);
    let proxy = builder.env("SSL_CERT_FILE", roots).start();
    let mut client = proxy.client();
    // Without it the endpoint would be asked over HTTP/1, which it doesn't speak.
    assert_eq!(client.get("/").text(), "plain");
    talk(&mut client);
    assert_eq!(origin.connections(), 1);
}
