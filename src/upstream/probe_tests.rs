//! Checks against origins on loopback.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::config::spec::{self, EndpointAddress};
use crate::telemetry::Telemetry;
use crate::upstream::Registry;

const LIMIT: Duration = Duration::from_secs(10);

fn endpoint(scheme: Scheme, port: u16) -> Arc<Endpoint> {
    at(scheme, EndpointAddress::Ip(([127, 0, 0, 1], port).into()))
}

fn at(scheme: Scheme, address: EndpointAddress) -> Arc<Endpoint> {
    let metrics = Telemetry::new(1).version("s", "v");
    let spec = spec::EndpointSpec {
        scheme,
        address,
        weight: 1,
    };
    Registry::new().endpoint("s", "v", &spec, &metrics)
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Checks `/ready` of an origin that answers this; the request as it came.
async fn http(answer: &'static str) -> (Result<(), CheckFailure>, String) {
    let (listener, port) = listen().await;
    let origin = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    });
    let probe = Probe::Http("/ready?deep=1".into());
    let result = check(&endpoint(Scheme::Http, port), &probe, LIMIT).await;
    let request = origin.await.unwrap();
    (result, request.replace(&port.to_string(), "PORT"))
}

#[tokio::test]
async fn two_hundred_to_three_ninety_nine_pass() {
    let (result, request) = http("HTTP/1.1 204 No Content\r\n\r\n").await;
    result.unwrap();
    assert!(
        request.starts_with("GET /ready?deep=1 HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.contains("host: 127.0.0.1:PORT\r\n"), "{request}");
    assert!(
        request.contains("user-agent: cutover-health\r\n"),
        "{request}"
    );
    let (moved, _) = http("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 100\r\n\r\n").await;
    moved.unwrap();
    for answer in [
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 503 Busy\r\n\r\nbody until the end",
    ] {
        let (result, _) = http(answer).await;
        assert!(
            matches!(result, Err(CheckFailure::Status(404 | 503))),
            "{result:?}"
        );
    }
    let (result, _) = http("").await;
    assert!(matches!(result, Err(CheckFailure::Broken(_))), "{result:?}");
}

#[tokio::test]
async fn a_socket_s_path_is_no_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let origin = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        String::from_utf8(request).unwrap()
    });
    let endpoint = at(Scheme::Http, EndpointAddress::Unix(path));
    let probe = Probe::Http("/".into());
    check(&endpoint, &probe, LIMIT).await.unwrap();
    let request = origin.await.unwrap();
    assert!(request.contains("host: localhost\r\n"), "{request}");
}

#[tokio::test]
async fn silence_fails_after_its_time_and_nobody_at_once() {
    let (listener, port) = listen().await;
    let limit = Duration::from_millis(30);
    let endpoint = endpoint(Scheme::Http, port);
    let silent = check(&endpoint, &Probe::Http("/".into()), limit).await;
    assert!(matches!(silent, Err(CheckFailure::Timeout)), "{silent:?}");
    check(&endpoint, &Probe::Tcp, LIMIT).await.unwrap();
    drop(listener);
    for probe in [
        Probe::Tcp,
        Probe::Http("/".into()),
        Probe::Grpc(String::new()),
    ] {
        let refused = check(&endpoint, &probe, LIMIT).await;
        assert!(
            matches!(refused, Err(CheckFailure::Connect(_))),
            "{refused:?}"
        );
    }
}

/// An origin that answers every HTTP/2 request with this status, body and trailer; what it was asked.
async fn over_h2(
    probe: Probe,
    status: u16,
    body: &'static [u8],
    grpc: Option<&'static str>,
) -> (Result<(), CheckFailure>, Request<()>, Vec<u8>) {
    let (listener, port) = listen().await;
    let origin = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let (head, mut upload) = request.into_parts();
        let serve = tokio::spawn(async move {
            let mut asked = Vec::new();
            while let Some(piece) = upload.data().await {
                asked.extend_from_slice(&piece.unwrap());
            }
            let answer = Response::builder().status(status).body(()).unwrap();
            let mut send = respond.send_response(answer, false).unwrap();
            send.send_data(Bytes::from_static(body), grpc.is_none())
                .unwrap();
            if let Some(code) = grpc {
                let trailers = [("grpc-status".parse().unwrap(), code.parse().unwrap())];
                send.send_trailers(trailers.into_iter().collect()).unwrap();
            }
            asked
        });
        // Until the client goes.
        while connection.accept().await.is_some_and(|r| r.is_ok()) {}
        (Request::from_parts(head, ()), serve.await.unwrap())
    });
    let result = check(&endpoint(Scheme::H2c, port), &probe, LIMIT).await;
    let (request, asked) = origin.await.unwrap();
    (result, request, asked)
}

#[tokio::test]
async fn http2_is_asked_in_http2() {
    let probe = || Probe::Http("/ready".into());
    let (result, request, _) = over_h2(probe(), 200, b"fine", None).await;
    result.unwrap();
    assert_eq!(
        (request.method().as_str(), request.uri().path()),
        ("GET", "/ready")
    );
    let authority = request.uri().authority().unwrap().as_str();
    assert!(authority.starts_with("127.0.0.1:"), "{authority}");
    let (result, ..) = over_h2(probe(), 500, b"", None).await;
    assert!(
        matches!(result, Err(CheckFailure::Status(500))),
        "{result:?}"
    );
}

#[tokio::test]
async fn grpc_passes_when_it_says_serving() {
    const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";
    let (result, request, asked) =
        over_h2(Probe::Grpc("shop".into()), 200, SERVING, Some("0")).await;
    result.unwrap();
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    assert_eq!(asked, b"\0\0\0\0\x06\x0a\x04shop");
    let whole = Probe::Grpc(String::new());
    let (result, _, asked) = over_h2(whole.clone(), 200, SERVING, Some("0")).await;
    result.unwrap();
    assert_eq!(asked, [0; 5]);
    for (status, body, code) in [
        (200, &b"\0\0\0\0\x02\x08\x02"[..], "0"),
        (200, b"\0\0\0\0\0", "0"),
        (200, b"", "0"),
        (200, b"\x01\0\0\0\x02\x08\x01", "0"),
        (200, SERVING, "5"),
        (503, SERVING, "0"),
    ] {
        let (result, ..) = over_h2(whole.clone(), status, body, Some(code)).await;
        assert!(result.is_err(), "{status} {body:?} {code}");
    }
}

#[test]
fn long_names_have_long_lengths() {
    let asked = health_request(&"x".repeat(300));
    assert_eq!(asked[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02]);
    assert_eq!(asked.len(), 5 + 303);
}
