//! HTTP/1 that the RFCs call malformed or ambiguous: raw bytes in, a status and a close out, nothing at the origin.

use std::time::Duration;

use crate::support::client::{Client, End};
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, before, serve, single};
use crate::support::until;

/// Sends raw bytes; wants one of these statuses, then a close, and nothing at the origin.
#[track_caller]
fn refused(proxy: &Proxy, origin: &Origin, bytes: &[u8], statuses: &[u16]) {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
    let before = origin.hits();
    let mut client = proxy.client();
    let _may_be_cut = client.try_send(bytes);
    let answer = match client.try_answer("GET") {
        Ok(answer) => answer,
        Err(e) => panic!("{shown:?}: no answer: {e}"),
    };
    assert!(
        statuses.contains(&answer.status()),
        "{shown:?}: {}",
        answer.line()
    );
    assert!(answer.field("x-cutover-reason").is_some(), "{shown:?}");
    let end = client.end_within(Duration::from_secs(5));
    assert_eq!(end, End::Closed, "{shown:?}");
    assert_eq!(origin.hits(), before, "{shown:?} reached the origin");
}

/// A request with these header lines in place of `host`.
fn with(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\n{lines}\r\n\r\n")
}

#[test]
fn bad_start_lines() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    for (line, statuses) in [
        ("GET /", &[400, 505][..]),
        ("GET / HTTP/0.9", &[400, 505]),
        ("GET / http/1.1", &[400, 505]),
        ("GET / HTTP/1.2", &[400, 505]),
        ("GET / HTTP/2.0", &[400, 505]),
        ("GET / HTTP/1.1 ", &[400, 505]),
        ("GET / HTTP/11", &[400, 505]),
        ("GET / HTP/1.1", &[400, 505]),
        ("GET  / HTTP/1.1", &[400]),
        ("GET /  HTTP/1.1", &[400, 505]),
        ("GET\t/ HTTP/1.1", &[400, 501]),
        ("GET /a b HTTP/1.1", &[400, 505]),
        (" GET / HTTP/1.1", &[400, 501]),
        ("G(T / HTTP/1.1", &[400, 501]),
        ("GET /a\x01b HTTP/1.1", &[400]),
        ("GET /a\x7fb HTTP/1.1", &[400]),
        ("GET /%00 HTTP/1.1", &[400]),
        ("GET /%c0%ae%c0%ae/x HTTP/1.1", &[400]),
        ("GET /caf\u{e9} HTTP/1.1", &[400]),
        ("GET /?q=\u{e9} HTTP/1.1", &[400]),
        ("GET /a\"b HTTP/1.1", &[400]),
        ("GET /a<b>c HTTP/1.1", &[400]),
        ("GET /a`b HTTP/1.1", &[400]),
        ("GET /a#b HTTP/1.1", &[400]),
        ("GET x HTTP/1.1", &[400]),
        ("GET * HTTP/1.1", &[400]),
        ("GET http:// HTTP/1.1", &[400]),
        ("GET http://u:p@test/ HTTP/1.1", &[400]),
        ("GET ftp://test/ HTTP/1.1", &[400]),
        ("CONNECT test:443 HTTP/1.1", &[400, 405, 501]),
        ("GET test:443 HTTP/1.1", &[400, 405]),
        ("PRI * HTTP/2.0", &[400, 505]),
    ] {
        refused(
            &proxy,
            &origin,
            format!("{line}\r\nhost: test\r\n\r\n").as_bytes(),
            statuses,
        );
    }
    let long = "M".repeat(33);
    refused(
        &proxy,
        &origin,
        format!("{long} / HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes(),
        &[400, 501],
    );
}

#[test]
fn bad_fields() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    for lines in [
        "host: test\r\nspace : x",
        "host: test\r\n: empty",
        "host: test\r\nno colon",
        "host: test\r\nx: a\r\n folded",
        "host: test\r\nx: a\r\n\tfolded",
        " host: test",
        "host: test\r\nb\x01d: x",
        "host: test\r\nb(d: x",
        "host: test\r\nbäd: x",
        "host: test\r\nx: a\0b",
        "host: test\r\nx: a\rb",
        "host: test\r\nx: a\x01b",
        "host: test\r\nunder_score: x",
        "host: test\nx: bare line feed",
        "host: test\r\nx: y\n",
    ] {
        refused(&proxy, &origin, with(lines).as_bytes(), &[400]);
    }
    refused(&proxy, &origin, b"GET / HTTP/1.1\nhost: test\n\n", &[400]);
}

#[test]
fn bad_hosts() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    for lines in [
        "x: no host",
        "host: a\r\nhost: a",
        "host: a\r\nhost: b",
        "host:",
        "host: u@test",
        "host: test/x",
        "host: a, b",
        "host: test:",
        "host: test:x",
        "host: test:99999",
        "host: a b",
        "host: [::1",
        "host: te\\st",
    ] {
        // `test:` has an empty port, which RFC 3986 allows: either is right.
        if lines == "host: test:" {
            continue;
        }
        refused(&proxy, &origin, with(lines).as_bytes(), &[400]);
    }
}

