//! Calls to scripted servers on loopback.

use super::super::fixtures::{Act, ScriptedServer, answer, tls};
use super::*;

const LONG: Duration = Duration::from_secs(20);

fn post(url: &str, limit: Duration) -> OutcallRequest {
    OutcallRequest {
        method: Method::POST,
        url: OutcallUrl::parse(url).unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"{}"),
        limit,
    }
}

async fn status(act: Act, limit: Duration) -> Result<u16, String> {
    let server = ScriptedServer::start([act]).await;
    let result = send(post(&server.url("/secret?secret"), limit)).await;
    let port = server.port.to_string();
    result
        .map(|response| response.status)
        .map_err(|error| error.to_string().replace(&port, "PORT"))
}

#[tokio::test]
async fn a_request_is_sent_and_its_response_read() {
    let server = ScriptedServer::start([answer(201, "x-a: b\r\n", "hello")]).await;
    let url = server
        .url("/hook?a=b")
        .replace("http://", "http://user:pass@");
    let response = send(post(&url, LONG)).await.unwrap();
    assert_eq!(response.status, 201);
    assert_eq!(response.headers["x-a"], "b");
    assert_eq!(response.body, "hello");
    let request = &server.requests()[0];
    assert!(
        request.starts_with("POST /hook?a=b HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.ends_with("\r\n\r\n{}"), "{request}");
    let agent = format!("user-agent: {AGENT}\r\n");
    for line in [
        "host: 127.0.0.1:PORT\r\n",
        "authorization: Basic dXNlcjpwYXNz\r\n",
        "connection: close\r\n",
        "content-length: 2\r\n",
        &agent,
    ] {
        assert_eq!(request.matches(line).count(), 1, "{line} {request}");
    }
}

#[tokio::test]
async fn fields_of_the_caller_replace_the_defaults() {
    let server = ScriptedServer::start([answer(200, "", "")]).await;
    let mut request = post(&server.url("/").replacen("127", "a:b@127", 1), LONG);
    let headers = &mut request.headers;
    headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
    send(request).await.unwrap();
    let request = &server.requests()[0];
    assert!(request.contains("authorization: Bearer x\r\n"), "{request}");
    assert!(!request.contains("Basic"), "{request}");
}

#[tokio::test]
async fn responses_in_every_shape_are_read() {
    let whole = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned();
    let until_close = "HTTP/1.1 202 OK\r\n\r\nuntil the end".to_owned();
    let early_hints = format!("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n{whole}");
    for (act, expected) in [
        (Act::HalfClose(whole.clone()), 200),
        (Act::Slowly(whole.clone()), 200),
        (Act::Hang(whole), 200),
        (Act::Answer(until_close), 202),
        (Act::Answer(early_hints), 200),
        (Act::Flood(MAX_BODY_BYTES), 200),
        (answer(302, "location: http://127.0.0.1:1/\r\n", ""), 302),
    ] {
        assert_eq!(status(act.clone(), LONG).await, Ok(expected), "{act:?}");
    }
}

#[tokio::test]
async fn failures_name_the_peer_and_the_cause_and_nothing_secret() {
    let soon = Duration::from_millis(100);
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok".to_owned();
    for (act, limit, cause) in [
        (
            Act::Hang(String::new()),
            soon,
            "no complete answer within 100ms",
        ),
        (
            Act::Hang(cut.clone()),
            soon,
            "no complete answer within 100ms",
        ),
        (
            Act::Hang("HTTP/1.1 200".into()),
            soon,
            "no complete answer within 100ms",
        ),
        (Act::Close, LONG, "the exchange failed: "),
        (
            Act::Answer(String::new()),
            LONG,
            "the exchange failed: connection closed",
        ),
        (Act::Answer(cut.clone()), LONG, "the exchange failed: "),
        (Act::HalfClose(cut), LONG, "the exchange failed: "),
        (
            Act::Answer("SSH-2.0-OpenSSH\r\n".into()),
            LONG,
            "the exchange failed: ",
        ),
        (
            Act::Flood(MAX_BODY_BYTES + 1),
            LONG,
            "the answer is larger than 1048576 bytes",
        ),
        (
            Act::Flood(1 << 30),
            LONG,
            "the answer is larger than 1048576 bytes",
        ),
    ] {
        let error = status(act.clone(), limit).await.expect_err("a failure");
        let expected = format!("127.0.0.1:PORT: {cause}");
        assert!(error.starts_with(&expected), "{act:?}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn names_are_resolved_and_every_address_is_tried() {
    // A server on 127.0.0.1 only; where `localhost` is also ::1, that address refuses.
    let server = ScriptedServer::start([answer(204, "", "")]).await;
    let url = server.url("/").replace("127.0.0.1", "localhost");
    assert_eq!(send(post(&url, LONG)).await.unwrap().status, 204);
    let error = send(post("http://nowhere.invalid/secret", LONG)).await;
    let error = error.expect_err("no such name");
    assert!(error.is_transient());
    let error = error.to_string();
    assert!(
        error.starts_with("nowhere.invalid:80: the name can't be resolved: "),
        "{error}"
    );
}

#[tokio::test]
async fn nobody_listening_is_said() {
    let server = ScriptedServer::start([answer(200, "", "")]).await;
    let (port, url) = (server.port, server.url("/secret"));
    drop(server);
    // The task that owned the listener is dropped by the runtime.
    tokio::task::yield_now().await;
    let error = send(post(&url, LONG))
        .await
        .expect_err("nobody")
        .to_string();
    let expected = format!("127.0.0.1:{port}: no connection: Connection refused");
    assert!(error.starts_with(&expected), "{error}");
}

#[tokio::test]
async fn certificates_are_verified() {
    let (acceptor, trusting) = tls("localhost");
    let server = ScriptedServer::start_tls([answer(200, "", "ok")], acceptor).await;
    let port = server.port;
    let call = async |host: &str, tls: Option<Arc<ClientConfig>>| {
        let request = post(&format!("https://{host}:{port}/secret"), LONG);
        let result = match tls {
            Some(tls) => send_with(request, Some(tls)).await,
            None => send(request).await,
        };
        result.map(|r| r.status).map_err(|e| e.to_string())
    };
    assert_eq!(call("localhost", Some(trusting.clone())).await, Ok(200));
    let wrong_name = call("127.0.0.1", Some(trusting)).await.unwrap_err();
    let expected = format!("127.0.0.1:{port}: TLS handshake failed: invalid peer certificate");
    assert!(wrong_name.starts_with(&expected), "{wrong_name}");
    let untrusted = call("localhost", None).await.unwrap_err();
    let expected = format!("localhost:{port}: TLS handshake failed: invalid peer certificate");
    assert!(untrusted.starts_with(&expected), "{untrusted}");
}

#[tokio::test]
async fn a_server_without_tls_and_one_that_never_shakes_hands_fail() {
    let (_, trusting) = tls("localhost");
    for (act, limit, cause) in [
        (Act::Close, LONG, "TLS handshake failed"),
        (
            Act::Hang(String::new()),
            Duration::from_millis(100),
            "no co",
        ),
    ] {
        let server = ScriptedServer::start([act]).await;
        let request = post(&format!("https://127.0.0.1:{}/", server.port), limit);
        let error = send_with(request, Some(trusting.clone())).await;
        let error = error.expect_err("no TLS").to_string();
        assert!(error.contains(cause), "{error}");
    }
}

#[tokio::test]
async fn ipv6_literals_have_brackets_in_host_only() {
    // A machine without IPv6 can't run this.
    let Ok(listener) = tokio::net::TcpListener::bind("[::1]:0").await else {
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let origin = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n{}") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        stream.write_all(b"HTTP/1.1 204 OK\r\n\r\n").await.unwrap();
        String::from_utf8(request).unwrap()
    });
    let response = send(post(&format!("http://[::1]:{port}/"), LONG)).await;
    assert_eq!(response.unwrap().status, 204);
    let request = origin.await.unwrap();
    assert!(
        request.contains(&format!("host: [::1]:{port}\r\n")),
        "{request}"
    );
}
