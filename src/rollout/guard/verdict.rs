//! The results of a guard after a second.

use super::counts::EventTally;
use super::health::{HoldReason, Percent};
use super::interval::RatioEstimate;
use super::judge::Guard;
use super::names::SideNames;
use super::process::log_add;
use super::rules::{ERRORS, FAR, RuleLimit};

use crate::config::rollout::LatencyLimit;

/// Evidence from which on a step is prolonged, because a verdict may be under way.
const LEANING: f64 = 10.0;

/// The kind of event that a rule limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardKind {
    /// Failed requests.
    Errors,
    /// Slow requests.
    Latency,
    /// Conversions.
    Goal,
}

/// A failing verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct FailVerdict {
    /// The rule with the most evidence, as `errors x1.5`.
    pub guard: String,
    /// Kind of event that the rule limits.
    pub kind: GuardKind,
    /// ln E of all rules together; at least ln(1/α).
    pub log_e: f64,
    /// The counts behind the verdict, in words.
    pub reason: String,
}

/// The evidence of one rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// The rule, as `errors x1.5`, `p99 500ms` or `goal purchase x0.9`.
    pub name: String,
    /// ln E against the canary.
    pub log_e: f64,
    /// ln E for the canary being within the limit.
    pub log_proof: f64,
    /// Whether the rule takes no evidence at present, because stable itself is above its absolute limit.
    pub suspended: bool,
}

/// The counts of one event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalCounts {
    /// The canary's tally in the running step.
    pub step_canary: EventTally,
    /// Stable's tally in the running step.
    pub step_stable: EventTally,
    /// The canary's tally since the processes started.
    pub canary: EventTally,
    /// Stable's tally since the processes started.
    pub stable: EventTally,
}

impl Guard {
    /// Returns the failing verdict: the evidence reaches 1/α, and no reason blames something else.
    pub fn verdict(&self) -> Option<FailVerdict> {
        if self.state.health.both_fail().is_some() {
            return None;
        }
        let mut sum = f64::NEG_INFINITY;
        let mut leading = (f64::NEG_INFINITY, 0);
        for (ix, rule) in self.rules.rules.iter().enumerate() {
            let mut log_e = self.log_e(ix);
            // A few bad seconds don't suffice, however bad they were. Evidence in favour of the canary still counts.
            if !self.state.signals[rule.parts[0].signal].may_fail() {
                log_e = log_e.min(0.0);
            }
            let weighed = rule.weight.ln() + log_e;
            sum = log_add(sum, weighed);
            if weighed > leading.0 {
                leading = (weighed, ix);
            }
        }
        (sum >= self.threshold()).then(|| FailVerdict {
            guard: self.rules.rules[leading.1].name.clone(),
            kind: match self.rules.rules[leading.1].limit {
                RuleLimit::Errors(_) => GuardKind::Errors,
                RuleLimit::Latency(..) => GuardKind::Latency,
                RuleLimit::Goal(..) => GuardKind::Goal,
            },
            log_e: self.total_evidence(),
            reason: self.reason(leading.1),
        })
    }

    /// Returns ln E of all rules together: the weighed average of their E.
    pub fn total_evidence(&self) -> f64 {
        let rules = self.rules.rules.iter().enumerate();
        let weighed = rules.map(|(ix, rule)| rule.weight.ln() + self.log_e(ix));
        weighed.reduce(log_add).unwrap_or(0.0)
    }

    /// Returns ln(1/α), at which the total evidence becomes a verdict.
    pub fn threshold(&self) -> f64 {
        -self.alpha.ln()
    }

    /// Returns the evidence of each rule, in the order of the plan.
    pub fn evidence(&self) -> Vec<Evidence> {
        let rules = self.rules.rules.iter().enumerate();
        let evidence = rules.map(|(ix, rule)| {
            let stable = self.state.signals[rule.parts[0].signal].stable_rate;
            Evidence {
                name: rule.name.clone(),
                log_e: self.log_e(ix),
                log_proof: self.log_proof(ix),
                suspended: !self.state.is_alone() && rule.absolute.is_some_and(|m| stable > m),
            }
        });
        evidence.collect()
    }

