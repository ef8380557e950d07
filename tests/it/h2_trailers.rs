//! Trailers over HTTP/2: the same filter and the same size as over HTTP/1, and no pseudo-header fields.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};

use crate::support::client::Client;
use crate::support::frames::{self, END_HEADERS, END_STREAM, Outcome, block, frame, kind};
use crate::support::h2_client::{H2, send, whole};
use crate::support::h2_origin::{Exchange, H2Origin};
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, before};
use crate::support::until;

const POST: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "test"),
    (":path", "/"),
];

/// What trailers must not carry on: framing, routing, credentials, cookies, caching, what the proxy vouches for, and names with `_`.
const FORBIDDEN: [(&str, &str); 9] = [
    ("content-length", "4"),
    ("host", "other"),
    ("authorization", "x"),
    ("cookie", "a=b"),
    ("set-cookie", "a=b"),
    ("cache-control", "no-store"),
    ("x-forwarded-for", "1.2.3.4"),
    ("x-forwarded-port", "1"),
    ("x_sum", "7"),
];

fn open(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    client.send(frames::preface());
    client
}

/// A request with a body of four bytes and these trailers, in as many frames as they need.
fn post(stream: u32, trailers: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = frame(kind::HEADERS, END_HEADERS, stream, &block(&POST));
    bytes.extend(frame(kind::DATA, 0, stream, b"body"));
    let block = block(trailers);
    let mut parts = block.chunks(16_000).peekable();
    let (mut what, mut flags) = (kind::HEADERS, END_STREAM);
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            flags |= END_HEADERS;
        }
        bytes.extend(frame(what, flags, stream, part));
        (what, flags) = (kind::CONTINUATION, 0);
    }
    bytes
}

/// Reads every request's head, and its body as far as that comes.
fn reader() -> Origin {
    Origin::each(|_, conn| conn.reply(200, "read"))
}

#[test]
fn request_trailers_pass_the_filter_of_http1() {
    let origin = reader();
    let proxy = before(&origin.at());
    let mut client = open(&proxy);
    let trailers = [&FORBIDDEN[..], &[("x-sum", "7"), ("grpc-status", "0")]].concat();
    client.send(post(1, &trailers));
    assert_eq!(frames::outcome(&mut client, 1), Outcome::Status(200));
    let request = origin.last();
    assert_eq!(request.text(), "body");
    let kept = String::from_utf8_lossy(&request.trailers).into_owned();
    let mut kept: Vec<_> = kept.lines().collect();
    kept.sort_unstable();
    assert_eq!(kept, ["grpc-status: 0", "x-sum: 7"]);
}

fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
    let pairs = fields
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("value")));
    pairs.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_of_both_directions_are_filtered_between_http2_and_http2() {
    let origin = H2Origin::script(|x| x.echo(map(&FORBIDDEN)));
    let proxy = before(&origin.h2c());
    let client = H2::connect(proxy.port).await;
    let request = Request::post(format!("http://test:{}/", proxy.port));
    let request = request.body(()).expect("a request");
    let (answer, mut stream) = client.open(request, false).await.expect("a stream");
    send(&mut stream, Bytes::from_static(b"body"), false)
        .await
        .expect("sent");
    let mine = [&FORBIDDEN[..], &[("x-mine", "1")]].concat();
    stream.send_trailers(map(&mine)).expect("sent");
    let answer = whole(answer.await.expect("a head")).await.expect("whole");
    assert_eq!(answer.body, b"body");
    assert_eq!(answer.trailers, map(&[("x-mine", "1")]));
}

