//! The ratio of failure rates, canary to stable, that is compatible with the data at any time.
//!
//! The hypotheses p_c ≤ r p_s and p_c ≥ r p_s are tested for r from 1/8 to 128 in quarters of an octave. The ratio lies
//! between the largest r below which all are rejected and the smallest r above which all are: a confidence sequence in the
//! sense of Howard et al. (2021), at level α/2 on each side.

use serde::{Deserialize, Serialize};

use super::burstiness::Brakes;
use super::exact;
use super::stratum::Stratum;

const FIRST: i32 = -12;
const LAST: i32 = 28;
const RATIOS: usize = (LAST - FIRST + 1) as usize;
/// Alternatives: 1.4, 2.4, 4.8, 16 and 64 times the ratio. As powers of the same root they share their logarithms.
const POWERS: [i32; 5] = [2, 5, 9, 16, WIDEST];
const WIDEST: i32 = 24;
const LOGS: usize = (LAST - FIRST + 1 + 2 * WIDEST) as usize;

/// The powers of the fourth root of 2 within an octave.
const ROOTS: [f64; 4] = [
    1.0,
    1.189_207_115_002_721,
    std::f64::consts::SQRT_2,
    1.681_792_830_507_429,
];

/// Returns 2^(power/4).
fn root(power: i32) -> f64 {
    ROOTS[power.rem_euclid(4) as usize] * 2f64.powi(power.div_euclid(4))
}

fn ratio(ix: usize) -> f64 {
    root(FIRST + ix as i32)
}

/// The ratio of two failure rates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RatioEstimate {
    /// Observed ratio; infinite if only the canary failed. `None` if nothing failed.
    pub ratio: Option<f64>,
    /// Lower end of the interval; 0 if it is below 1/8.
    pub low: f64,
    /// Upper end of the interval; infinite if it is above 128.
    pub high: f64,
}

/// ln E of each hypothesis and alternative: the ratios in order, five alternatives each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RatioInterval {
    #[serde(with = "exact::list")]
    above: Vec<f64>,
    #[serde(with = "exact::list")]
    below: Vec<f64>,
}

impl RatioInterval {
    pub(super) fn new() -> Self {
        let prior = vec![(0.2f64).ln(); RATIOS * POWERS.len()];
        Self {
            above: prior.clone(),
            below: prior,
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        let parts = RATIOS * POWERS.len();
        self.above.len() == parts && self.below.len() == parts
    }

    pub(super) fn add(&mut self, s: &Stratum, brakes: Brakes) {
        if s.canary_events + s.stable_events == 0.0 {
            return;
        }
        let all = brakes.power * (s.canary_events + s.stable_events);
        let canary = brakes.power * s.canary_events;
        // With θ of `Null::Linear`, 1 + (k−1)θ is (k r n_c + n_s)/(r n_c + n_s).
        let log = |power: i32| (root(power) * s.canary_requests + s.stable_requests).ln();
        let logs: [f64; LOGS] = std::array::from_fn(|ix| log(FIRST - WIDEST + ix as i32));
        let above = self.above.chunks_mut(POWERS.len());
        let below = self.below.chunks_mut(POWERS.len());
        for (ix, (above, below)) in above.zip(below).enumerate() {
            let at = ix + WIDEST as usize;
            for (part, power) in POWERS.iter().enumerate() {
                let k = canary * f64::from(*power) * std::f64::consts::LN_2 / 4.0;
                let power = *power as usize;
                // The alternatives are k times the ratio above and 1/k of it below; ln k is the same but for its sign.
                above[part] += k - all * (logs[at + power] - logs[at]);
                below[part] -= k + all * (logs[at - power] - logs[at]);
            }
        }
    }

    /// Returns the interval for 1 − `alpha`.
    pub(super) fn bounds(&self, alpha: f64) -> (f64, f64) {
        let needed = (2.0 / alpha).ln();
        let rejected = |logs: &[f64]| {
            let most = logs.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
            let sum: f64 = logs.iter().map(|log| (log - most).exp()).sum();
            most + sum.ln() >= needed
        };
        let low = self.above.chunks(POWERS.len()).take_while(|l| rejected(l));
        let high = self.below.rchunks(POWERS.len()).take_while(|l| rejected(l));
        let (low, high) = (low.count(), high.count());
        let end = |count: usize, ix: usize, none: f64| if count == 0 { none } else { ratio(ix) };
        (
            // With a count of 0 the index wraps or is one too large, and isn't used.
            end(low, low.wrapping_sub(1), 0.0),
            end(high, RATIOS.wrapping_sub(high), f64::INFINITY),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::guard::EventTally;
    use crate::rollout::guard::stratum::Null;

    const CALM: Brakes = Brakes {
        power: 1.0,
        ceiling: f64::INFINITY,
    };

    #[test]
    fn the_statistic_is_that_of_the_rules() {
        let mut interval = RatioInterval::new();
        let second = Stratum::new(EventTally::new(50, 5), EventTally::new(450, 9));
        interval.add(&second, CALM);
        for (part, (above, below)) in interval.above.iter().zip(&interval.below).enumerate() {
            let ratio = 2f64.powf((part / 5) as f64 / 4.0 - 3.0);
            let null = Null::Linear {
                ratio,
                difference: 0.0,
            };
            let k = 2f64.powf(f64::from(POWERS[part % 5]) / 4.0);
            let log_e = |k| 0.2f64.ln() + null.log_e(k, &second);
            assert!((above - log_e(k)).abs() < 1e-9, "x{ratio} {k}");
            assert!((below - log_e(1.0 / k)).abs() < 1e-9, "x{ratio} 1/{k}");
        }
    }

    #[test]
    fn the_interval_closes_in_on_the_ratio() {
        let mut interval = RatioInterval::new();
        assert_eq!(interval.bounds(0.01), (0.0, f64::INFINITY));
        let second = Stratum::new(EventTally::new(50, 5), EventTally::new(450, 9));
        let mut width = f64::INFINITY;
        for seconds in [10, 90, 900] {
            (0..seconds).for_each(|_| interval.add(&second, CALM));
            let (low, high) = interval.bounds(0.01);
            assert!(low < 5.0 && 5.0 < high, "{low} to {high}");
            assert!(high / low < width, "{low} to {high}");
            width = high / low;
        }
        assert!(width <= 2.0, "{width}");
    }

    #[test]
    fn equal_sides_are_compatible_with_one() {
        let mut interval = RatioInterval::new();
        let second = Stratum::new(EventTally::new(100, 1), EventTally::new(100, 1));
        (0..3000).for_each(|_| interval.add(&second, CALM));
        let (low, high) = interval.bounds(0.01);
        assert!(
            low < 1.0 && low > 0.6 && high > 1.0 && high < 1.7,
            "{low} to {high}"
        );
    }
}
