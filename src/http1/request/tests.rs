use super::*;

const LIMITS: HeadLimits = HeadLimits {
    bytes: 32 * 1024,
    fields: 100,
    target: 8 * 1024,
    underscores: false,
};

/// Parses a whole head, and again growing byte by byte: both must say the same.
fn parse_with(text: &str, limits: &HeadLimits) -> Result<RequestHead, (u16, &'static str)> {
    let buf = text.as_bytes();
    let mut head = RequestHead::new();
    let whole = head.parse(buf, limits);
    let mut growing = RequestHead::new();
    let grown = (0..=buf.len())
        .map(|n| growing.parse(&buf[..n], limits))
        .find(|parsed| *parsed != Ok(None));
    match whole {
        Ok(Some(n)) => {
            assert_eq!(grown, Some(whole), "{text:?}");
            assert_eq!(format!("{head:?}"), format!("{growing:?}"));
            assert_eq!(n, head.len);
            Ok(head)
        }
        Ok(None) => {
            assert_eq!(grown, None, "{text:?}");
            Err((0, "more"))
        }
        Err(reject) => {
            assert_eq!(grown, Some(whole), "{text:?}");
            Err((reject.status, reject.reason))
        }
    }
}

fn parse(text: &str) -> Result<RequestHead, (u16, &'static str)> {
    parse_with(text, &LIMITS)
}

fn text(span: Span, of: &str) -> &str {
    &of[span.start as usize..span.end as usize]
}

/// The head with these field lines (without the last CRLF) after `GET / HTTP/1.1` and Host.
fn with(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n")
}

#[test]
fn a_plain_request() {
    let wire = "POST /a/b?c=d HTTP/1.1\r\nHost:  example.com:8080 \t\r\nX-A:\r\ncontent-length:\t5\r\n\r\nhello";
    let head = parse(wire).unwrap();
    assert_eq!(head.method, Method::Post);
    assert_eq!(text(head.method_span, wire), "POST");
    assert_eq!(text(head.target, wire), "/a/b?c=d");
    assert_eq!(head.path_and_query, head.target);
    assert_eq!(text(head.authority, wire), "example.com:8080");
    assert_eq!(head.version, Version::H11);
    assert_eq!(head.framing, Framing::Length(5));
    assert!(head.keep_alive && !head.expect_continue && head.upgrade.is_none());
    assert_eq!(head.len, wire.len() - 5);
    let lines: Vec<_> = head
        .fields
        .iter()
        .map(|f| {
            (
                f.id,
                text(f.name, wire),
                text(f.value, wire),
                text(f.line, wire),
                f.hop,
            )
        })
        .collect();
    assert_eq!(
        lines,
        [
            (
                FieldId::Host,
                "Host",
                "example.com:8080",
                "Host:  example.com:8080 \t\r\n",
                false
            ),
            (FieldId::Other, "X-A", "", "X-A:\r\n", false),
            (
                FieldId::ContentLength,
                "content-length",
                "5",
                "content-length:\t5\r\n",
                false
            ),
        ]
    );
    assert_eq!(
        head.field(FieldId::ContentLength).map(|s| text(s, wire)),
        Some("5")
    );
    assert_eq!(head.field(FieldId::Cookie), None);
}

#[test]
fn nothing_is_left_over_from_the_head_before() {
    let mut head = RequestHead::new();
    let rich = "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\nTE: trailers\r\n\
                Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(head.parse(rich.as_bytes(), &LIMITS), Ok(Some(rich.len())));
    assert!(head.upgrade.is_some() && head.te_trailers && head.expect_continue && !head.keep_alive);
    let plain = "GET / HTTP/1.0\r\n\r\n";
    assert_eq!(head.parse(plain.as_bytes(), &LIMITS), Ok(Some(plain.len())));
    let mut fresh = RequestHead::new();
    assert_eq!(
        fresh.parse(plain.as_bytes(), &LIMITS),
        Ok(Some(plain.len()))
    );
    assert_eq!(format!("{head:?}"), format!("{fresh:?}"));
    assert!(head.authority.is_empty() && !head.keep_alive);
}