/// Servers in Go leave out trailers that weren't announced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_trailers_are_announced_to_endpoints_as_the_client_has_done() {
    let (http1, http2) = (reader(), H2Origin::script(|x| x.echo(HeaderMap::new())));
    for endpoint in [http1.at(), http2.h2c()] {
        let proxy = before(&endpoint);
        let client = H2::connect(proxy.port).await;
        let request = Request::post(format!("http://test:{}/", proxy.port));
        let request = request.header("trailer", "x-sum").body(());
        let (answer, mut stream) = client
            .open(request.expect("a request"), false)
            .await
            .expect("a stream");
        stream.send_trailers(map(&[("x-sum", "7")])).expect("sent");
        whole(answer.await.expect("a head")).await.expect("whole");
    }
    assert_eq!(http1.last().field("trailer").as_deref(), Some("x-sum"));
    assert_eq!(http2.heads()[0].headers()["trailer"], "x-sum");
}

/// As an endpoint for gRPC answers a call without messages, once it has sent its initial metadata.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn response_trailers_that_follow_the_head_at_once_arrive() {
    let origin = Origin::script(|conn| {
        frames::accept(conn)?;
        loop {
            let request = frames::received(conn)?;
            if request.kind == kind::HEADERS {
                let flags = END_HEADERS | END_STREAM;
                let trailers = block(&[("grpc-status", "5")]);
                let head = frame(kind::HEADERS, END_HEADERS, request.stream, &[0x88]);
                let trailers = frame(kind::HEADERS, flags, request.stream, &trailers);
                conn.write(&[head, trailers].concat())?;
            }
        }
    });
    let proxy = before(&format!("h2c://{}", origin.at()));
    let client = H2::connect(proxy.port).await;
    let answer = client.get(&format!("http://test:{}/", proxy.port)).await;
    let answer = answer.expect("an answer");
    assert_eq!((answer.status, &*answer.body), (200, &b""[..]));
    assert_eq!(answer.trailers, map(&[("grpc-status", "5")]));
}

