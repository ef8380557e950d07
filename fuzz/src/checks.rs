//! Invariants of the HTTP/1 codec. Each function panics where one is broken.

use cutover::http1::framing::{DecodeStep, trailers};
use cutover::http1::{
    BodyDecoder, Field, FieldId, Framing, HeadCache, HeadLimits, Method, Reject, RequestHead,
    ResponseHead, Span, authority, path,
};

/// Small enough that short inputs meet them.
pub const LIMITS: HeadLimits = HeadLimits {
    bytes: 1024,
    fields: 24,
    target: 256,
    underscores: false,
};

/// Any bytes as a request head: spans, lines and framing are right, and what is said doesn't depend on how the bytes came.
pub fn request_head(data: &[u8]) {
    let mut head = RequestHead::new();
    let whole = head.parse(data, &LIMITS);
    let mut growing = RequestHead::new();
    let grown = grow(data, |bytes| growing.parse(bytes, &LIMITS));
    assert_eq!(whole, grown, "the split matters: {}", data.escape_ascii());
    check_reject(whole.err());
    let mut cache = HeadCache::default();
    let _ = RequestHead::new().parse_cached(&nearly(data), &LIMITS, &mut cache);
    for _ in 0..2 {
        let mut cached = RequestHead::new();
        let again = cached.parse_cached(data, &LIMITS, &mut cache);
        assert_eq!(again, whole, "the cache matters: {}", data.escape_ascii());
        if matches!(whole, Ok(Some(_))) {
            assert_eq!(format!("{cached:?}"), format!("{head:?}"));
        }
    }
    let Ok(Some(len)) = whole else { return };
    assert_eq!(format!("{head:?}"), format!("{growing:?}"));
    assert_eq!(len, head.len);
    let bytes = &data[..len];
    check_lines(
        bytes,
        &head.fields,
        head.target.end as usize + " HTTP/1.1\r\n".len(),
    );
    for span in [
        head.method_span,
        head.target,
        head.path_and_query,
        head.authority,
    ] {
        check_span(span, len);
    }
    assert_eq!(head.method, Method::from_bytes(head.method_span.of(bytes)));
    assert!(
        head.path_and_query.start >= head.target.start
            && head.path_and_query.end == head.target.end
    );
    if !head.authority.is_empty() {
        assert_eq!(authority::check(head.authority.of(bytes)), Ok(()));
    }
    let count = |id| head.fields.iter().filter(|f| f.id == id).count();
    assert!(count(FieldId::Host) <= 1 && count(FieldId::ContentLength) <= 1);
    match head.framing {
        Framing::Empty => assert_eq!(
            count(FieldId::ContentLength) + count(FieldId::TransferEncoding),
            0
        ),
        Framing::Length(_) => assert_eq!(
            (
                count(FieldId::ContentLength),
                count(FieldId::TransferEncoding)
            ),
            (1, 0)
        ),
        Framing::Chunked => assert_eq!(
            (
                count(FieldId::ContentLength),
                count(FieldId::TransferEncoding)
            ),
            (0, 1)
        ),
        Framing::UntilClose => panic!("a request never lasts until the close"),
    }
    assert!(head.fields.iter().all(|f| f.hop || !f.id.is_hop_by_hop()));
    self::path(head.path_and_query.of(bytes));
}

