//! gRPC: unary and every streaming kind, trailers, and what is counted.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};

use crate::support::h2_client::{H2, piece, send};
use crate::support::h2_origin::{Exchange, H2Origin};
use crate::support::proxy::{Proxy, before};
use crate::support::{block_on, until, until_async};

fn frame(message: &str) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(message.len() as u32);
    bytes.put(message.as_bytes());
    bytes.freeze()
}

fn status(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(
        "grpc-status".parse().unwrap(),
        HeaderValue::from_static(code),
    )])
}

fn call(method: &str) -> Request<()> {
    Request::post(format!("http://app.test/test.Echo/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request")
}

/// `Server`: three messages; `Fail`: only trailers, with status 5; all else comes back as it is sent.
fn origin() -> H2Origin {
    H2Origin::script(|mut x: Exchange| async move {
        assert_eq!(x.request.headers()["te"], "trailers");
        let mut response = Response::new(());
        let kind = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", kind);
        match x.path().as_str() {
            "/test.Echo/Fail" => {
                response.headers_mut().extend(status("5"));
                x.respond.send_response(response, true).map(drop)
            }
            "/test.Echo/Server" => {
                let mut stream = x.respond.send_response(response, false)?;
                for message in ["one", "two", "three"] {
                    send(&mut stream, frame(message), false).await?;
                }
                stream.send_trailers(status("0"))
            }
            "/test.Echo/Late" => {
                let mut stream = x.respond.send_response(response, false)?;
                send(&mut stream, frame("one"), false).await?;
                stream.send_trailers(status("13"))
            }
            _ => x.echo(status("0")).await,
        }
    })
}

fn counted(proxy: &Proxy, code: &str) -> f64 {
    let labels = [("service", "app"), ("version", "v1"), ("grpc_status", code)];
    proxy.metrics().sum("grpc_requests_total", &labels)
}

#[test]
fn unary_and_server_streaming_calls() {
    let origin = origin();
    let proxy = before(&origin.h2c());
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let answer = client.ask(call("Unary"), frame("hello")).await.unwrap();
        assert_eq!(answer.headers["content-type"], "application/grpc");
        assert_eq!(answer.body, frame("hello"));
        assert_eq!(answer.trailers["grpc-status"], "0");
        let answer = client.ask(call("Server"), frame("x")).await.unwrap();
        let all = [frame("one"), frame("two"), frame("three")].concat();
        assert_eq!(answer.body, all);
        assert_eq!(answer.trailers["grpc-status"], "0");
    });
    until("both are counted", || {
        (counted(&proxy, "0") == 2.0).then_some(())
    });
}

#[test]
fn client_and_bidirectional_streaming_calls() {
    let origin = origin();
    let proxy = before(&origin.h2c());
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let (answer, mut stream) = client.open(call("Bidi"), false).await.unwrap();
        send(&mut stream, frame("0"), false).await.unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(piece(&mut body).await.unwrap().unwrap(), frame("0"));
        // Each message is sent only after the answer to the one before it was seen.
        for n in 1..20 {
            let message = frame(&n.to_string());
            send(&mut stream, message.clone(), false).await.unwrap();
            let mut back = BytesMut::new();
            while back.len() < message.len() {
                back.put(piece(&mut body).await.unwrap().unwrap());
            }
            assert_eq!(back, message);
        }
        stream.send_data(Bytes::new(), true).unwrap();
        while let Some(rest) = piece(&mut body).await {
            assert!(rest.unwrap().is_empty());
        }
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
    });
}

#[test]
fn failures_are_counted_by_their_status() {
    let origin = origin();
    let proxy = before(&origin.h2c());
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let answer = client.ask(call("Fail"), frame("x")).await.unwrap();
        assert_eq!(answer.headers["grpc-status"], "5");
        let answer = client.ask(call("Late"), frame("x")).await.unwrap();
        assert_eq!(answer.trailers["grpc-status"], "13");
    });
    until("each is counted", || {
        (counted(&proxy, "5") == 1.0 && counted(&proxy, "13") == 1.0).then_some(())
    });
    assert_eq!(counted(&proxy, "0"), 0.0);
}

#[test]
fn a_call_that_the_client_cancels_is_cancelled_upstream() {
    let origin = H2Origin::script(|mut x: Exchange| async move {
        let mut stream = x.respond.send_response(Response::new(()), false)?;
        send(&mut stream, frame("one"), false).await?;
        std::future::poll_fn(|cx| stream.poll_reset(cx)).await?;
        x.active.was_reset();
        Ok(())
    });
    let proxy = before(&origin.h2c());
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let (answer, mut stream) = client.open(call("Bidi"), false).await.unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(piece(&mut body).await.unwrap().unwrap(), frame("one"));
        stream.send_reset(h2::Reason::CANCEL);
        until_async("it is cancelled", || origin.resets() == 1).await;
    });
}
