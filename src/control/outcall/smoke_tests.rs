//! Checks of endpoints on loopback, over every kind of connection.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::fixtures::{Act, ScriptedServer, answer};
use super::*;
use crate::config::spec::{EndpointAddress, EndpointSpec};
use crate::telemetry::Telemetry;
use crate::upstream::Registry;

const LONG: Duration = Duration::from_secs(20);

fn endpoint(scheme: Scheme, address: EndpointAddress) -> Arc<Endpoint> {
    let metrics = Telemetry::new(1).version("s", "v");
    let spec = EndpointSpec {
        scheme,
        address,
        weight: 1,
    };
    Registry::new().endpoint("s", "v", &spec, &metrics)
}

fn local(scheme: Scheme, port: u16) -> Arc<Endpoint> {
    endpoint(scheme, EndpointAddress::Ip(([127, 0, 0, 1], port).into()))
}

fn get(target: &str) -> SmokeCheck {
    SmokeCheck {
        method: "GET".into(),
        target: target.into(),
        headers: Vec::new(),
        body: None,
        status: (200, 200),
        expect_headers: Vec::new(),
        expect_json: None,
    }
}

/// Runs these checks on one server; the result with its port replaced, and the requests.
async fn checked(
    checks: &[SmokeCheck],
    host: Option<&str>,
    acts: &[Act],
    limit: Duration,
) -> (Result<(), String>, Vec<String>) {
    let server = ScriptedServer::start(acts.to_vec()).await;
    let endpoints = [local(Scheme::Http, server.port)];
    let result = run_within(checks, &endpoints, host, limit).await;
    let port = server.port.to_string();
    let result = result.map_err(|why| why.replace(&port, "PORT"));
    (result, server.requests())
}

#[tokio::test(flavor = "local")]
async fn checks_run_in_order_on_connections_of_their_own() {
    let checks = [get("/health"), get("/api/products?page=1")];
    let ok = [answer(200, "", "ok")];
    let (result, requests) = checked(&checks, None, &ok, LONG).await;
    result.unwrap();
    assert_eq!(requests.len(), 2);
    assert!(requests[0].starts_with("GET /health HTTP/1.1\r\n"));
    assert!(requests[1].starts_with("GET /api/products?page=1 HTTP/1.1\r\n"));
    for request in &requests {
        assert!(request.contains("host: 127.0.0.1:PORT\r\n"), "{request}");
        assert!(
            request.contains("user-agent: cutover-smoke\r\n"),
            "{request}"
        );
    }
    let (_, requests) = checked(&checks, Some("shop.example.com"), &ok, LONG).await;
    assert!(requests[0].contains("host: shop.example.com\r\n"));
}

#[tokio::test(flavor = "local")]
async fn bodies_and_headers_are_sent() {
    let mut json = get("/login");
    json.method = "POST".into();
    json.body = Some(SmokeBody::Json(json!({ "user": "test" })));
    json.headers = vec![
        ("host".into(), "other.example.com".into()),
        ("user-agent".into(), "mine".into()),
        ("x-a".into(), "1".into()),
        ("x-a".into(), "2".into()),
    ];
    let mut text = get("/echo");
    text.method = "PUT".into();
    text.body = Some(SmokeBody::Text("hello".into()));
    let ok = [answer(200, "", "")];
    let (result, requests) = checked(&[json, text], Some("a"), &ok, LONG).await;
    result.unwrap();
    let login = &requests[0];
    assert!(login.ends_with("\r\n\r\n{\"user\":\"test\"}"), "{login}");
    for line in [
        "host: other.example.com\r\n",
        "user-agent: mine\r\n",
        "x-a: 1\r\n",
        "x-a: 2\r\n",
        "content-type: application/json\r\n",
    ] {
        assert_eq!(login.matches(line).count(), 1, "{line} {login}");
    }
    assert!(!login.contains("cutover-smoke"), "{login}");
    let echo = &requests[1];
    assert!(echo.contains("content-type: text/plain\r\n"), "{echo}");
    assert!(echo.ends_with("\r\n\r\nhello"), "{echo}");
}