/// Any bytes as a response head, to GET and to HEAD.
pub fn response_head(data: &[u8]) {
    for method in [Method::Get, Method::Head] {
        let mut head = ResponseHead::new();
        let whole = head.parse(data, method, &LIMITS);
        let mut growing = ResponseHead::new();
        let grown = grow(data, |bytes| growing.parse(bytes, method, &LIMITS));
        assert_eq!(whole, grown, "the split matters: {}", data.escape_ascii());
        check_reject(whole.err());
        let mut cache = HeadCache::default();
        let _ = ResponseHead::new().parse_cached(&nearly(data), Method::Get, &LIMITS, &mut cache);
        for _ in 0..2 {
            let mut cached = ResponseHead::new();
            let again = cached.parse_cached(data, method, &LIMITS, &mut cache);
            assert_eq!(again, whole, "the cache matters: {}", data.escape_ascii());
            if matches!(whole, Ok(Some(_))) {
                assert_eq!(format!("{cached:?}"), format!("{head:?}"));
            }
        }
        let Ok(Some(len)) = whole else { return };
        assert_eq!(format!("{head:?}"), format!("{growing:?}"));
        assert_eq!(len, head.len);
        assert!((100..=999).contains(&head.status));
        check_span(head.reason, len);
        let line = head.reason.end as usize + 2;
        check_lines(&data[..len], &head.fields, line);
        assert!(head.framing != Framing::UntilClose || !head.keep_alive);
        let bodiless =
            head.status < 200 || matches!(head.status, 204 | 304) || method == Method::Head;
        assert_eq!(head.framing == Framing::Empty, bodiless);
        assert_eq!(head.upgrade.is_some(), head.status == 101);
    }
}

/// Other bytes that differ in one place, which the bytes themselves decide.
fn nearly(data: &[u8]) -> Vec<u8> {
    let mut other = data.to_vec();
    if !data.is_empty() {
        let sum = data
            .iter()
            .fold(0, |sum: usize, &b| sum.wrapping_mul(31) + usize::from(b));
        other[sum % data.len()] ^= 1 << (sum % 3);
    }
    other
}

/// What came out of a decoder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Content; in verbatim mode what would be forwarded.
    pub content: Vec<u8>,
    /// The trailer section.
    pub trailers: Vec<u8>,
    /// How many bytes belonged to the body.
    pub taken: usize,
    /// Whether the body is complete (when not refused).
    pub done: bool,
    /// Why it was refused.
    pub refused: Option<Reject>,
}

/// Decodes `wire`, which comes in pieces of these sizes, over and over.
pub fn decode(wire: &[u8], framing: Framing, verbatim: bool, pieces: &[usize]) -> Decoded {
    let mut decoder = BodyDecoder::new(framing, verbatim);
    let mut out = Decoded::default();
    let mut sizes = pieces.iter().cycle();
    let mut seen = 0;
    loop {
        let input = &wire[out.taken..seen];
        match decoder.step(input) {
            Ok(DecodeStep::More) if seen == wire.len() => return out,
            Ok(DecodeStep::More) => {
                seen = wire
                    .len()
                    .min(seen + sizes.next().map_or(wire.len(), |&n| n.max(1)))
            }
            Ok(DecodeStep::Data(n)) => {
                assert!(n > 0);
                out.content.extend_from_slice(&input[..n]);
                out.taken += n;
            }
            Ok(DecodeStep::Skip(n)) => {
                assert!(n > 0 && n <= input.len());
                out.taken += n;
            }
            Ok(DecodeStep::Trailers(n)) => {
                out.trailers = input[..n].to_vec();
                out.taken += n;
            }
            Ok(DecodeStep::Done) => {
                assert!(decoder.is_done() && decoder.remaining() == Some(0));
                out.done = true;
                return out;
            }
            Err(reject) => {
                check_reject(Some(reject));
                out.refused = Some(reject);
                return out;
            }
        }
    }
}