#[test]
fn ambiguous_lengths() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    for (fields, statuses) in [
        (
            "content-length: 1\r\ntransfer-encoding: chunked",
            &[400][..],
        ),
        ("content-length: 1\r\ncontent-length: 1", &[400]),
        ("content-length: 1\r\ncontent-length: 2", &[400]),
        ("content-length: 1, 1", &[400]),
        ("content-length: +1", &[400]),
        ("content-length: -1", &[400]),
        ("content-length: 0x1", &[400]),
        ("content-length: 1 1", &[400]),
        ("content-length:", &[400]),
        ("content-length: 1.0", &[400]),
        ("content-length: 18446744073709551616", &[400]),
        ("content-length: 99999999999999999999999", &[400]),
        ("transfer-encoding: gzip", &[400, 501]),
        ("transfer-encoding: gzip, chunked", &[400, 501]),
        ("transfer-encoding: chunked, gzip", &[400, 501]),
        ("transfer-encoding: chunked, chunked", &[400]),
        (
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            &[400],
        ),
        ("transfer-encoding: identity", &[400, 501]),
        ("transfer-encoding:", &[400, 501]),
        ("transfer-encoding: xchunked", &[400, 501]),
        ("transfer-encoding: \"chunked\"", &[400, 501]),
        ("transfer-encoding: chunked;a=b", &[400, 501]),
        ("transfer-encoding: \x0bchunked", &[400, 501]),
    ] {
        let request = format!("POST / HTTP/1.1\r\nhost: test\r\n{fields}\r\n\r\n0\r\n\r\n");
        refused(&proxy, &origin, request.as_bytes(), statuses);
    }
    let old = "POST / HTTP/1.0\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    refused(&proxy, &origin, old.as_bytes(), &[400]);
}

#[test]
fn bad_chunks_are_the_clients_fault_and_no_request() {
    let origin = Origin::script(|conn| {
        let Some(mut request) = conn.head()? else {
            return Ok(());
        };
        conn.body(&mut request)?;
        conn.reply(200, "whole")
    });
    let proxy = before(&origin.at());
    for body in [
        "g\r\n",
        "-1\r\n",
        "+1\r\nx\r\n",
        "0x1\r\nx\r\n",
        " 1\r\nx\r\n",
        "\r\n",
        "1\nx\r\n",
        "1\r\nxy\r\n",
        "1\r\nx\n0\r\n\r\n",
        "10000000000000000\r\nx\r\n",
        "ffffffffffffffffff\r\n",
        "1;a\nb\r\nx\r\n",
        "1_0\r\nx\r\n",
        "0\r\nbad name: x\r\n\r\n",
        "0\r\nx: a\nb\r\n\r\n",
    ] {
        let mut client = proxy.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n{body}"
        ));
        let answer = client.try_answer("POST");
        let answer = answer.unwrap_or_else(|e| panic!("{body:?}: {e}"));
        assert_eq!(answer.status(), 400, "{body:?}");
        assert_eq!(
            client.end_within(Duration::from_secs(5)),
            End::Closed,
            "{body:?}"
        );
        until(body, || (origin.open() == 0).then_some(()));
    }
    assert!(origin.requests().is_empty(), "none became a whole request");
    let charged = proxy.metrics();
    assert_eq!(
        charged.sum("http_requests_total", &[("status", "502")]),
        0.0
    );
}

#[test]
fn sizes_have_limits() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let many: String = (0..101).map(|n| format!("x{n}: y\r\n")).collect();
    refused(
        &proxy,
        &origin,
        with(&format!("{many}host: test")).as_bytes(),
        &[431],
    );
    let big = "v".repeat(33 * 1024);
    refused(
        &proxy,
        &origin,
        with(&format!("host: test\r\nx: {big}")).as_bytes(),
        &[431],
    );
    let spread: String = (0..40)
        .map(|n| format!("x{n}: {}\r\n", "v".repeat(1000)))
        .collect();
    refused(
        &proxy,
        &origin,
        with(&format!("{spread}host: test")).as_bytes(),
        &[431],
    );
    let far = "p".repeat(8 * 1024);
    let request = format!("GET /{far} HTTP/1.1\r\nhost: test\r\n\r\n");
    refused(&proxy, &origin, request.as_bytes(), &[414]);
    let endless = "n".repeat(100 * 1024);
    refused(
        &proxy,
        &origin,
        format!("GET /{endless}").as_bytes(),
        &[414],
    );
    let fits: String = (0..90)
        .map(|n| format!("x{n}: {}\r\n", "v".repeat(300)))
        .collect();
    let answer = proxy.client().ask(&with(&format!("{fits}host: test")));
    assert_eq!(answer.status(), 200);
}

