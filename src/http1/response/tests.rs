use super::*;

const LIMITS: HeadLimits = HeadLimits {
    bytes: 32 * 1024,
    fields: 100,
    target: 0,
    underscores: false,
};

/// Parses a whole head, and again growing byte by byte: both must say the same.
fn parse_to(method: Method, buf: &[u8]) -> Result<ResponseHead, (u16, &'static str)> {
    let mut head = ResponseHead::new();
    let whole = head.parse(buf, method, &LIMITS);
    let mut growing = ResponseHead::new();
    let grown = (0..=buf.len())
        .map(|n| growing.parse(&buf[..n], method, &LIMITS))
        .find(|parsed| *parsed != Ok(None))
        .unwrap_or(Ok(None));
    assert_eq!(grown, whole, "{}", buf.escape_ascii());
    match whole {
        Ok(Some(n)) => {
            assert_eq!(format!("{head:?}"), format!("{growing:?}"));
            assert_eq!(n, head.len);
            Ok(head)
        }
        Ok(None) => Err((0, "more")),
        Err(reject) => Err((reject.status, reject.reason.as_str())),
    }
}

fn parse(text: &str) -> Result<ResponseHead, (u16, &'static str)> {
    parse_to(Method::Get, text.as_bytes())
}

fn text(span: Span, of: &str) -> &str {
    &of[span.start as usize..span.end as usize]
}

#[test]
fn a_plain_response() {
    let wire = "HTTP/1.1 200 All right\r\nServer: x_y\r\nX_Y: z\r\ncontent-length: 5\r\n\r\nhello";
    let head = parse(wire).unwrap();
    assert_eq!(head.status, 200);
    assert_eq!(text(head.reason, wire), "All right");
    assert_eq!(head.version, HttpVersion::H11);
    assert_eq!(head.framing, Framing::Length(5));
    assert_eq!(head.content_length, Some(5));
    assert!(head.keep_alive && head.upgrade.is_none());
    assert_eq!(head.len, wire.len() - 5);
    assert_eq!(head.fields.len(), 3);
    assert!(head.fields.iter().all(|f| !f.hop));
    assert_eq!(
        head.field(FieldId::ContentLength).map(|s| text(s, wire)),
        Some("5")
    );
}

#[test]
fn reason_phrases() {
    for (line, reason) in [
        ("HTTP/1.1 200 OK", &b"OK"[..]),
        ("HTTP/1.1 200", b""),
        ("HTTP/1.1 200 ", b""),
        ("HTTP/1.0 999 a  b\t", b"a  b\t"),
    ] {
        for fields in ["", "a: b\r\n"] {
            let wire = format!("{line}\r\n{fields}\r\n");
            let head = parse(&wire).unwrap();
            assert_eq!(head.reason.of(wire.as_bytes()), reason, "{line:?}");
        }
    }
    let wire = b"HTTP/1.1 200 \xe9t\xe9\r\n\r\n";
    let head = parse_to(Method::Get, wire).unwrap();
    assert_eq!(head.reason.of(wire), b"\xe9t\xe9");
}

#[test]
fn where_bodies_end() {
    use Framing::{Chunked, Empty, Length, UntilClose};
    for (method, wire, framing, lives) in [
        (Method::Get, "HTTP/1.1 200 OK\r\n\r\n", UntilClose, false),
        (
            Method::Get,
            "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n",
            UntilClose,
            false,
        ),
        (
            Method::Get,
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            Length(0),
            true,
        ),
        (
            Method::Get,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            Length(5),
            true,
        ),
        (
            Method::Get,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
            Length(5),
            false,
        ),
        (
            Method::Get,
            "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
            Length(5),
            false,
        ),
        (
            Method::Get,
            "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n",
            Length(5),
            true,
        ),
        (
            Method::Get,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: 05\r\n\r\n",
            Length(5),
            true,
        ),
        (
            Method::Get,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n",
            Chunked,
            true,
        ),
        (
            Method::Head,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Empty,
            true,
        ),
        (
            Method::Head,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            Empty,
            true,
        ),
        (Method::Head, "HTTP/1.1 200 OK\r\n\r\n", Empty, true),
        (
            Method::Get,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            Empty,
            true,
        ),
        (Method::Get, "HTTP/1.1 204 No Content\r\n\r\n", Empty, true),
        (
            Method::Get,
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            Empty,
            true,
        ),
        (
            Method::Get,
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            Empty,
            false,
        ),
        (
            Method::Get,
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
            Empty,
            false,
        ),
        (Method::Get, "HTTP/1.1 100 Continue\r\n\r\n", Empty, true),
        (
            Method::Get,
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
            Empty,
            true,
        ),
        (
            Method::Get,
            "HTTP/1.1 205 Reset\r\nContent-Length: 1\r\n\r\n",
            Length(1),
            true,
        ),
    ] {
        let head = parse_to(method, wire.as_bytes()).unwrap();
        assert_eq!(
            (head.framing, head.keep_alive),
            (framing, lives),
            "{wire:?}"
        );
    }
    let head = parse_to(
        Method::Head,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    )
    .unwrap();
    assert_eq!(head.content_length, Some(5));
}

