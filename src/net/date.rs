//! The `Date` field of responses (RFC 9110 §6.6.1), formatted once per second on each worker thread.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use http::HeaderValue;

/// Length of an IMF-fixdate (RFC 9110 §5.6.7).
pub(crate) const LEN: usize = 29;

struct Stamp {
    second: u64,
    text: [u8; LEN],
    value: HeaderValue,
}

thread_local! {
    static STAMP: RefCell<Stamp> = RefCell::new(Stamp::at(super::clock::wall_s()));
}

impl Stamp {
    fn at(second: u64) -> Self {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let shown = httpdate::fmt_http_date(time);
        let mut text = [b' '; LEN];
        text.copy_from_slice(shown.as_bytes());
        // The 29 characters are letters, digits, colons, commas and spaces.
        let value = HeaderValue::from_bytes(&text).expect("a date is a field value");
        Self {
            second,
            text,
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

/// The date as of the last tick, as text.
#[inline]
pub(crate) fn text() -> [u8; LEN] {
    STAMP.with_borrow(|stamp| stamp.text)
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
        assert_eq!(&text(), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(value(), "Sun, 06 Nov 1994 08:49:37 GMT");
        set(784_111_778);
        assert_eq!(&text(), b"Sun, 06 Nov 1994 08:49:38 GMT");
    }
}
