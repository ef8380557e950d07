//! The life of HTTP/2 connections and streams: refused, answered early, full, idle, slow, noisy.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};

use crate::support::frames::{
    self, END_HEADERS, END_STREAM, Outcome, block, frame, get_fields, kind,
};
use crate::support::h2_client::{H2, send, whole};
use crate::support::h2_origin::{Exchange, H2Origin};
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, before, serve, single};
use crate::support::tls::Authority;
use crate::support::{block_on, noise, until_async};

fn post(url: &str) -> Request<()> {
    Request::post(url).body(()).expect("a request")
}

/// With one worker, so that all requests share its connections.
fn alone(endpoint: &str) -> Proxy {
    let head = "listen = \"127.0.0.1:$PORT\"\nadmin = \"127.0.0.1:$ADMIN\"\nworkers = 1\n\
                state_dir = \"$DIR/state\"\n";
    Builder::new(&format!("{head}{}", single(endpoint, ""))).start()
}

/// The reason of the GOAWAY that comes before the end of the connection; frames about streams are passed over.
#[track_caller]
fn last_word(client: &mut crate::support::client::Client) -> Option<u32> {
    let mut reason = None;
    loop {
        match frames::next(client) {
            Ok(frame) if frame.kind == kind::GOAWAY => {
                let code = frame.payload[4..8].try_into().expect("four bytes");
                reason = Some(u32::from_be_bytes(code));
            }
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the connection stays open")
            }
            Err(_) => return reason,
        }
    }
}

#[test]
fn a_refused_stream_is_sent_again_once_even_a_post() {
    let refusals = Arc::new(AtomicUsize::new(0));
    let seen = refusals.clone();
    let origin = H2Origin::script(move |mut x: Exchange| {
        let first = seen.fetch_add(1, Ordering::SeqCst) == 0;
        let stubborn = x.path() == "/stubborn";
        async move {
            if first || stubborn {
                x.respond.send_reset(h2::Reason::REFUSED_STREAM);
                return Ok(());
            }
            x.echo(HeaderMap::new()).await
        }
    });
    let proxy = before(&origin.h2c());
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let body = Bytes::from(noise(7, 20_000));
        let answer = client.ask(post("http://app.test/"), body.clone()).await;
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.body == body), (200, true));
        assert_eq!(refusals.load(Ordering::SeqCst), 2);
        let answer = client.ask(post("http://app.test/stubborn"), body).await;
        assert_eq!(answer.unwrap().status, 502);
        assert_eq!(refusals.load(Ordering::SeqCst), 4);
    });
}

#[test]
fn an_answer_that_comes_before_the_body_is_delivered_whole() {
    let origin = H2Origin::script(|x| x.reply("early"));
    let proxy = before(&origin.h2c());
    let body = noise(3, 3_000_000);
    block_on(async {
        let client = H2::connect(proxy.port).await;
        for url in ["http://app.test/"; 3] {
            let answer = client.ask(post(url), body.clone().into()).await.unwrap();
            assert_eq!((answer.status, &answer.body[..]), (200, &b"early"[..]));
        }
    });
}

#[test]
fn an_own_answer_to_a_large_upload_is_delivered_whole() {
    let origin = H2Origin::named("blue");
    let proxy = serve(&single(&origin.h2c(), "hosts = [\"app.test\"]"));
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let body = Bytes::from(noise(3, 3_000_000));
        let answer = client.ask(post("http://other.test/"), body).await.unwrap();
        assert_eq!(answer.status, 404);
        // The connection lives on.
        let answer = client.get("http://app.test/").await.unwrap();
        assert_eq!(answer.body, b"blue");
    });
}

