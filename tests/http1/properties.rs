//! Well-formed messages are read as they were meant, however their bytes come.

use cutover::http1::framing::chunk_head;
use cutover::http1::{Framing, Method, RequestHead, ResponseHead};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::checks::{self, LIMITS, decode};
use crate::oracle::{agree_on_request, agree_on_response};

const FIELD_NAME: &str = "x-[a-zA-Z0-9!#$%&'*+.^`|~-]{0,10}";
const FIELD_VALUE: &str = "([!-~]([ \t!-~]{0,20}[!-~])?)?";
const TARGET: &str = "/[a-z0-9._~%/-]{0,30}(\\?[a-z0-9=&/?%-]{0,20})?";

/// Lower-case hexadecimal, with leading zeros and an extension now and then.
#[derive(Clone, Debug)]
struct Chunk {
    content: Vec<u8>,
    zeros: usize,
    extension: Option<String>,
}

fn chunks() -> impl Strategy<Value = Vec<Chunk>> {
    let extension = proptest::option::of("[a-z]{1,5}(=[a-z0-9]{1,5}|=\"[a-z; ,]{0,5}\")?");
    let chunk = (vec(any::<u8>(), 1..40), 0..20usize, extension);
    vec(
        chunk.prop_map(|(content, zeros, extension)| Chunk {
            content,
            zeros,
            extension,
        }),
        0..6,
    )
}

fn encode(chunks: &[Chunk], trailers: &[(String, String)]) -> Vec<u8> {
    let mut wire = Vec::new();
    for chunk in chunks {
        let mut head = [0; 18];
        let head = chunk_head(chunk.content.len() as u64, &mut head);
        wire.extend(std::iter::repeat_n(b'0', chunk.zeros));
        wire.extend_from_slice(&head[..head.len() - 2]);
        if let Some(extension) = &chunk.extension {
            wire.extend_from_slice(format!(";{extension}").as_bytes());
        }
        wire.extend_from_slice(b"\r\n");
        wire.extend_from_slice(&chunk.content);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n");
    wire.extend_from_slice(lines(trailers).as_bytes());
    wire.extend_from_slice(b"\r\n");
    wire
}

fn lines(fields: &[(String, String)]) -> String {
    fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chunked_bodies_give_back_their_content(
        chunks in chunks(),
        trailers in vec((FIELD_NAME, FIELD_VALUE), 0..3),
        pieces in vec(1..50usize, 1..6),
        surplus in vec(any::<u8>(), 0..10),
    ) {
        let mut wire = encode(&chunks, &trailers);
        let len = wire.len();
        wire.extend(surplus);
        let content = chunks.iter().flat_map(|chunk| chunk.content.clone()).collect::<Vec<_>>();
        let decoded = decode(&wire, Framing::Chunked, false, &pieces);
        prop_assert!(decoded.done);
        prop_assert_eq!(decoded.taken, len);
        prop_assert_eq!(&decoded.content, &content);
        let section = if trailers.is_empty() { String::new() } else { lines(&trailers) + "\r\n" };
        prop_assert_eq!(&decoded.trailers, section.as_bytes());
        // What verbatim mode forwards is the same body without extensions and leading zeros.
        let forwarded = decode(&wire, Framing::Chunked, true, &pieces).content;
        let plain: Vec<Chunk> = chunks.into_iter().map(|chunk| Chunk { extension: None, zeros: 0, ..chunk }).collect();
        prop_assert_eq!([&forwarded[..], b"0\r\n\r\n"].concat(), encode(&plain, &[]));
        checks::body(&wire);
    }

    #[test]
    fn lengths_give_back_their_content(content in vec(any::<u8>(), 0..200), pieces in vec(1..50usize, 1..6), surplus in 0..20usize) {
        let mut wire = content.clone();
        wire.extend(std::iter::repeat_n(b'x', surplus));
        let decoded = decode(&wire, Framing::Length(content.len() as u64), true, &pieces);
        prop_assert!(decoded.done && decoded.taken == content.len());
        prop_assert_eq!(decoded.content, content);
    }

    #[test]
    fn requests_are_read_as_they_were_written(
        method in "[A-Z]{1,12}",
        target in TARGET,
        fields in vec((FIELD_NAME, FIELD_VALUE), 0..8),
        body in proptest::option::of(vec(any::<u8>(), 0..60)),
    ) {
        prop_assume!(method != "CONNECT");
        let mut wire = format!("{method} {target} HTTP/1.1\r\n{}Host: a\r\n", lines(&fields));
        if let Some(body) = &body {
            wire.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        wire.push_str("\r\n");
        let mut wire = wire.into_bytes();
        let len = wire.len();
        wire.extend(body.iter().flatten());
        let mut head = RequestHead::new();
        prop_assert_eq!(head.parse(&wire, &LIMITS), Ok(Some(len)));
        prop_assert_eq!(head.method_span.of(&wire), method.as_bytes());
        prop_assert_eq!(head.target.of(&wire), target.as_bytes());
        prop_assert_eq!(head.framing, body.map_or(Framing::Empty, |body| Framing::Length(body.len() as u64)));
        for (field, (name, value)) in head.fields.iter().zip(&fields) {
            prop_assert_eq!(field.name.of(&wire), name.as_bytes());
            prop_assert_eq!(field.value.of(&wire), value.as_bytes());
        }
        checks::request_head(&wire);
        agree_on_request(&wire);
    }

    #[test]
    fn responses_are_read_as_they_were_written(
        status in 200..600u16,
        reason in "[ -~]{0,20}",
        fields in vec((FIELD_NAME, FIELD_VALUE), 0..8),
        chunks in chunks(),
    ) {
        let wire = format!("HTTP/1.1 {status} {reason}\r\n{}Transfer-Encoding: chunked\r\n\r\n", lines(&fields));
        let mut wire = wire.into_bytes();
        let len = wire.len();
        wire.extend(encode(&chunks, &[]));
        let mut head = ResponseHead::new();
        prop_assert_eq!(head.parse(&wire, Method::Get, &LIMITS), Ok(Some(len)));
        prop_assert_eq!((head.status, head.reason.of(&wire)), (status, reason.as_bytes()));
        prop_assert_eq!(head.framing == Framing::Chunked, status != 204 && status != 304);
        checks::response_head(&wire);
        agree_on_response(&wire);
    }

    #[test]
    fn any_bytes_break_nothing(data in vec(any::<u8>(), 0..300)) {
        checks::request_head(&data);
        checks::response_head(&data);
        checks::body(&data);
        checks::path(&data);
    }

    #[test]
    fn paths_lose_their_dot_segments(path in "(/(\\.|%2[eE]|a|b|%2f|\\\\|%5C|;|x{2}){0,4}){1,6}") {
        checks::path(path.as_bytes());
    }
}
