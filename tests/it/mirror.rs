//! Mirroring: copies of requests for another version, and what is found by comparing the responses.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::Request;

use crate::support::h2_client::H2;
use crate::support::h2_origin::H2Origin;
use crate::support::origin::{Conn, Origin};
use crate::support::proxy::{Proxy, serve};
use crate::support::{block_on, free_port, until};

/// A service whose requests go to `v1`; copies go to `v2`, with these keys of the mirror.
fn mirrored(v1: &str, v2: &str, keys: &str) -> Proxy {
    serve(&service(v1, v2, keys))
}

fn service(v1: &str, v2: &str, keys: &str) -> String {
    format!(
        "[service.app]\nstable = \"v1\"\n[service.app.versions]\nv1 = [\"{v1}\"]\nv2 = [\"{v2}\"]\n\
         [service.app.mirror]\nto = \"v2\"\n{keys}\n"
    )
}

fn copies(proxy: &Proxy, outcome: &str) -> f64 {
    let labels = [("service", "app"), ("outcome", outcome)];
    proxy
        .metrics()
        .sum("cutover_mirror_requests_total", &labels)
}

/// Waits until so many copies have this outcome.
#[track_caller]
fn await_copies(proxy: &Proxy, outcome: &str, count: f64) {
    until(&format!("{count} copies are {outcome}"), || {
        (copies(proxy, outcome) == count).then_some(())
    });
}

fn json(conn: &mut Conn, status: u16, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    conn.write(format!("{head}{body}").as_bytes())
}

fn mirror(proxy: &Proxy) -> serde_json::Value {
    let answer = proxy.ask_admin("/api/v1/services/app/mirror");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).expect("JSON")
}

#[test]
fn a_copy_is_the_request_that_the_endpoint_got_without_credentials() {
    let (live, copy) = (Origin::named("live"), Origin::named("copy"));
    let proxy = mirrored(&live.at(), &copy.at(), "");
    let mut client = proxy.client();
    let answer = client.ask(
        "GET /a/../b?q=1 HTTP/1.1\r\nhost: shop.test\r\nx-a: 1\r\nx-a: 2\r\ncookie: uid=7\r\n\
         authorization: Bearer s3cret\r\nconnection: x-hop\r\nx-hop: 1\r\nx-request-id: abc\r\n\r\n",
    );
    assert_eq!((answer.status(), answer.text().as_str()), (200, "live"));
    await_copies(&proxy, "same", 1.0);
    let (sent, copied) = (live.last(), copy.last());
    assert_eq!(copied.line(), "GET /b?q=1 HTTP/1.1");
    for name in [
        "host",
        "x-request-id",
        "x-forwarded-for",
        "x-forwarded-proto",
        "via",
    ] {
        assert_eq!(copied.field(name), sent.field(name), "{name}");
    }
    assert_eq!(copied.all("x-a"), ["1", "2"]);
    assert_eq!(sent.field("cookie").as_deref(), Some("uid=7"));
    for name in ["cookie", "authorization", "x-hop"] {
        assert_eq!(copied.field(name), None, "{name}");
    }
    proxy.edit(&service(&live.at(), &copy.at(), "credentials = true"));
    client.ask("GET / HTTP/1.1\r\nhost: a\r\ncookie: uid=7\r\nauthorization: Basic eA==\r\n\r\n");
    await_copies(&proxy, "same", 2.0);
    assert_eq!(copy.last().field("cookie").as_deref(), Some("uid=7"));
    let authorization = copy.last().field("authorization");
    assert_eq!(authorization.as_deref(), Some("Basic eA=="));
}

#[test]
fn a_copy_has_the_edits_of_its_request() {
    let (live, copy) = (Origin::named("live"), Origin::named("copy"));
    let keys = "[service.app.headers.request]\nset = { x-env = \"prod\", authorization = \"Basic eA==\" }\n\
                remove = [\"x-debug\"]\n[service.app.rewrite]\nstrip_prefix = \"/shop\"\nhost = \"app.internal\"";
    let proxy = mirrored(&live.at(), &copy.at(), keys);
    let mut client = proxy.client();
    client.ask("GET /shop/cart?a=1 HTTP/1.1\r\nhost: shop.test\r\nx-debug: 1\r\n\r\n");
    await_copies(&proxy, "same", 1.0);
    let (sent, copied) = (live.last(), copy.last());
    assert_eq!(copied.line(), "GET /cart?a=1 HTTP/1.1");
    for name in [
        "host",
        "x-env",
        "x-debug",
        "x-forwarded-prefix",
        "x-forwarded-host",
    ] {
        assert_eq!(copied.field(name), sent.field(name), "{name}");
    }
    assert_eq!(copied.field("x-env").as_deref(), Some("prod"));
    assert!(sent.field("authorization").is_some());
    assert_eq!(copied.field("authorization"), None);
}

