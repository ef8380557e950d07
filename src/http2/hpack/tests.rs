use super::*;
use crate::http2::code::ErrorCode;
use crate::http2::head::{BlockLimits, HeadBlock, HeadKind};

const LIMITS: BlockLimits = BlockLimits {
    bytes: 64 * 1024,
    fields: 256,
};
const REQUEST: HeadKind = HeadKind::Request {
    extended_connect: false,
};

type Fields = Vec<(String, String)>;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|b| *b != b' ').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// All fields of a head, with the pseudo-header fields first.
fn fields(head: &HeadBlock) -> Fields {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("ASCII");
    let mut all = Vec::new();
    for (name, value) in [
        (":method", head.method()),
        (":scheme", head.scheme()),
        (":path", head.path()),
        (":authority", head.authority().unwrap_or_default()),
    ] {
        if !value.is_empty() {
            all.push((name.to_owned(), text(value)));
        }
    }
    if head.status > 0 {
        all.push((":status".to_owned(), head.status.to_string()));
    }
    all.extend(head.iter().map(|(n, v)| (text(n), text(v))));
    all
}

fn owned(pairs: &[(&str, &str)]) -> Fields {
    let own = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
    pairs.iter().map(own).collect()
}

#[test]
fn single_fields_of_the_rfc() {
    // RFC 7541 C.2.
    for (hex, pairs, size) in [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            [("custom-key", "custom-header")],
            55,
        ),
        (
            "040c 2f73 616d 706c 652f 7061 7468",
            [(":path", "/sample/path")],
            0,
        ),
        (
            "1008 7061 7373 776f 7264 0673 6563 7265 74",
            [("password", "secret")],
            0,
        ),
        ("82", [(":method", "GET")], 0),
    ] {
        let (mut decoder, mut head) = (Decoder::new(), HeadBlock::default());
        let decoded = decoder.decode(&bytes(hex), REQUEST, &LIMITS, &mut head);
        assert_eq!(decoded, Ok(()));
        assert_eq!(fields(&head), owned(&pairs));
        assert_eq!(decoder.table_size(), size);
    }
}

#[test]
fn requests_and_responses_of_the_rfc() {
    let get = |scheme, path| [(":method", "GET"), (":scheme", scheme), (":path", path)];
    let host = (":authority", "www.example.com");
    let requests = [
        (57, [&get("http", "/")[..], &[host]].concat()),
        (
            110,
            [
                &get("http", "/")[..],
                &[host, ("cache-control", "no-cache")],
            ]
            .concat(),
        ),
        (
            164,
            [
                &get("https", "/index.html")[..],
                &[host, ("custom-key", "custom-value")],
            ]
            .concat(),
        ),
    ];
    let date = |date| [("cache-control", "private"), ("date", date)];
    let (early, late) = (
        date("Mon, 21 Oct 2013 20:13:21 GMT"),
        date("Mon, 21 Oct 2013 20:13:22 GMT"),
    );
    let location = ("location", "https://www.example.com");
    let cookie = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    let responses = [
        (
            222,
            [&[(":status", "302")], &early[..], &[location]].concat(),
        ),
        (
            222,
            [&[(":status", "307")], &early[..], &[location]].concat(),
        ),
        (
            215,
            [
                &[(":status", "200")],
                &late[..],
                &[
                    location,
                    ("content-encoding", "gzip"),
                    ("set-cookie", cookie),
                ],
            ]
            .concat(),
        ),
    ];
    // RFC 7541 C.3 to C.6; the tables of the responses have 256 bytes, which an update says first.
    let c3 = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let c4 = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    let c5 = [
        "3fe1 01 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 \
         3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 \
         666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 \
         3630 303b 2076 6572 7369 6f6e 3d31",
    ];
    let c6 = [
        "3fe1 01 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d \
         29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 \
         b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    for (blocks, kind, expected) in [
        (c3, REQUEST, &requests),
        (c4, REQUEST, &requests),
        (c5, HeadKind::Response, &responses),
        (c6, HeadKind::Response, &responses),
    ] {
        let (mut decoder, mut head) = (Decoder::new(), HeadBlock::default());
        for (hex, (size, pairs)) in blocks.iter().zip(expected) {
            let decoded = decoder.decode(&bytes(hex), kind, &LIMITS, &mut head);
            assert_eq!((decoded, head.malformed), (Ok(()), None), "{hex}");
            assert_eq!(fields(&head), owned(pairs));
            assert_eq!(decoder.table_size(), *size);
        }
    }
}