#[test]
fn request_trailers_have_a_largest_size() {
    let origin = Origin::script(|conn| {
        let Some(mut request) = conn.head()? else {
            return Ok(());
        };
        conn.body(&mut request)
    });
    let proxy = before(&origin.at());
    let many: Vec<String> = (0..65).map(|n| format!("x{n}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "y")).collect();
    let long = "x".repeat(17_000);
    for (what, trailers) in [("bytes", vec![("x-long", &*long)]), ("fields", many)] {
        let mut client = open(&proxy);
        client.send(post(1, &trailers));
        let outcome = frames::outcome(&mut client, 1);
        assert_eq!(outcome, Outcome::Status(431), "{what}");
        until("the origin is let go", || {
            (origin.open() == 0).then_some(())
        });
    }
    assert!(origin.requests().is_empty(), "never a whole request");
}

#[test]
fn request_trailers_up_to_that_size_pass() {
    let origin = reader();
    let proxy = before(&origin.at());
    let mut client = open(&proxy);
    let long = "x".repeat(16_000);
    client.send(post(1, &[("x-long", &long)]));
    assert_eq!(frames::outcome(&mut client, 1), Outcome::Status(200));
    assert_eq!(origin.last().trailer("x-long"), Some(long));
}

/// A response is reset, with or without its head before that.
#[track_caller]
fn is_cut(client: &mut Client, stream: u32) {
    let mut outcome = frames::outcome(client, stream);
    if outcome == Outcome::Status(200) {
        outcome = frames::outcome(client, stream);
    }
    assert!(matches!(outcome, Outcome::Reset(_)), "{outcome:?}");
}

#[test]
fn response_trailers_have_the_same_largest_size() {
    let origin = H2Origin::script(|mut x: Exchange| async move {
        let size = x.path()[1..].parse().expect("a size");
        let mut stream = x.respond.send_response(Response::new(()), false)?;
        stream.send_data(Bytes::from_static(b"body"), false)?;
        stream.send_trailers(map(&[("x-long", &"x".repeat(size))]))
    });
    let proxy = before(&origin.h2c());
    let answer = proxy.get("/16000");
    assert_eq!(answer.trailer("x-long").map(|t| t.len()), Some(16_000));
    let mut client = proxy.client();
    client.send("GET /17000 HTTP/1.1\r\nhost: test\r\n\r\n");
    assert!(client.try_answer("GET").is_err(), "cut before its end");
    let mut client = open(&proxy);
    client.send(frames::request(1, &frames::get_fields("/17000")));
    is_cut(&mut client, 1);
}

#[cfg(not(feature = "h2-crate"))]
#[test]
fn pseudo_header_fields_in_request_trailers_are_a_stream_error() {
    let origin = Origin::script(|conn| {
        while let Some(mut request) = conn.head()? {
            conn.body(&mut request)?;
            conn.reply(200, "read")?;
        }
        Ok(())
    });
    let proxy = before(&origin.at());
    let mut client = open(&proxy);
    let cases: [Vec<u8>; 4] = [
        block(&[(":path", "/other"), ("x-sum", "7")]),
        block(&[(":status", "200")]),
        // `:method: GET` by its place in the static table.
        vec![0x82],
        // The same, after a change of the dynamic table's size.
        vec![0x20, 0x3f, 0xe1, 0x1f, 0x82],
    ];
    for (n, trailers) in cases.into_iter().enumerate() {
        let stream = 2 * n as u32 + 1;
        let mut bytes = frame(kind::HEADERS, END_HEADERS, stream, &block(&POST));
        bytes.extend(frame(kind::DATA, 0, stream, b"body"));
        bytes.extend(frame(
            kind::HEADERS,
            END_HEADERS | END_STREAM,
            stream,
            &trailers,
        ));
        client.send(bytes);
        let outcome = frames::outcome(&mut client, stream);
        assert_eq!(outcome, Outcome::Reset(1), "{trailers:x?}");
    }
    assert!(origin.requests().is_empty(), "never a whole request");
    // No other stream of the connection suffers.
    client.send(post(9, &[("x-sum", "7")]));
    assert_eq!(frames::outcome(&mut client, 9), Outcome::Status(200));
}

/// Answers every stream with a body and these trailers, by exact frames; notes in the log, as a hit, each reset that it gets.
#[cfg(not(feature = "h2-crate"))]
fn by_frames(conn: &mut crate::support::origin::Conn, trailers: &[u8]) -> std::io::Result<()> {
    frames::accept(conn)?;
    loop {
        let frames::Frame {
            kind,
            stream,
            payload,
            ..
        } = frames::received(conn)?;
        match kind {
            kind::HEADERS => {
                let status = block(&[(":status", "200")]);
                let mut bytes = frame(kind::HEADERS, END_HEADERS, stream, &status);
                bytes.extend(frame(kind::DATA, 0, stream, b"body"));
                let flags = END_HEADERS | END_STREAM;
                bytes.extend(frame(kind::HEADERS, flags, stream, trailers));
                conn.write(&bytes)?;
            }
            kind::RST_STREAM => assert_eq!(payload, [0, 0, 0, 1], "PROTOCOL_ERROR"),
            _ => {}
        }
    }
}

#[cfg(not(feature = "h2-crate"))]
#[test]
fn pseudo_header_fields_in_response_trailers_are_an_upstream_failure() {
    for trailers in [block(&[(":status", "200"), ("x", "y")]), vec![0x88]] {
        let origin = Origin::script(move |conn| by_frames(conn, &trailers));
        let proxy = before(&format!("h2c://{}", origin.at()));
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        assert!(client.try_answer("GET").is_err(), "cut before its end");
        let before = origin.connections();
        let mut client = open(&proxy);
        for stream in [1, 3, 5] {
            client.send(frames::request(stream, &frames::get_fields("/")));
            is_cut(&mut client, stream);
        }
        // Only the streams suffer; another worker than before may have opened a connection of its own.
        assert!(origin.connections() <= before + 1);
    }
    let fine = block(&[("x-sum", "7")]);
    let origin = Origin::script(move |conn| by_frames(conn, &fine));
    let proxy = before(&format!("h2c://{}", origin.at()));
    assert_eq!(proxy.get("/").trailer("x-sum").as_deref(), Some("7"));
}
