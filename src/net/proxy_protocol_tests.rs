use super::*;
use proptest::prelude::*;

#[expect(unreachable_pub, reason = "the fuzzer's library exports it")]
#[path = "../../fuzz/src/proxy_header.rs"]
mod oracle;

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("short").to_be_bytes();
    [&V2_SIGNATURE[..], &[command, family], &length, body].concat()
}

fn tcp4() -> Vec<u8> {
    vec![192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0, 80]
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("short").to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// A header with a checksum TLV at its end.
fn with_crc(mut body: Vec<u8>) -> Vec<u8> {
    body.extend(tlv(TLV_CRC32C, &[0; 4]));
    let mut header = v2(0x21, 0x11, &body);
    let crc = crc32c(header.iter()).to_be_bytes();
    let at = header.len() - 4;
    header[at..].copy_from_slice(&crc);
    header
}

fn source(bytes: &[u8]) -> Result<Option<ConnectionSource>, HeaderError> {
    let parsed = parse(bytes)?;
    if let Some((length, _)) = parsed {
        assert_eq!(length, bytes.len(), "the whole input is the header");
    }
    Ok(parsed.map(|(_, source)| source))
}

fn client_at(text: &str) -> Result<Option<ConnectionSource>, HeaderError> {
    Ok(Some(ConnectionSource::Client(
        text.parse().expect("an address"),
    )))
}

#[test]
fn text_headers_name_the_client() {
    for (line, want) in [
        (
            "PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\r\n",
            client_at("192.0.2.7:12345"),
        ),
        (
            "PROXY TCP6 2001:db8::7 ::1 0 65535\r\n",
            client_at("[2001:db8::7]:0"),
        ),
        (
            "PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n",
            client_at("192.0.2.7:1"),
        ),
        ("PROXY UNKNOWN\r\n", Ok(Some(ConnectionSource::Sender))),
        (
            "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
            Ok(Some(ConnectionSource::Sender)),
        ),
    ] {
        assert_eq!(source(line.as_bytes()), want, "{line:?}");
    }
}

#[test]
fn malformed_text_headers_are_refused() {
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!(long.len(), 108);
    for (line, want) in [
        ("GET / HTTP/1.1\r\n", HeaderError::NoHeader),
        (
            "proxy TCP4 192.0.2.7 10.0.0.1 1 2\r\n",
            HeaderError::NoHeader,
        ),
        ("PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n", HeaderError::LineEnd),
        ("PROXY TCP4 192.0.2.7 10.0.0.1 1 2\rx", HeaderError::LineEnd),
        ("PROXY TCP4 192.0.2.7 10.0.0.1 +1 80\r\n", HeaderError::Port),
        (
            "PROXY TCP4 192.0.2.7 10.0.0.1 0012 80\r\n",
            HeaderError::Port,
        ),
        (
            "PROXY TCP4 192.0.2.7 10.0.0.1 1 65536\r\n",
            HeaderError::Port,
        ),
        ("PROXY TCP4 192.0.2.7 10.0.0.1 1 \r\n", HeaderError::Port),
        ("PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n", HeaderError::Words),
        (
            "PROXY TCP4 192.0.2.7 10.0.0.1 1 2 3\r\n",
            HeaderError::Words,
        ),
        ("PROXY TCP4  192.0.2.7 10.0.0.1 1 2\r\n", HeaderError::Words),
        ("PROXY UDP4 192.0.2.7 10.0.0.1 1 2\r\n", HeaderError::Words),
        ("PROXY UNKNOWNS\r\n", HeaderError::Words),
        ("PROXY TCP4 \u{ff}\r\n", HeaderError::Words),
        ("PROXY TCP4 2001:db8::7 ::1 1 2\r\n", HeaderError::Address),
        ("PROXY TCP6 192.0.2.7 ::1 1 2\r\n", HeaderError::Address),
        (
            "PROXY TCP4 192.0.02.7 10.0.0.1 1 2\r\n",
            HeaderError::Address,
        ),
        ("PROXY TCP4 192.0.2.7 10.0.0 1 2\r\n", HeaderError::Address),
        (&long, HeaderError::TooLong),
    ] {
        assert_eq!(source(line.as_bytes()), Err(want), "{line:?}");
    }
}

#[test]
fn binary_headers_name_the_client() {
    let tcp6 = [
        &[0x20, 1, 0xd, 0xb8][..],
        &[0; 11],
        &[7],
        &[0; 16],
        &[0, 9, 0, 80],
    ]
    .concat();
    let sender = Ok(Some(ConnectionSource::Sender));
    for (header, want) in [
        (v2(0x21, 0x11, &tcp4()), client_at("192.0.2.7:12345")),
        (v2(0x21, 0x21, &tcp6), client_at("[2001:db8::7]:9")),
        (v2(0x20, 0x11, &tcp4()), sender),
        (v2(0x20, 0x00, &[]), sender),
        (v2(0x21, 0x00, &[]), sender),
        (v2(0x21, 0x31, &[0; 216]), sender),
        (with_crc(tcp4()), client_at("192.0.2.7:12345")),
        (
            v2(
                0x21,
                0x11,
                &[tcp4(), tlv(0x02, b"shop.example"), tlv(0x04, &[])].concat(),
            ),
            client_at("192.0.2.7:12345"),
        ),
        (
            v2(
                0x21,
                0x11,
                &[
                    tcp4(),
                    tlv(
                        TLV_SSL,
                        &[&[1, 0, 0, 0, 0][..], &tlv(0x21, b"TLSv1.3")].concat(),
                    ),
                ]
                .concat(),
            ),
            client_at("192.0.2.7:12345"),
        ),
    ] {
        assert_eq!(source(&header), want, "{header:02x?}");
    }
}

#[test]
fn malformed_binary_headers_are_refused() {
    let mut wrong_crc = with_crc(tcp4());
    wrong_crc[16] ^= 1;
    let mut longest = v2(0x21, 0x11, &tcp4());
    longest[14..16].copy_from_slice(&[0xff, 0xff]);
    for (header, want) in [
        (v2(0x11, 0x11, &tcp4()), HeaderError::Command),
        (v2(0x22, 0x11, &tcp4()), HeaderError::Command),
        (v2(0x21, 0x13, &tcp4()), HeaderError::Family),
        (v2(0x21, 0x41, &tcp4()), HeaderError::Family),
        (v2(0x21, 0x11, &tcp4()[..11]), HeaderError::TooShort),
        (v2(0x21, 0x21, &tcp4()), HeaderError::TooShort),
        (v2(0x20, 0x11, &[]), HeaderError::TooShort),
        (longest, HeaderError::TooLong),
        (
            v2(0x21, 0x11, &[tcp4(), vec![4, 0]].concat()),
            HeaderError::Tlv,
        ),
        (
            v2(0x21, 0x11, &[tcp4(), vec![4, 0, 2, 1]].concat()),
            HeaderError::Tlv,
        ),
        (
            v2(0x21, 0x11, &[tcp4(), tlv(TLV_CRC32C, &[0; 3])].concat()),
            HeaderError::Tlv,
        ),
        (
            v2(0x21, 0x11, &[tcp4(), tlv(TLV_SSL, &[1, 0, 0])].concat()),
            HeaderError::Tlv,
        ),
        (
            v2(
                0x21,
                0x11,
                &[tcp4(), tlv(TLV_SSL, &[1, 0, 0, 0, 0, 0x21, 0, 9])].concat(),
            ),
            HeaderError::Tlv,
        ),
        (wrong_crc, HeaderError::Checksum),
    ] {
        assert_eq!(source(&header), Err(want), "{header:02x?}");
    }
}

/// The check value of the catalogue of CRC algorithms for CRC-32/ISCSI.
#[test]
fn the_checksum_is_crc32c() {
    assert_eq!(crc32c(b"123456789".iter()), 0xe306_9283);
}

#[test]
fn a_header_ends_where_it_says() {
    for header in [
        b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\r\n".to_vec(),
        with_crc(tcp4()),
    ] {
        let with_more = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
        let parsed = parse(&with_more).expect("valid").expect("complete");
        assert_eq!(parsed.0, header.len());
        // Until then every byte belongs to it.
        for n in 0..header.len() {
            assert_eq!(parse(&header[..n]), Ok(None), "{n} bytes");
        }
    }
}

proptest! {
    #[test]
    fn what_is_refused_stays_refused(bytes in any_bytes(), more in proptest::collection::vec(any::<u8>(), 0..40)) {
        let first = parse(&bytes);
        let longer = parse(&[&bytes[..], &more].concat());
        match first {
            Ok(None) => {}
            done => prop_assert_eq!(longer, done),
        }
    }
}

/// Headers with some of their bytes changed.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let header = prop_oneof![
        Just(b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\r\n".to_vec()),
        Just(with_crc(tcp4())),
    ];
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (header, changes, any::<prop::sample::Index>()).prop_map(|(mut bytes, changes, cut)| {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        bytes
    })
}

