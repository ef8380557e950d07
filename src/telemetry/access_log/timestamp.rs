//! The time of a line, in the two forms that the formats use. Only the milliseconds are formatted for each line.

use std::time::{Duration, SystemTime};

/// Length of `2026-01-31T12:00:00.000Z`.
const RFC3339: usize = 24;
/// Where its milliseconds are.
const MILLIS: usize = 20;

/// A formatted time in UTC.
#[derive(Debug)]
pub(crate) struct Timestamp {
    /// Seconds since the epoch; `u64::MAX` before the first time is set.
    second: u64,
    rfc3339: [u8; RFC3339],
    clf: String,
}

impl Default for Timestamp {
    fn default() -> Self {
        Self {
            second: u64::MAX,
            rfc3339: *b"1970-01-01T00:00:00.000Z",
            clf: String::new(),
        }
    }
}

impl Timestamp {
    /// Sets the time. Times before 1970 count as 1970, those after 9999 as 9999.
    pub(crate) fn set(&mut self, time: SystemTime) {
        /// The last second of the year 9999.
        const LAST: u64 = 253_402_300_799;
        let since = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let second = since.as_secs().min(LAST);
        if second != self.second {
            self.set_second(second);
        }
        let millis = since.subsec_millis();
        for (at, divisor) in [(0, 100), (1, 10), (2, 1)] {
            self.rfc3339[MILLIS + at] = b'0' + (millis / divisor % 10) as u8;
        }
    }

    fn set_second(&mut self, second: u64) {
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let text = humantime::format_rfc3339_millis(time).to_string();
        self.second = second;
        self.rfc3339.copy_from_slice(text.as_bytes());
        let month = text[5..7].parse::<usize>().unwrap_or(1);
        let (year, day, clock) = (&text[..4], &text[8..10], &text[11..19]);
        self.clf = format!("{day}/{}/{year}:{clock} +0000", MONTHS[month - 1]);
    }

    /// `2026-01-31T12:00:00.000Z` (RFC 3339).
    pub(super) fn rfc3339(&self) -> &[u8; RFC3339] {
        &self.rfc3339
    }

    /// `31/Jan/2026:12:00:00 +0000`, the form of the Common Log Format.
    pub(super) fn clf(&self) -> &[u8] {
        self.clf.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_two_forms() {
        let mut stamp = Timestamp::default();
        let mut forms = |millis: u64| {
            stamp.set(SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (text(stamp.rfc3339()), text(stamp.clf()))
        };
        for (millis, rfc3339, clf) in [
            (0, "1970-01-01T00:00:00.000Z", "01/Jan/1970:00:00:00 +0000"),
            (
                1_709_210_096_007,
                "2024-02-29T12:34:56.007Z",
                "29/Feb/2024:12:34:56 +0000",
            ),
            (
                1_709_210_096_999,
                "2024-02-29T12:34:56.999Z",
                "29/Feb/2024:12:34:56 +0000",
            ),
            (
                1_798_761_599_120,
                "2026-12-31T23:59:59.120Z",
                "31/Dec/2026:23:59:59 +0000",
            ),
            (
                u64::MAX / 2,
                "9999-12-31T23:59:59.807Z",
                "31/Dec/9999:23:59:59 +0000",
            ),
        ] {
            assert_eq!(forms(millis), (rfc3339.to_owned(), clf.to_owned()));
        }
    }
}
