//! A head has the same parts, or the same error, whether it is split in one pass or by httparse.

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
                head.method = Method::from_bytes(head.method_span.of(buf));
                head.interpret(buf)?;
                head.len = end;
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
        let (_, end) = plain::split_request(head.as_bytes(), 0, 100, &mut fields).unwrap();
        assert_eq!(end, head.len());
        let name = fields.last().unwrap().name.of(head.as_bytes());
        assert!(name == b"X-A" || name == b"TE");
    }
}
