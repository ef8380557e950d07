//! Request lines.

use super::*;

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
        ("GET http://a#x HTTP/1.1", (400, "fragment-in-target")),
        ("GET /caf\u{e9} HTTP/1.1", (400, "bad-target")),
        ("GET /?\u{1f600} HTTP/1.1", (400, "bad-target")),
        ("GET http://a/?caf\u{e9} HTTP/1.1", (400, "bad-target")),
        ("GET http://caf\u{e9}/ HTTP/1.1", (400, "bad-host")),
        ("GET /a\"b HTTP/1.1", (400, "bad-target")),
        ("GET /a<b HTTP/1.1", (400, "bad-target")),
        ("GET /?a>b HTTP/1.1", (400, "bad-target")),
        ("GET /a`b?c HTTP/1.1", (400, "bad-target")),
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
        assert_eq!((reject.status, reject.reason.as_str()), bad_line, "{raw:?}");
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
        ("GET /%zz%\\[]^{|}?` HTTP/1.1", "/%zz%\\[]^{|}?`", "a"),
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
