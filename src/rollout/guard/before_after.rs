//! The limit for a canary that has all the traffic, from stable's past.
//!
//! Without a concurrent stable a new version can't be told from the hour in which it started. The limit is therefore
//! generous: it starts from the worst minute of stable's last hour, so a service with an outage in its memory only sees
//! gross failures.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::config::rollout::ErrorLimit;

use super::counts::EventTally;

/// Number of minutes that are remembered.
const MINUTES: usize = 60;
/// The normal distribution's 99 % quantile.
const Z99: f64 = 2.326_347_874_040_841;

/// Seconds after the change in which a bad version shows at once.
const FRESH: u64 = 10;
/// Nats that a second may add, while fresh and later.
const CEILINGS: (f64, f64) = (3.0, 0.3);

/// Returns the ceiling of the evidence in second `second` of a canary alone.
///
/// An outage behind every version looks like a bad version that turns bad, and the last hour needn't have seen one. Later
/// failures must therefore last about half a minute, longer than most outages.
pub(super) fn ceiling_alone(second: u64) -> f64 {
    if second <= FRESH {
        CEILINGS.0
    } else {
        CEILINGS.1
    }
}

/// Stable's failures by minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StableMinutes {
    /// Complete minutes with requests, the oldest first.
    complete: VecDeque<EventTally>,
    running: EventTally,
    seconds: u32,
}

impl StableMinutes {
    pub(super) fn add(&mut self, second: EventTally) {
        self.running.add(second);
        self.seconds = self.seconds.saturating_add(1);
        if self.seconds < 60 {
            return;
        }
        self.seconds = 0;
        let minute = std::mem::take(&mut self.running);
        if minute.requests == 0 {
            return;
        }
        if self.complete.len() >= MINUTES {
            self.complete.pop_front();
        }
        self.complete.push_back(minute);
    }

    /// Returns max(m, r·U, r·mean + d): m, r and d are the limits of the plan, U is the upper 99 % bound of the worst minute's
    /// rate. `None` if nothing is known, or nothing is limited.
    pub(super) fn limit(&self, limits: &[ErrorLimit]) -> Option<f64> {
        let (mut absolute, mut difference, mut ratio) = (0.0f64, 0.0f64, 1.0f64);
        for limit in limits {
            match *limit {
                ErrorLimit::Absolute(m) => absolute = absolute.max(m),
                ErrorLimit::Difference(d) => difference = difference.max(d),
                ErrorLimit::Ratio(r) => ratio = ratio.max(r),
            }
        }
        let running = (self.running.requests > 0).then_some(&self.running);
        let minutes = || self.complete.iter().chain(running);
        let worst = minutes().map(|minute| upper_bound(minute.events) / minute.requests as f64);
        let worst = worst.fold(0.0, f64::max);
        let mut all = EventTally::default();
        minutes().for_each(|minute| all.add(*minute));
        if limits.is_empty() || all.requests == 0 {
            return None;
        }
        let limit = absolute
            .max(ratio * worst)
            .max(ratio * all.rate() + difference);
        Some(limit)
    }
}

/// Upper 99 % bound of a Poisson mean by Byar's approximation (Breslow and Day 1987): within 1 % of the exact one.
fn upper_bound(events: u64) -> f64 {
    let next = events as f64 + 1.0;
    next * (1.0 - 1.0 / (9.0 * next) + Z99 / (3.0 * next.sqrt())).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_close_to_the_exact_one() {
        // Half of the chi-square distribution's 99 % quantile with 2(x+1) degrees of freedom.
        for (events, exact) in [(0, 4.60517), (1, 6.63835), (10, 20.1447), (100, 126.4)] {
            let bound = upper_bound(events);
            assert!((bound / exact - 1.0).abs() < 0.01, "{events}: {bound}");
        }
    }

    #[test]
    fn the_limit_comes_from_the_worst_minute() {
        let mut minutes = StableMinutes::default();
        let limits = [
            ErrorLimit::Absolute(0.01),
            ErrorLimit::Difference(0.005),
            ErrorLimit::Ratio(1.5),
        ];
        assert_eq!(minutes.limit(&limits), None, "no memory");
        for second in 0..4000 {
            let events = if (2000..2060).contains(&second) {
                50
            } else {
                1
            };
            minutes.add(EventTally::new(1000, events));
        }
        let limit = minutes.limit(&limits).unwrap();
        // The outage lies in two minutes: 20 s in the worse one's shadow.
        assert!((0.04..0.08).contains(&limit), "{limit}");
        assert_eq!(minutes.complete.len(), 60);
        assert_eq!(minutes.limit(&[]), None);
        let (r, d) = (ErrorLimit::Ratio(1.5), ErrorLimit::Difference(0.2));
        let mean = minutes.limit(&[r, d]).unwrap();
        assert!(
            (0.2..0.21).contains(&mean),
            "{mean}: 1.5 times 0.18 % and 20 %"
        );
        for _ in 0..3660 {
            minutes.add(EventTally::new(1000, 0));
        }
        assert_eq!(
            minutes.limit(&limits),
            Some(0.01),
            "the outage is forgotten"
        );
    }
}
