//! Field lines and what they mean.

use super::*;

#[test]
fn bad_fields() {
    let (name, value) = ((400, "bad-field-name"), (400, "bad-field-value"));
    for (lines, answer) in [
        ("X : y", name),
        ("X\t: y", name),
        (" X: y", name),
        ("X: y\r\n z", name),
        ("X: y\r\n\tz", name),
        (": y", name),
        ("X", name),
        ("X Y: z", name),
        ("X(: y", name),
        ("X\u{e9}: y", name),
        ("X\0: y", name),
        ("X: a\0b", value),
        ("X: a\rb", value),
        ("X: a\r", value),
        ("X: \r\r\nY: z", value),
        ("X: a\x7f", value),
        ("X: a\x0bb", value),
        ("X: \x01", value),
        ("X: y\nY: z", (400, "bare-lf")),
        ("X: y\n", (400, "bare-lf")),
        ("X:\nY: z", (400, "bare-lf")),
        ("X: \t\nY: z", (400, "bare-lf")),
        ("X_Y: z", (400, "underscore-in-name")),
        ("Content_Length: 5", (400, "underscore-in-name")),
    ] {
        assert_eq!(parse(&with(lines)).unwrap_err(), answer, "{lines:?}");
    }
    for wire in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.0\n\n",
        "GET / HTTP/1.0\r\n\n",
        "GET / HTTP/1.0\n\r\n",
    ] {
        assert_eq!(parse(wire).unwrap_err(), (400, "bare-lf"), "{wire:?}");
    }
    let allowed = HeadLimits {
        underscores: true,
        ..LIMITS
    };
    assert!(parse_with(&with("X_Y: z"), &allowed).is_ok());
    assert!(parse(&with("X: caf\u{e9}\t \"(;=")).is_ok());
}

#[test]
fn hosts() {
    for (wire, reason) in [
        ("GET / HTTP/1.1\r\n\r\n", "missing-host"),
        ("GET http://a/ HTTP/1.1\r\n\r\n", "missing-host"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
            "duplicate-host",
        ),
        (
            "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
            "duplicate-host",
        ),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "bad-host"),
        ("GET / HTTP/1.0\r\nHost: \r\n\r\n", "bad-host"),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "bad-host"),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "bad-host"),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "bad-host"),
        ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", "bad-host"),
        ("GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", "bad-host"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "bad-host"),
        ("GET http://a/ HTTP/1.1\r\nHost: a,b\r\n\r\n", "bad-host"),
    ] {
        assert_eq!(parse(wire).unwrap_err(), (400, reason), "{wire:?}");
    }
    assert!(
        parse("GET / HTTP/1.0\r\n\r\n")
            .unwrap()
            .authority
            .is_empty()
    );
}

#[test]
fn framing() {
    for (lines, framing) in [
        ("X: y", Framing::Empty),
        ("Content-Length: 0", Framing::Length(0)),
        ("Content-Length: 0010", Framing::Length(10)),
        (
            "content-length: 9223372036854775807",
            Framing::Length(i64::MAX as u64),
        ),
        ("Transfer-Encoding: chunked", Framing::Chunked),
        ("transfer-encoding: \tCHUNKED ", Framing::Chunked),
    ] {
        assert_eq!(parse(&with(lines)).unwrap().framing, framing, "{lines}");
    }
    let (length, coding) = ((400, "bad-content-length"), (400, "bad-transfer-encoding"));
    let unknown = (501, "unknown-transfer-encoding");
    for (lines, answer) in [
        ("Content-Length:", length),
        ("Content-Length: +5", length),
        ("Content-Length: -5", length),
        ("Content-Length: 0x5", length),
        ("Content-Length: 5, 5", length),
        ("Content-Length: 5,", length),
        ("Content-Length: 5 5", length),
        ("Content-Length: 5.0", length),
        ("Content-Length: 1e1", length),
        ("Content-Length: \u{b2}", length),
        ("Content-Length: 9223372036854775808", length),
        ("Content-Length: 99999999999999999999", length),
        ("Content-Length: 18446744073709551621", length),
        (
            "Content-Length: 5\r\nContent-Length: 5",
            (400, "duplicate-content-length"),
        ),
        (
            "Content-Length: 5\r\ncontent-length: 6",
            (400, "duplicate-content-length"),
        ),
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            (400, "length-and-coding"),
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 0",
            (400, "length-and-coding"),
        ),
        (
            "Transfer-Encoding: gzip\r\nContent-Length: 5",
            (400, "length-and-coding"),
        ),
        ("Transfer-Encoding:", coding),
        ("Transfer-Encoding: ,", coding),
        ("Transfer-Encoding: chunked,", coding),
        ("Transfer-Encoding: ,chunked", coding),
        ("Transfer-Encoding: chunked, chunked", coding),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            coding,
        ),
        ("Transfer-Encoding: chunked;q=1", coding),
        ("Transfer-Encoding: \"chunked\"", coding),
        ("Transfer-Encoding: chunked\u{a0}", coding),
        ("Transfer-Encoding: chun ked", coding),
        ("Transfer-Encoding: identity", coding),
        ("Transfer-Encoding: chunked, identity", coding),
        ("Transfer-Encoding: gzip", coding),
        ("Transfer-Encoding: chunked, gzip", coding),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            coding,
        ),
        ("Transfer-Encoding: xchunked", unknown),
        ("Transfer-Encoding: chunked-x", unknown),
        ("Transfer-Encoding: foo, chunked", unknown),
        ("Transfer-Encoding: gzip, chunked", unknown),
        (
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
            unknown,
        ),
    ] {
        assert_eq!(parse(&with(lines)).unwrap_err(), answer, "{lines}");
    }
    let old = "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(parse(old).unwrap_err(), (400, "coding-in-http10"));
    let old = "POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(parse(old).unwrap().framing, Framing::Length(3));
}

