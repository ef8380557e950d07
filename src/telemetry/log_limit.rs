//! A rate limit for log lines on the data path: one line per slot and interval, shared by all workers.
//!
//! A failing upstream can fail every request; one warning per cause and interval, with a count of the omitted ones, says
//! the same and can't flood the log.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The time of a slot that has logged nothing yet.
const NEVER: u64 = u64::MAX;

/// Limits log lines to one per slot and interval, for the whole process.
///
/// The caller decides what a slot stands for: one [`LogLimit`] per service with a slot per failure reason allows one line
/// per service and reason. Checking takes no lock and allocates nothing.
#[derive(Debug)]
pub struct LogLimit {
    epoch: Instant,
    interval_ms: u64,
    slots: Box<[ReasonSlot]>,
}

#[derive(Debug)]
struct ReasonSlot {
    /// When the last line was logged, in milliseconds since the epoch of the limit, or [`NEVER`].
    last_ms: AtomicU64,
    /// Lines omitted since then.
    suppressed: AtomicU64,
}

impl LogLimit {
    /// Creates a limit with `slots` slots that allows one line per slot and `interval`.
    ///
    /// `now` should not be later than any time passed to [`Self::check`]; earlier times count as `now`.
    pub fn new(slots: usize, interval: Duration, now: Instant) -> Self {
        let slot = || ReasonSlot {
            last_ms: AtomicU64::new(NEVER),
            suppressed: AtomicU64::new(0),
        };
        Self {
            epoch: now,
            interval_ms: millis(interval),
            slots: std::iter::repeat_with(slot).take(slots).collect(),
        }
    }

    /// Returns whether a line for `slot` may be logged at `now`.
    ///
    /// `Some(n)` means: log it, and say that `n` lines were omitted since the previous one. `None` means: omit it; it has
    /// been counted. Each line is either logged or counted exactly once, even if several threads ask at the same time.
    ///
    /// # Panics
    /// If `slot` is not less than the number of slots.
    #[must_use = "the line is neither logged nor counted again when the answer is dropped"]
    pub fn check(&self, slot: usize, now: Instant) -> Option<u64> {
        let slot = &self.slots[slot];
        let now = millis(now.saturating_duration_since(self.epoch));
        let last = slot.last_ms.load(Relaxed);
        // Workers read the clock once per turn of their loop, so `now` may be earlier than the last line of another
        // worker; the saturating subtraction treats it as the time of that line.
        let is_due = last == NEVER || now.saturating_sub(last) >= self.interval_ms;
        // Several threads may find the slot due; only the one whose exchange succeeds logs.
        let logs = is_due
            && slot
                .last_ms
                .compare_exchange(last, now, Relaxed, Relaxed)
                .is_ok();
        if logs {
            return Some(slot.suppressed.swap(0, Relaxed));
        }
        slot.suppressed.fetch_add(1, Relaxed);
        None
    }
}

/// Returns whole milliseconds, capped below [`NEVER`].
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).map_or(NEVER - 1, |ms| ms.min(NEVER - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn one_line_per_interval_says_how_many_were_left_out() {
        let start = Instant::now();
        let limit = LogLimit::new(1, INTERVAL, start);
        assert_eq!(limit.check(0, start), Some(0), "the first is logged");
        for second in 1..10 {
            assert_eq!(limit.check(0, start + seconds(second)), None);
        }
        assert_eq!(limit.check(0, start + seconds(10)), Some(9));
        assert_eq!(limit.check(0, start + seconds(10)), None);
        assert_eq!(limit.check(0, start + seconds(60)), Some(1));
        assert_eq!(limit.check(0, start + seconds(70)), Some(0));
    }

    #[test]
    fn slots_are_independent() {
        let start = Instant::now();
        let limit = LogLimit::new(3, INTERVAL, start);
        assert_eq!(limit.check(0, start), Some(0));
        assert_eq!(limit.check(2, start), Some(0));
        assert_eq!(limit.check(0, start), None);
        assert_eq!(limit.check(1, start), Some(0));
        assert_eq!(limit.check(0, start + INTERVAL), Some(1));
        assert_eq!(limit.check(2, start + INTERVAL), Some(0));
    }

    #[test]
    fn a_clock_that_lags_behind_neither_logs_nor_shortens_the_interval() {
        let start = Instant::now();
        let limit = LogLimit::new(1, INTERVAL, start);
        assert_eq!(limit.check(0, start + seconds(20)), Some(0));
        assert_eq!(limit.check(0, start + seconds(19)), None);
        assert_eq!(limit.check(0, start), None);
        assert_eq!(limit.check(0, start + seconds(29)), None);
        assert_eq!(limit.check(0, start + seconds(30)), Some(3));
    }

    #[test]
    fn a_time_before_the_epoch_counts_as_the_epoch() {
        let start = Instant::now() + seconds(5);
        let limit = LogLimit::new(1, INTERVAL, start);
        assert_eq!(limit.check(0, start - seconds(5)), Some(0));
        assert_eq!(limit.check(0, start + seconds(9)), None);
        assert_eq!(limit.check(0, start + seconds(10)), Some(1));
    }

    #[test]
    fn many_threads_log_one_line_per_interval_and_lose_no_count() {
        const THREADS: u64 = 4;
        const EACH: u64 = 10_000;
        let start = Instant::now();
        let limit = LogLimit::new(1, INTERVAL, start);
        let ask = || {
            // 10,000 lines in a hundred seconds: ten intervals.
            let moments = (0..EACH).map(|n| start + Duration::from_millis(n * 10));
            let logged = moments.filter_map(|now| limit.check(0, now));
            logged.fold((0, 0), |(lines, left_out), n| (lines + 1, left_out + n))
        };
        let totals = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(ask)).collect();
            let ended = threads.into_iter().map(|t| t.join().unwrap());
            ended.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
        });
        let last = limit.check(0, start + seconds(200));
        let (lines, left_out) = (totals.0 + 1, totals.1 + last.unwrap());
        assert!(lines <= 11, "{lines} lines in ten intervals");
        assert_eq!(lines + left_out, THREADS * EACH + 1);
    }
}
