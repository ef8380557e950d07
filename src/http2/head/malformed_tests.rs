use super::tests::{GET, LIMITS, REQUEST, block, request};
use super::*;
use crate::http2::hpack::{Decoder, Encoder, Indexing};

/// Every kind of malformed request, by what is wrong with it.
fn malformed_requests() -> Vec<(Vec<(&'static str, &'static str)>, Malformed)> {
    use Malformed::*;
    let with = |fields| request(&[], fields);
    let changed = |fields| request(fields, &[]);
    vec![
        (with(&[("X-a", "b")]), UppercaseName),
        (with(&[("x-A", "b")]), UppercaseName),
        (with(&[("", "b")]), BadName),
        (with(&[("x a", "b")]), BadName),
        (with(&[("x:a", "b")]), BadName),
        (with(&[("xa:", "b")]), BadName),
        (with(&[("x\0", "b")]), BadName),
        (with(&[("x\r\ny", "b")]), BadName),
        (with(&[("x\t", "b")]), BadName),
        (with(&[("\u{e9}", "b")]), BadName),
        (with(&[("x\"", "b")]), BadName),
        (with(&[("x(", "b")]), BadName),
        (with(&[("x\u{7f}", "b")]), BadName),
        (with(&[("x", "a\rb")]), BadValue),
        (with(&[("x", "a\nb")]), BadValue),
        (with(&[("x", "a\r\nb: c")]), BadValue),
        (with(&[("x", "a\0b")]), BadValue),
        (with(&[("x", "\u{1}")]), BadValue),
        (with(&[("x", "a\u{7f}")]), BadValue),
        (with(&[("cookie", "a\nb")]), BadValue),
        (with(&[("x", " a")]), PaddedValue),
        (with(&[("x", "a ")]), PaddedValue),
        (with(&[("x", "\ta")]), PaddedValue),
        (with(&[("x", " ")]), PaddedValue),
        (with(&[("connection", "close")]), ConnectionField),
        (with(&[("keep-alive", "1")]), ConnectionField),
        (with(&[("proxy-connection", "close")]), ConnectionField),
        (with(&[("transfer-encoding", "chunked")]), ConnectionField),
        (with(&[("upgrade", "websocket")]), ConnectionField),
        (with(&[("te", "gzip")]), BadTe),
        (with(&[("te", "trailers, deflate")]), BadTe),
        (with(&[("te", "")]), BadTe),
        (changed(&[(":foo", "x")]), UnknownPseudo),
        (changed(&[(":", "x")]), UnknownPseudo),
        (changed(&[(":Path", "x")]), UnknownPseudo),
        (changed(&[(":status", "200")]), UnknownPseudo),
        (changed(&[(":protocol", "websocket")]), UnknownPseudo),
        (with(&[(":path", "/")]), DuplicatePseudo),
        (with(&[(":method", "GET")]), DuplicatePseudo),
        (with(&[(":scheme", "http")]), DuplicatePseudo),
        (with(&[(":authority", "b")]), DuplicatePseudo),
        (
            request(&[(":authority", "-")], &[("x", "y"), (":authority", "a")]),
            LatePseudo,
        ),
        (
            request(&[(":path", "-")], &[("cookie", "y"), (":path", "/")]),
            LatePseudo,
        ),
        (changed(&[(":method", "-")]), MissingPseudo),
        (changed(&[(":scheme", "-")]), MissingPseudo),
        (changed(&[(":path", "-")]), MissingPseudo),
        (vec![], MissingPseudo),
        (changed(&[(":method", "CONNECT")]), ConnectTarget),
        (
            changed(&[
                (":method", "CONNECT"),
                (":path", "-"),
                (":scheme", "-"),
                (":authority", "-"),
            ]),
            MissingPseudo,
        ),
        (changed(&[(":method", "")]), BadMethod),
        (changed(&[(":method", "G T")]), BadMethod),
        (changed(&[(":method", "GET/")]), BadMethod),
        (changed(&[(":method", "G\u{e9}T")]), BadMethod),
        (changed(&[(":method", "GET\r\n")]), BadValue),
        (changed(&[(":scheme", "ftp")]), BadScheme),
        (changed(&[(":scheme", "")]), BadScheme),
        (changed(&[(":path", "")]), EmptyPath),
        (changed(&[(":path", "a")]), BadPath),
        (changed(&[(":path", "*")]), BadPath),
        (changed(&[(":path", "http://a/")]), BadPath),
        (changed(&[(":path", "/\u{e9}")]), BadPath),
        (changed(&[(":path", "/a b")]), BadPath),
        (changed(&[(":path", "/a\"b")]), BadPath),
        (changed(&[(":path", "/a\r\nb")]), BadValue),
        (changed(&[(":path", " /a")]), PaddedValue),
        (changed(&[(":authority", "a\nb")]), BadValue),
        (changed(&[(":path", "/a#b")]), FragmentInPath),
        (changed(&[(":path", "#")]), FragmentInPath),
        (with(&[("content-length", "")]), BadContentLength),
        (with(&[("content-length", "-1")]), BadContentLength),
        (with(&[("content-length", "1, 1")]), BadContentLength),
        (
            with(&[("content-length", "99999999999999999999")]),
            BadContentLength,
        ),
        (
            with(&[("content-length", "1"), ("content-length", "2")]),
            DuplicateContentLength,
        ),
        (
            with(&[("content-length", "1"), ("content-length", "1")]),
            DuplicateContentLength,
        ),
    ]
}