    /// Whether a verdict may be under way, so that a step should be prolonged rather than left.
    pub fn leaning(&self) -> bool {
        self.total_evidence() >= LEANING.ln()
    }

    /// Returns why the rollout should hold: stable fails too, or requests that fail on the canary fail on stable as well.
    pub fn held_because(&self) -> Option<HoldReason> {
        if let Some(reason) = self.state.health.both_fail() {
            return Some(reason);
        }
        let rate = self.state.signals[ERRORS].stable_rate;
        let broken = self.rules.rules.iter().filter_map(|rule| {
            let limit = rule.absolute.filter(|_| rule.parts[0].signal == ERRORS)?;
            (rate > limit).then_some(HoldReason::StableAboveLimit { rate, limit })
        });
        // Without traffic stable can't be judged.
        let broken = broken.filter(|_| !self.state.is_alone());
        broken
            .reduce(|a, _| a)
            .or_else(|| self.state.health.degraded())
    }

    /// Whether the canary is proven to be within every limit, at the guard's confidence for each.
    pub fn proven(&self) -> bool {
        let rules = 0..self.rules.rules.len();
        !rules.is_empty()
            && rules
                .into_iter()
                .all(|ix| self.log_proof(ix) >= self.threshold())
    }

    /// Returns the ratio of the failure rates with its interval at the guard's confidence, since the processes started.
    pub fn estimate(&self) -> RatioEstimate {
        let total = &self.state.signals[ERRORS].total;
        let (canary, stable) = (total.canary.rate(), total.stable.rate());
        let (low, high) = self.state.ratio.bounds(self.alpha);
        RatioEstimate {
            ratio: (canary + stable > 0.0).then_some(canary / stable),
            low,
            high,
        }
    }

    /// Returns the counts of judged requests and failures.
    pub fn counts(&self) -> SignalCounts {
        self.counts_of(ERRORS)
    }

    /// Returns the counts of requests and conversions of each goal.
    pub fn goal_counts(&self) -> Vec<SignalCounts> {
        let first = 1 + self.rules.slots.len();
        (first..self.rules.signals())
            .map(|s| self.counts_of(s))
            .collect()
    }

    fn counts_of(&self, signal: usize) -> SignalCounts {
        let signal = &self.state.signals[signal];
        SignalCounts {
            step_canary: signal.step.canary,
            step_stable: signal.step.stable,
            canary: signal.total.canary,
            stable: signal.total.stable,
        }
    }

    /// Describes the counts of the rule in the running step.
    fn reason(&self, ix: usize) -> String {
        let part = self.leading_part(ix);
        let (canary, stable) = self.step_counts(self.rules.rules[ix].parts[part].signal);
        let (c, s) = (Percent(canary.rate()), Percent(stable.rate()));
        let of_canary = format!("{} of {} ({c})", canary.events, canary.requests);
        let of_stable = format!("{} of {} ({s})", stable.events, stable.requests);
        let SideNames {
            canary,
            canarys,
            stable,
            stables,
            ..
        } = self.names;
        match self.limit(ix) {
            RuleLimit::Errors(_) if self.state.is_alone() => {
                format!(
                    "{canary} failed {of_canary} requests; compared before/after, not side by side"
                )
            }
            RuleLimit::Errors(_) => {
                format!("{canary} failed {of_canary} requests, {stable} {of_stable}")
            }
            RuleLimit::Latency(quantile, LatencyLimit::Ratio(ratio)) => {
                let multiple = if part == 0 { 1.0 } else { FAR };
                let limit = (ratio * multiple * 1e6).round() / 1e6;
                let own = if part == 0 { "it" } else { "3 times it" };
                format!(
                    "{of_canary} of {canarys} requests took longer than {limit} times {stables} {quantile}, \
                     {of_stable} of {stables} longer than {own}"
                )
            }
            RuleLimit::Latency(_, LatencyLimit::Absolute(limit)) => format!(
                "{of_canary} of {canarys} requests took longer than {}, {of_stable} of {stables}",
                humantime::format_duration(*limit)
            ),
            RuleLimit::Goal(name, _) => {
                format!(
                    "{of_canary} of {canarys} requests reached the goal {name}, {of_stable} of {stables}"
                )
            }
        }
    }
}
