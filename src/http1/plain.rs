//! Heads of the usual form, in one pass.
//!
//! Nearly every head is plain: names of letters and hyphens, one space after the colon, values that can be printed, CRLF.
//! The functions here find the parts of such heads with a few instructions for each byte. They return `None` for
//! everything else, also for heads that are incomplete or malformed. httparse then decides, so a head has the same parts,
//! or the same error, either way.

use super::FieldId;
use super::head::{Field, HttpVersion, Span};
use super::head_cache::KnownLines;
use super::lists::is_token_byte;
use super::method::MAX_METHOD;

/// The end of the first line of a plain request, from the space on.
const REQUEST_LINE_END: &[u8; 11] = b" HTTP/1.1\r\n";
/// The start of a plain response.
const STATUS_LINE_START: &[u8; 9] = b"HTTP/1.1 ";
/// The version of all plain heads.
pub(super) const VERSION: HttpVersion = HttpVersion::H11;

/// Bytes of a plain name: those of a token except `_`, which has rules of its own.
const NAME: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut i = 0;
    while i < 256 {
        bytes[i] = is_token_byte(i as u8) && i as u8 != b'_';
        i += 1;
    }
    bytes
};

/// Every byte of a word is one.
const LOW: u64 = 0x0101_0101_0101_0101;

/// The first line of a plain request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestLine {
    pub method: Span,
    pub target: Span,
}

/// The first line of a plain response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StatusLine {
    pub status: u16,
    pub reason: Span,
}

/// Splits the first line of the request that starts at `start`. Returns it and the offset of its end.
#[inline]
pub(super) fn split_request_line(buf: &[u8], start: usize) -> Option<(RequestLine, usize)> {
    let line = buf.get(start..)?;
    let method_len = match line {
        [b'G', b'E', b'T', b' ', ..] => 3,
        [b'P', b'O', b'S', b'T', b' ', ..] => 4,
        _ => line.iter().position(|b| !b.is_ascii_uppercase())?,
    };
    let target_start = method_len + 1;
    if !(1..=MAX_METHOD).contains(&method_len) || line[method_len] != b' ' {
        return None;
    }
    let target_len = find(line.get(target_start..)?, |word| {
        is_below(word, b'!') | is_delete(word) | word & (LOW << 7)
    })?;
    let target_end = target_start + target_len;
    if target_len == 0 || line[target_end..].first_chunk() != Some(REQUEST_LINE_END) {
        return None;
    }
    let line = RequestLine {
        method: Span::new(start, start + method_len),
        target: Span::new(start + target_start, start + target_end),
    };
    Some((line, start + target_end + REQUEST_LINE_END.len()))
}

/// Splits the first line of the response at the start of `buf`. Returns it and the offset of its end.
#[inline]
pub(super) fn split_status_line(buf: &[u8]) -> Option<(StatusLine, usize)> {
    let (start, rest) = buf.split_first_chunk()?;
    let &[
        a @ b'1'..=b'9',
        b @ b'0'..=b'9',
        c @ b'0'..=b'9',
        b' ',
        ref reason @ ..,
    ] = rest
    else {
        return None;
    };
    let reason_len = find(reason, is_control)?;
    if start != STATUS_LINE_START || !reason[reason_len..].starts_with(b"\r\n") {
        return None;
    }
    let reason_start = STATUS_LINE_START.len() + 4;
    let reason_end = reason_start + reason_len;
    let digit = |byte: u8| u16::from(byte - b'0');
    let line = StatusLine {
        status: digit(a) * 100 + digit(b) * 10 + digit(c),
        reason: Span::new(reason_start, reason_end),
    };
    Some((line, reason_end + 2))
}

/// Fills `fields` from the lines that start at `at`, and returns the offset after the empty line that ends them. Lines that are
/// the same as those of `known` are taken from there.
#[inline]
pub(super) fn split_fields(
    buf: &[u8],
    mut at: usize,
    max_fields: usize,
    known: Option<KnownLines<'_>>,
    fields: &mut Vec<Field>,
) -> Option<usize> {
    fields.clear();
    loop {
        let line = buf.get(at..)?;
        let repeated = known.and_then(|known| known.get(fields.len(), line, at));
        let field = match repeated {
            Some(field) => field,
            None => match split_field(line, at)? {
                Some(field) => field,
                None => return Some(at + 2),
            },
        };
        if fields.len() == max_fields {
            return None;
        }
        at = field.line.end as usize;
        fields.push(field);
    }
}

/// Splits the field line that starts at `at`, with which `line` begins; `Some(None)` for the empty line behind the last one.
#[inline]
fn split_field(line: &[u8], at: usize) -> Option<Option<Field>> {
    let name_len = name_len(line)?;
    if name_len == 0 {
        return line.starts_with(b"\r\n").then_some(None);
    }
    let (name, rest) = line.split_at(name_len);
    let [b':', b' ', value @ ..] = rest else {
        return None;
    };
    let value_len = find(value, is_control)?;
    let (value, rest) = value.split_at(value_len);
    // httparse removes white space around a value, and lines without a value are rare.
    let (&first, &last) = (value.first()?, value.last()?);
    if first == b' ' || last == b' ' || !rest.starts_with(b"\r\n") {
        return None;
    }
    let value_start = at + name_len + 2;
    let value_end = value_start + value_len;
    let id = FieldId::of(name);
    Some(Some(Field {
        id,
        name: Span::new(at, at + name_len),
        value: Span::new(value_start, value_end),
        line: Span::new(at, value_end + 2),
        hop: id.is_hop_by_hop(),
        sensitive: false,
    }))
}