#[test]
fn only_the_methods_that_are_named_are_copied_and_bodies_up_to_the_cap() {
    let (live, copy) = (Origin::named("live"), Origin::named("copy"));
    let proxy = mirrored(&live.at(), &copy.at(), "");
    let mut client = proxy.client();
    let post = |body: &str| {
        let length = body.len();
        format!("POST /p HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{body}")
    };
    assert_eq!(client.ask(&post("x")).status(), 200);
    client.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    await_copies(&proxy, "same", 1.0);
    assert_eq!(copy.hits(), 1, "the POST is not copied");
    let keys = "methods = [\"POST\"]\nbody_bytes = \"1KiB\"";
    proxy.edit(&service(&live.at(), &copy.at(), keys));
    assert_eq!(client.ask(&post("order")).status(), 200);
    await_copies(&proxy, "same", 2.0);
    assert_eq!(copy.last().text(), "order");
    let chunked = "POST /p HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
    assert_eq!(client.ask(chunked).status(), 200);
    await_copies(&proxy, "same", 3.0);
    assert_eq!(copy.last().text(), "abcdefg");
    let large = "x".repeat(1025);
    assert_eq!(client.ask(&post(&large)).status(), 200);
    let chunks = format!(
        "POST /p HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n401\r\n{large}\r\n0\r\n\r\n"
    );
    assert_eq!(client.ask(&chunks).status(), 200);
    assert_eq!(live.last().body.len(), 1025);
    await_copies(&proxy, "too-large", 2.0);
    assert_eq!(copy.hits(), 3);
}

#[test]
fn differences_are_counted_by_kind_and_shown_with_ids() {
    let live = Origin::each(|request, conn| match request.target().as_str() {
        "/missing" => conn.reply(200, "found"),
        _ => json(
            conn,
            200,
            r#"{"items":[{"price":1},{"price":2}],"token":"a"}"#,
        ),
    });
    let copy = Origin::each(|request, conn| match request.target().as_str() {
        "/missing" => conn.reply(404, "lost"),
        _ => json(
            conn,
            200,
            r#"{"items":[{"price":1},{"price":"2"}],"token":"b"}"#,
        ),
    });
    let keys = "diff = [\"status\", \"header:content-type\", \"json\"]\nbodies = true";
    let proxy = mirrored(&live.at(), &copy.at(), keys);
    let mut client = proxy.client();
    client.ask("GET /items?key=1 HTTP/1.1\r\nhost: a\r\nx-request-id: first\r\n\r\n");
    await_copies(&proxy, "different", 1.0);
    client.ask("GET /missing HTTP/1.1\r\nhost: a\r\nx-request-id: second\r\n\r\n");
    await_copies(&proxy, "different", 2.0);
    let shown = mirror(&proxy);
    assert_eq!(shown["outcomes"]["different"], 2);
    assert_eq!(shown["kinds"].as_array().map(Vec::len), Some(3));
    let [second, first] = [&shown["differences"][0], &shown["differences"][1]];
    assert_eq!(second["id"], "second");
    assert_eq!(
        second["findings"],
        serde_json::json!([{"kind": "status", "live": "200", "copy": "404"}])
    );
    assert_eq!(
        (&first["id"], &first["path"]),
        (&"first".into(), &"/items".into())
    );
    assert_eq!(first["version"], "v1");
    let price = &first["findings"][0];
    assert_eq!(price["kind"], "json:$.items[].price");
    assert_eq!(
        (&price["live"], &price["copy"]),
        (&"2".into(), &"\"2\"".into())
    );
    assert!(
        first["bodies"]["live"]
            .as_str()
            .is_some_and(|b| b.contains("[redacted]"))
    );
    let text = proxy.command(&["status", "app"]).stdout;
    assert!(
        text.contains("app mirror: copies of 100% go to v2: 2 different"),
        "{text}"
    );
    assert!(
        text.contains("GET /missing id=second status 200 -> 404"),
        "{text}"
    );
    let status = proxy.status();
    assert_eq!(status["services"][0]["mirror"]["to"], "v2");
}

