//! The claims that make the test valid, checked by enumeration.

use proptest::prelude::*;

use crate::rollout::guard::process::{BETTER, WORSE};
use crate::rollout::guard::rules::FEWER;
use crate::rollout::guard::stratum::{Null, Stratum};

fn binomial(n: u32, p: f64) -> Vec<f64> {
    let mut probabilities = vec![1.0];
    for _ in 0..n {
        let mut next = vec![0.0; probabilities.len() + 1];
        for (x, probability) in probabilities.iter().enumerate() {
            next[x] += probability * (1.0 - p);
            next[x + 1] += probability * p;
        }
        probabilities = next;
    }
    probabilities
}

/// E e over all outcomes of n_c and n_s requests.
fn expectation(null: Null, k: f64, canary: (u32, f64), stable: (u32, f64)) -> f64 {
    let mut sum = 0.0;
    for (canary_events, canary_probability) in binomial(canary.0, canary.1).iter().enumerate() {
        for (stable_events, stable_probability) in binomial(stable.0, stable.1).iter().enumerate() {
            let stratum = Stratum {
                canary_requests: f64::from(canary.0),
                canary_events: canary_events as f64,
                stable_requests: f64::from(stable.0),
                stable_events: stable_events as f64,
            };
            sum += canary_probability * stable_probability * null.log_e(k, &stratum).exp();
        }
    }
    sum
}

proptest! {
    #[test]
    fn an_e_value_has_mean_one_at_most_within_the_limit(
        n_c in 1u32..9, n_s in 1u32..12, p_s in 0.0f64..1.0, within in 0.0f64..1.0,
        ratio in 0.3f64..4.0, difference in prop_oneof![Just(0.0), 0.0f64..0.2], k in 0usize..5,
    ) {
        let linear = Null::Linear { ratio, difference };
        let on_limit = (ratio * p_s + difference).min(1.0);
        let p_c = within * on_limit;
        let mean = |null, k, p_c| expectation(null, k, (n_c, p_c), (n_s, p_s));
        prop_assert!(mean(linear, WORSE[k], p_c) <= 1.0 + 1e-9);
        // Turned round: on the limit or beyond it.
        if ratio * p_s + difference <= 1.0 {
            let beyond = on_limit + within * (1.0 - on_limit);
            prop_assert!(mean(linear, BETTER[k], beyond) <= 1.0 + 1e-9);
            prop_assert!(mean(linear, FEWER[k], beyond) <= 1.0 + 1e-9);
        }
        let m = 0.01 + 0.98 * p_s;
        prop_assert!(mean(Null::Rate(m), WORSE[k], within * m) <= 1.0 + 1e-9);
        prop_assert!(mean(Null::Rate(m), BETTER[k], m + within * (1.0 - m)) <= 1.0 + 1e-9);
        prop_assert!(mean(Null::Fraction(m), WORSE[k], within * m) <= 1.0 + 1e-9);
        prop_assert!(mean(Null::Fraction(m), BETTER[k], m + within * (1.0 - m)) <= 1.0 + 1e-9);
    }

    #[test]
    fn the_bernoulli_form_needs_no_exact_quantile(
        n_c in 1u32..9, n_s in 1u32..12, p_s in 0.0f64..1.0, within in 0.0f64..1.0,
        m in 0.001f64..0.999, k in 0usize..5,
    ) {
        let mean = |k, p_c| expectation(Null::Equal(m), k, (n_c, p_c), (n_s, p_s));
        prop_assert!(mean(WORSE[k], within * p_s) <= 1.0 + 1e-9);
        prop_assert!(mean(BETTER[k], p_s + within * (1.0 - p_s)) <= 1.0 + 1e-9);
    }
}

/// The enumeration can fail: beyond the limit the expectation exceeds 1.
#[test]
fn beyond_the_limit_evidence_grows() {
    let linear = Null::Linear {
        ratio: 1.5,
        difference: 0.0,
    };
    assert!(expectation(linear, 2.5, (8, 0.5), (11, 0.1)) > 1.5);
    assert!(expectation(Null::Rate(0.1), 2.5, (8, 0.5), (0, 0.0)) > 1.5);
    assert!(expectation(Null::Equal(0.1), 2.5, (8, 0.5), (11, 0.1)) > 1.5);
}

/// Both thresholds of a latency ratio, against the formula written out.
#[test]
fn the_near_threshold_has_the_bernoulli_form_and_the_far_one_the_rare_form() {
    let stratum = Stratum {
        canary_requests: 50.0,
        canary_events: 6.0,
        stable_requests: 450.0,
        stable_events: 5.0,
    };
    for (k, m) in [(2.5f64, 0.01f64), (15.0, 0.1), (1.5, 0.5)] {
        let p1 = k * m / (1.0 + (k - 1.0) * m);
        let p0 = (50.0 * p1 + 450.0 * m) / 500.0;
        let likelihood =
            |c: f64, s: f64| c.powi(6) * (1.0 - c).powi(44) * s.powi(5) * (1.0 - s).powi(445);
        let expected = (likelihood(p1, m) / likelihood(p0, p0)).ln();
        let found = Null::Equal(m).log_e(k, &stratum);
        assert!(
            (found / expected - 1.0).abs() < 1e-9,
            "{found}, not {expected}"
        );
    }
    let far = Null::Linear {
        ratio: 1.0,
        difference: 0.0,
    };
    // The canary's share of the events: a tenth, or k/(k+9).
    let share = 2.5 / (2.5 + 9.0);
    let expected = 6.0 * (share / 0.1f64).ln() + 5.0 * ((1.0 - share) / 0.9f64).ln();
    assert!((far.log_e(2.5, &stratum) / expected - 1.0).abs() < 1e-9);
}