/// Parses bytes and asks the oracle about them.
fn agree(bytes: &[u8]) {
    oracle::agree(bytes, |bytes| {
        let parsed = parse(bytes)?;
        Ok::<_, HeaderError>(parsed.map(|(length, source)| match source {
            ConnectionSource::Client(client) => (length, Some(client)),
            ConnectionSource::Sender => (length, None),
        }))
    });
}

/// The headers in `fuzz/corpus/proxy_protocol`. Those of files named `ok-…` are accepted.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let directory =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/proxy_protocol");
    let files = std::fs::read_dir(directory).expect("it is part of the project");
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        (name, std::fs::read(path).expect("a file"))
    };
    let mut files: Vec<_> = files.map(file).collect();
    files.sort();
    files
}

#[test]
fn another_parser_reads_what_we_accept_alike() {
    let corpus = corpus();
    for (name, bytes) in &corpus {
        let is_accepted = matches!(parse(bytes), Ok(Some(_)));
        assert_eq!(is_accepted, name.starts_with("ok-"), "{name}");
        agree(bytes);
    }
    // Bytes that the parser looks for, and some that it doesn't.
    const BYTES: &[u8] = b"\r\n 0159+.:fPTUx\0\x01\x03\x04\x0c\x11\x20\x21\x24\xff";
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |most: usize| {
        // Xorshift64 (Marsaglia 2003): the same numbers in each run.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % most
    };
    for _ in 0..20_000 {
        let mut bytes = corpus[random(corpus.len())].1.clone();
        for _ in 0..=random(3) {
            let (at, byte) = (random(bytes.len() + 1), BYTES[random(BYTES.len())]);
            match random(4) {
                0 => bytes.insert(at, byte),
                1 => drop(bytes.drain(at..bytes.len().min(at + 1))),
                2 => bytes.truncate(at.max(bytes.len() / 2)),
                _ => bytes
                    .splice(at..bytes.len().min(at + 1), [byte])
                    .for_each(drop),
            }
        }
        agree(&bytes);
    }
}