#[test]
fn connections_live_on_or_not() {
    for (version, lines, lives) in [
        ("1.1", "X: y", true),
        ("1.1", "Connection: close", false),
        ("1.1", "connection: x, CLOSE", false),
        ("1.1", "Connection: keep-alive, close", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close", false),
        ("1.1", "Connection: closed", true),
        ("1.1", "Connection: keep-alive", true),
        ("1.0", "X: y", false),
        ("1.0", "Connection: keep-alive", true),
        ("1.0", "Connection: Keep-Alive, x", true),
        ("1.0", "Connection: keep-alive, close", false),
        ("1.0", "Proxy-Connection: keep-alive", false),
    ] {
        let wire = format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n\r\n");
        assert_eq!(parse(&wire).unwrap().keep_alive, lives, "{version} {lines}");
    }
}

#[test]
fn what_ends_at_this_hop_is_marked() {
    let wire = with(
        "Connection: close, X-Secret,, x-forwarded-for ,te, \r\nConnection: cookie\r\nx-secret: 1\r\nX-Secrets: 2\r\n\
         X-SECRET: 3\r\nX-Forwarded-For: 4\r\nCookie: 5\r\nTE: x\r\nKeep-Alive: 6\r\nProxy-Connection: 7\r\nTrailer: x\r\n\
         Upgrade: 8\r\nHTTP2-Settings: 9\r\nAccept: 10\r\nAuthorization: 11\r\nProxy-Authorization: 12",
    );
    let head = parse(&wire).unwrap();
    let kept: Vec<_> = head
        .fields
        .iter()
        .filter(|f| !f.hop)
        .map(|f| text(f.name, &wire))
        .collect();
    assert_eq!(kept, ["Host", "X-Secrets", "Accept", "Authorization"]);

    for name in ["Host", "content-length", "TRANSFER-ENCODING", "authority"] {
        for lines in [
            format!("Connection: {name}"),
            format!("Connection: close\r\nConnection: x, {name} ,y"),
        ] {
            assert_eq!(
                parse(&with(&lines)).unwrap_err(),
                (400, "connection-names-framing"),
                "{lines}"
            );
        }
    }
    let many = format!("Connection: {}", "x,".repeat(65));
    assert_eq!(
        parse(&with(&many)).unwrap_err(),
        (400, "connection-names-many")
    );
    assert!(parse(&with(&format!("Connection: {}", "x,".repeat(64)))).is_ok());
}

#[test]
fn expectations() {
    let body = "Content-Length: 1\r\n";
    assert!(
        parse(&with(&format!("{body}Expect: 100-Continue")))
            .unwrap()
            .expect_continue
    );
    assert!(
        !parse(&with("Expect: 100-continue"))
            .unwrap()
            .expect_continue
    );
    let old = "POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n";
    assert!(!parse(old).unwrap().expect_continue);
    for lines in [
        "Expect:",
        "Expect: 200-ok",
        "Expect: 100-continue, x",
        "Expect: 100-continue\r\nExpect: y",
    ] {
        assert_eq!(parse(&with(lines)).unwrap_err(), (417, "expect"), "{lines}");
    }
}

#[test]
fn upgrades_and_te() {
    for (lines, upgrade) in [
        (
            "Connection: Upgrade\r\nUpgrade: websocket",
            Some("websocket"),
        ),
        (
            "Upgrade: websocket\r\nConnection: keep-alive, upgrade",
            Some("websocket"),
        ),
        ("Upgrade: websocket", None),
        ("Connection: upgrade", None),
        ("Connection: upgrade\r\nUpgrade:", None),
        ("Connection: upgrade\r\nUpgrade: h2c", None),
        ("Connection: upgrade\r\nUpgrade: websocket, H2C", None),
        (
            "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket",
            None,
        ),
        (
            "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c",
            None,
        ),
    ] {
        let wire = with(lines);
        let head = parse(&wire).unwrap();
        assert_eq!(head.upgrade.map(|s| text(s, &wire)), upgrade, "{lines}");
    }
    let old = "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(parse(old).unwrap().upgrade, None);
    for (lines, trailers) in [
        ("TE: trailers", true),
        ("TE: gzip;q=0.5, Trailers", true),
        ("TE: gzip\r\nTE: trailers", true),
        ("TE: xtrailers", false),
        ("X: trailers", false),
    ] {
        assert_eq!(
            parse(&with(lines)).unwrap().te_trailers,
            trailers,
            "{lines}"
        );
    }
}