#[test]
fn bad_ones() {
    let coding = (400, "bad-transfer-encoding");
    for (wire, answer) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            (400, "length-and-coding"),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            (400, "duplicate-content-length"),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
            (400, "bad-content-length"),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            (400, "bad-content-length"),
        ),
        (
            "HTTP/1.1 304 OK\r\nContent-Length: x\r\n\r\n",
            (400, "bad-content-length"),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
            coding,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
            coding,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            coding,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            (501, "unknown-transfer-encoding"),
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            (400, "coding-in-http10"),
        ),
        ("HTTP/1.1 99 OK\r\n\r\n", (400, "bad-status")),
        ("HTTP/1.1 099 OK\r\n\r\n", (400, "bad-status")),
        ("HTTP/1.1 2000 OK\r\n\r\n", (400, "bad-status")),
        ("HTTP/1.1 20x OK\r\n\r\n", (400, "bad-status")),
        ("HTTP/1.1  200 OK\r\n\r\n", (400, "bad-status")),
        ("HTTP/1.1 200\tOK\r\n\r\n", (400, "bad-status")),
        ("HTTP/1.1 200 O\0K\r\n\r\n", (400, "bad-status")),
        ("HTTP/1.1 200 O\rK\r\n\r\n", (400, "bad-status")),
        ("HTTP/2.0 200 OK\r\n\r\n", (505, "version")),
        ("http/1.1 200 OK\r\n\r\n", (400, "bad-version")),
        ("ICY 200 OK\r\n\r\n", (400, "bad-version")),
        ("<html></html>\r\n\r\n", (400, "bad-version")),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", (400, "empty-lines")),
        ("\nHTTP/1.1 200 OK\r\n\r\n", (400, "empty-lines")),
        ("HTTP/1.1 200 OK\n\n", (400, "bare-lf")),
        ("HTTP/1.1 200\n\r\n", (400, "bare-lf")),
        ("HTTP/1.1 200 OK\r\nA: b\n\r\n", (400, "bare-lf")),
        ("HTTP/1.1 200 OK\r\nA: b\r\n\n", (400, "bare-lf")),
        (
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            (400, "bad-field-name"),
        ),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", (400, "bad-field-name")),
        (
            "HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
            (400, "bad-field-value"),
        ),
        ("HTTP/1.1 101 Switching\r\n\r\n", (400, "bad-upgrade")),
        (
            "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
            (400, "bad-upgrade"),
        ),
        (
            "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade:\r\n\r\n",
            (400, "bad-upgrade"),
        ),
        (
            "HTTP/1.0 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            (400, "bad-upgrade"),
        ),
        ("HTTP/1.1 200 OK\r\nA: b\r\n", (0, "more")),
        ("HTTP/1", (0, "more")),
        ("", (0, "more")),
    ] {
        assert_eq!(parse(wire).unwrap_err(), answer, "{wire:?}");
    }
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a:b\r\n".repeat(101));
    assert_eq!(parse(&many).unwrap_err(), (431, "too-many-fields"));
    let large = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "x".repeat(32 * 1024));
    let mut head = ResponseHead::new();
    let reject = head
        .parse(large.as_bytes(), Method::Get, &LIMITS)
        .unwrap_err();
    assert_eq!(reject.reason.as_str(), "head-too-large");
}

