//! [`ContentLength`]: the line that announces the length of a body.

use std::cell::Cell;

use super::put_line;
use crate::http1::number::decimal;

/// The `content-length` of a head that is being written: exactly one line, or none.
///
/// A received line with the same length is copied together with its neighbours, unless the number begins with a zero. Otherwise a new
/// line is written.
#[derive(Debug)]
pub(crate) struct ContentLength {
    length: Option<u64>,
    is_written: Cell<bool>,
}

impl ContentLength {
    /// The length to announce, if any.
    #[inline]
    pub(crate) fn new(length: Option<u64>) -> Self {
        Self {
            length,
            is_written: Cell::new(false),
        }
    }

    /// Whether a received line with this value is copied. At most one is.
    #[inline]
    pub(crate) fn takes(&self, value: &[u8]) -> bool {
        // A leading zero could mean octal to somebody.
        let is_usual = value == b"0" || value.first() != Some(&b'0');
        let says_it = self.length.is_some() && is_usual && decimal(value) == self.length;
        says_it && !self.is_written.replace(true)
    }

    /// Writes the line, if it is needed and none was copied.
    #[inline]
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        if let Some(length) = self.length
            && !self.is_written.replace(true)
        {
            let digits = &mut itoa::Buffer::new();
            put_line(out, b"content-length", digits.format(length).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_copied_or_written() {
        for (length, received, copied, written) in [
            (Some(12), &["12"][..], 1, ""),
            (Some(12), &["12", "12"], 1, ""),
            (Some(0), &["0"], 1, ""),
            (Some(0), &[], 0, "content-length: 0\r\n"),
            (Some(0), &["00"], 0, "content-length: 0\r\n"),
            (Some(12), &["012"], 0, "content-length: 12\r\n"),
            (
                Some(12),
                &["+12", "12,12", "0x12", ""],
                0,
                "content-length: 12\r\n",
            ),
            (Some(12), &["13", "12"], 1, ""),
            (None, &["12", ""], 0, ""),
        ] {
            let line = ContentLength::new(length);
            let takes = received.iter().filter(|value| line.takes(value.as_bytes()));
            assert_eq!(takes.count(), copied, "{length:?} {received:?}");
            let mut out = Vec::new();
            line.put(&mut out);
            line.put(&mut out);
            assert_eq!(out, written.as_bytes(), "{length:?} {received:?}");
        }
    }
}
