//! A head has the same parts, or the same error, whether it is split in one pass, by httparse, or found in the cache.

use super::*;

const HEADS: [&str; 4] = [
    "GET /a?b=c HTTP/1.1\r\nHost: a.example:80\r\nX-A: b\r\n\r\n",
    "POST /upload/of/a/file HTTP/1.1\r\nhost: a\r\nContent-Length: 12\r\nTE: trailers\r\n\r\n",
    "\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close, x-a\r\nX-a: \u{e9}t\u{e9} b  c\r\n\r\n",
    "DELETE http://a/b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\nrest",
];

/// Bytes on both sides of every limit between what is plain, unusual and malformed.
const BYTES: &[u8] = b"\0\x08\t\n\x0b\r\x1f !\"#/09:;@AZ[^_`az{|}~\x7f\x80\xa0\xfe\xff";

/// Parses without the one pass.
fn parse_unusual(buf: &[u8], limits: &HeadLimits) -> (RequestHead, Result<Option<usize>, Reject>) {
    let mut head = RequestHead::new();
    let parsed = skip_empty_lines(buf)
        .and_then(|start| head.split_unusual(buf, start, limits))
        .and_then(|end| {
            if let Some(end) = end {
                head.interpret(buf, end)?;
            }
            Ok(end)
        });
    (head, parsed)
}

fn check(buf: &[u8], limits: &HeadLimits) {
    let mut head = RequestHead::new();
    let parsed = head.parse(buf, limits);
    let (unusual, expected) = parse_unusual(buf, limits);
    assert_eq!(parsed, expected, "{}", buf.escape_ascii());
    if let Ok(Some(_)) = parsed {
        let (head, unusual) = (format!("{head:?}"), format!("{unusual:?}"));
        assert_eq!(head, unusual, "{}", buf.escape_ascii());
    }
    let mut cache = HeadCache::default();
    for known in HEADS {
        let known = RequestHead::new().parse_cached(known.as_bytes(), &LIMITS, &mut cache);
        assert!(matches!(known, Ok(Some(_))));
    }
    for _ in 0..2 {
        let mut cached = RequestHead::new();
        let again = cached.parse_cached(buf, limits, &mut cache);
        assert_eq!(again, expected, "{}", buf.escape_ascii());
        if let Ok(Some(_)) = again {
            let (head, cached) = (format!("{head:?}"), format!("{cached:?}"));
            assert_eq!(cached, head, "{}", buf.escape_ascii());
        }
    }
}

/// Whether the cache has what follows the request line of `head`.
fn is_cached(head: &str, cache: &mut HeadCache<RequestHead>) -> bool {
    let (_, at) = plain::split_request_line(head.as_bytes(), 0).unwrap();
    cache.find(&head.as_bytes()[at..], &LIMITS).is_some()
}

#[test]
fn fields_that_repeat_are_found_behind_any_request_line() {
    const FIELDS: &str = "Host: b:80\r\nContent-Length: 3\r\nConnection: x-a, upgrade\r\nX-A: 1\r\n\
        Upgrade: websocket\r\nTE: trailers\r\nExpect: 100-continue\r\n\r\n";
    let lines = [
        "POST /longer/than?the=others HTTP/1.1\r\n",
        "PUT / HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "\r\nPOST /a HTTP/1.1\r\n",
        "GET http://c:8080/d HTTP/1.1\r\n",
        "GET /a#b HTTP/1.1\r\n",
        "CONNECT b:80 HTTP/1.1\r\n",
        "PUT / HTTP/1.0\r\n",
    ];
    for first in lines {
        for second in lines {
            let [first, second] = [first, second].map(|line| format!("{line}{FIELDS}"));
            let mut cache = HeadCache::default();
            // Heads from the pool aren't new either.
            let mut cached = RequestHead::new();
            let _ = cached.parse_cached(first.as_bytes(), &LIMITS, &mut cache);
            let parsed = cached.parse_cached(second.as_bytes(), &LIMITS, &mut cache);
            let mut head = RequestHead::new();
            assert_eq!(parsed, head.parse(second.as_bytes(), &LIMITS));
            if parsed.is_ok() {
                assert_eq!(
                    format!("{cached:?}"),
                    format!("{head:?}"),
                    "{first} {second}"
                );
                assert_eq!(cached.host(second.as_bytes()), head.host(second.as_bytes()));
            }
        }
    }
    let mut cache = HeadCache::default();
    for (line, is_known) in [(lines[4], false), (lines[0], false), (lines[1], true)] {
        let head = format!("{line}{FIELDS}");
        assert_eq!(is_cached(&head, &mut cache), is_known, "{line}");
        let parsed = RequestHead::new().parse_cached(head.as_bytes(), &LIMITS, &mut cache);
        assert_eq!(parsed, Ok(Some(head.len())));
    }
}

#[test]
fn every_byte_at_every_place_is_read_the_same_way() {
    for head in HEADS {
        check(head.as_bytes(), &LIMITS);
        for at in 0..head.len() {
            check(&head.as_bytes()[..at], &LIMITS);
            for &byte in BYTES {
                let mut changed = head.as_bytes().to_vec();
                changed[at] = byte;
                check(&changed, &LIMITS);
                changed.insert(at, head.as_bytes()[at]);
                check(&changed, &LIMITS);
            }
        }
    }
}

#[test]
fn limits_hold_for_plain_heads() {
    for fields in 0..4 {
        let limits = HeadLimits { fields, ..LIMITS };
        HEADS
            .iter()
            .for_each(|head| check(head.as_bytes(), &limits));
    }
    for target in 0..24 {
        let limits = HeadLimits { target, ..LIMITS };
        HEADS
            .iter()
            .for_each(|head| check(head.as_bytes(), &limits));
    }
}

#[test]
fn usual_heads_are_plain() {
    for head in &HEADS[..2] {
        let mut fields = Vec::new();
        let (_, at) = plain::split_request_line(head.as_bytes(), 0).unwrap();
        let end = plain::split_fields(head.as_bytes(), at, 100, None, &mut fields);
        assert_eq!(end, Some(head.len()));
        let name = fields.last().unwrap().name.of(head.as_bytes());
        assert!(name == b"X-A" || name == b"TE");
    }
}

#[test]
fn what_a_line_means_depends_on_its_own_head() {
    let heads = [
        "Connection: x-a, upgrade\r\nX-A: 1\r\nUpgrade: websocket\r\nContent-Length: 3\r\n",
        "Connection: x-b, upgrade\r\nX-A: 1\r\nUpgrade: websocket\r\nContent-Length: 3\r\n",
        "Connection: close, x-a\r\nX-A: 1\r\nX-A: 1\r\nUpgrade: websocket\r\n",
        "X-A: 1\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n",
        "X-A: 1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "X-A: 1 \r\nX-B:\r\n",
        "X-A: 12\r\nX-C: 1\r\nX_D: 1\r\n",
        "",
    ];
    for first in heads {
        for second in heads {
            let [first, second] = [first, second].map(|lines| {
                let length = lines.len();
                format!("GET /{length} HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
            });
            let mut cache = HeadCache::default();
            let mut cached = RequestHead::new();
            let _ = cached.parse_cached(first.as_bytes(), &LIMITS, &mut cache);
            let parsed = cached.parse_cached(second.as_bytes(), &LIMITS, &mut cache);
            let mut head = RequestHead::new();
            assert_eq!(parsed, head.parse(second.as_bytes(), &LIMITS), "{second}");
            if parsed.is_ok() {
                let (cached, head) = (format!("{cached:?}"), format!("{head:?}"));
                assert_eq!(cached, head, "{first} {second}");
            }
        }
    }
}