#[test]
fn malformed_requests_are_recognized_and_the_next_request_is_read() {
    let table = malformed_requests();
    let kinds: std::collections::HashSet<_> = table.iter().map(|t| t.1).collect();
    assert!(table.len() >= 60 && kinds.len() >= 17, "{}", kinds.len());
    for huffman in [false, true] {
        for first in [0, 0x10, 0x40] {
            let mut decoder = Decoder::new();
            let (mut head, mut encoder) = (HeadBlock::default(), Encoder::new());
            for (fields, malformed) in &table {
                let mut bytes = block(fields, first);
                if huffman {
                    bytes = crate::http2::hpack::with_huffman(&bytes);
                }
                let decoded = decoder.decode(&bytes, REQUEST, &LIMITS, &mut head);
                assert_eq!(decoded, Ok(()), "{fields:?}");
                assert_eq!(head.malformed, Some(*malformed), "{fields:?}");
                let lines = head.iter().map(|(n, v)| [n, v].concat());
                assert!(lines.into_iter().all(|l| !l.contains(&b'\n')), "{fields:?}");
                if first == 0x40 {
                    // The encoder would have to follow the table.
                    decoder = Decoder::new();
                } else {
                    bytes.clear();
                    encoder.begin(&mut bytes);
                    for (name, value) in GET {
                        encoder.put(
                            &mut bytes,
                            name.as_bytes(),
                            value.as_bytes(),
                            Indexing::Incremental,
                        );
                    }
                    let decoded = decoder.decode(&bytes, REQUEST, &LIMITS, &mut head);
                    assert_eq!(
                        (decoded, head.malformed),
                        (Ok(()), None),
                        "after {fields:?}"
                    );
                    assert_eq!(head.path(), b"/a?b");
                }
            }
        }
    }
}

/// A defect is remembered with the entry, and only with what has it.
#[test]
fn entries_of_the_table_keep_their_defects() {
    for (name, value, malformed) in [
        ("X", "good", Malformed::UppercaseName),
        ("x", "b\nd", Malformed::BadValue),
        (":x", "good", Malformed::UnknownPseudo),
    ] {
        let (mut decoder, mut head) = (Decoder::new(), HeadBlock::default());
        let mut read = |block: &[u8]| {
            let get = [0x82, 0x87, 0x84];
            let block = [&get, block].concat();
            assert_eq!(decoder.decode(&block, REQUEST, &LIMITS, &mut head), Ok(()));
            head.malformed
        };
        assert_eq!(read(&block(&[(name, value)], 0x40)), Some(malformed));
        assert_eq!(read(&[0xbe]), Some(malformed));
        let good_value = (malformed != Malformed::BadValue).then_some(malformed);
        assert_eq!(read(&[0x0f, 0x2f, 1, b'y']), good_value);
        assert_eq!(read(&[]), None);
    }
}
