//! DER (X.690), as far as certificates and OCSP responses need it: values are walked in place, and nothing is copied.

/// Tags of values.
pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const NUMERIC_STRING: u8 = 0x12;
pub(super) const PRINTABLE_STRING: u8 = 0x13;
pub(super) const IA5_STRING: u8 = 0x16;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// `[0]` and `[3]`, constructed.
pub(super) const CONTEXT_0: u8 = 0xa0;
pub(super) const CONTEXT_3: u8 = 0xa3;

/// A DER value: its tag, its contents, and all of its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'d> {
    pub tag: u8,
    pub contents: &'d [u8],
    pub whole: &'d [u8],
}

/// The values of a DER sequence. Ends at the first that is malformed.
#[derive(Clone, Debug)]
pub(super) struct Values<'d>(pub &'d [u8]);

impl<'d> Iterator for Values<'d> {
    type Item = Value<'d>;

    fn next(&mut self) -> Option<Value<'d>> {
        let (&tag, rest) = self.0.split_first()?;
        // A tag of several bytes, which none of these structures has.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = bytes
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                (length, rest)
            }
            _ => return None,
        };
        let (contents, after) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - after.len()];
        self.0 = after;
        Some(Value {
            tag,
            contents,
            whole,
        })
    }
}

impl<'d> Values<'d> {
    /// The next value, if it has this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.next()
            .filter(|value| value.tag == tag)
            .map(|value| value.contents)
    }

    /// The contents of the values, of which all have this tag. Ends at the first that hasn't.
    pub(super) fn all_of(mut self, tag: u8) -> impl Iterator<Item = &'d [u8]> {
        std::iter::from_fn(move || self.expect(tag))
    }
}

/// Reads a time in the forms that RFC 5280 §4.1.2.5 permits: with seconds, and in UTC. Returns seconds since the epoch.
pub(super) fn time(value: Value<'_>) -> Option<i64> {
    let digits = value.contents.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| { digits.iter() }.fold(0, |n, d| n * 10 + i64::from(d - b'0'));
    let (year, rest) = match (value.tag, digits.len()) {
        (UTC_TIME, 12) => {
            let (year, rest) = digits.split_at(2);
            // Two digits mean 1950 to 2049.
            let year = number(year);
            (year + if year < 50 { 2000 } else { 1900 }, rest)
        }
        (GENERALIZED_TIME, 14) => {
            let (year, rest) = digits.split_at(4);
            (number(year), rest)
        }
        _ => return None,
    };
    let mut parts = rest.chunks_exact(2).map(number);
    let mut part = |most: i64| parts.next().filter(|part| *part <= most);
    let (month, day) = (part(12)?, part(31)?);
    let (hour, minute, second) = (part(23)?, part(59)?, part(60)?);
    if month == 0 || day == 0 {
        return None;
    }
    Some(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days from the epoch to a day of the Gregorian calendar. Years begin in March here, so that a leap day is the last of its year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = match month {
        ..=2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // The lengths of the months from March on, 31, 30, 31, 30, 31 and so on, sum up to this.
    let before_month = (153 * month + 2) / 5;
    // 1970-01-01 is this many days after 0000-03-01.
    year * 365 + leap_days + before_month + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(tag: u8, text: &str) -> Option<i64> {
        let contents = text.as_bytes();
        time(Value {
            tag,
            contents,
            whole: contents,
        })
    }

    #[test]
    fn times_are_seconds_since_the_epoch() {
        for (tag, text, expected) in [
            (UTC_TIME, "700101000000Z", 0),
            (UTC_TIME, "491231235959Z", 2_524_607_999),
            (UTC_TIME, "500101000000Z", -631_152_000),
            (GENERALIZED_TIME, "20240229120000Z", 1_709_208_000),
            (GENERALIZED_TIME, "20240301000000Z", 1_709_251_200),
            (GENERALIZED_TIME, "21000301000000Z", 4_107_542_400),
            (GENERALIZED_TIME, "99991231235959Z", 253_402_300_799),
        ] {
            assert_eq!(seconds(tag, text), Some(expected), "{text}");
        }
    }

    #[test]
    fn times_of_another_form_are_refused() {
        for (tag, text) in [
            (UTC_TIME, "7001010000Z"),
            (UTC_TIME, "700101000000+0100"),
            (UTC_TIME, "20240229120000Z"),
            (UTC_TIME, "700001000000Z"),
            (UTC_TIME, "700100000000Z"),
            (UTC_TIME, "701301000000Z"),
            (UTC_TIME, "700101240000Z"),
            (UTC_TIME, "70010100000aZ"),
            (GENERALIZED_TIME, "20240229120000.5Z"),
            (GENERALIZED_TIME, "700101000000Z"),
            (OCTETS, "700101000000Z"),
        ] {
            assert_eq!(seconds(tag, text), None, "{text}");
        }
    }

    #[test]
    fn what_is_cut_short_or_too_long_is_no_value() {
        let long = [&[OCTETS, 0x82, 1, 0][..], &[7; 256]].concat();
        assert_eq!(Values(&long).expect(OCTETS), Some(&[7; 256][..]));
        for length in 0..long.len() {
            assert!(Values(&long[..length]).next().is_none(), "{length} bytes");
        }
        for bytes in [
            &[0x1f, 0x81, 0][..],
            &[OCTETS, 0x80],
            &[OCTETS, 0x85, 0, 0, 0, 0, 0],
        ] {
            assert!(Values(bytes).next().is_none(), "{bytes:?}");
        }
    }
}
