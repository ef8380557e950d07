//! Writes untrusted bytes so that a line stays one line, and valid UTF-8.
//!
//! Everything but printable ASCII is escaped, byte by byte: a value may be in any encoding, or in none. No byte is lost.

use std::fmt;

/// Longest value that a client sent, in bytes. The rest is cut off and replaced by [`CUT`].
const LONGEST: usize = 4096;
const CUT: &[u8] = b"...";

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The bytes that need no escape: printable ASCII without `"` and `\`.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        plain[byte as usize] = byte != b'"' && byte != b'\\';
        byte += 1;
    }
    plain
};

const ONES: u64 = u64::MAX / 255;

/// Whether all eight bytes need no escape. The tests for a byte in a word are those of Hacker's Delight (Warren, 2nd edition, 6-1):
/// carries and borrows between bytes can only come from one that needs an escape.
#[inline]
fn are_plain(bytes: [u8; 8]) -> bool {
    let word = u64::from_le_bytes(bytes);
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let above_tilde = word.wrapping_add(ONES) | word;
    let quote = zero(word ^ (ONES * 0x22));
    let backslash = zero(word ^ (ONES * 0x5c));
    (below_space | above_tilde | quote | backslash) & (ONES * 0x80) == 0
}

/// Whether all sixteen bytes need no escape. Without a branch, so that it is compiled to a few vector instructions.
#[inline]
fn are_all_plain(bytes: &[u8; 16]) -> bool {
    let needs_escape =
        |byte: &u8| byte.wrapping_sub(b' ') > b'~' - b' ' || *byte == b'"' || *byte == b'\\';
    !bytes
        .iter()
        .fold(false, |any, byte| any | needs_escape(byte))
}

/// Whether a value needs no escape.
#[inline]
fn is_plain(value: &[u8]) -> bool {
    if let Some(last) = value.last_chunk::<16>() {
        // Some of the last bytes are checked twice.
        return value.as_chunks().0.iter().all(are_all_plain) && are_all_plain(last);
    }
    match (value.first_chunk::<8>(), value.last_chunk::<8>()) {
        (Some(first), Some(last)) => are_plain(*first) && are_plain(*last),
        _ => value.iter().all(|byte| PLAIN[usize::from(*byte)]),
    }
}

/// Writes a value inside a JSON string (RFC 8259 section 7). A byte that isn't printable ASCII becomes `\u00XX`.
pub(super) fn json(out: &mut Vec<u8>, value: &[u8]) {
    escape(out, value, b"\\u00");
}

/// Writes a value inside quotes. A byte that isn't printable ASCII becomes `\xXX`.
pub(super) fn quoted(out: &mut Vec<u8>, value: &[u8]) {
    escape(out, value, b"\\x");
}

/// Escapes the text that is formatted into it.
pub(super) struct EscapingWriter<'o> {
    out: &'o mut Vec<u8>,
    escape: fn(&mut Vec<u8>, &[u8]),
}

impl<'o> EscapingWriter<'o> {
    pub(super) fn new(out: &'o mut Vec<u8>, escape: fn(&mut Vec<u8>, &[u8])) -> Self {
        Self { out, escape }
    }
}

impl fmt::Write for EscapingWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        (self.escape)(self.out, text.as_bytes());
        Ok(())
    }
}

#[inline]
fn escape(out: &mut Vec<u8>, value: &[u8], prefix: &[u8]) {
    if value.len() <= LONGEST && is_plain(value) {
        out.extend_from_slice(value);
    } else {
        escape_each(out, value, prefix);
    }
}

#[cold]
fn escape_each(out: &mut Vec<u8>, value: &[u8], prefix: &[u8]) {
    let (value, is_cut) = match value.get(..LONGEST) {
        Some(start) if value.len() > LONGEST => (start, true),
        _ => (value, false),
    };
    let mut rest = value;
    loop {
        let run = rest.iter().position(|byte| !PLAIN[usize::from(*byte)]);
        let run = run.unwrap_or(rest.len());
        out.extend_from_slice(&rest[..run]);
        let Some((byte, after)) = rest[run..].split_first() else {
            break;
        };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            _ => {
                out.extend_from_slice(prefix);
                let digit = |half: u8| HEX[usize::from(half)];
                out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
            }
        }
        rest = after;
    }
    if is_cut {
        out.extend_from_slice(CUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(by: fn(&mut Vec<u8>, &[u8]), value: &[u8]) -> String {
        let mut out = Vec::new();
        by(&mut out, value);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn every_byte_comes_back_from_json() {
        let all: Vec<u8> = (0..=255).collect();
        let text = format!("\"{}\"", escaped(json, &all));
        assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b)));
        let read: String = serde_json::from_str(&text).expect("JSON");
        let bytes: Vec<u8> = read.chars().map(|c| u8::try_from(c).unwrap()).collect();
        assert_eq!(bytes, all);
    }

    #[test]
    fn a_byte_that_needs_an_escape_is_found_at_every_position() {
        for length in 0..=40 {
            let mut value = vec![b'~'; length];
            assert!(is_plain(&value));
            for at in 0..length {
                for byte in 0..=255 {
                    value[at] = byte;
                    assert_eq!(is_plain(&value), PLAIN[usize::from(byte)], "{byte} at {at}");
                }
                value[at] = b' ';
            }
        }
    }

    #[test]
    fn quoted_values_are_printable() {
        let value = b"a \"b\" \\ \r\n\x7f\xc3\xa9=";
        assert_eq!(
            escaped(quoted, value),
            "a \\\"b\\\" \\\\ \\x0d\\x0a\\x7f\\xc3\\xa9="
        );
    }

    #[test]
    fn a_long_value_is_cut() {
        let long = vec![b'x'; LONGEST];
        assert_eq!(escaped(json, &long).len(), LONGEST);
        let longer = vec![b'\n'; LONGEST + 1];
        let text = escaped(json, &longer);
        assert_eq!(text.len(), 6 * LONGEST + CUT.len());
        assert!(text.ends_with("\\u000a..."));
    }
}
