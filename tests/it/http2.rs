//! HTTP/2 on both sides, and next to HTTP/1.

use std::collections::HashSet;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};

use crate::support::h2_client::{H2, piece, send, whole};
use crate::support::h2_origin::{Exchange, H2Origin};
use crate::support::origin::Origin;
use crate::support::proxy::{before, serve, single};
use crate::support::{block_on, noise, until_async};

fn post(path: &str) -> Request<()> {
    let url = format!("http://app.test{path}");
    Request::post(url).body(()).expect("a request")
}

fn sum() -> HeaderMap {
    HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from(7))])
}

#[test]
fn http2_in_front_of_http1() {
    let origin = Origin::echo();
    let proxy = before(&origin.at());
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let body = Bytes::from_static(b"hello");
        let mut request = post("/a%2Fb?x=%20");
        request
            .headers_mut()
            .append("cookie", HeaderValue::from_static("a=1"));
        request
            .headers_mut()
            .append("cookie", HeaderValue::from_static("b=2"));
        request
            .headers_mut()
            .insert("te", HeaderValue::from_static("trailers"));
        let answer = client.ask(request, body).await.unwrap();
        assert_eq!(answer.status, 200);
        let seen = origin.last();
        assert_eq!(seen.line(), "POST /a%2Fb?x=%20 HTTP/1.1");
        assert_eq!(seen.field("host").as_deref(), Some("app.test"));
        assert_eq!(seen.field("cookie").as_deref(), Some("a=1; b=2"));
        assert_eq!(seen.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
        assert_eq!(seen.text(), "hello");
        assert!(answer.headers.get("connection").is_none());
    });
}

#[test]
fn http1_in_front_of_http2() {
    let origin = H2Origin::script(|x| x.echo(sum()));
    let proxy = before(&origin.h2c());
    let mut client = proxy.client();
    for body in ["a", "bc", "d"] {
        let n = body.len();
        let answer = client.ask(&format!(
            "POST /x?y HTTP/1.1\r\nhost: app.test\r\nconnection: x-gone\r\nx-gone: 1\r\nte: trailers\r\ncontent-length: {n}\r\n\r\n{body}"
        ));
        assert_eq!(answer.text(), body);
        assert_eq!(answer.trailer("x-sum").as_deref(), Some("7"));
    }
    let heads = origin.heads();
    assert_eq!(heads[0].uri().path_and_query().unwrap().as_str(), "/x?y");
    assert_eq!(heads[0].uri().authority().unwrap().as_str(), "app.test");
    assert!(heads[0].headers().get("x-gone").is_none());
    assert_eq!(origin.connections(), 1);
    // By whatever representation in the compressed head: each has its own.
    let field = |name| move |head: &Request<()>| head.headers()[name].clone();
    let ids: HashSet<_> = heads.iter().map(field("x-request-id")).collect();
    assert_eq!(ids.len(), 3);
    let mut clients = heads.iter().map(field("x-forwarded-for"));
    assert!(clients.all(|client| client == "127.0.0.1"));
}

#[test]
fn http2_all_the_way_with_trailers_and_a_large_body() {
    let origin = H2Origin::script(|x| x.echo(sum()));
    let proxy = before(&origin.h2c());
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let body = Bytes::from(noise(5, 3_000_000));
        let answer = client.ask(post("/"), body.clone()).await.unwrap();
        assert!(answer.body == body);
        assert_eq!(answer.trailers["x-sum"], "7");
    });
}

#[test]
fn trailers_of_a_request_arrive() {
    let origin = H2Origin::script(|x| x.echo(HeaderMap::new()));
    let proxy = before(&origin.h2c());
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let (answer, mut stream) = client.open(post("http://test/"), false).await.unwrap();
        send(&mut stream, Bytes::from_static(b"x"), false)
            .await
            .unwrap();
        stream.send_trailers(sum()).unwrap();
        let answer = whole(answer.await.unwrap()).await.unwrap();
        assert_eq!(answer.trailers["x-sum"], "7");
    });
}

#[test]
fn many_streams_share_one_connection_upstream() {
    let origin = H2Origin::named("blue");
    let proxy = before(&origin.h2c());
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let client = client.clone();
            tasks.spawn(async move { client.get("http://app.test/").await.unwrap().body });
        }
        while let Some(body) = tasks.join_next().await {
            assert_eq!(body.unwrap(), b"blue");
        }
    });
    assert!(origin.connections() <= 4, "{}", origin.connections());
}

#[test]
fn a_stream_that_the_client_resets_is_cancelled_upstream() {
    let h1 = Origin::script(|conn| {
        conn.request()?;
        conn.peer_closes(crate::support::PATIENCE).map(drop)
    });
    let h2 = H2Origin::script(|x| x.never());
    let file = format!(
        "[service.one]\nhosts = [\"one.test\"]\nstable = \"v\"\nversions.v = [\"{}\"]\n\
         [service.two]\nhosts = [\"two.test\"]\nstable = \"v\"\nversions.v = [\"{}\"]\n",
        h1.at(),
        h2.h2c()
    );
    let proxy = serve(&file);
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let get = |host| {
            Request::get(format!("http://{host}.test/"))
                .body(())
                .unwrap()
        };
        let (one, mut one_stream) = client.open(get("one"), true).await.unwrap();
        let (two, mut two_stream) = client.open(get("two"), true).await.unwrap();
        until_async("both are there", || h1.hits() == 1 && h2.active() == 1).await;
        one_stream.send_reset(h2::Reason::CANCEL);
        two_stream.send_reset(h2::Reason::CANCEL);
        until_async("both are cancelled", || h1.open() == 0 && h2.active() == 0).await;
        assert!(one.await.is_err() && two.await.is_err());
    });
}