/// Returns the length of the name that `line` starts with.
#[inline]
fn name_len(line: &[u8]) -> Option<usize> {
    // Nearly all names consist of letters and hyphens, which are skipped eight at a time.
    let mut len = 0;
    for word in line.as_chunks::<8>().0 {
        let others = !is_letter_or_hyphen(u64::from_le_bytes(*word)) & (LOW << 7);
        if others != 0 {
            len += others.trailing_zeros() as usize / 8;
            break;
        }
        len += 8;
    }
    let rest = line[len..].iter().position(|&b| !NAME[usize::from(b)])?;
    Some(len + rest)
}

/// Marks letters and hyphens, and no other byte.
#[inline]
fn is_letter_or_hyphen(word: u64) -> u64 {
    const SEVEN: u64 = LOW * 0x7f;
    // Seven bits of each byte are added, so that no sum carries into the next byte. The high bit of `from_a` is then set for
    // bytes from `a` on, that of `past_z` for bytes after `z`, and that of `not_hyphen` for all but the hyphen.
    let folded = (word | (LOW * 0x20)) & SEVEN;
    let from_a = folded + LOW * u64::from(0x80 - b'a');
    let past_z = folded + LOW * u64::from(0x7f - b'z');
    let not_hyphen = ((word ^ (LOW * u64::from(b'-'))) & SEVEN) + SEVEN;
    ((from_a & !past_z) | !not_hyphen) & !word & (LOW << 7)
}

/// Returns the offset of the first byte that `hits` marks in its word, by the highest bit of that byte or a lower one.
#[inline]
fn find(text: &[u8], hits: impl Fn(u64) -> u64) -> Option<usize> {
    let (words, rest) = text.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let hits = hits(u64::from_le_bytes(*word));
        if hits != 0 {
            return Some(i * 8 + hits.trailing_zeros() as usize / 8);
        }
    }
    let found = rest.iter().position(|&b| hits(LOW * u64::from(b)) != 0)?;
    Some(words.len() * 8 + found)
}

/// Marks bytes that may not be in the value of a field: controls, HTAB included.
#[inline]
fn is_control(word: u64) -> u64 {
    is_below(word, b' ') | is_delete(word)
}

/// Marks bytes below `limit`, which is at most 0x80. Bytes above the first one may be marked wrongly (Hacker's Delight §6-1).
#[inline]
fn is_below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(LOW * u64::from(limit)) & !word & (LOW << 7)
}

/// Marks bytes that are 0x7f. Bytes above the first one may be marked wrongly.
#[inline]
fn is_delete(word: u64) -> u64 {
    is_below(word ^ (LOW * 0x7f), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_at_the_first_byte_that_is_not_part_of_one() {
        for len in 0..20 {
            for end in 0..len {
                for byte in 0..=u8::MAX {
                    let mut line = vec![b"aZ-"[len % 3]; len];
                    line[end] = byte;
                    let expected = line.iter().position(|&b| !NAME[usize::from(b)]);
                    assert_eq!(name_len(&line), expected, "{byte} at {end} of {len}");
                }
            }
        }
    }

    #[test]
    fn lines_that_repeat_are_not_split_again() {
        let known = b"host: a\r\nx-a: b\r\nx-c: d\r\nx: y\r\n\r\n";
        let mut fields = Vec::new();
        let end = split_fields(known, 0, 10, None, &mut fields);
        assert_eq!(end, Some(known.len()));
        // Marked, so that the test can tell which fields were taken over instead of parsed.
        fields.iter_mut().for_each(|field| field.sensitive = true);
        for (head, taken) in [
            ("host: a\r\nx-a: b\r\nx-c: d\r\nx: y\r\n\r\n", 0b1111),
            ("host: a\r\nx-a: c\r\nx-c: d\r\nx: y\r\n\r\n", 0b1101),
            ("host: ab\r\nx-a: b\r\nx-c: de\r\nx: y\r\n\r\n", 0b1010),
            (
                "x-a: b\r\nhost: a\r\nx-c: d\r\nx: y\r\nz: z\r\n\r\n",
                0b1100,
            ),
            ("host: a\r\n\r\n", 0b0001),
        ] {
            let buf = format!("1234{head}");
            let (mut plain, mut found) = (Vec::new(), Vec::new());
            let end = split_fields(buf.as_bytes(), 4, 10, None, &mut plain);
            assert_eq!(end, Some(buf.len()));
            let lines = KnownLines::new(known, 0, &fields);
            let end = split_fields(buf.as_bytes(), 4, 10, Some(lines), &mut found);
            assert_eq!(end, Some(buf.len()));
            for (i, field) in found.iter_mut().enumerate() {
                let is_taken = std::mem::take(&mut field.sensitive);
                assert_eq!(is_taken, taken >> i & 1 == 1, "{head} {i}");
            }
            assert_eq!(format!("{found:?}"), format!("{plain:?}"));
        }
    }
}
