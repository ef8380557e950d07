//! The rules of a plan, as hypotheses about counted events.

use std::time::Duration;

use crate::config::rollout::{ErrorLimit, GuardSpec, LatencyLimit, Quantile};

use super::process::{BETTER, WORSE};
use super::stratum::Null;

/// Alternatives of "fewer conversions than the limit", as multiples of it.
pub(super) const FEWER: [f64; 5] = [1.0 / 1.2, 1.0 / 1.6, 1.0 / 2.5, 1.0 / 6.0, 1.0 / 60.0];
/// Alternatives of the proof that there are enough.
const ENOUGH: [f64; 5] = [1.08, 1.2, 1.6, 2.5, 6.0];
/// The second threshold of a latency ratio, as a multiple of stable's quantile. Near the quantile slow requests come in
/// bursts, which the brakes take into account; this far out bursts hardly exist, and a much slower canary shows at once.
pub(super) const FAR: f64 = 3.0;

/// Signal of the errors. The signals of the latency slots follow, then those of the goals.
pub(super) const ERRORS: usize = 0;

/// The limit of a rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum RuleLimit {
    Errors(ErrorLimit),
    Latency(Quantile, LatencyLimit),
    Goal(String, f64),
}

/// One e-process of a rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) signal: usize,
    pub(super) null: Null,
}

/// One rule.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) limit: RuleLimit,
    /// Share of this rule in the verdict; all rules sum to 1.
    pub(super) weight: f64,
    /// One process, or two of equal weight.
    pub(super) parts: Vec<Part>,
    /// An absolute limit: it takes no evidence while stable's own rate is above, and the canary must be worse as well.
    pub(super) absolute: Option<f64>,
    pub(super) alternatives: &'static [f64; 5],
    /// Alternatives of the proof that the canary is within the limit: the first part's hypothesis turned round.
    pub(super) proofs: &'static [f64; 5],
}

impl Rule {
    /// The weight of one process.
    pub(super) fn part_weight(&self) -> f64 {
        self.weight / self.parts.len() as f64
    }
}

/// The line between slow and fast requests in a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum LatencySlot {
    /// The same duration on both sides. Events are a fraction of 1 − q at the limit.
    Absolute(Duration, Quantile),
    /// A multiple of stable's quantile on stable, and `ratio` times that on the canary.
    Ratio {
        quantile: Quantile,
        multiple: f64,
        ratio: f64,
    },
}

/// All rules, and the slots that count for them.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) rules: Vec<Rule>,
    pub(super) slots: Vec<LatencySlot>,
    pub(super) goals: usize,
}

impl Rules {
    /// Compiles the rules of a plan. Errors, latency and goals have equal weight if given, and so have the rules of each.
    ///
    /// The average of e-values is an e-value however they depend on each other (Vovk and Wang 2021).
    pub(super) fn new(spec: &GuardSpec) -> Self {
        let latency: Vec<_> = spec
            .latency
            .iter()
            .flat_map(|guard| guard.limits.iter().map(|limit| (guard.quantile, *limit)))
            .collect();
        let groups = [spec.errors.len(), latency.len(), spec.goals.len()];
        let kinds = groups.iter().filter(|n| **n > 0).count() as f64;
        let weight = |group: usize| 1.0 / (kinds * groups[group] as f64);
        let mut all = Self {
            rules: Vec::new(),
            slots: Vec::new(),
            goals: spec.goals.len(),
        };
        for limit in &spec.errors {
            all.rules.push(errors(*limit, weight(0)));
        }
        for (quantile, limit) in latency {
            all.add_latency(quantile, limit, weight(1));
        }
        for (ix, (name, ratio)) in spec.goals.iter().enumerate() {
            let signal = 1 + all.slots.len() + ix;
            all.rules.push(goal(name, *ratio, signal, weight(2)));
        }
        all
    }

    /// Number of signals.
    pub(super) fn signals(&self) -> usize {
        1 + self.slots.len() + self.goals
    }

    fn add_latency(&mut self, quantile: Quantile, limit: LatencyLimit, weight: f64) {
        let rest = 1.0 - quantile.value();
        let signal = 1 + self.slots.len();
        let (name, parts, absolute) = match limit {
            LatencyLimit::Absolute(limit) => {
                self.slots.push(LatencySlot::Absolute(limit, quantile));
                let null = Null::Fraction(rest);
                let name = humantime::format_duration(limit)
                    .to_string()
                    .replace(' ', "");
                (name, vec![Part { signal, null }], Some(rest))
            }
            LatencyLimit::Ratio(ratio) => {
                for multiple in [1.0, FAR] {
                    self.slots.push(LatencySlot::Ratio {
                        quantile,
                        multiple,
                        ratio,
                    });
                }
                let near = Part {
                    signal,
                    null: Null::Equal(rest),
                };
                let far = Part {
                    signal: signal + 1,
                    null: linear(1.0, 0.0),
                };
                let parts = vec![near, far];
                (format!("x{ratio}"), parts, None)
            }
        };
        self.rules.push(Rule {
            name: format!("{quantile} {name}"),
            limit: RuleLimit::Latency(quantile, limit),
            weight,
            parts,
            absolute,
            alternatives: &WORSE,
            proofs: &BETTER,
        });
    }
}

fn linear(ratio: f64, difference: f64) -> Null {
    Null::Linear { ratio, difference }
}

fn errors(limit: ErrorLimit, weight: f64) -> Rule {
    let (name, null, absolute) = match limit {
        ErrorLimit::Absolute(m) => (format!("{}%", percent(m)), Null::Rate(m), Some(m)),
        ErrorLimit::Difference(d) => (format!("+{}%", percent(d)), linear(1.0, d), None),
        ErrorLimit::Ratio(r) => (format!("x{r}"), linear(r, 0.0), None),
    };
    Rule {
        name: format!("errors {name}"),
        limit: RuleLimit::Errors(limit),
        weight,
        parts: vec![Part {
            signal: ERRORS,
            null,
        }],
        absolute,
        alternatives: &WORSE,
        proofs: &BETTER,
    }
}

fn goal(name: &str, ratio: f64, signal: usize, weight: f64) -> Rule {
    Rule {
        name: format!("goal {name} x{ratio}"),
        limit: RuleLimit::Goal(name.to_owned(), ratio),
        weight,
        parts: vec![Part {
            signal,
            null: linear(ratio, 0.0),
        }],
        absolute: None,
        alternatives: &FEWER,
        proofs: &ENOUGH,
    }
}

/// A ratio as a number of percent, without the noise of the multiplication.
pub(super) fn percent(ratio: f64) -> f64 {
    (ratio * 1e8).round() / 1e6
}