#[test]
fn informational_answers_come_before_the_final_one() {
    let origin = H2Origin::script(|mut x: Exchange| async move {
        let early = Response::builder().status(103).header("link", "</a>");
        x.respond.send_informational(early.body(()).unwrap())?;
        x.reply("done").await
    });
    let proxy = before(&origin.h2c());
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: app.test\r\n\r\n");
    let early = client.head().unwrap();
    assert_eq!(
        (early.status(), early.field("link").unwrap().as_str()),
        (103, "</a>")
    );
    assert_eq!(client.answer("GET").text(), "done");
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let request = Request::get("http://app.test/").body(()).unwrap();
        let (mut answer, _stream) = client.open(request, true).await.unwrap();
        let early = std::future::poll_fn(|cx| answer.poll_informational(cx)).await;
        let early = early.expect("an early answer").unwrap();
        assert_eq!(
            (early.status(), &early.headers()["link"]),
            (
                http::StatusCode::EARLY_HINTS,
                &"</a>".parse::<http::HeaderValue>().unwrap()
            )
        );
        assert_eq!(whole(answer.await.unwrap()).await.unwrap().body, b"done");
    });
}

#[test]
fn requests_wait_for_a_place_where_every_connection_is_full() {
    let origin = H2Origin::narrow(3, |x: Exchange| async move {
        if x.path() == "/stay" {
            x.never().await
        } else {
            x.reply("served").await
        }
    });
    let proxy = alone(&origin.h2c());
    block_on(async {
        let client = H2::connect(proxy.port).await;
        // Warm: the origin's limit is known on every connection before it matters.
        client.get("http://app.test/").await.unwrap();
        let mut held = Vec::new();
        for _ in 0..12 {
            let request = Request::get("http://app.test/stay").body(()).unwrap();
            held.push(client.open(request, true).await.unwrap());
            let n = held.len();
            until_async("it is there", || origin.active() == n).await;
        }
        assert_eq!(origin.connections(), 4);
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.get("http://app.test/").await.unwrap() }
        });
        until_async("it waits", || {
            proxy.metrics().sum("queue_depth", &[]) == 1.0
        })
        .await;
        held.pop().expect("one").1.send_reset(h2::Reason::CANCEL);
        assert_eq!(waiting.await.unwrap().body, b"served");
        assert_eq!(origin.connections(), 4);
    });
}

#[test]
fn an_https_endpoint_that_agrees_to_http2_is_spoken_to_in_it() {
    let authority = Authority::new();
    let identity = authority.issue(&["127.0.0.1"]);
    let origin = H2Origin::script_tls(identity.server(&["h2"]), |x| x.reply("h2"));
    let builder = Builder::rest(&single(&format!("https://{}", origin.at()), ""));
    let roots = builder.dir().join("ca.pem");
    authority.save(&roots);
    let proxy = builder.env("SSL_CERT_FILE", roots).start();
    let mut client = proxy.client();
    for _ in 0..5 {
        assert_eq!(client.get("/").text(), "h2");
    }
    assert_eq!(origin.connections(), 1);
    assert_eq!(origin.heads()[0].uri().scheme_str(), Some("https"));
}

#[test]
fn a_connection_without_streams_is_ended_with_a_goaway() {
    let origin = Origin::named("blue");
    let file = single(&origin.at(), "");
    let proxy = serve(&format!("[limits]\nkeepalive_timeout = \"200ms\"\n{file}"));
    let mut client = proxy.client();
    client.send(frames::preface());
    client.send(frames::request(1, &get_fields("/")));
    assert_eq!(frames::outcome(&mut client, 1), Outcome::Status(200));
    assert_eq!(last_word(&mut client), Some(0));
}

#[test]
fn a_head_that_stands_still_ends_its_connection() {
    let origin = Origin::named("blue");
    let file = single(&origin.at(), "");
    let proxy = serve(&format!("[limits]\nheader_timeout = \"200ms\"\n{file}"));
    let fields = block(&get_fields("/"));
    let unfinished = frame(kind::HEADERS, END_STREAM, 1, &fields);
    let whole = frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &fields);
    let clients = [&unfinished[..], &whole[..12], &whole[..5]].map(|bytes| {
        let mut client = proxy.client();
        client.send(frames::preface());
        client.send(bytes);
        client
    });
    for mut client in clients {
        assert_eq!(last_word(&mut client), Some(0));
    }
    assert_eq!(origin.hits(), 0);
}

#[cfg(not(feature = "h2-crate"))]
#[test]
fn a_client_that_only_chatters_is_told_to_be_calm() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    for bytes in [
        frame(kind::PING, 0, 0, &[0; 8]),
        frame(kind::SETTINGS, 0, 0, &[]),
        frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 16]),
    ] {
        let mut client = proxy.client();
        client.send(frames::preface());
        client.send(bytes.repeat(3_000));
        assert_eq!(last_word(&mut client), Some(11), "{bytes:?}");
    }
}