#[test]
fn empty_lines_before_a_request() {
    for n in 0..=4 {
        let wire = format!("{}GET /x HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n".repeat(n));
        let head = parse(&wire).unwrap();
        assert_eq!(text(head.target, &wire), "/x");
        assert_eq!(text(head.authority, &wire), "a");
        assert_eq!(head.len, wire.len());
    }
    for (wire, answer) in [
        (
            "\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            (400, "empty-lines"),
        ),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", (400, "bare-lf")),
        ("\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", (400, "bare-lf")),
        ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", (400, "bare-lf")),
        ("", (0, "more")),
        ("\r\n\r", (0, "more")),
    ] {
        assert_eq!(parse(wire).unwrap_err(), answer, "{wire:?}");
    }
}

#[test]
fn bad_request_lines() {
    let bad_line = (400, "bad-request-line");
    for (line, answer) in [
        ("GET  / HTTP/1.1", bad_line),
        (" GET / HTTP/1.1", bad_line),
        ("GET\t/ HTTP/1.1", bad_line),
        ("GET /\tHTTP/1.1", bad_line),
        ("GET / HTTP/1.1 ", (400, "bad-line-end")),
        ("GET /  HTTP/1.1", (400, "bad-version")),
        ("GET / x HTTP/1.1", (400, "bad-version")),
        ("GET /", bad_line),
        ("GET", bad_line),
        ("G(T / HTTP/1.1", bad_line),
        ("G\u{e9}T / HTTP/1.1", bad_line),
        ("G\0T / HTTP/1.1", bad_line),
        ("GET /\0 HTTP/1.1", bad_line),
        ("GET /\u{7f} HTTP/1.1", bad_line),
        ("GET /\x01 HTTP/1.1", bad_line),
        ("GET / HTTP/1.1\r", (400, "bad-line-end")),
        ("GET / http/1.1", (400, "bad-version")),
        ("GET / Http/1.1", (400, "bad-version")),
        ("GET / HTTP/1.", (400, "bad-version")),
        ("GET / HTTP/1", (400, "bad-version")),
        ("GET / HTTP/", (400, "bad-version")),
        ("GET / HTTP/11.1", (400, "bad-version")),
        ("GET / HTTP/1.10", (400, "bad-line-end")),
        ("GET / HTTP/1,1", (400, "bad-version")),
        ("GET / HTTP 1.1", (400, "bad-version")),
        ("GET / HTTQ/1.1", (400, "bad-version")),
        ("GET / ICY/1.1", (400, "bad-version")),
        ("GET / HTTP/1.2", (505, "version")),
        ("GET / HTTP/0.9", (505, "version")),
        ("GET / HTTP/2.0", (505, "version")),
        ("GET / HTTP/9.9", (505, "version")),
        ("PRI * HTTP/2.0", (505, "version")),
        ("GET x HTTP/1.1", (400, "bad-target")),
        ("GET example.com HTTP/1.1", (400, "bad-target")),
        ("GET a:80 HTTP/1.1", (400, "bad-target")),
        ("GET * HTTP/1.1", (400, "bad-target")),
        ("OPTIONS ** HTTP/1.1", (400, "bad-target")),
        ("OPTIONS *?x HTTP/1.1", (400, "bad-target")),
        ("GET ?x HTTP/1.1", (400, "bad-target")),
        ("GET ftp://a/ HTTP/1.1", (400, "bad-target")),
        ("GET http:/a HTTP/1.1", (400, "bad-target")),
        ("GET http: HTTP/1.1", (400, "bad-target")),
        ("GET ws://a/ HTTP/1.1", (400, "bad-target")),
        ("GET /#x HTTP/1.1", (400, "fragment-in-target")),
        ("GET http://a/#x HTTP/1.1", (400, "fragment-in-target")),
        ("GET http:///x HTTP/1.1", (400, "bad-host")),
        ("GET http://u@a/x HTTP/1.1", (400, "bad-host")),
        ("GET http://a:x/x HTTP/1.1", (400, "bad-host")),
        ("GET http://a,b/ HTTP/1.1", (400, "bad-host")),
        ("GET http://a\\b/ HTTP/1.1", (400, "bad-host")),
        ("CONNECT a:80 HTTP/1.1", (405, "connect")),
        ("CONNECT / HTTP/1.1", (405, "connect")),
        ("CONNECT http://a/ HTTP/1.1", (405, "connect")),
    ] {
        let wire = format!("{line}\r\nHost: a\r\n\r\n");
        assert_eq!(parse(&wire).unwrap_err(), answer, "{line:?}");
    }
    // Not UTF-8.
    let mut head = RequestHead::new();
    for raw in [&b"\xff"[..], b"\xc0\xaf", b"\xe9", b"\xed\xa0\x80"] {
        let wire = [b"GET /", raw, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        let reject = head.parse(&wire, &LIMITS).unwrap_err();
        assert_eq!((reject.status, reject.reason), bad_line, "{raw:?}");
    }
    // TLS on a clear-text port.
    assert_eq!(
        head.parse(b"\x16\x03\x01\x02\x00\x01", &LIMITS)
            .unwrap_err()
            .status,
        400
    );
}

#[test]
fn targets() {
    // line, path and query, authority
    for (line, path, authority) in [
        ("GET / HTTP/1.1", "/", "a"),
        ("GET //x HTTP/1.1", "//x", "a"),
        (
            "GET /caf\u{e9}?\u{1f600} HTTP/1.1",
            "/caf\u{e9}?\u{1f600}",
            "a",
        ),
        ("GET /%zz%\\\"<>^`{|} HTTP/1.1", "/%zz%\\\"<>^`{|}", "a"),
        ("OPTIONS * HTTP/1.1", "*", "a"),
        ("GET http://b/x?y HTTP/1.1", "/x?y", "b"),
        ("GET HTTPS://B.c:81 HTTP/1.1", "", "B.c:81"),
        ("GET http://b?x=http://c/ HTTP/1.1", "?x=http://c/", "b"),
        ("OPTIONS http://b HTTP/1.1", "", "b"),
        ("GET http://[::1]:80/ HTTP/1.1", "/", "[::1]:80"),
        ("PURGE /x HTTP/1.0", "/x", "a"),
    ] {
        let wire = format!("{line}\r\nHost: a\r\n\r\n");
        let head = parse(&wire).unwrap();
        assert_eq!(text(head.path_and_query, &wire), path, "{line}");
        assert_eq!(text(head.authority, &wire), authority, "{line}");
    }
    assert_eq!(
        parse("PURGE / HTTP/1.0\r\n\r\n").unwrap().method,
        Method::Other
    );
}

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

#[test]
fn limits() {
    let small = HeadLimits {
        bytes: 200,
        fields: 3,
        target: 20,
        underscores: false,
    };
    let line = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(n - 1));
    assert!(parse_with(&line(20), &small).is_ok());
    assert_eq!(
        parse_with(&line(21), &small).unwrap_err(),
        (414, "target-too-long")
    );
    assert_eq!(
        parse_with(&line(500), &small).unwrap_err(),
        (414, "target-too-long")
    );
    // Still growing.
    assert_eq!(
        parse_with(&line(100)[..50], &small).unwrap_err(),
        (414, "target-too-long")
    );

    let method = |n: usize| format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(n));
    assert!(parse_with(&method(32), &small).is_ok());
    assert_eq!(
        parse_with(&method(33), &small).unwrap_err(),
        (501, "method-too-long")
    );
    assert_eq!(
        parse_with(&"M".repeat(33), &small).unwrap_err(),
        (501, "method-too-long")
    );

    let fields = |n: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "x:y\r\n".repeat(n - 1)
        )
    };
    assert_eq!(parse_with(&fields(3), &small).unwrap().fields.len(), 3);
    assert_eq!(
        parse_with(&fields(4), &small).unwrap_err(),
        (431, "too-many-fields")
    );
    let many = HeadLimits {
        fields: 256,
        ..LIMITS
    };
    assert_eq!(parse_with(&fields(256), &many).unwrap().fields.len(), 256);
    assert_eq!(
        parse_with(&fields(257), &many).unwrap_err(),
        (431, "too-many-fields")
    );
    assert_eq!(parse(&fields(100)).unwrap().fields.len(), 100);
    assert_eq!(parse(&fields(101)).unwrap_err(), (431, "too-many-fields"));

    let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    let bytes = |n: usize| format!("{start}{}\r\n\r\n", "x".repeat(n - start.len() - 4));
    assert_eq!(parse_with(&bytes(200), &small).unwrap().len, 200);
    assert_eq!(
        parse_with(&bytes(201), &small).unwrap_err(),
        (431, "head-too-large")
    );
    assert_eq!(
        parse_with(&bytes(400), &small).unwrap_err(),
        (431, "head-too-large")
    );
    assert_eq!(
        parse_with(&bytes(400)[..199], &small).unwrap_err(),
        (0, "more")
    );
    assert_eq!(
        parse_with(&bytes(400)[..200], &small).unwrap_err(),
        (431, "head-too-large")
    );
}
