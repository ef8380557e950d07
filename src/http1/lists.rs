//! Comma-separated lists and tokens (RFC 9110 §5.6).

/// Whether a byte may be part of a token: `tchar` of RFC 9110 §5.6.2.
#[inline]
pub const fn is_token_byte(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let mut i = 0;
        while i < 256 {
            table[i] = matches!(i as u8,
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*'
                | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
            i += 1;
        }
        table
    };
    TOKEN[byte as usize]
}

/// Whether `text` is a token (RFC 9110 §5.6.2).
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&b| is_token_byte(b))
}

/// Returns `text` without leading and trailing spaces and tabs: OWS of RFC 9110 §5.6.3.
#[inline]
pub fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// Returns the elements of a comma-separated list, trimmed, including empty ones (RFC 9110 §5.6.1).
///
/// Quoted strings are not recognized: the lists that are read this way consist of tokens.
#[inline]
pub fn elements(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim)
}

/// Whether the list contains this element, ignoring case.
pub fn has_element(value: &[u8], want: &[u8]) -> bool {
    elements(value).any(|element| element.eq_ignore_ascii_case(want))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let list: Vec<&[u8]> = elements(b" a ,b,,\tc d\t,").collect();
        assert_eq!(list, [&b"a"[..], b"b", b"", b"c d", b""]);
        assert!(has_element(b"gzip, Trailers", b"trailers"));
        assert!(!has_element(b"trailersx", b"trailers"));
    }

    #[test]
    fn tokens() {
        assert!(is_token(b"x-1!#$%&'*+-.^_`|~Z"));
        for bad in [
            &b""[..],
            b"a b",
            b"a:",
            b"\"a\"",
            b"a\0",
            b"\xc3\xa9",
            b"a@b",
        ] {
            assert!(!is_token(bad), "{bad:?}");
        }
    }
}