#[test]
fn a_reader_that_never_grants_a_window_is_given_up() {
    let origin = Origin::named("a body that is longer than the window");
    let file = single(&origin.at(), "timeouts.idle = \"300ms\"");
    let proxy = serve(&file);
    let mut client = proxy.client();
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    // SETTINGS_INITIAL_WINDOW_SIZE = 4
    client.send(frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 4]));
    client.send(frames::request(1, &get_fields("/")));
    assert_eq!(frames::outcome(&mut client, 1), Outcome::Status(200));
    // Cut: a reset, never a clean end.
    assert_eq!(frames::outcome(&mut client, 1), Outcome::Reset(2));
}

#[test]
fn a_body_flows_on_although_another_stream_stands_still() {
    let origin = H2Origin::script(|mut x: Exchange| async move {
        let mut stream = x.respond.send_response(Response::new(()), false)?;
        send(&mut stream, Bytes::from(noise(1, 1_000_000)), true).await
    });
    let proxy = alone(&origin.h2c());
    block_on(async {
        let stalled = H2::connect(proxy.port).await;
        let mut held = Vec::new();
        for _ in 0..20 {
            let request = Request::get("http://app.test/").body(()).unwrap();
            held.push(stalled.open(request, true).await.unwrap());
        }
        until_async("all are there", || origin.heads().len() == 20).await;
        let reader = H2::connect(proxy.port).await;
        for _ in 0..4 {
            let answer = reader.get("http://app.test/").await.unwrap();
            assert!(answer.body == noise(1, 1_000_000));
        }
    });
}

#[test]
fn what_cannot_be_served_is_answered_as_over_http1() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let long = format!("/{}", "x".repeat(9_000));
    let with = |at: usize, value| {
        let mut fields = get_fields("/").to_vec();
        fields[at].1 = value;
        fields
    };
    let and = |more: &[(&'static str, &'static str)]| [&get_fields("/")[..], more].concat();
    for (what, fields, status) in [
        ("a long target", with(3, long.as_str()), 414),
        (
            "a long method",
            with(0, "AVERYLONGMETHODTHATNOBODYHASEVERSEEN"),
            501,
        ),
        ("a target that is no path", with(3, "*"), 400),
        ("a strange scheme", with(1, "ftp"), 400),
        (
            "connect",
            vec![(":method", "CONNECT"), (":authority", "test:80")],
            405,
        ),
        ("many fields", and(&[("a", "b"); 101]), 431),
        ("an expectation", and(&[("expect", "miracles")]), 417),
        ("two hosts", and(&[("host", "test"), ("host", "test")]), 400),
    ] {
        let mut client = proxy.client();
        client.send(frames::preface());
        client.send(frames::request(1, &fields));
        assert_eq!(
            frames::outcome(&mut client, 1),
            Outcome::Status(status),
            "{what}"
        );
    }
    assert_eq!(origin.hits(), 0);
    // Host and :authority may both be there if they say the same.
    let mut client = proxy.client();
    client.send(frames::preface());
    client.send(frames::request(1, &and(&[("host", "TEST")])));
    assert_eq!(frames::outcome(&mut client, 1), Outcome::Status(200));
}

#[test]
fn a_head_a_little_too_large_is_refused_and_counted() {
    let origin = Origin::named("blue");
    let file = single(&origin.at(), "");
    let proxy = serve(&format!("[limits]\nheader_bytes = \"8KiB\"\n{file}"));
    let long = "x".repeat(3_000);
    let many = [("x-long", long.as_str()); 3];
    let mut client = proxy.client();
    client.send(frames::preface());
    client.send(frames::request(1, &[&get_fields("/")[..], &many].concat()));
    assert_eq!(frames::outcome(&mut client, 1), Outcome::Status(431));
    let refused = proxy
        .metrics()
        .sum("cutover_downstream_requests_total", &[("status", "431")]);
    assert_eq!((refused, origin.hits()), (1.0, 0));
}
