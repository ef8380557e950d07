//! The e-value of one stratum: the requests of both sides in one second.

use serde::{Deserialize, Serialize};

use super::counts::EventTally;

/// Requests and events of both sides. Real numbers, because forecasts use expectations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Stratum {
    pub(super) canary_requests: f64,
    pub(super) canary_events: f64,
    pub(super) stable_requests: f64,
    pub(super) stable_events: f64,
}

impl Stratum {
    pub(super) fn new(canary: EventTally, stable: EventTally) -> Self {
        Self {
            canary_requests: canary.requests as f64,
            canary_events: canary.events as f64,
            stable_requests: stable.requests as f64,
            stable_events: stable.events as f64,
        }
    }

    /// The expectation for one request of the canary, with `per_canary` requests of stable for each.
    pub(super) fn expected(canary_rate: f64, stable_rate: f64, per_canary: f64) -> Self {
        Self {
            canary_requests: 1.0,
            canary_events: canary_rate,
            stable_requests: per_canary,
            stable_events: stable_rate * per_canary,
        }
    }
}

/// A limit, as the null hypothesis about p_c and p_s, the average probabilities of the event in a second on both sides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Null {
    /// p_c ≤ `ratio` · p_s + `difference` in every second.
    ///
    /// With θ = r n_c/(r n_c + n_s):
    ///
    /// ln e = x_c ln k − (x_c + x_s) ln(1 + (k−1)θ) − n_c d (k−1)(1−θ)/(1 + (k−1)θ)
    ///
    /// For d = 0 this is the conditional likelihood ratio of the canary's share of the events (Przyborowski and Wilenski
    /// 1940; Lindon and Malek 2022; ter Schure et al. 2024). With a = k/(1+(k−1)θ) and b = 1/(1+(k−1)θ), E e is at most
    /// exp(n_c p_c(a−1) + n_s p_s(b−1) − n_c d(a−1)) by 1+x ≤ eˣ, and θ is such that r n_c(a−1) + n_s(b−1) = 0. What remains,
    /// n_c(a−1)(p_c − r p_s − d), is at most 0 under the null. It holds for every size, split and course of p_s.
    Linear { ratio: f64, difference: f64 },
    /// p_c ≤ the rate: ln e = x_c ln k − n_c m (k−1), the same for a Poisson count.
    Rate(f64),
    /// p_c ≤ the rate, in Bernoulli form for events that aren't rare. With p₁ = k m/(1+(k−1)m):
    ///
    /// ln e = x_c ln(p₁/m) + (n_c−x_c) ln((1−p₁)/(1−m))
    Fraction(f64),
    /// p_c ≤ p_s, where p_s is close to the given one, in Bernoulli form. With p₁ as above and p₀ the mean of p₁ and m over the
    /// requests:
    ///
    /// ln e = x_c ln(p₁/p₀) + (n_c−x_c) ln((1−p₁)/(1−p₀)) + x_s ln(m/p₀) + (n_s−x_s) ln((1−m)/(1−p₀))
    ///
    /// (Turner, Ly and Grünwald 2024.) For p_c = p_s the factors have mean 1 over the requests, so their expectation is at
    /// most 1 by the inequality of arithmetic and geometric means; a wrong m only costs power.
    Equal(f64),
}

impl Null {
    /// Returns ln e against the alternative of `k` times the limit. k below 1 tests the opposite: that the canary is on its
    /// limit or beyond it.
    pub(super) fn log_e(self, k: f64, s: &Stratum) -> f64 {
        match self {
            Self::Linear { ratio, difference } => {
                let weighed = ratio * s.canary_requests;
                let theta = weighed / (weighed + s.stable_requests);
                let q = 1.0 + (k - 1.0) * theta;
                let allowed = s.canary_requests * difference * (k - 1.0) * (1.0 - theta) / q;
                s.canary_events * k.ln() - (s.canary_events + s.stable_events) * q.ln() - allowed
            }
            Self::Rate(m) => s.canary_events * k.ln() - s.canary_requests * m * (k - 1.0),
            Self::Fraction(m) => {
                let p1 = times(k, m);
                s.canary_events * (p1 / m).ln()
                    + (s.canary_requests - s.canary_events) * ((1.0 - p1) / (1.0 - m)).ln()
            }
            Self::Equal(m) => {
                let p1 = times(k, m);
                let n = s.canary_requests + s.stable_requests;
                let p0 = (s.canary_requests * p1 + s.stable_requests * m) / n;
                s.canary_events * (p1 / p0).ln()
                    + (s.canary_requests - s.canary_events) * ((1.0 - p1) / (1.0 - p0)).ln()
                    + s.stable_events * (m / p0).ln()
                    + (s.stable_requests - s.stable_events) * ((1.0 - m) / (1.0 - p0)).ln()
            }
        }
    }

    /// Whether a stratum without events leaves every ln e at 0.
    pub(super) fn ignores_silence(self) -> bool {
        matches!(self, Self::Linear { difference, .. } if difference == 0.0)
    }
}

/// Multiplies the odds of `m` by `k`.
fn times(k: f64, m: f64) -> f64 {
    k * m / (1.0 + (k - 1.0) * m)
}