#[tokio::test(flavor = "local")]
async fn failures_say_what_was_asked_of_whom() {
    let soon = Duration::from_millis(100);
    let mut token = get("/login");
    token.expect_json = Some(json!({ "token": "*" }));
    let mut typed = get("/");
    typed.expect_headers = vec![("content-type".into(), "text/html*".into())];
    let plain = answer(200, "content-type: text/plain\r\n", "");
    for (check, act, limit, why) in [
        (
            get("/health"),
            answer(500, "", ""),
            LONG,
            "GET /health on 127.0.0.1:PORT: expected 200, got 500",
        ),
        (
            get("/health"),
            Act::Hang(String::new()),
            soon,
            "GET /health on 127.0.0.1:PORT: no answer within 100ms",
        ),
        (
            token.clone(),
            answer(200, "", "{}"),
            LONG,
            "GET /login on 127.0.0.1:PORT: expected JSON token, but it is missing",
        ),
        (
            token,
            Act::Flood(2 << 20),
            LONG,
            "GET /login on 127.0.0.1:PORT: the answer is larger than 1048576 bytes",
        ),
        (
            typed,
            plain,
            LONG,
            "GET / on 127.0.0.1:PORT: expected header content-type to be \"text/html*\", got \"text/plain\"",
        ),
    ] {
        let (result, _) = checked(&[check], None, &[act], limit).await;
        assert_eq!(result, Err(why.into()));
    }
    let (result, _) = checked(&[get("/")], None, &[Act::Answer(String::new())], LONG).await;
    let why = result.unwrap_err();
    assert!(
        why.starts_with("GET / on 127.0.0.1:PORT: the exchange failed: "),
        "{why}"
    );
}

#[tokio::test(flavor = "local")]
async fn a_body_that_nobody_looks_at_may_have_any_size() {
    let (result, _) = checked(&[get("/download")], None, &[Act::Flood(1 << 30)], LONG).await;
    result.unwrap();
}

#[tokio::test(flavor = "local")]
async fn the_first_failure_ends_the_checks_of_an_endpoint() {
    let checks = [get("/a"), get("/b"), get("/c")];
    let acts = [
        answer(200, "", ""),
        answer(404, "", ""),
        answer(200, "", ""),
    ];
    let (result, requests) = checked(&checks, None, &acts, LONG).await;
    assert_eq!(
        result.unwrap_err(),
        "GET /b on 127.0.0.1:PORT: expected 200, got 404"
    );
    assert_eq!(requests.len(), 2);
}

#[tokio::test(flavor = "local")]
async fn every_endpoint_is_asked() {
    let (mut servers, mut endpoints) = (Vec::new(), Vec::new());
    for _ in 0..3 * CONCURRENT_ENDPOINTS {
        let server = ScriptedServer::start([answer(200, "", "")]).await;
        endpoints.push(local(Scheme::Http, server.port));
        servers.push(server);
    }
    let checks = [get("/a"), get("/b")];
    run_within(&checks, &endpoints, None, LONG).await.unwrap();
    assert!(servers.iter().all(|server| server.requests().len() == 2));
    let bad = ScriptedServer::start([answer(500, "", "")]).await;
    endpoints.push(local(Scheme::Http, bad.port));
    let why = run_within(&checks, &endpoints, None, LONG)
        .await
        .unwrap_err();
    let expected = format!("GET /a on 127.0.0.1:{}: expected 200, got 500", bad.port);
    assert_eq!(why, expected);
}

#[tokio::test(flavor = "local")]
async fn an_endpoint_that_is_not_there_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let unresolved = endpoint(
        Scheme::Http,
        EndpointAddress::Name("shop.internal".into(), 80),
    );
    for (endpoint, cause) in [
        (
            local(Scheme::Http, port),
            "no connection: Connection refused",
        ),
        (unresolved, "no connection: the name has no address"),
    ] {
        let why = run_within(&[get("/")], &[endpoint], None, LONG).await;
        let why = why.unwrap_err();
        assert!(why.contains(cause), "{why}");
    }
    assert!(run_within(&[get("/")], &[], None, LONG).await.is_err());
    assert_eq!(run_within(&[], &[], None, LONG).await, Ok(()));
}