#[test]
fn upgrades() {
    let wire =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let head = parse(wire).unwrap();
    assert_eq!(head.upgrade.map(|s| text(s, wire)), Some("websocket"));
    assert_eq!(head.framing, Framing::Empty);
    let wire = "HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(parse(wire).unwrap().upgrade, None);
}

#[test]
fn what_ends_at_this_hop_is_marked() {
    let kept = |wire: &str| -> Vec<String> {
        let head = parse(wire).unwrap();
        let kept = head.fields.iter().filter(|f| !f.hop);
        kept.map(|f| text(f.name, wire).to_owned()).collect()
    };
    let wire = "HTTP/1.1 200 OK\r\nConnection: transfer-encoding, content-length, x-a\r\nX-A: 1\r\nX-B: 2\r\n\
                Content-Length: 5\r\nContent-Length: 5\r\nKeep-Alive: timeout=5\r\nTrailer: x\r\n\r\n";
    assert_eq!(kept(wire), ["X-B", "Content-Length"]);
    assert!(kept("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n").is_empty());
    assert!(kept("HTTP/1.1 103 Early Hints\r\nContent-Length: 0\r\n\r\n").is_empty());
    assert_eq!(
        kept("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ["Content-Length"]
    );
}

/// Parses without the one pass.
fn parse_unusual(buf: &[u8]) -> (ResponseHead, Result<Option<usize>, Reject>) {
    let mut head = ResponseHead::new();
    let parsed = match buf {
        [b'\r' | b'\n', ..] => Err(Reject::bad(Reason::EmptyLines)),
        _ => head.split_unusual(buf, &LIMITS),
    };
    let parsed = parsed.and_then(|end| {
        if let Some(end) = end {
            head.interpret(buf, Method::Get, end)?;
        }
        Ok(end)
    });
    (head, parsed)
}

#[test]
fn one_pass_and_httparse_find_the_same_parts_and_errors() {
    let bytes = b"\0\t\n\x0b\r\x1f !/019:;@AZ[_`az{~\x7f\x80\xff";
    let heads = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: a b\r\n\r\nhello",
        "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\nX-a: 1\r\n\r\n",
        "HTTP/1.1 101 \r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ];
    for head in heads.map(str::as_bytes) {
        let (_, at) = plain::split_status_line(head).expect("a plain head");
        assert!(plain::split_fields(head, at, 100, None, &mut Vec::new()).is_some());
        let mut cache = HeadCache::default();
        let changed = |(at, &byte): (usize, &u8)| {
            let mut changed = head.to_vec();
            changed[at] = byte;
            let mut longer = changed.clone();
            longer.insert(at, head[at]);
            [changed, longer, head[..at].to_vec()]
        };
        let places = (0..head.len()).flat_map(|at| bytes.iter().map(move |byte| (at, byte)));
        for buf in places.flat_map(changed) {
            let mut found = ResponseHead::new();
            let parsed = found.parse(&buf, Method::Get, &LIMITS);
            let (unusual, expected) = parse_unusual(&buf);
            assert_eq!(parsed, expected, "{}", buf.escape_ascii());
            if let Ok(Some(_)) = parsed {
                assert_eq!(format!("{found:?}"), format!("{unusual:?}"));
            }
            for head in [head, &buf, &buf] {
                let mut cached = ResponseHead::new();
                let again = cached.parse_cached(head, Method::Get, &LIMITS, &mut cache);
                if head == buf {
                    assert_eq!(again, expected, "{}", buf.escape_ascii());
                }
                if head == buf
                    && let Ok(Some(_)) = again
                {
                    assert_eq!(format!("{cached:?}"), format!("{unusual:?}"));
                }
            }
        }
    }
}

#[test]
fn a_response_to_head_is_told_from_the_same_to_get() {
    let wire = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
    let mut cache = HeadCache::default();
    for (method, framing) in [
        (Method::Head, Framing::Empty),
        (Method::Get, Framing::Length(5)),
        (Method::Head, Framing::Empty),
        (Method::Get, Framing::Length(5)),
    ] {
        let mut head = ResponseHead::new();
        let parsed = head.parse_cached(wire, method, &LIMITS, &mut cache);
        assert_eq!((parsed, head.framing), (Ok(Some(wire.len())), framing));
    }
}
