//! Integers and string literals (RFC 7541 §5).

/// Maximum accepted integer; RFC 7541 §5.1 requires a limit. No valid length or index comes near it.
const MAX_INTEGER: usize = 1 << 24;

/// Reads primitives from the rest of a header block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'b>(pub(super) &'b [u8]);

impl<'b> Reader<'b> {
    /// Reads an integer with a prefix of `prefix` bits; `None` if it is incomplete or too large.
    #[inline]
    pub(super) fn integer(&mut self, prefix: u32) -> Option<usize> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        let mask = (1 << prefix) - 1;
        let value = usize::from(*first) & mask;
        if value < mask {
            return Some(value);
        }
        self.more(value)
    }

    /// Reads the bytes after a prefix of ones, whose value is `value`.
    fn more(&mut self, mut value: usize) -> Option<usize> {
        let mut shift = 0;
        loop {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return (value <= MAX_INTEGER).then_some(value);
            }
            // Five more bytes at most: enough for every accepted value, with leading zeros, and no overflow.
            if shift > 28 || value > MAX_INTEGER {
                return None;
            }
        }
    }

    /// Reads a string literal: whether it is Huffman-coded, and its encoded bytes.
    #[inline]
    pub(super) fn string(&mut self) -> Option<(bool, &'b [u8])> {
        let huffman = self.0.first()? & 0x80 != 0;
        let len = self.integer(7)?;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some((huffman, text))
    }
}

/// Appends an integer with a prefix of `prefix` bits, below the bits of `first`.
#[inline]
pub(super) fn put_integer(out: &mut Vec<u8>, first: u8, prefix: u32, value: usize) {
    let mask = (1 << prefix) - 1;
    if value < mask {
        out.push(first | value as u8);
        return;
    }
    out.push(first | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends a string literal as it is. The Huffman code would save a quarter of the bytes that are sent once a connection,
/// and cost more than all other work on a field.
#[inline]
pub(super) fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    put_integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 7541 C.1.
        for (prefix, value, coded) in [
            (5, 10, &[0b01010][..]),
            (5, 1337, &[0b11111, 0b1001_1010, 0b0000_1010]),
            (8, 42, &[0b0010_1010]),
        ] {
            let mut out = Vec::new();
            put_integer(&mut out, 0, prefix, value);
            assert_eq!(out, coded);
            let mut reader = Reader(coded);
            assert_eq!(reader.integer(prefix), Some(value));
            assert!(reader.0.is_empty());
        }
    }

    #[test]
    fn integers_come_back_and_large_ones_are_refused() {
        for prefix in 4..=7 {
            for value in (0..5000).chain([65535, 1 << 20, MAX_INTEGER]) {
                let mut out = Vec::new();
                put_integer(&mut out, 0, prefix, value);
                assert_eq!(Reader(&out).integer(prefix), Some(value));
                for len in 0..out.len() {
                    assert_eq!(Reader(&out[..len]).integer(prefix), None);
                }
            }
            let mut out = Vec::new();
            put_integer(&mut out, 0, prefix, MAX_INTEGER + 1);
            assert_eq!(Reader(&out).integer(prefix), None);
        }
        assert_eq!(Reader(&[0xff; 9]).integer(7), None);
        // Leading zeros are allowed, but not without end.
        assert_eq!(Reader(&[0x7f, 0x80, 0x80, 0x80, 0]).integer(7), Some(127));
        assert_eq!(
            Reader(&[0x7f, 0x80, 0x80, 0x80, 0x80, 0x80, 0]).integer(7),
            None
        );
    }
}
