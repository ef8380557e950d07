//! Forecasts of when a verdict is due, and of the effects that a step can detect at all.
//!
//! The growth of evidence for each request of the canary is g = η · max over k of E ln e. By Wald's identity (1947) a verdict
//! needs about (ln(1/(α w)) + 1.2)/g requests in half of the cases. The constant and the factor for nine of ten were fitted to
//! simulations of rates from 0.1 % to 5 %.

use crate::config::rollout::GuardSpec;

use super::health::Percent;
use super::judge::Guard;
use super::process::WORSE;
use super::rules::{ERRORS, Part, Rule, Rules, percent};
use super::stratum::{Null, Stratum};

/// Beyond ln(1/(α w)): the prior of the start, and the overshoot.
const BEYOND: f64 = 1.2;
/// Nine of ten verdicts need at most this many times the requests of half of them.
const NINE_OF_TEN: f64 = 2.2;
/// An effect of more than this many times its limit is worth a warning.
const COARSE: f64 = 3.0;

/// Time until the guard fails the canary if rates stay as they are, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeToVerdict {
    /// The time in half of the cases.
    pub median: f64,
    /// The time in nine of ten cases.
    pub nine_of_ten: f64,
}

impl Guard {
    /// Returns when a failing verdict is due at the rates of the running step; `None` if none is in sight.
    pub fn time_to_verdict(&self) -> Option<TimeToVerdict> {
        if self.state.rate <= 0.0 || self.state.is_alone() {
            return None;
        }
        let rules = self.rules.rules.iter().enumerate();
        let times = rules.filter_map(|(ix, rule)| self.time_of(ix, rule));
        times.min_by(|a, b| a.median.total_cmp(&b.median))
    }

    fn time_of(&self, ix: usize, rule: &Rule) -> Option<TimeToVerdict> {
        // Evidence that speaks for the canary need not be undone first: the process starts anew every few seconds.
        let has = self.log_e(ix).max(0.0);
        let times = rule.parts.iter().filter_map(|part| {
            let signal = &self.state.signals[part.signal];
            if rule
                .absolute
                .is_some_and(|limit| signal.stable_rate > limit)
            {
                return None;
            }
            let counts = &signal.step;
            if counts.canary.requests == 0 || counts.stable.requests == 0 {
                return None;
            }
            // Half an event more, so that no rate is 0.
            let smooth = |events: u64, n: u64| (events as f64 + 0.5) / (n as f64 + 1.0);
            let mean = Stratum::expected(
                smooth(counts.canary.events, counts.canary.requests),
                smooth(counts.stable.events, counts.stable.requests),
                counts.stable.requests as f64 / counts.canary.requests as f64,
            );
            let per_endpoint = self.state.rate / self.state.endpoints as f64;
            let brakes = signal.burstiness.brakes(per_endpoint);
            let growth = brakes.power * growth(rule, part, &mean);
            if growth <= 0.0 {
                return None;
            }
            let wanted = needed(self.alpha, rule.part_weight());
            // However bad it is, no second adds more than the ceiling.
            let least = ((wanted - has) / brakes.ceiling).ceil().max(0.0);
            let seconds = |factor: f64| {
                let requests = (factor * wanted - has).max(0.0) / growth;
                (requests / self.state.rate).max(least)
            };
            Some(TimeToVerdict {
                median: seconds(1.0),
                nine_of_ten: seconds(NINE_OF_TEN),
            })
        });
        times.min_by(|a, b| a.median.total_cmp(&b.median))
    }
}

/// Returns the evidence that a verdict needs: ln(1/(α w)) + 1.2.
fn needed(alpha: f64, weight: f64) -> f64 {
    -(alpha * weight).ln() + BEYOND
}

/// The growth of a part's evidence in a stratum of expectations. An absolute limit also needs the evidence of "worse at all".
fn growth(rule: &Rule, part: &Part, mean: &Stratum) -> f64 {
    let most = |null: Null, alternatives: &[f64; 5]| {
        let growths = alternatives.iter().map(|k| null.log_e(*k, mean));
        growths.fold(f64::NEG_INFINITY, f64::max)
    };
    let growth = most(part.null, rule.alternatives);
    if rule.absolute.is_none() {
        return growth;
    }
    let worse = Null::Linear {
        ratio: 1.0,
        difference: 0.0,
    };
    growth.min(most(worse, &WORSE))
}

