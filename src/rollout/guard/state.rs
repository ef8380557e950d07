//! The state that a guard has learnt, in the form that is stored.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::before_after::StableMinutes;
use super::exact;
use super::health::StableHealth;
use super::interval::RatioInterval;
use super::process::EProcess;
use super::rules::{LatencySlot, Rule, Rules};
use super::signal::{SecondEvidence, Signal};

/// Version of [`GuardState`]'s format.
const FORMAT: u32 = 1;

/// Everything that a [`Guard`](super::Guard) has learnt, to be stored and resumed. Numbers keep every bit in JSON.
///
/// Two kinds of knowledge are in it: about stable, which a retry keeps, and about the canary, which belongs to one attempt. In a
/// fleet each member has a guard over its own requests, and the driver has one more over those of all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardState {
    format: u32,
    /// Names of the rules that the state belongs to.
    rules: Vec<String>,
    #[serde(with = "exact")]
    confidence: f64,
    pub(super) signals: Vec<Signal>,
    pub(super) evidence: Vec<RuleEvidence>,
    pub(super) ratio: RatioInterval,
    pub(super) health: StableHealth,
    pub(super) minutes: StableMinutes,
    /// Seconds with traffic of the canary.
    pub(super) warm: u64,
    /// The canary's requests a second, and the endpoints that share them, in the last second.
    #[serde(with = "exact")]
    pub(super) rate: f64,
    pub(super) endpoints: usize,
    /// Seconds without a concurrent stable, up to the last one.
    pub(super) alone_seconds: u64,
    /// The limit for a canary without a concurrent stable, fixed when it gets all the traffic.
    #[serde(with = "exact")]
    pub(super) alone_limit: f64,
}

/// The processes of one rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RuleEvidence {
    /// A process for each part of the rule.
    pub(super) against: Vec<EProcess>,
    pub(super) proof: EProcess,
}

/// Why a stored state can't be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeError {
    /// The state was written in another format.
    Format,
    /// The state belongs to other rules or another confidence.
    Rules,
}

impl fmt::Display for ResumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Format => "the guard's state has an unknown format",
            Self::Rules => "the guard's state belongs to other rules",
        })
    }
}

impl std::error::Error for ResumeError {}

impl RuleEvidence {
    fn new(rule: &Rule) -> Self {
        Self {
            against: vec![EProcess::restarting(); rule.parts.len()],
            proof: EProcess::starting_once(),
        }
    }

    pub(super) fn judge(&mut self, rule: &Rule, seconds: &[SecondEvidence]) {
        for (part, process) in rule.parts.iter().zip(&mut self.against) {
            process.tick();
            let second = &seconds[part.signal];
            // An absolute limit that stable breaks too says nothing about the canary.
            let suspended = rule
                .absolute
                .is_some_and(|limit| second.stable_rate > limit);
            let stratum = second.stratum.as_ref();
            // Alone, the limit comes from stable's past already, and nothing is known about stable at present.
            if let Some(stratum) = stratum.filter(|_| !suspended || second.alone.is_some()) {
                let null = second.null(part.null);
                process.add(null, rule.alternatives, stratum, second.brakes);
            }
        }
        let Some(part) = rule.parts.first() else {
            return;
        };
        let second = &seconds[part.signal];
        if let Some(stratum) = &second.stratum {
            let brakes = second.brakes.without_ceiling();
            self.proof
                .add(second.null(part.null), rule.proofs, stratum, brakes);
        }
    }
}

impl GuardState {
    /// Whether the last second had no concurrent stable.
    pub(super) fn is_alone(&self) -> bool {
        self.alone_seconds > 0
    }

    pub(super) fn new(rules: &Rules, confidence: f64) -> Self {
        let signals = (0..rules.signals()).map(|ix| {
            let absolute = rules.rules.iter();
            let absolute = absolute.filter(|rule| rule.absolute.is_some());
            let absolute = absolute
                .flat_map(|rule| &rule.parts)
                .any(|p| p.signal == ix);
            Signal::new(known_mean(rules, ix), absolute)
        });
        Self {
            format: FORMAT,
            rules: rules.rules.iter().map(|rule| rule.name.clone()).collect(),
            confidence,
            signals: signals.collect(),
            evidence: rules.rules.iter().map(RuleEvidence::new).collect(),
            ratio: RatioInterval::new(),
            health: StableHealth::default(),
            minutes: StableMinutes::default(),
            warm: 0,
            rate: 0.0,
            endpoints: 1,
            alone_seconds: 0,
            alone_limit: f64::NEG_INFINITY,
        }
    }

    /// Returns `fresh` with the knowledge about stable.
    pub(super) fn restarted(self, fresh: Self) -> Self {
        let signals = self.signals.into_iter().map(Signal::restarted);
        Self {
            signals: signals.collect(),
            health: self.health,
            minutes: self.minutes,
            ..fresh
        }
    }

    /// Checks that this state belongs to the same rules as `fresh`, and has all its parts.
    pub(super) fn check(&self, fresh: &Self) -> Result<(), ResumeError> {
        if self.format != FORMAT {
            return Err(ResumeError::Format);
        }
        let parts = |state: &Self| -> Vec<usize> {
            state.evidence.iter().map(|e| e.against.len()).collect()
        };
        let absolute = |state: &Self| -> Vec<bool> {
            state.signals.iter().map(|s| s.worse().is_some()).collect()
        };
        let fits = self.rules == fresh.rules
            && self.confidence.to_bits() == fresh.confidence.to_bits()
            && absolute(self) == absolute(fresh)
            && parts(self) == parts(fresh)
            && self.ratio.is_complete();
        if fits {
            Ok(())
        } else {
            Err(ResumeError::Rules)
        }
    }
}

/// Stable's rate of an event that is known by definition: at its own quantile.
fn known_mean(rules: &Rules, signal: usize) -> Option<f64> {
    match rules.slots.get(signal.checked_sub(1)?)? {
        LatencySlot::Ratio {
            quantile, multiple, ..
        } if *multiple == 1.0 => Some(1.0 - quantile.value()),
        _ => None,
    }
}
