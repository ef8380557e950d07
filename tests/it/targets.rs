//! Targets and lengths: HTTP/1 and HTTP/2 judge them alike.

use crate::support::client::Client;
use crate::support::frames::{self, END_HEADERS, END_STREAM, Outcome, frame, get_fields, kind};
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, before};

fn open(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    client.send(frames::preface());
    client
}

/// `GET` of any bytes over HTTP/2.
fn get_bytes(stream: u32, path: &[u8]) -> Vec<u8> {
    let mut block = frames::block(&get_fields("")[..3]);
    block.push(0);
    block.push(5);
    block.extend(b":path");
    block.push(u8::try_from(path.len()).expect("a short path"));
    block.extend(path);
    frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, &block)
}

/// Whether a target is served over HTTP/1; refused means 400.
#[track_caller]
fn is_served_h1(proxy: &Proxy, target: &[u8]) -> bool {
    let mut client = proxy.client();
    client.send([b"GET ", target, b" HTTP/1.1\r\nhost: test\r\n\r\n"].concat());
    match client.answer("GET").status() {
        200 => true,
        400 => false,
        other => panic!("{other} for {}", target.escape_ascii()),
    }
}

/// Whether a target is served over HTTP/2; refused means 400, a reset of the stream for PROTOCOL_ERROR, or for bytes that are not UTF-8 an
/// end of the connection for that.
#[track_caller]
fn is_served_h2(proxy: &Proxy, target: &[u8]) -> bool {
    let mut client = open(proxy);
    client.send(get_bytes(1, target));
    match frames::outcome(&mut client, 1) {
        Outcome::Status(200) => true,
        Outcome::Status(400) | Outcome::Reset(1) => false,
        Outcome::Goaway(1) if target.iter().any(|byte| *byte >= 0x80) => false,
        other => panic!("{other:?} for {}", target.escape_ascii()),
    }
}

#[test]
fn both_protocols_take_the_same_characters() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let odd = b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\x01\x1f\x7f\x80\xbf\xc3\xff";
    // The h2 crate drops a fragment and passes on the rest.
    let is_seen = |byte: &&u8| !cfg!(feature = "h2-crate") || **byte != b'#';
    for &byte in odd.iter().filter(is_seen) {
        for target in [
            &[b'/', byte][..],
            &[b"/a", &[byte][..], b"b/c"].concat(),
            &[b"/?", &[byte][..]].concat(),
            &[b"/a?b=", &[byte][..], b"c"].concat(),
        ] {
            let (h1, h2) = (is_served_h1(&proxy, target), is_served_h2(&proxy, target));
            assert_eq!(h1, h2, "{}: HTTP/1, HTTP/2", target.escape_ascii());
            if matches!(byte, b'#' | b'<' | b'>' | b'"') || !(b' '..=0x7e).contains(&byte) {
                assert!(!h1, "{}", target.escape_ascii());
            }
        }
    }
}

#[cfg(not(feature = "h2-crate"))]
#[test]
fn a_fragment_is_refused_however_the_path_is_written() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let mut client = open(&proxy);
    let start = frames::block(&get_fields("")[..3]);
    let paths: [&[u8]; 4] = [
        // A literal without indexing, by the name's place in the static table.
        b"\x04\x04/a#b",
        // The same in Huffman code: `/#`.
        b"\x04\x83\x63\xfe\xbf",
        // A literal that enters the dynamic table, and the same by its place there.
        b"\x44\x04/a#b",
        b"\xbe",
    ];
    for (n, path) in paths.into_iter().enumerate() {
        let stream = 2 * n as u32 + 1;
        let block = [&start[..], path].concat();
        client.send(frame(
            kind::HEADERS,
            END_HEADERS | END_STREAM,
            stream,
            &block,
        ));
        let outcome = frames::outcome(&mut client, stream);
        assert_eq!(outcome, Outcome::Status(400), "{}", path.escape_ascii());
    }
    assert_eq!(origin.hits(), 0);
    client.send(frames::request(9, &get_fields("/")));
    assert_eq!(frames::outcome(&mut client, 9), Outcome::Status(200));
}

#[test]
fn a_content_length_that_is_none_is_refused() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    for lengths in [
        &[""][..],
        &["+4"],
        &["4 "],
        &["4,4"],
        &["4", "4"],
        &["99999999999999999999"],
        &["9999999999999999999"],
    ] {
        let mut fields = get_fields("/").to_vec();
        fields[0].1 = "POST";
        fields.extend(lengths.iter().map(|length| ("content-length", *length)));
        let mut client = open(&proxy);
        let head = frame(kind::HEADERS, END_HEADERS, 1, &frames::block(&fields));
        client.send([head, frame(kind::DATA, END_STREAM, 1, b"body")].concat());
        let outcome = frames::outcome(&mut client, 1);
        let refused = matches!(outcome, Outcome::Status(400) | Outcome::Reset(1));
        assert!(refused, "{lengths:?}: {outcome:?}");
    }
    assert_eq!(origin.hits(), 0);
}
