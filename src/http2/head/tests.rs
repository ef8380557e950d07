use super::*;
use crate::http2::hpack::Decoder;

pub(super) const REQUEST: HeadKind = HeadKind::Request {
    extended_connect: false,
};
const EXTENDED: HeadKind = HeadKind::Request {
    extended_connect: true,
};
pub(super) const LIMITS: BlockLimits = BlockLimits {
    bytes: 32 * 1024,
    fields: 100,
};

pub(super) type Pairs<'a> = &'a [(&'a str, &'a str)];

/// Writes literals as they are: the encoder would convert the names.
pub(super) fn block(fields: Pairs<'_>, first: u8) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(first);
        for text in [name, value] {
            assert!(text.len() < 127);
            out.push(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

pub(super) fn decoded(fields: Pairs<'_>, kind: HeadKind) -> HeadBlock {
    let mut head = HeadBlock::default();
    Decoder::new()
        .decode(&block(fields, 0), kind, &LIMITS, &mut head)
        .expect("well compressed");
    head
}

pub(super) const GET: Pairs<'_> = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/a?b"),
    (":authority", "a.example"),
];

/// [`GET`] with some fields replaced or left out, and others after it.
pub(super) fn request<'a>(changed: Pairs<'a>, after: Pairs<'a>) -> Vec<(&'a str, &'a str)> {
    let mut fields: Vec<_> = GET.to_vec();
    for (name, value) in changed {
        match fields.iter().position(|f| f.0 == *name) {
            Some(at) if *value == "-" => drop(fields.remove(at)),
            Some(at) => fields[at].1 = value,
            None => fields.push((name, value)),
        }
    }
    fields.extend_from_slice(after);
    fields
}

#[test]
fn a_request_is_read_into_lines_of_http1() {
    let fields = request(
        &[],
        &[
            ("accept", "*/*"),
            ("host", "a.example"),
            ("te", "trailers"),
            ("content-length", "12"),
            ("x_y", ""),
            ("x-request-id", "7"),
        ],
    );
    let head = decoded(&fields, REQUEST);
    assert_eq!((head.malformed, head.too_large), (None, None));
    assert_eq!(head.method(), b"GET");
    assert_eq!(head.scheme(), b"https");
    assert_eq!(head.path(), b"/a?b");
    assert_eq!(head.authority(), Some(&b"a.example"[..]));
    assert_eq!((head.protocol(), head.status), (None, 0));
    assert_eq!((head.content_length, head.hosts), (Some(12), 1));
    assert!(head.te_trailers && head.has_underscore);
    let fields = |f: &Field| {
        let text = |span: Span| String::from_utf8_lossy(span.of(&head.bytes)).into_owned();
        (f.id, text(f.name), text(f.value), text(f.line), f.hop)
    };
    let of = |id, name: &str, value: &str, hop| {
        let line = format!("{name}: {value}\r\n");
        (id, name.to_owned(), value.to_owned(), line, hop)
    };
    assert_eq!(
        head.fields.iter().map(fields).collect::<Vec<_>>(),
        [
            of(FieldId::Other, "accept", "*/*", false),
            of(FieldId::Host, "host", "a.example", false),
            of(FieldId::Te, "te", "trailers", true),
            of(FieldId::ContentLength, "content-length", "12", false),
            of(FieldId::Other, "x_y", "", false),
            of(FieldId::XRequestId, "x-request-id", "7", false),
        ]
    );
    assert_eq!(head.field(FieldId::Host), Some(&b"a.example"[..]));
    assert_eq!(head.field(FieldId::Via), None);
    let lines = head.fields.windows(2);
    assert!(lines.into_iter().all(|w| w[0].line.end == w[1].line.start));
}

#[test]
fn good_requests() {
    for fields in [
        request(&[], &[]),
        request(&[(":authority", "-")], &[("host", "a")]),
        request(&[(":method", "OPTIONS"), (":path", "*")], &[]),
        request(&[(":method", "PURGE-1")], &[]),
        request(&[(":path", "/a{b}|[c]\\^?`")], &[]),
        request(
            &[],
            &[("x", "a\tb \u{e9} c"), ("y", ""), ("te", "Trailers")],
        ),
        request(
            &[],
            &[("http2-settings", "x"), ("trailer", "x"), ("expect", "y")],
        ),
        request(
            &[(":method", "CONNECT"), (":path", "-"), (":scheme", "-")],
            &[],
        ),
    ] {
        assert_eq!(decoded(&fields, REQUEST).malformed, None, "{fields:?}");
    }
}

#[test]
fn extended_connect_must_be_announced() {
    let connect = [(":method", "CONNECT"), (":protocol", "websocket")];
    let fields = request(&connect, &[]);
    let head = decoded(&fields, EXTENDED);
    assert_eq!((head.malformed, head.path()), (None, &b"/a?b"[..]));
    assert_eq!(head.protocol(), Some(&b"websocket"[..]));
    let malformed = |fields: &[_], kind| decoded(fields, kind).malformed;
    assert_eq!(malformed(&fields, REQUEST), Some(Malformed::UnknownPseudo));
    let get = request(&[(":protocol", "websocket")], &[]);
    assert_eq!(
        malformed(&get, EXTENDED),
        Some(Malformed::ProtocolWithoutConnect)
    );
    let without_path = [connect[0], connect[1], (":path", "-")];
    let pathless = request(&without_path, &[]);
    assert_eq!(
        malformed(&pathless, EXTENDED),
        Some(Malformed::MissingPseudo)
    );
    let plain = request(&connect[..1], &[]);
    assert_eq!(malformed(&plain, EXTENDED), Some(Malformed::ConnectTarget));
}

#[test]
fn responses() {
    use Malformed::*;
    let status = (":status", "200");
    for (fields, malformed, code) in [
        (&[status][..], None, 200),
        (&[(":status", "103"), ("link", "x")], None, 103),
        (&[(":status", "999")], None, 999),
        (
            &[status, ("content-length", "7"), ("content-length", "7")],
            None,
            200,
        ),
        (
            &[status, ("content-length", "7"), ("content-length", "8")],
            Some(DuplicateContentLength),
            0,
        ),
        (&[], Some(MissingPseudo), 0),
        (&[("x", "y"), status], Some(LatePseudo), 0),
        (&[status, status], Some(DuplicatePseudo), 0),
        (&[(":status", "20")], Some(BadStatus), 0),
        (&[(":status", "2000")], Some(BadStatus), 0),
        (&[(":status", "2x0")], Some(BadStatus), 0),
        (&[(":status", "099")], Some(BadStatus), 0),
        (&[(":status", "101")], Some(BadStatus), 0),
        (&[(":status", "")], Some(BadStatus), 0),
        (&[status, (":path", "/")], Some(UnknownPseudo), 0),
        (&[status, ("connection", "close")], Some(ConnectionField), 0),
        (&[status, ("X", "y")], Some(UppercaseName), 0),
        (&[status, ("x", "y\nz")], Some(BadValue), 0),
        (
            &[status, ("content-length", "x")],
            Some(BadContentLength),
            0,
        ),
    ] {
        let head = decoded(fields, HeadKind::Response);
        assert_eq!(
            (head.malformed, head.status),
            (malformed, code),
            "{fields:?}"
        );
    }
    let fields = [status, ("content-length", "7"), ("content-length", "7")];
    let hops = decoded(&fields, HeadKind::Response).fields;
    assert_eq!(
        hops.iter().map(|f| f.hop).collect::<Vec<_>>(),
        [false, true]
    );
}

#[test]
fn trailers() {
    for (fields, malformed) in [
        (&[("grpc-status", "0"), ("content-length", "x")][..], None),
        (&[], None),
        (
            &[("x", "y"), (":status", "200")],
            Some(Malformed::PseudoInTrailers),
        ),
        (&[(":path", "/")], Some(Malformed::PseudoInTrailers)),
        (&[(":foo", "/")], Some(Malformed::PseudoInTrailers)),
        (&[("X", "y")], Some(Malformed::UppercaseName)),
        (&[("connection", "y")], Some(Malformed::ConnectionField)),
    ] {
        let head = decoded(fields, HeadKind::Trailers);
        assert_eq!(head.malformed, malformed, "{fields:?}");
    }
}

#[test]
fn cookies_are_joined() {
    for (fields, cookie, others) in [
        (&[("cookie", "a")][..], "a", 0),
        (
            &[("cookie", "a"), ("cookie", "b=2"), ("cookie", "c")],
            "a; b=2; c",
            0,
        ),
        (&[("cookie", "a"), ("x", "y"), ("cookie", "b")], "a; b", 1),
        (
            &[
                ("x", "y"),
                ("cookie", "a"),
                ("cookie", "b"),
                ("y", "z"),
                ("cookie", "c"),
            ],
            "a; b; c",
            2,
        ),
        (&[("cookie", ""), ("cookie", "b"), ("cookie", "")], "b", 0),
        (
            &[
                ("cookie", ""),
                ("x", "y"),
                ("cookie", "b"),
                ("z", ""),
                ("cookie", ""),
            ],
            "b",
            2,
        ),
    ] {
        let fields = request(&[], fields);
        let head = decoded(&fields, REQUEST);
        assert_eq!(head.malformed, None);
        assert_eq!(head.fields.len(), others + 1, "{fields:?}");
        let field = head.fields.iter().find(|f| f.id == FieldId::Cookie);
        let field = field.expect("a cookie");
        let line = format!("cookie: {cookie}\r\n");
        assert_eq!(field.value.of(&head.bytes), cookie.as_bytes(), "{fields:?}");
        assert_eq!(field.name.of(&head.bytes), b"cookie");
        assert_eq!(field.line.of(&head.bytes), line.as_bytes());
    }
}

#[test]
fn what_is_never_indexed_is_marked() {
    let fields = request(&[], &[("x", "y")]);
    let mut head = HeadBlock::default();
    for (first, sensitive) in [(0, false), (0x10, true), (0x40, false)] {
        let decoded = Decoder::new().decode(&block(&fields, first), REQUEST, &LIMITS, &mut head);
        assert_eq!(decoded, Ok(()));
        assert_eq!(head.fields[0].sensitive, sensitive);
    }
}

#[test]
fn blocks_beyond_the_limits_are_too_large() {
    let size: usize = GET.iter().map(|(n, v)| n.len() + v.len() + 32).sum();
    let field = ("x-name", "value");
    let one = 6 + 5 + 32;
    for (count, bytes, fields, reason) in [
        (3, size + 3 * one, 3, None),
        (3, size + 3 * one - 1, 3, Some(Reason::HeadTooLarge)),
        (4, size + 4 * one, 3, Some(Reason::TooManyFields)),
        (40, size + 3 * one, 3, Some(Reason::HeadTooLarge)),
    ] {
        let mut all = GET.to_vec();
        all.extend(vec![field; count]);
        let limits = BlockLimits { bytes, fields };
        let (mut decoder, mut head) = (Decoder::new(), HeadBlock::default());
        let decoded = decoder.decode(&block(&all, 0x40), REQUEST, &limits, &mut head);
        assert_eq!((decoded, head.malformed), (Ok(()), None));
        let expected = reason.map(|reason| Reject {
            status: 431,
            reason,
        });
        assert_eq!(head.too_large, expected);
        assert!(head.fields.len() <= 3 && head.size == size + count * one);
        // The table has what was dropped.
        let block = [0x82, 0x87, 0x84, 0xbe];
        let decoded = decoder.decode(&block, REQUEST, &limits, &mut head);
        assert_eq!(
            (decoded, head.fields.len(), head.too_large),
            (Ok(()), 1, None)
        );
    }
}

#[test]
fn memory_of_a_large_block_is_not_kept() {
    let mut head = HeadBlock::default();
    head.bytes.reserve(MAX_KEPT + 1);
    head.clear();
    assert_eq!(head.bytes.capacity(), 0);
    head.bytes.reserve(1000);
    head.clear();
    assert!(head.bytes.capacity() >= 1000);
}
