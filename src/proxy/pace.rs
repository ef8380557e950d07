//! Minimum rate of request bodies. `limits.body_timeout` limits silence; a client that sends a byte
//! now and then is never silent, so a token bucket also limits its average rate.

use std::time::Duration;

/// Minimum average rate of a request body, in bytes per second: the default of Kestrel's
/// `MinRequestBodyDataRate`.
///
/// The bucket holds `limits.body_timeout` worth of this rate and starts full. It drains while the
/// proxy waits for the client, not while the upstream blocks, and every received byte refills it.
/// The client times out when the bucket is empty.
pub(crate) const LEAST_RATE: u64 = 240;

/// A client whose bucket lacks this many milliseconds of [`LEAST_RATE`] is behind.
const BEHIND_MS: u64 = 1_000;

/// The token bucket of one body.
#[derive(Debug)]
pub(crate) struct UploadPace {
    /// Size of the bucket, in thousandths of a byte.
    capacity: u64,
    /// Content of the bucket, in thousandths of a byte.
    credit: u64,
    /// Whether the body consists of messages with pauses between them, so that only silence is limited.
    allows_pauses: bool,
    now_ms: u64,
    moved: u64,
    awaits_client: bool,
}

impl UploadPace {
    /// A full bucket. `messages`: the body is a stream of messages, and each refills the bucket.
    pub(crate) fn new(limit: Duration, messages: bool, now_ms: u64) -> Self {
        let capacity = (limit.as_millis() as u64).saturating_mul(LEAST_RATE);
        Self {
            capacity,
            credit: capacity,
            allows_pauses: messages,
            now_ms,
            // Differs from any real count, so that the first update arms the deadline.
            moved: u64::MAX,
            awaits_client: false,
        }
    }

    /// Updates the bucket: `moved` bytes have been received in all, and the proxy waits for the
    /// client or (if not `awaits_client`) for the upstream. Returns how long the client may be
    /// silent from now on; `None` if nothing has changed, so that the deadline stands.
    pub(crate) fn update(
        &mut self,
        now_ms: u64,
        moved: u64,
        awaits_client: bool,
    ) -> Option<Duration> {
        if moved == self.moved && awaits_client == self.awaits_client {
            return None;
        }
        let received = moved.saturating_sub(self.moved);
        if self.awaits_client {
            let waited = now_ms.saturating_sub(self.now_ms);
            self.credit = self
                .credit
                .saturating_sub(waited.saturating_mul(LEAST_RATE));
        }
        let earned = if self.allows_pauses && received > 0 {
            self.capacity
        } else {
            received.saturating_mul(1000)
        };
        self.credit = self.credit.saturating_add(earned).min(self.capacity);
        (self.now_ms, self.moved, self.awaits_client) = (now_ms, moved, awaits_client);
        let wait = if awaits_client {
            self.credit
        } else {
            self.capacity
        };
        Some(Duration::from_millis(wait / LEAST_RATE))
    }

    /// When the client will be behind, in milliseconds of the worker's clock, if it sends nothing
    /// more. `None`: the upstream is awaited, or pauses are allowed.
    pub(crate) fn behind_at(&self) -> Option<u64> {
        let owed = (self.capacity - self.credit) / LEAST_RATE;
        let waits = self.awaits_client && !self.allows_pauses;
        waits.then(|| self.now_ms + BEHIND_MS.saturating_sub(owed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// When a client that sends `bytes` every `every_ms` is cut off; `None`: never within an hour.
    fn cut_after(bytes: u64, every_ms: u64, messages: bool) -> Option<u64> {
        let mut pace = UploadPace::new(LIMIT, messages, 0);
        let (mut now, mut moved) = (0, 0);
        while now < 3_600_000 {
            let wait = pace.update(now, moved, true).expect("it moved");
            if wait.as_millis() as u64 <= every_ms {
                return Some(now + wait.as_millis() as u64);
            }
            now += every_ms;
            moved += bytes;
        }
        None
    }

    #[test]
    fn a_trickle_is_cut_soon_after_silence_would_be() {
        assert_eq!(cut_after(1, 29_000, false), Some(30_004));
        let one_a_second = cut_after(1, 1000, false).expect("cut");
        assert!((30_000..31_000).contains(&one_a_second), "{one_a_second}");
        let half = cut_after(120, 1000, false).expect("cut");
        assert!((59_000..62_000).contains(&half), "{half}");
    }

    #[test]
    fn a_client_at_the_minimum_rate_is_never_cut() {
        assert_eq!(cut_after(240, 1000, false), None);
        assert_eq!(cut_after(5000, 20_000, false), None);
        // The bucket has a maximum, so a fast start doesn't allow a slow rest.
        let mut pace = UploadPace::new(LIMIT, false, 0);
        pace.update(0, 10_000_000, true);
        let wait = pace.update(29_000, 10_000_001, true).expect("it moved");
        assert!(wait < Duration::from_secs(2), "{wait:?}");
    }

    #[test]
    fn a_slow_client_is_behind_after_a_second() {
        let mut pace = UploadPace::new(LIMIT, false, 0);
        pace.update(0, 0, true);
        assert_eq!(pace.behind_at(), Some(1000));
        pace.update(900, 1, true);
        assert!((1000..1010).contains(&pace.behind_at().expect("awaited")));
        pace.update(1200, 1_000, true);
        assert_eq!(pace.behind_at(), Some(2200));
        pace.update(1300, 2_000, false);
        assert_eq!(pace.behind_at(), None, "the upstream is awaited");
        let mut messages = UploadPace::new(LIMIT, true, 0);
        messages.update(0, 0, true);
        assert_eq!(messages.behind_at(), None);
    }

    #[test]
    fn streams_of_messages_may_pause() {
        assert_eq!(cut_after(9, 29_000, true), None);
        assert_eq!(cut_after(9, 30_000, true), Some(30_000));
    }

    #[test]
    fn time_spent_on_the_upstream_does_not_count() {
        let mut pace = UploadPace::new(LIMIT, false, 0);
        assert_eq!(pace.update(0, 0, true), Some(LIMIT));
        assert_eq!(pace.update(10_000, 0, true), None);
        assert_eq!(pace.update(10_000, 0, false), Some(LIMIT));
        let wait = pace.update(40_000, 0, true).expect("it changed");
        assert_eq!(wait, Duration::from_secs(20));
    }
}
