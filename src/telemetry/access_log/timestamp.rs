//! The time of a line, in the two forms that the formats use. It is formatted once for all lines of a millisecond.

use std::time::{Duration, Instant, SystemTime};

/// Length of `2026-01-31T12:00:00.000Z`.
const RFC3339: usize = 24;
/// Position of the milliseconds in it.
const MILLIS: usize = 20;

/// A formatted time in UTC.
#[derive(Debug)]
pub(crate) struct Timestamp {
    /// Milliseconds since the epoch; `u64::MAX` before the first time is set.
    milli: u64,
    /// Seconds since the epoch; `u64::MAX` before the first time is set.
    second: u64,
    /// The same moment by the monotonic clock and by the wall clock, in microseconds since the epoch.
    anchor: Option<(Instant, u64)>,
    rfc3339: [u8; RFC3339],
    clf: String,
}

impl Default for Timestamp {
    fn default() -> Self {
        Self {
            milli: u64::MAX,
            second: u64::MAX,
            anchor: None,
            rfc3339: *b"1970-01-01T00:00:00.000Z",
            clf: String::new(),
        }
    }
}

impl Timestamp {
    /// Compares the two clocks. To be called regularly, because the wall clock may be set. Times before 1970 count as 1970.
    pub(crate) fn synchronise(&mut self, now: Instant, wall: SystemTime) {
        let since = wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.anchor = Some((now, micros(since)));
    }

    /// Sets the time to that of this instant, by the last [comparison](Self::synchronise) of the clocks. Reading a clock once more
    /// would cost more than all other values of a line.
    #[inline]
    pub(crate) fn set(&mut self, at: Instant) {
        if self.anchor.is_none() {
            self.synchronise(at, SystemTime::now());
        }
        let (anchor, wall) = self.anchor.unwrap_or((at, 0));
        let since = at.saturating_duration_since(anchor);
        let milli = wall.saturating_add(micros(since)) / 1000;
        if milli != self.milli {
            self.set_milli(milli);
        }
    }

    fn set_milli(&mut self, milli: u64) {
        /// The last millisecond of the year 9999; later times count as this one.
        const LAST: u64 = 253_402_300_799_999;
        self.milli = milli;
        let milli = milli.min(LAST);
        let second = milli / 1000;
        if second != self.second {
            self.set_second(second);
        }
        let millis = milli % 1000;
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

    /// The time as `2026-01-31T12:00:00.000Z` (RFC 3339).
    pub(super) fn rfc3339(&self) -> &[u8; RFC3339] {
        &self.rfc3339
    }

    /// The time as `31/Jan/2026:12:00:00 +0000`, the form of the Common Log Format.
    pub(super) fn clf(&self) -> &[u8] {
        self.clf.as_bytes()
    }
}

/// Whole microseconds, at most `u64::MAX`.
#[inline]
fn micros(time: Duration) -> u64 {
    let seconds = time.as_secs().saturating_mul(1_000_000);
    seconds.saturating_add(time.subsec_micros().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_by_the_clock_that_does_not_go_back() {
        let (mut stamp, now) = (Timestamp::default(), Instant::now());
        let wall = SystemTime::UNIX_EPOCH + Duration::from_micros(999_400);
        stamp.synchronise(now, wall);
        for (later, seconds) in [
            (0, "00.999"),
            (599, "00.999"),
            (600, "01.000"),
            (61_000_600, "02.000"),
        ] {
            stamp.set(now + Duration::from_micros(later));
            let text = String::from_utf8(stamp.rfc3339().to_vec()).unwrap();
            let minute = later / 60_000_000;
            assert_eq!(text, format!("1970-01-01T00:0{minute}:{seconds}Z"));
        }
        // A request that ended before the clocks were compared.
        stamp.synchronise(now + Duration::from_secs(1), wall);
        stamp.set(now);
        assert_eq!(stamp.rfc3339(), b"1970-01-01T00:00:00.999Z");
    }

    #[test]
    fn a_time_has_two_forms() {
        let mut stamp = Timestamp::default();
        let mut forms = |millis: u64| {
            let now = Instant::now();
            stamp.synchronise(now, SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
            stamp.set(now);
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
                "9999-12-31T23:59:59.999Z",
                "31/Dec/9999:23:59:59 +0000",
            ),
        ] {
            assert_eq!(forms(millis), (rfc3339.to_owned(), clf.to_owned()));
        }
    }
}