#[test]
fn what_cannot_be_decoded_is_an_error_of_the_connection() {
    for hex in [
        "80",             // index 0
        "be",             // an empty dynamic table
        "7f 00 01 61",    // a name of an empty dynamic table, index 63
        "40",             // ends after its first byte
        "40 03 61",       // ends in the name
        "40 01 61",       // ends after the name
        "40 01 61 05 62", // ends in the value
        "ff ff ff ff ff ff ff",
        "3f e2 1f",          // a larger table than announced
        "82 20",             // a table size update after a field
        "04 81 00",          // padded with zeros
        "04 81 ff",          // a byte of padding
        "04 84 ff ff ff ff", // the end-of-string symbol
    ] {
        let (mut decoder, mut head) = (Decoder::new(), HeadBlock::default());
        let decoded = decoder.decode(&bytes(hex), REQUEST, &LIMITS, &mut head);
        assert_eq!(decoded, Err(ErrorCode::COMPRESSION_ERROR), "{hex}");
    }
    // Updates are allowed at the start, also several and without a field after them.
    for hex in ["20", "20 3f e1 1f 82", "3f e1 1f"] {
        let (mut decoder, mut head) = (Decoder::new(), HeadBlock::default());
        let decoded = decoder.decode(&bytes(hex), REQUEST, &LIMITS, &mut head);
        assert_eq!(decoded, Ok(()), "{hex}");
    }
}

#[test]
fn a_block_that_decodes_to_far_more_is_refused() {
    let limits = BlockLimits {
        bytes: 4096,
        fields: 100,
    };
    let (mut decoder, mut head) = (Decoder::new(), HeadBlock::default());
    // An entry of 4,000 bytes, referred to by single bytes.
    let mut block = vec![0x40, 1, b'x', 0x7f, 0x80, 0x1e];
    block.extend([b'y'; 127 + 0x1e * 128]);
    assert_eq!(decoder.decode(&block, REQUEST, &limits, &mut head), Ok(()));
    let size = head.size;
    assert_eq!((head.fields.len(), size), (1, 4000));
    assert_eq!(
        decoder.decode(&[0xbe; 8], REQUEST, &limits, &mut head),
        Ok(())
    );
    assert_eq!(head.too_large.map(|r| r.status), Some(431));
    assert!(head.bytes.len() < 4096 && head.bytes.capacity() < 16384);
    let bomb = decoder.decode(&[0xbe; 9], REQUEST, &limits, &mut head);
    assert_eq!(bomb, Err(ErrorCode::ENHANCE_YOUR_CALM));
}

/// Fields like those of browsers and applications, and others at random.
pub(super) fn random_fields(rng: &mut fastrand::Rng) -> Fields {
    const NAMES: [&str; 16] = [
        "accept",
        "accept-encoding",
        "user-agent",
        "x-request-id",
        "x-forwarded-for",
        "sec-ch-ua",
        "sec-ch-ua-mobile",
        "referer",
        "date",
        "server",
        "set-cookie",
        "etag",
        "authorization",
        "x",
        "traceparent",
        "cache-control",
    ];
    let mut fields = Vec::new();
    for _ in 0..rng.usize(..12) {
        let name = match rng.u32(..8) {
            0 => {
                let len = rng.usize(1..30);
                (0..len).map(|_| rng.u8(b'a'..=b'h') as char).collect()
            }
            _ => (*rng.choice(&NAMES).unwrap()).to_owned(),
        };
        let value = match rng.u32(..6) {
            0 => String::new(),
            1 => "gzip, deflate".to_owned(),
            2 | 3 => format!("a value {}", rng.u32(..6)),
            4 => "long ".repeat(rng.usize(..40)) + "end",
            _ => {
                let len = rng.usize(1..200);
                (0..len).map(|_| rng.u8(b'!'..=b'~') as char).collect()
            }
        };
        fields.push((name, value));
    }
    fields
}

