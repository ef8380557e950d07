//! Decimal and hexadecimal numbers of the HTTP grammar.

/// The largest accepted length. Larger ones don't fit a signed 64-bit integer, where recipients start to differ (RFC 9110
/// §8.6 and RFC 9112 §7.1 warn of overflows).
pub(crate) const MAX_LENGTH: u64 = i64::MAX as u64;

/// Parses a decimal number of 1 to 19 digits, at most [`MAX_LENGTH`]; no sign, white space or list (RFC 9110 §8.6).
#[inline]
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    let mut value: u64 = 0;
    for &byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // Can't overflow: 19 digits are less than 10^19, which fits a u64.
        value = value * 10 + u64::from(digit);
    }
    (value <= MAX_LENGTH).then_some(value)
}

/// Returns the value of a hexadecimal digit.
#[inline]
pub(crate) fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Writes the line that starts a chunk of `size` bytes into `out` and returns it: the size in hexadecimal, and CRLF (RFC
/// 9112 §7.1).
#[inline]
pub fn chunk_head(size: u64, out: &mut [u8; 18]) -> &[u8] {
    let digits = (64 - (size | 1).leading_zeros() as usize).div_ceil(4);
    for (i, byte) in out[..digits].iter_mut().enumerate() {
        let nibble = size >> (4 * (digits - 1 - i)) & 0xf;
        *byte = b"0123456789abcdef"[nibble as usize];
    }
    out[digits] = b'\r';
    out[digits + 1] = b'\n';
    &out[..digits + 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals() {
        for (text, value) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("00012", Some(12)),
            ("9223372036854775807", Some(MAX_LENGTH)),
            ("9223372036854775808", None),
            ("9999999999999999999", None),
            ("18446744073709551616", None),
            ("99999999999999999999999999", None),
            ("", None),
            ("+1", None),
            ("-1", None),
            ("0x10", None),
            ("1a", None),
            ("1 2", None),
            ("1,1", None),
            (" 1", None),
            ("1_0", None),
            ("\u{661}", None),
        ] {
            assert_eq!(decimal(text.as_bytes()), value, "{text:?}");
        }
    }

    #[test]
    fn chunk_heads_are_what_formatting_would_write() {
        for size in [0, 1, 9, 10, 15, 16, 255, 256, 0x1000, 65536, u64::MAX] {
            let mut out = [0; 18];
            assert_eq!(
                chunk_head(size, &mut out),
                format!("{size:x}\r\n").as_bytes()
            );
        }
    }
}
