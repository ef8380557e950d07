//! The generic cell rate algorithm: a leaky bucket whose whole state is one time.
//!
//! The state is the *theoretical arrival time* (TAT) of the next request: each admitted request moves it by the interval
//! between two requests at the limit. A request is admitted while the TAT isn't further in the future than a burst allows
//! (ITU-T I.371, annex A). A TAT in the past carries no information: the client has its full burst.

use std::time::Duration;

use crate::config::client_limit::RequestRate;

/// Duration of one tick in nanoseconds: fine enough for a million requests per second to within 1 %, and coarse enough for
/// nine years in 54 bits.
pub(super) const TICK_NANOS: u64 = 16;

/// A rate and a burst, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gcra {
    /// Time between two requests at the limit, at least 1.
    interval: u64,
    /// Largest distance of the TAT in the future at which a request is admitted.
    tolerance: u64,
}

impl Gcra {
    pub(super) fn new(rate: &RequestRate) -> Self {
        let period = ticks(rate.per.length());
        let requests = u64::from(rate.requests);
        let interval = ((period + requests / 2) / requests).max(1);
        Self {
            interval,
            tolerance: interval.saturating_mul(u64::from(rate.burst) - 1),
        }
    }

    /// Admits a request at `now` and returns the new TAT.
    ///
    /// # Errors
    /// The number of ticks after which the request would be admitted.
    #[inline]
    pub(super) fn admit(&self, tat: u64, now: u64) -> Result<u64, u64> {
        let arrival = tat.max(now);
        match (arrival - now).checked_sub(self.tolerance) {
            None | Some(0) => Ok(arrival + self.interval),
            Some(early) => Err(early),
        }
    }
}

/// A duration in ticks.
pub(super) fn ticks(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX) / TICK_NANOS
}

/// The duration of a number of ticks.
pub(super) fn duration(ticks: u64) -> Duration {
    Duration::from_nanos(ticks.saturating_mul(TICK_NANOS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::client_limit::RatePeriod;

    fn gcra(requests: u32, per: RatePeriod, burst: u32) -> Gcra {
        Gcra::new(&RequestRate {
            requests,
            per,
            burst,
        })
    }

    /// How many of the requests at these times, in milliseconds, are admitted.
    fn admitted(gcra: &Gcra, times_ms: impl Iterator<Item = u64>) -> usize {
        let mut tat = 0;
        let admit = |ms: &u64| {
            let outcome = gcra.admit(tat, ticks(Duration::from_millis(1_000 + ms)));
            tat = outcome.unwrap_or(tat);
            outcome.is_ok()
        };
        times_ms.filter(admit).count()
    }

    #[test]
    fn a_burst_is_admitted_at_once_and_the_rate_after_it() {
        let gcra = gcra(10, RatePeriod::Second, 5);
        assert_eq!(admitted(&gcra, std::iter::repeat_n(0, 100)), 5);
        // 10 s of a client that asks every millisecond: its burst, and ten in each second.
        let admitted = admitted(&gcra, 0..10_000);
        assert!((104..=106).contains(&admitted), "{admitted}");
    }

    #[test]
    fn a_client_below_its_limit_is_never_refused() {
        let gcra = gcra(10, RatePeriod::Second, 1);
        assert_eq!(admitted(&gcra, (0..1000).map(|n| n * 100)), 1000);
    }

    #[test]
    fn the_wait_is_exact() {
        let gcra = gcra(6, RatePeriod::Minute, 1);
        let now = ticks(Duration::from_secs(100));
        let tat = gcra.admit(0, now).expect("the first");
        let later = now + ticks(Duration::from_secs(4));
        let wait = gcra.admit(tat, later).expect_err("too early");
        assert_eq!(duration(wait), Duration::from_secs(6));
        assert!(gcra.admit(tat, later + wait).is_ok());
        assert!(gcra.admit(tat, later + wait - 1).is_err());
    }

    #[test]
    fn extreme_rates_are_exact_to_one_percent() {
        for requests in [1, 3, 700_000, 1_000_000] {
            let gcra = gcra(requests, RatePeriod::Second, 1);
            let second = 1e9 / TICK_NANOS as f64;
            let rate = second / gcra.interval as f64;
            assert!((rate / f64::from(requests) - 1.0).abs() < 0.01, "{rate}");
        }
        let slow = gcra(1, RatePeriod::Hour, 700);
        assert_eq!(duration(slow.tolerance), Duration::from_secs(699 * 3600));
    }
}