#[test]
fn bodies_of_several_chunks_and_over_http2_are_compared() {
    let chunked = |conn: &mut Conn, last: &str| {
        conn.write(
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n\
                 5\r\n{{\"a\":\r\n2\r\n{last}}}\r\n0\r\n\r\n"
            )
            .as_bytes(),
        )
    };
    let live = Origin::each(move |_, conn| chunked(conn, "1"));
    let copy = Origin::each(move |_, conn| chunked(conn, "2"));
    let proxy = mirrored(&live.at(), &copy.at(), "diff = \"json\"");
    assert_eq!(proxy.get("/").text(), "{\"a\":1}");
    await_copies(&proxy, "different", 1.0);
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let request = Request::get("http://a/").body(()).expect("a request");
        let answer = client.ask(request, Bytes::new()).await.expect("an answer");
        assert_eq!(&answer.body[..], b"{\"a\":1}");
    });
    await_copies(&proxy, "different", 2.0);
    assert_eq!(mirror(&proxy)["kinds"][0]["kind"], "json:$.a");
}

#[test]
fn copies_reach_an_endpoint_over_http2() {
    let (live, copy) = (Origin::named("same"), H2Origin::named("same"));
    let proxy = mirrored(&live.at(), &copy.h2c(), "");
    for _ in 0..5 {
        assert_eq!(proxy.get("/x").status(), 200);
    }
    await_copies(&proxy, "same", 5.0);
    let heads = copy.heads();
    assert_eq!(heads[0].uri().path(), "/x");
    assert!(heads[0].headers().contains_key("x-request-id"));
    proxy.get("/x");
    await_copies(&proxy, "same", 6.0);
}

/// A target that hangs, resets, answers garbage, breaks off, is not there or never ends its head or its answer.
#[test]
fn whatever_the_target_does_users_see_nothing_of_it() {
    let live = Origin::named("live");
    let hangs = Origin::each(|_, conn| conn.wait(Duration::from_secs(60)));
    let resets = Origin::each(|_, conn| {
        conn.reset()?;
        Err(io::Error::other("reset"))
    });
    let garbage = Origin::raw("\x16\x03\x01 nothing of HTTP\r\n\r\n");
    let endless = Origin::each(|_, conn| {
        conn.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        loop {
            conn.write(b"1\r\nx\r\n")?;
            conn.wait(Duration::from_millis(20))?;
        }
    });
    let malformed =
        Origin::raw("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 4\r\n\r\ncopy");
    let endless_head = Origin::each(|_, conn| {
        let lines = "x-more: of the same\r\n".repeat(2000);
        conn.write(format!("HTTP/1.1 200 OK\r\n{lines}").as_bytes())?;
        loop {
            conn.write(b"x-more: of the same\r\n")?;
            conn.wait(Duration::from_millis(20))?;
        }
    });
    let dribbled_head = Origin::each(|_, conn| {
        conn.write(b"HTTP/1.1 200 OK\r\n")?;
        loop {
            conn.write(b"x-more: 1\r\n")?;
            conn.wait(Duration::from_millis(20))?;
        }
    });
    let breaks_off = |answer: &'static str| {
        Origin::script(move |conn| {
            conn.request()?;
            conn.write(answer.as_bytes())
        })
    };
    let truncated = breaks_off("HTTP/1.1 200 OK\r\ncontent-length: 4000\r\n\r\ncopy");
    let cut_chunk = breaks_off("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffff\r\ncopy");
    let absent = format!("127.0.0.1:{}", free_port());
    let targets = [
        (hangs.at(), "timeout"),
        (resets.at(), "failed"),
        (garbage.at(), "failed"),
        (endless.at(), "timeout"),
        (malformed.at(), "failed"),
        (endless_head.at(), "failed"),
        (dribbled_head.at(), "timeout"),
        (truncated.at(), "failed"),
        (cut_chunk.at(), "failed"),
        (absent, "failed"),
    ];
    let keys = "timeout = \"1s\"\nrequests = 1000";
    let proxy = mirrored(&live.at(), &targets[0].0, keys);
    let mut client = proxy.client();
    let mut expected = std::collections::BTreeMap::new();
    for (target, outcome) in &targets {
        proxy.edit(&format!(
            "# {target}\n{}",
            service(&live.at(), target, keys)
        ));
        for _ in 0..20 {
            let answer = client.get("/");
            assert_eq!((answer.status(), answer.text().as_str()), (200, "live"));
        }
        let count = expected.entry(*outcome).or_insert(0.0);
        *count += 20.0;
        await_copies(&proxy, outcome, *count);
    }
    let metrics = proxy.metrics();
    let of = |version| [("service", "app"), ("version", version)];
    let all = 20.0 * targets.len() as f64;
    assert_eq!(metrics.sum("http_requests_total", &of("v1")), all);
    assert_eq!(metrics.sum("cutover_upstream_failures_total", &[]), 0.0);
    for charged in [
        "http_requests_total",
        "cutover_upstream_failures_total",
        "cutover_ejections_total",
        "http_requests_in_flight",
        "cutover_upstream_connections",
    ] {
        assert_eq!(metrics.sum(charged, &of("v2")), 0.0, "{charged}");
    }
}