#[test]
fn a_slow_head_is_408_and_silence_is_just_closed() {
    let origin = Origin::named("blue");
    let proxy = serve(&format!(
        "[limits]\nheader_timeout = \"300ms\"\nkeepalive_timeout = \"300ms\"\n{}",
        single(&origin.at(), "")
    ));
    refused(&proxy, &origin, b"GET / HTTP/1.1\r\nhost:", &[408]);
    let mut idle = proxy.client();
    assert_eq!(idle.get("/").status(), 200);
    assert_eq!(idle.end_within(Duration::from_secs(5)), End::Closed);
    // A byte now and then doesn't help.
    let mut drip = proxy.client();
    let answer = until("408", || {
        drip.try_send("x").err().map(|_| 0).or_else(|| {
            drip.patience(Duration::from_millis(20));
            drip.try_answer("GET").ok().map(|a| a.status())
        })
    });
    assert!(matches!(answer, 408 | 0 | 400));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::each(|request, conn| {
        if request.target() == "/0" {
            conn.wait(Duration::from_millis(50))?;
        }
        conn.reply(200, &request.target())
    });
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    let all: String = (0..20)
        .map(|n| format!("GET /{n} HTTP/1.1\r\nhost: test\r\n\r\n"))
        .collect();
    client.send(all);
    for n in 0..20 {
        assert_eq!(client.answer("GET").text(), format!("/{n}"));
    }
}

#[test]
fn what_follows_a_refused_request_is_never_read_as_one() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let smuggled = "GET /admin HTTP/1.1\r\nhost: test\r\n\r\n";
    let requests = [
        format!(
            "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
        ),
        format!(
            "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}"
        ),
    ];
    for request in requests {
        let mut client = proxy.client();
        client.send(request);
        assert!(client.answer("POST").status() >= 400);
        assert_eq!(client.end_within(Duration::from_secs(5)), End::Closed);
    }
    assert_eq!(origin.hits(), 0);
}

#[test]
fn an_unread_body_never_becomes_the_next_request() {
    // The origin answers without having read: the proxy must drain the rest, or close.
    let origin = Origin::script(|conn| {
        conn.head()?;
        conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
    });
    let proxy = before(&origin.at());
    let inner = "GET /smuggled HTTP/1.1\r\nhost: test\r\n\r\n";
    let mut client = proxy.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n",
        64 * 1024 + inner.len()
    ));
    // So much is read ahead.
    client.send(vec![b'x'; 64 * 1024]);
    assert_eq!(client.answer("POST").status(), 200);
    let _may_be_closed = client.try_send(inner);
    assert!(matches!(
        client.end_within(Duration::from_millis(200)),
        End::Open | End::Closed
    ));
    assert_eq!(origin.hits(), 1);
}

#[test]
fn empty_lines_before_a_request_are_forgiven() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    client.send("\r\nGET / HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(client.answer("GET").status(), 200);
}

#[test]
fn options_star_is_a_request() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let answer = proxy
        .client()
        .ask("OPTIONS * HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(answer.status(), 200);
    assert_eq!(origin.last().target(), "*");
}

#[test]
fn a_guarded_prefix_is_not_reached_by_another_spelling() {
    let (open, guarded) = (Origin::named("open"), Origin::named("guarded"));
    let proxy = serve(&format!(
        "[service.open]\nstable = \"v\"\nversions.v = [\"{}\"]\n\
         [service.guarded]\npaths = [\"/admin/*\"]\nstable = \"v\"\nversions.v = [\"{}\"]\n",
        open.at(),
        guarded.at()
    ));
    assert_eq!(proxy.get("/admin/x").text(), "guarded");
    assert_eq!(proxy.get("/x/../admin/x").text(), "guarded");
    assert_eq!(proxy.get("/x/%2e%2e/admin/x").text(), "guarded");
    for target in [
        "/admin%2fx",
        "/admin\\x",
        "/x/..%2fadmin/x",
        "/x\\..\\admin/x",
        "//admin/x",
        "/%61dmin/x",
    ] {
        let answer = proxy.get(target);
        // Either refused, or taken by the open service byte for byte: then its origin must not see `/admin/`.
        if answer.status() == 200 && answer.text() == "open" {
            assert!(!open.last().target().starts_with("/admin/"), "{target}");
            assert_eq!(open.last().target(), target);
        }
    }
}

#[test]
fn hostile_requests_make_no_line_of_the_log_their_own() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    for n in 0..200 {
        let mut client = Client::new(proxy.port);
        client.send(format!("GET /\nFORGED-{n} HTTP/1.1\r\nx\r\n\r\n"));
        client.rest();
    }
    let log = proxy.log();
    assert!(!log.lines().any(|line| line.starts_with("FORGED")));
    assert_eq!(proxy.get("/").status(), 200);
}