#[test]
fn a_stream_that_its_client_resets_while_its_body_waits_is_cancelled_upstream() {
    let h1 = Origin::script(|conn| {
        conn.head()?;
        // Nothing of the body is read: the client leaves while it waits.
        conn.wait(3 * crate::support::PATIENCE)
    });
    let proxy = serve(&single(&h1.at(), "timeouts.first_byte = \"120s\""));
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let (answer, mut body) = client.open(post("http://test/"), false).await.unwrap();
        body.reserve_capacity(64 << 20);
        let mut sent = 0;
        // Until the proxy takes no more: all buffers between here and the origin are full.
        let pause = std::time::Duration::from_millis(500);
        while let Ok(Some(Ok(n))) =
            tokio::time::timeout(pause, std::future::poll_fn(|cx| body.poll_capacity(cx))).await
        {
            body.send_data(vec![b'x'; n].into(), false).unwrap();
            sent += n;
        }
        assert!(sent > 256 * 1024 && h1.hits() == 1, "{sent}");
        let in_flight = || {
            let labels = [("version", "v1")];
            proxy.metrics().sum("http_requests_in_flight", &labels)
        };
        assert_eq!(in_flight(), 1.0);
        body.send_reset(h2::Reason::CANCEL);
        until_async("it is cancelled", || in_flight() == 0.0).await;
        assert!(answer.await.is_err());
    });
}

#[test]
fn a_response_that_is_cut_upstream_resets_the_stream() {
    let h1 = Origin::script(|conn| {
        conn.request()?;
        conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    });
    let h2 = H2Origin::script(|mut x: Exchange| async move {
        let mut stream = x.respond.send_response(Response::new(()), false)?;
        send(&mut stream, Bytes::from_static(b"half"), false).await?;
        tokio::task::yield_now().await;
        stream.send_reset(h2::Reason::INTERNAL_ERROR);
        Ok(())
    });
    for origin in [h1.at(), h2.h2c()] {
        let proxy = before(&origin);
        block_on(async {
            let client = H2::connect(proxy.port).await;
            let answer = client.get("http://app.test/").await;
            // The reset may overtake the head: then the proxy has nothing to cut and says so.
            assert!(answer.is_err() || answer.unwrap().status == 502);
        });
        // HTTP/1 downstream must not complete it either.
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nhost: app.test\r\n\r\n");
        let seen = client.rest();
        let seen = String::from_utf8_lossy(&seen);
        let whole = seen.starts_with("HTTP/1.1 200") && seen.ends_with("0\r\n\r\n");
        assert!(!whole, "{seen}");
    }
}

#[test]
fn own_answers_are_the_same_over_http2() {
    let origin = H2Origin::named("blue");
    let file = single(&origin.h2c(), "hosts = [\"app.test\"]");
    let proxy = serve(&file);
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let answer = client.get("http://other.test/").await.unwrap();
        assert_eq!(answer.status, 404);
        assert_eq!(answer.headers["x-cutover-reason"], "no-route");
        let answer = client.get("http://app.test/").await.unwrap();
        assert_eq!(answer.body, b"blue");
    });
}

#[test]
fn an_origin_that_says_goaway_costs_nobody_a_request() {
    // One connection serves three requests, then its origin ends it.
    let origin = H2Origin::named("fine");
    origin.goaway_after(3);
    let proxy = before(&origin.h2c());
    let mut client = proxy.client();
    for _ in 0..20 {
        let answer = client.get("/");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "fine"));
    }
    assert!(origin.connections() >= 6, "{}", origin.connections());
}

#[test]
fn a_download_is_held_back_by_its_reader() {
    let origin = Origin::each(|_, conn| {
        let body = vec![b'x'; 64 * 1024];
        conn.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        for _ in 0..1024 {
            conn.write(b"10000\r\n")?;
            conn.write(&body)?;
            conn.write(b"\r\n")?;
        }
        conn.write(b"0\r\n\r\n")
    });
    let proxy = before(&origin.at());
    let start = proxy.resident();
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let request = Request::get("http://app.test/").body(()).unwrap();
        let (answer, _stream) = client.open(request, true).await.unwrap();
        let mut body = answer.await.unwrap().into_body();
        let first = piece(&mut body).await.unwrap().unwrap();
        assert!(!first.is_empty());
        // Nothing is taken for a while: the window is used up, and nobody buffers the rest.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert!(proxy.resident() - start < 16 * 1024 * 1024);
        let mut len = first.len();
        while let Some(bytes) = piece(&mut body).await {
            len += bytes.unwrap().len();
        }
        assert_eq!(len, 64 * 1024 * 1024);
    });
}

#[test]
fn goaways_under_load_cost_nobody_a_request() {
    let origin = H2Origin::named("fine");
    origin.goaway_after(7);
    let proxy = before(&origin.h2c());
    std::thread::scope(|scope| {
        for id in 0..8 {
            let proxy = &proxy;
            scope.spawn(move || {
                let mut client = proxy.client();
                for n in 0..50 {
                    let answer = match (id + n) % 2 {
                        0 => client.get("/"),
                        _ => client
                            .ask("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\nhi"),
                    };
                    assert_eq!(answer.status(), 200, "{answer:?}");
                }
            });
        }
    });
    assert!(
        origin.connections() > 400 / 7 / 2,
        "{}",
        origin.connections()
    );
}
