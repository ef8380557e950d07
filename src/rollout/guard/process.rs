//! The e-process of one rule.

use serde::{Deserialize, Serialize};

use super::burstiness::Brakes;
use super::exact;
use super::stratum::{Null, Stratum};

/// Alternatives: multiples of the limit that the events of a bad canary may have.
pub(super) const WORSE: [f64; 5] = [1.5, 2.5, 5.0, 15.0, 60.0];
/// Alternatives of the proof that a canary is good.
pub(super) const BETTER: [f64; 5] = [1.0 / 1.25, 1.0 / 1.6, 1.0 / 2.5, 1.0 / 6.0, 1.0 / 20.0];

/// Seconds between two starting times, and the time by which a quarter of the prior is spent.
const EVERY: u64 = 10;
const SPREAD: f64 = 120.0;

/// A mixture of e-processes, over alternatives (Robbins 1970) and over starting times.
///
/// A sum of e-processes that start at different times, with prior weights, is an e-process again (the form for the probability of a
/// false alarm of the e-detectors of Shin, Ramdas and Rinaldo 2024). Without the later starts, evidence that the canary was good
/// for ten minutes must be undone before one that turns bad is noticed. They cost ln 2 at the start.
///
/// Invariant: under the limit, the expectation of the e-value is at most 1 at any time. So whatever is done to a second's evidence,
/// by brakes or by leaving it out, may only depend on seconds before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct EProcess {
    /// ln of the mixture's parts, one for each alternative.
    #[serde(with = "exact::list")]
    logs: [f64; 5],
    /// Prior of the starting times to come.
    #[serde(with = "exact")]
    reserve: f64,
    /// Number of seconds that the process has taken in.
    second: u64,
}

impl EProcess {
    /// A process that starts at many times: half at once, half later.
    pub(super) fn restarting() -> Self {
        Self {
            logs: [f64::NEG_INFINITY; 5],
            reserve: 1.0,
            second: 0,
        }
    }

    /// A process that starts once. [`tick`](Self::tick) isn't called for it.
    pub(super) fn starting_once() -> Self {
        Self {
            logs: [(0.2f64).ln(); 5],
            reserve: 0.0,
            second: 0,
        }
    }

    /// Starts the parts whose time has come. Called at the begin of every second of the clock, before [`add`](Self::add).
    pub(super) fn tick(&mut self) {
        let prior = prior(self.second);
        self.second = self.second.saturating_add(1);
        if prior > 0.0 {
            self.reserve = (self.reserve - prior).max(0.0);
            let part = (prior / 5.0).ln();
            for log in &mut self.logs {
                *log = log_add(*log, part);
            }
        }
    }

    /// Adds the evidence of a stratum: min(ceiling, power · ln e).
    ///
    /// Power and ceiling come from the past, and they can only make an e-value smaller in expectation, so the process stays
    /// an e-process.
    pub(super) fn add(&mut self, null: Null, alternatives: &[f64; 5], s: &Stratum, brakes: Brakes) {
        if s.canary_events + s.stable_events == 0.0 && null.ignores_silence() {
            return;
        }
        for (log, k) in self.logs.iter_mut().zip(alternatives) {
            *log += (brakes.power * null.log_e(*k, s)).min(brakes.ceiling);
        }
    }

    /// Returns the natural logarithm of the e-value.
    pub(super) fn log_e(&self) -> f64 {
        let reserve = self.reserve.ln();
        let most = self.logs.iter().fold(reserve, |a, b| a.max(*b));
        if most == f64::NEG_INFINITY {
            return most;
        }
        let parts: f64 = self.logs.iter().map(|log| (log - most).exp()).sum();
        most + ((reserve - most).exp() + parts).ln()
    }
}

/// Prior of starting in second `t`: ½ at 0, then ½·[120/(120+t−10) − 120/(120+t)] each ten seconds. Sums to 1.
fn prior(t: u64) -> f64 {
    if t == 0 {
        return 0.5;
    }
    if !t.is_multiple_of(EVERY) {
        return 0.0;
    }
    let t = t as f64;
    0.5 * (SPREAD / (SPREAD + t - EVERY as f64) - SPREAD / (SPREAD + t))
}

/// ln(eᵃ + eᵇ), for −∞ too.
pub(super) fn log_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY {
        return high;
    }
    high + (low - high).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prior_sums_to_one_and_is_spent_in_order() {
        let spent: f64 = (0..10_000_000).step_by(10).map(prior).sum();
        assert!((spent - 1.0).abs() < 1e-5, "{spent}");
        let early: f64 = (0..=120).map(prior).sum();
        assert!((early - 0.75).abs() < 1e-12, "a quarter within 120 s");
        assert_eq!(prior(11), 0.0);
    }

    #[test]
    fn without_strata_evidence_stays_at_one() {
        let mut process = EProcess::restarting();
        for _ in 0..100_000 {
            process.tick();
            assert!(process.log_e().abs() < 1e-9, "{}", process.log_e());
        }
    }

    #[test]
    fn logarithms_add() {
        assert_eq!(log_add(f64::NEG_INFINITY, 2.0), 2.0);
        assert_eq!(log_add(2.0, f64::NEG_INFINITY), 2.0);
        let both = f64::NEG_INFINITY;
        assert_eq!(log_add(both, both), both);
        assert!((log_add(700.0, 700.0) - 700.0 - 2f64.ln()).abs() < 1e-12);
    }
}
