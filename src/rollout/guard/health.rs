//! Failures that the canary doesn't cause, because stable fails too.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::counts::{EventTally, Pairs};
use super::exact;
use super::names::SideNames;
use super::rules::percent;

/// Time constant of the recent sums, and number of seconds of pairs.
const RECENT: usize = 30;
/// Half-life of the long sums, in seconds.
const HOUR: f64 = 3600.0;
/// Factor by which stable's recent rate must exceed its mean of an hour, with at least [`LEAST_FAILURES`] failures.
const TIMES: f64 = 3.0;
const LEAST_FAILURES: f64 = 20.0;
/// Hidden failures that must have been tried on stable.
const LEAST_PAIRS: u64 = 5;

/// Why a rollout should hold although the guard doesn't fail it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HoldReason {
    /// Stable itself breaks an absolute limit of the error rate.
    StableAboveLimit {
        /// Stable's error rate over 30 s.
        rate: f64,
        /// The limit.
        limit: f64,
    },
    /// Stable fails far more often than usual.
    StableDegraded {
        /// Stable's error rate over 30 s.
        rate: f64,
        /// Stable's mean error rate over an hour.
        mean: f64,
    },
    /// Requests that fail on the canary fail on stable as well, so the request or something behind both is at fault.
    BothFail(Pairs),
}

impl HoldReason {
    /// The reason in words.
    pub fn words(&self, names: SideNames) -> String {
        let fails = names.stable_fails;
        match self {
            Self::StableAboveLimit { rate, limit } => format!(
                "{fails}: {} of its requests, limit {}",
                Percent(*rate),
                Percent(*limit)
            ),
            Self::StableDegraded { rate, mean } => format!(
                "{fails}: {} of its requests, usually {}",
                Percent(*rate),
                Percent(*mean)
            ),
            Self::BothFail(pairs) => format!(
                "the same requests fail on stable: {} of {} tried there",
                pairs.failed, pairs.tried
            ),
        }
    }
}

/// A ratio as percent with two or three significant digits.
pub(super) struct Percent(pub(super) f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0 * 100.0;
        let decimals = match value {
            v if v == 0.0 || v >= 99.95 => 0,
            v if v >= 9.95 => 1,
            v => (1.0 - v.log10().floor()).clamp(0.0, 6.0) as usize,
        };
        let factor = 10f64.powi(decimals as i32);
        write!(
            f,
            "{} %",
            percent((value * factor).round() / factor / 100.0)
        )
    }
}

/// Stable's failures, recent and over an hour, and hidden failures tried on stable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct StableHealth {
    recent: DecayedTally,
    hour: DecayedTally,
    pairs: VecDeque<Pairs>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct DecayedTally {
    #[serde(with = "exact")]
    requests: f64,
    #[serde(with = "exact")]
    events: f64,
}

impl DecayedTally {
    fn add(&mut self, second: EventTally, keep: f64) {
        self.requests = keep * self.requests + second.requests as f64;
        self.events = keep * self.events + second.events as f64;
    }

    fn rate(self) -> f64 {
        if self.requests > 0.0 {
            self.events / self.requests
        } else {
            0.0
        }
    }
}

impl StableHealth {
    /// Adds a second of stable.
    pub(super) fn add(&mut self, stable: EventTally) {
        self.recent.add(stable, (-1.0 / RECENT as f64).exp());
        self.hour.add(stable, 0.5f64.powf(1.0 / HOUR));
    }

    /// Adds a second of hidden failures.
    pub(super) fn add_pairs(&mut self, pairs: Pairs) {
        if self.pairs.len() >= RECENT {
            self.pairs.pop_front();
        }
        self.pairs.push_back(pairs);
    }

    /// Whether stable's recent failures are far above its mean.
    pub(super) fn degraded(&self) -> Option<HoldReason> {
        let (rate, mean) = (self.recent.rate(), self.hour.rate());
        let degraded = self.recent.events >= LEAST_FAILURES && rate > TIMES * mean;
        degraded.then_some(HoldReason::StableDegraded { rate, mean })
    }

    /// Whether most of the hidden failures of the last 30 s failed on stable too.
    pub(super) fn both_fail(&self) -> Option<HoldReason> {
        let mut sum = Pairs::default();
        for pairs in &self.pairs {
            sum.tried = sum.tried.saturating_add(pairs.tried);
            sum.failed = sum.failed.saturating_add(pairs.failed);
        }
        let both = sum.tried >= LEAST_PAIRS && sum.failed.saturating_mul(2) > sum.tried;
        both.then_some(HoldReason::BothFail(sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_is_degraded_three_times_above_its_mean() {
        let mut health = StableHealth::default();
        for _ in 0..1800 {
            health.add(EventTally::new(450, 1));
            assert_eq!(health.degraded(), None);
        }
        let first = (1..60).find(|_| {
            health.add(EventTally::new(450, 9));
            health.degraded().is_some()
        });
        assert!((5..20).contains(&first.unwrap()), "{first:?}");
        for _ in 0..120 {
            health.add(EventTally::new(450, 1));
        }
        assert_eq!(health.degraded(), None);
    }

    #[test]
    fn few_failures_dont_degrade_stable() {
        let mut health = StableHealth::default();
        (0..600).for_each(|_| health.add(EventTally::new(10, 0)));
        (0..10).for_each(|_| health.add(EventTally::new(10, 1)));
        assert_eq!(health.degraded(), None, "10 failures of 100");
    }

    #[test]
    fn pairs_count_for_thirty_seconds() {
        let mut health = StableHealth::default();
        let pair = |tried, failed| Pairs { tried, failed };
        health.add_pairs(pair(4, 4));
        assert_eq!(health.both_fail(), None, "too few");
        health.add_pairs(pair(4, 0));
        assert_eq!(health.both_fail(), None, "half isn't most");
        health.add_pairs(pair(1, 1));
        assert_eq!(health.both_fail(), Some(HoldReason::BothFail(pair(9, 5))));
        (0..30).for_each(|_| health.add_pairs(pair(0, 0)));
        assert_eq!(health.both_fail(), None);
    }

    #[test]
    fn percent_has_the_digits_that_matter() {
        let shown = |ratio: f64| Percent(ratio).to_string();
        assert_eq!(shown(0.0), "0 %");
        assert_eq!(shown(1.0), "100 %");
        assert_eq!(shown(0.2), "20 %");
        assert_eq!(shown(0.123_45), "12.3 %");
        assert_eq!(shown(0.0296), "3 %");
        assert_eq!(shown(0.0015), "0.15 %");
        assert_eq!(shown(0.000_012), "0.0012 %");
    }
}