#[test]
fn beyond_the_ceiling_requests_are_served_and_not_copied() {
    let live = Origin::named("live");
    let hangs = Origin::each(|_, conn| conn.wait(Duration::from_secs(60)));
    let keys = "timeout = \"30s\"\nrequests = 3";
    let proxy = mirrored(&live.at(), &hangs.at(), keys);
    let mut client = proxy.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").status(), 200);
    }
    await_copies(&proxy, "overflow", 7.0);
    until("three copies hang", || (hangs.hits() == 3).then_some(()));
    assert_eq!(hangs.connections(), 3);
}

#[test]
fn a_share_of_the_requests_is_copied_and_none_that_the_version_serves_itself() {
    let (live, copy) = (Origin::named("live"), Origin::named("copy"));
    let keys = "share = \"20%\"\nrequests = 1000";
    let proxy = mirrored(&live.at(), &copy.at(), keys);
    let mut client = proxy.client();
    for _ in 0..1000 {
        client.get("/");
    }
    // Of 1,000 at 20 % the standard deviation is 12.6.
    until("a fifth is copied", || (copy.hits() > 130).then_some(()));
    assert!(copy.hits() < 270);
    let all = service(&live.at(), &copy.at(), "").replace(
        "stable = \"v1\"",
        "stable = \"v1\"\nsplit = { v2 = \"100%\" }",
    );
    proxy.edit(&all);
    for _ in 0..10 {
        assert_eq!(client.get("/own").text(), "copy");
    }
    let seen = copy.requests();
    let own = seen.iter().filter(|request| request.target() == "/own");
    assert_eq!(own.count(), 10, "each is served and not copied");
}

#[test]
fn the_proxys_own_answers_and_cut_responses_are_not_compared() {
    let live = Origin::each(|request, conn| match request.target().as_str() {
        "/cut" => {
            conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")?;
            conn.reset()?;
            Err(io::Error::other("cut"))
        }
        _ => {
            conn.reset()?;
            Err(io::Error::other("reset"))
        }
    });
    let copy = Origin::named("copy");
    let proxy = mirrored(&live.at(), &copy.at(), "");
    assert_eq!(proxy.get("/own").status(), 502);
    await_copies(&proxy, "unchecked", 1.0);
    let mut client = proxy.client();
    client.send("GET /cut HTTP/1.1\r\nhost: a\r\n\r\n");
    let _cut = client.try_answer("GET");
    await_copies(&proxy, "unchecked", 2.0);
    assert_eq!(copies(&proxy, "different"), 0.0);
}

#[test]
fn a_service_without_a_mirror_has_no_document() {
    let live = Origin::named("live");
    let proxy = serve(&format!(
        "[service.app.versions]\nv1 = [\"{}\"]\n",
        live.at()
    ));
    for (path, message) in [
        ("/api/v1/services/app/mirror", "has no mirror"),
        ("/api/v1/services/none/mirror", "there is no service"),
    ] {
        let answer = proxy.ask_admin(path);
        assert_eq!(answer.status(), 404);
        assert!(answer.text().contains(message), "{}", answer.text());
    }
    assert!(!proxy.metrics().has("cutover_mirror_requests_total", &[]));
}
