//! The `Date` field of responses (RFC 9110 §6.6.1), formatted once per second on each worker thread.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use http::HeaderValue;

/// Length of an IMF-fixdate (RFC 9110 §5.6.7).
const LEN: usize = 29;

/// An HTTP/1 line: the name, the date and the line's end.
type Line = [u8; 6 + LEN + 2];

struct Stamp {
    second: u64,
    line: Line,
    value: HeaderValue,
}

thread_local! {
    static STAMP: RefCell<Stamp> = RefCell::new(Stamp::at(super::clock::wall_s()));
}

impl Stamp {
    fn at(second: u64) -> Self {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let shown = httpdate::fmt_http_date(time);
        let mut line = *b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";
        line[6..][..LEN].copy_from_slice(shown.as_bytes());
        // The 29 characters are letters, digits, colons, commas and spaces.
        let value = HeaderValue::from_str(&shown).expect("a date is a field value");
        Self {
            second,
            line,
            value,
        }
    }
}

/// Sets this thread's date, in seconds since the epoch. Called by the worker's tick.
pub(crate) fn set(second: u64) {
    STAMP.with_borrow_mut(|stamp| {
        if stamp.second != second {
            *stamp = Stamp::at(second);
        }
    });
}

/// The date as of the last tick, as an HTTP/1 field line.
#[inline]
pub(crate) fn line() -> Line {
    STAMP.with_borrow(|stamp| stamp.line)
}

/// The date as of the last tick, as a field value. Cloning it is cheap.
#[inline]
pub(crate) fn value() -> HeaderValue {
    STAMP.with_borrow(|stamp| stamp.value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_follows_the_second_that_was_set() {
        set(784_111_777);
        assert_eq!(&line(), b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
        assert_eq!(value(), "Sun, 06 Nov 1994 08:49:37 GMT");
        set(784_111_778);
        assert_eq!(&line(), b"date: Sun, 06 Nov 1994 08:49:38 GMT\r\n");
    }
}
