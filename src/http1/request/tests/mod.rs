use super::*;

mod fields;
mod lines;
mod plain_heads;

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
            Err((reject.status, reject.reason.as_str()))
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
    assert_eq!(head.version, HttpVersion::H11);
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
    assert_eq!(head.host(plain.as_bytes()), "");
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
    // Malformed at its first byte, whatever follows.
    for len in [0, 1, 100] {
        assert_eq!(
            parse_with(&format!(" {}", "/".repeat(len)), &small).unwrap_err(),
            (400, "bad-request-line")
        );
    }

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