/// The traffic of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTraffic {
    /// The canary's share, above 0 and below 1.
    pub share: f64,
    /// The service's requests a second.
    pub rate: f64,
    /// Duration of the step, in seconds.
    pub seconds: f64,
}

/// The smallest error rate of a canary that a step finds in nine of ten rollouts.
#[derive(Clone, Debug, PartialEq)]
pub struct Visibility {
    /// The canary's requests in the step.
    pub requests: f64,
    /// The rate; `None` if not even a canary that always fails would be found.
    pub rate: Option<f64>,
    /// The rule that sees it, as `errors x1.5`.
    pub rule: String,
    /// The canary's rate that the rule allows at stable's rate.
    pub limit: f64,
}

impl Visibility {
    /// Whether the step is too small: the rate is more than three times the limit.
    pub fn is_coarse(&self) -> bool {
        self.rate.is_none_or(|rate| rate > COARSE * self.limit)
    }
}

/// Returns the smallest error rate that a step can see while stable's is `stable_rate`; `None` without limits of errors or
/// without a stable beside the canary.
pub fn visibility(spec: &GuardSpec, traffic: &StepTraffic, stable_rate: f64) -> Option<Visibility> {
    let requests = traffic.share * traffic.rate * traffic.seconds;
    if traffic.share <= 0.0 || traffic.share >= 1.0 || requests <= 0.0 {
        return None;
    }
    let rules = Rules::new(spec);
    let errors = rules.rules.iter().filter(|r| r.parts[0].signal == ERRORS);
    let seen = errors.filter_map(|rule| {
        let limit = match rule.parts[0].null {
            Null::Linear { ratio, difference } => ratio * stable_rate + difference,
            // Stable's own failures often suspend a limit that they nearly reach.
            Null::Rate(m) if stable_rate <= 0.8 * m => m,
            _ => return None,
        };
        let wanted = NINE_OF_TEN * needed(1.0 - spec.confidence, rule.weight);
        let grows = |rate: f64| {
            let per_canary = (1.0 - traffic.share) / traffic.share;
            let mean = Stratum::expected(rate, stable_rate, per_canary);
            requests * growth(rule, &rule.parts[0], &mean) >= wanted
        };
        Some(Visibility {
            requests,
            rate: grows(1.0).then(|| smallest(limit, grows)),
            rule: rule.name.clone(),
            limit,
        })
    });
    let order = |v: &Visibility| v.rate.unwrap_or(f64::INFINITY);
    seen.min_by(|a, b| order(a).total_cmp(&order(b)))
}

/// The smallest rate above `low` for which `grows` holds, by bisection. It holds for 1.
fn smallest(low: f64, grows: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (low, 1.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if grows(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// Returns a warning about a step that is too small to detect what its guard limits, with the arithmetic. `step` names the step,
/// as `step 1 (1% for 5m`.
pub fn step_warning(
    spec: &GuardSpec,
    step: &str,
    traffic: &StepTraffic,
    stable_rate: f64,
) -> Option<String> {
    let seen = visibility(spec, traffic, stable_rate).filter(Visibility::is_coarse)?;
    let rule = seen.rule.trim_start_matches("errors ");
    let what = match seen.rate {
        Some(rate) => format!(
            "can only see errors from {} on, {:.0} times its limit {rule} of {}",
            Percent(rate),
            rate / seen.limit,
            Percent(seen.limit)
        ),
        None => format!("can't see any errors, whatever its limit {rule}"),
    };
    let wider = StepTraffic {
        share: (traffic.share * 10.0).min(0.5),
        ..*traffic
    };
    let longer = StepTraffic {
        seconds: traffic.seconds * 10.0,
        ..*traffic
    };
    let better = [wider, longer].map(|traffic| visibility(spec, &traffic, stable_rate)?.rate);
    let advice = match better {
        [Some(wider_sees), Some(longer_sees)] => format!(
            "; {}% for {}, or {}% for {}, would see {}",
            percent(wider.share),
            duration(wider.seconds),
            percent(longer.share),
            duration(longer.seconds),
            Percent(wider_sees.max(longer_sees))
        ),
        _ => String::new(),
    };
    Some(format!(
        "{step} at {:.0} requests/s: about {:.0} canary requests) {what}{advice}",
        traffic.rate, seen.requests
    ))
}

fn duration(seconds: f64) -> String {
    let whole = std::time::Duration::from_secs(seconds.round() as u64);
    humantime::format_duration(whole)
        .to_string()
        .replace(' ', "")
}