/// Any bytes as a chunked body: the same content however it comes, and what verbatim mode forwards decodes to it too.
pub fn body(data: &[u8]) {
    let whole = decode(data, Framing::Chunked, false, &[]);
    // Sizes of pieces that the input itself chooses.
    let chosen: Vec<usize> = data
        .iter()
        .rev()
        .take(7)
        .map(|b| usize::from(b % 23) + 1)
        .collect();
    for pieces in [&[1][..], &[2, 3], &[7], &chosen] {
        let split = decode(data, Framing::Chunked, false, pieces);
        assert_eq!(split, whole, "the split matters: {}", data.escape_ascii());
        let verbatim = decode(data, Framing::Chunked, true, pieces);
        assert_eq!(
            (verbatim.done, verbatim.refused),
            (whole.done, whole.refused)
        );
        assert_eq!(
            (verbatim.taken, &verbatim.trailers),
            (whole.taken, &whole.trailers)
        );
        let again = decode(&verbatim.content, Framing::Chunked, false, &[]);
        assert_eq!((again.refused, again.done), (None, false));
        assert_eq!(again.content, whole.content);
        assert_eq!(again.trailers, b"");
        if whole.done {
            let ended = [&verbatim.content[..], b"0\r\n\r\n"].concat();
            let ended = decode(&ended, Framing::Chunked, false, pieces);
            assert!(ended.done && ended.content == whole.content);
        }
    }
    if !whole.trailers.is_empty() {
        for trailer in trailers(&whole.trailers).expect("measured, so whole") {
            assert_eq!(trailer.id, FieldId::of(trailer.name));
            assert!(!trailer.id.is_forbidden_in_trailers() && trailer.line.ends_with(b"\r\n"));
        }
    }
}

/// Any bytes as a path: no dot segment survives, and a second pass changes nothing.
pub fn path(data: &[u8]) {
    let data = &data[..data.iter().position(|&b| b == b'?').unwrap_or(data.len())];
    let normal = match path::normal(data) {
        Ok(normal) => normal,
        Err(reject) => return check_reject(Some(reject)),
    };
    assert_eq!(path::normal(&normal).as_deref(), Ok(&*normal));
    assert!(normal.len() <= data.len().max(1));
    if data.starts_with(b"/") {
        assert!(normal.starts_with(b"/"));
        assert!(!has_dots(&normal), "{}", normal.escape_ascii());
        let readings = path::readings(data, &normal);
        let is_path = |seen: &Vec<u8>| seen.starts_with(b"/") && !has_dots(seen);
        assert!(readings.iter().all(is_path));
        let merged = path::merge_slashes(data);
        assert!(!merged.windows(2).any(|pair| pair == b"//"));
    }
}

/// Written plainly, to check the quick one.
fn has_dots(path: &[u8]) -> bool {
    let text = String::from_utf8_lossy(path)
        .to_lowercase()
        .replace("%2e", ".");
    text.split('/')
        .any(|segment| segment == "." || segment == "..")
}

/// The first answer other than "more" as the input grows: byte by byte while it is short, then by odd steps.
fn grow(
    data: &[u8],
    mut parse: impl FnMut(&[u8]) -> Result<Option<usize>, Reject>,
) -> Result<Option<usize>, Reject> {
    let mut end = 0;
    loop {
        let answer = parse(&data[..end]);
        if answer != Ok(None) || end == data.len() {
            return answer;
        }
        end = data.len().min(end + if end < 300 { 1 } else { 37 });
    }
}

fn check_span(span: Span, len: usize) {
    assert!(span.start <= span.end && span.end as usize <= len);
}

/// The lines follow one another without a gap, up to the empty line, and every line end is CRLF.
fn check_lines(head: &[u8], fields: &[Field], first: usize) {
    let mut at = first;
    for field in fields {
        assert_eq!(field.line.start as usize, at);
        assert_eq!(field.name.start as usize, at);
        let line = field.line.of(head);
        assert_eq!(line[field.name.len()], b':');
        assert!(field.value.start > field.name.end && field.value.end + 2 <= field.line.end);
        assert_eq!(
            cutover::http1::lists::trim(&line[field.name.len() + 1..line.len() - 2]),
            field.value.of(head)
        );
        assert_eq!(field.id, FieldId::of(field.name.of(head)));
        at = field.line.end as usize;
    }
    assert_eq!(&head[at..], b"\r\n");
    for (i, &byte) in head.iter().enumerate() {
        match byte {
            b'\n' => assert_eq!(head[i - 1], b'\r'),
            b'\r' => assert_eq!(head[i + 1], b'\n'),
            0 => panic!("NUL passed"),
            _ => {}
        }
    }
}

fn check_reject(reject: Option<Reject>) {
    if let Some(reject) = reject {
        assert!((400..=599).contains(&reject.status));
    }
}