#[test]
fn what_is_encoded_is_decoded() {
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..60 {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let (mut head, mut block) = (HeadBlock::default(), Vec::new());
        for _ in 0..200 {
            for _ in 0..rng.usize(..8) / 6 {
                encoder.set_max_size([0, 40, 100, 1000, 4096, 65536][rng.usize(..6)]);
            }
            block.clear();
            encoder.begin(&mut block);
            let status = [200, 304, 404, 100, 201, 999][rng.usize(..6)];
            encoder.put_status(&mut block, status);
            let mut expected = vec![(":status".to_owned(), status.to_string())];
            for (name, value) in random_fields(&mut rng) {
                use Indexing::*;
                let indexing = [Incremental, Incremental, Without, Never][rng.usize(..4)];
                let typed = if rng.bool() {
                    name.to_ascii_uppercase()
                } else {
                    name.clone()
                };
                encoder.put(&mut block, typed.as_bytes(), value.as_bytes(), indexing);
                expected.push((name, value));
            }
            let decoded = decoder.decode(&block, HeadKind::Response, &LIMITS, &mut head);
            assert_eq!((decoded, head.malformed), (Ok(()), None), "{expected:?}");
            assert_eq!(fields(&head), expected);
            assert_eq!(encoder.table_size(), decoder.table_size());
        }
    }
}

#[test]
fn a_block_that_is_cut_is_never_read_as_another() {
    let mut rng = fastrand::Rng::with_seed(5);
    for _ in 0..200 {
        let mut block = Vec::new();
        let mut encoder = Encoder::new();
        let all = random_fields(&mut rng);
        let mut ends = vec![0];
        for (name, value) in &all {
            encoder.put(
                &mut block,
                name.as_bytes(),
                value.as_bytes(),
                Indexing::Incremental,
            );
            ends.push(block.len());
        }
        let mut head = HeadBlock::default();
        for len in 0..=block.len() {
            let decoded =
                Decoder::new().decode(&block[..len], HeadKind::Trailers, &LIMITS, &mut head);
            match ends.iter().position(|end| *end == len) {
                Some(count) => {
                    assert_eq!(decoded, Ok(()));
                    assert_eq!(fields(&head), all[..count]);
                }
                None => assert_eq!(decoded, Err(ErrorCode::COMPRESSION_ERROR)),
            }
        }
    }
}

#[test]
fn what_repeats_becomes_a_byte_and_what_is_secret_does_not() {
    let mut encoder = Encoder::new();
    let mut put = |name: &str, value: &str, indexing| {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        encoder.put(&mut out, name.as_bytes(), value.as_bytes(), indexing);
        out
    };
    use Indexing::*;
    // Static entries, whatever the representation asked for.
    assert_eq!(put(":method", "GET", Incremental), [0x82]);
    assert_eq!(put(":path", "/", Without), [0x84]);
    assert_eq!(put("Accept-Encoding", "gzip, deflate", Incremental), [0x90]);
    // New, then repeated.
    assert_eq!(put("Server", "a", Incremental), [0x76, 1, b'a']);
    assert_eq!(put("server", "a", Incremental), [0xbe]);
    assert_eq!(put("x-n", "a", Incremental), b"\x40\x03x-n\x01a");
    assert_eq!(put("X-N", "a", Incremental), [0xbe]);
    assert_eq!(put("x-n", "b", Incremental), [0x7e, 1, b'b']);
    assert_eq!(put("x-n", "a", Incremental), [0xbf]);
    // Not indexed: only the name is, once.
    assert_eq!(put("etag", "a", Without), [0x0f, 19, 1, b'a']);
    assert_eq!(put("x-id", "1", Without), b"\x40\x04x-id\x011");
    assert_eq!(put("x-id", "2", Without), [0x0f, 47, 1, b'2']);
    assert_eq!(put("x-id", "1", Without), [0x0f, 47, 1, b'1']);
    // Secrets.
    assert_eq!(put("authorization", "a", Never), [0x1f, 8, 1, b'a']);
    assert_eq!(put("x-key", "a", Never), b"\x10\x05x-key\x01a");
    assert_eq!(put("x-key", "a", Never), b"\x10\x05x-key\x01a");
}

#[test]
fn changes_of_the_table_size_are_announced_once() {
    for (sizes, announced) in [
        (&[4096][..], &[][..]),
        (&[65536], &[]),
        (&[0], &[0x20]),
        (&[100], &[0x3f, 69]),
        (&[100, 50], &[0x3f, 19]),
        (&[0, 4096], &[0x20, 0x3f, 0xe1, 0x1f]),
        (&[10, 20, 5, 30], &[0x25, 0x3e]),
    ] {
        let mut encoder = Encoder::new();
        sizes.iter().for_each(|size| encoder.set_max_size(*size));
        let mut out = Vec::new();
        encoder.begin(&mut out);
        assert_eq!(out, announced, "{sizes:?}");
        encoder.begin(&mut out);
        assert_eq!(out, announced, "{sizes:?}");
    }
}