#[tokio::test(flavor = "local")]
async fn what_can_not_be_sent_is_said() {
    let endpoints = [local(Scheme::Http, 1)];
    let mut method = get("/");
    method.method = "G T".into();
    let mut tunnel = get("/");
    tunnel.method = "CONNECT".into();
    let mut header = get("/");
    header.headers = vec![("x-a".into(), "a\nb".into())];
    for check in [method, tunnel, header, get("/a b"), get("no-slash")] {
        let why = run_within(&[check], &endpoints, None, LONG)
            .await
            .unwrap_err();
        assert!(why.contains("the request can't be sent"), "{why}");
    }
}

#[tokio::test(flavor = "local")]
async fn http2_endpoints_are_asked_in_http2() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let origin = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let (head, mut upload) = request.into_parts();
        let serve = tokio::spawn(async move {
            let mut asked = 0;
            while let Some(piece) = upload.data().await {
                let piece = piece.unwrap();
                asked += piece.len();
                let _ = upload.flow_control().release_capacity(piece.len());
            }
            let response = http::Response::builder().status(200).body(()).unwrap();
            let mut send = respond.send_response(response, false).unwrap();
            let json = format!("{{\"a\":1,\"b\":\"{}\"}}", "x".repeat(200_000));
            send.send_data(Bytes::from(json), true).unwrap();
            asked
        });
        // Until the client closes.
        while connection.accept().await.is_some_and(|r| r.is_ok()) {}
        (head, serve.await.unwrap())
    });
    let mut check = get("/x?y=1");
    check.method = "POST".into();
    // More than HTTP/2's initial window, as is the response.
    check.body = Some(SmokeBody::Text("x".repeat(200_000)));
    check.expect_json = Some(json!({ "a": 1 }));
    let endpoints = [local(Scheme::H2c, port)];
    let host = Some("shop.example.com");
    run_within(&[check], &endpoints, host, LONG).await.unwrap();
    let (head, asked) = origin.await.unwrap();
    assert_eq!(head.uri, "http://shop.example.com/x?y=1");
    assert_eq!((head.method.as_str(), asked), ("POST", 200_000));
    assert!(head.headers.get("host").is_none());
    assert!(head.headers.get("connection").is_none());
}

#[tokio::test(flavor = "local")]
async fn unix_sockets_are_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let origin = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        stream.write_all(b"HTTP/1.1 404 No\r\n\r\n").await.unwrap();
        String::from_utf8(request).unwrap()
    });
    let endpoints = [endpoint(Scheme::Http, EndpointAddress::Unix(path.clone()))];
    let why = run_within(&[get("/")], &endpoints, None, LONG).await;
    let expected = format!("GET / on unix:{}: expected 200, got 404", path.display());
    assert_eq!(why, Err(expected));
    let request = origin.await.unwrap();
    assert!(request.contains("host: localhost\r\n"), "{request}");
}

#[tokio::test(flavor = "local")]
async fn the_first_exact_host_of_the_service_is_the_host() {
    let server = ScriptedServer::start([answer(200, "", "")]).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cutover.toml");
    let text = "listen = \":1\"\n[service.shop]\nhosts = [\"*.example.com\", \"shop.example.com\", \"b.example.com\"]\n\
                versions = { v1 = [\"127.0.0.1:1\"] }\n";
    std::fs::write(&file, text).unwrap();
    let spec = crate::config::load(&file).expect("valid").spec;
    let endpoints = [local(Scheme::Http, server.port)];
    run(&[get("/")], &endpoints, &spec.services[0])
        .await
        .unwrap();
    assert!(server.requests()[0].contains("host: shop.example.com\r\n"));
}
