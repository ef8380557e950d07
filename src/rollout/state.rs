//! The state of one rollout, in the form in which it is kept on disk.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::spec::Share;

/// Plans whose latch is remembered. The oldest is forgotten first.
pub(super) const LATCHES: usize = 64;

words! {
    /// The state of a rollout.
    #[derive(Default)]
    pub enum RolloutPhase {
        /// Before the first step: until the version passes its check, hooks and smoke requests have passed.
        #[default]
        Waiting "waiting",
        /// In a step, whose clock runs.
        Step "step",
        /// In a step, whose clock stands for a reason.
        Held "held",
        /// Stopped by an operator, or by the guard with `on_fail = "pause"`.
        Paused "paused",
        /// In a step that ends by approval.
        AwaitingApproval "awaiting-approval",
        /// All steps have passed. The version keeps its share.
        Done "done",
        /// Ended by an operator. The version has no share.
        Aborted "aborted",
        /// Ended by the guard, a query or a smoke request. The version has no share.
        RolledBack "rolled-back",
    }
}

words! {
    /// The kind of subject whose share a rollout raises.
    #[derive(Default, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum SubjectKind {
        /// A version of the service.
        #[default]
        Version "version",
        /// A flag of the service.
        Flag "flag",
    }
}

/// A version or flag that follows a rollout, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubjectName<'a> {
    /// Whether it is a version or a flag.
    pub kind: SubjectKind,
    /// Name of the version or flag.
    pub name: &'a str,
    /// Label of the version, if it has one.
    pub label: Option<&'a str>,
}

impl<'a> SubjectName<'a> {
    /// A version.
    pub fn version(name: &'a str, label: Option<&'a str>) -> Self {
        Self {
            kind: SubjectKind::Version,
            name,
            label,
        }
    }

    /// A flag.
    pub fn flag(name: &'a str) -> Self {
        Self {
            kind: SubjectKind::Flag,
            name,
            label: None,
        }
    }
}

/// Formats the subject as messages name it: `v2`, `flag new-checkout`.
impl fmt::Display for SubjectName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            SubjectKind::Version => f.write_str(self.name),
            SubjectKind::Flag => write!(f, "flag {}", self.name),
        }
    }
}

impl Serialize for RolloutPhase {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for RolloutPhase {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        let unknown = || serde::de::Error::custom(format!("unknown state {word:?}"));
        Self::parse(&word).ok_or_else(unknown)
    }
}

/// A plan that may not begin again by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latch {
    /// Fingerprint of the plan.
    pub plan: String,
    /// The reason why the rollout ended.
    pub reason: String,
    /// Time at which the rollout ended, in seconds since the Unix epoch.
    pub at_s: u64,
    /// Whether an operator ended it.
    pub aborted: bool,
}

/// The state of one rollout. Unknown fields are ignored and missing ones have defaults, so that an older or newer program can read
/// it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RolloutState {
    /// Fingerprint of the plan; empty if no rollout is in progress.
    pub plan: String,
    /// Name of the version or flag.
    #[serde(rename = "version")]
    pub name: String,
    /// Whether that is a version or a flag.
    pub kind: SubjectKind,
    /// Label of the version.
    pub label: Option<String>,
    /// Phase of the rollout.
    pub phase: RolloutPhase,
    /// Number of the current step, from 1; 0 before the first.
    pub step: usize,
    /// Share that the rollout has reached, in thousandths of a percent.
    pub share: u32,
    /// Time for which the step has held, in milliseconds, by a clock that can't be set.
    pub held_ms: u64,
    /// Whether the step was prolonged because a verdict is near, or because there were too few requests.
    pub prolonged: bool,
    /// The step that was approved last.
    pub approved_step: usize,
    /// Whether the guard paused the rollout.
    pub paused_by_guard: bool,
    /// Why the rollout waits, holds, pauses or has ended.
    pub reason: Option<String>,
    /// Whether the hook `before_rollout` has passed.
    pub hook_passed: bool,
    /// Whether the smoke requests have passed.
    pub smoke_passed: bool,
    /// Whether `promote` was asked for and its hook has not passed.
    pub promoting: bool,
    /// Who asked for the promotion last, for the history.
    pub promoted_by: String,
    /// Number of the attempt. Evidence belongs to one attempt.
    pub epoch: u64,
    /// Time at which it entered its phase, in seconds since the Unix epoch, for display.
    pub since_s: u64,
    /// Time at which an abort or a rollback voided the version's sessions, in seconds since the Unix epoch.
    pub voided_s: Option<u64>,
    /// Name of the rule by which the guard failed it.
    pub failed_rule: Option<String>,
    /// Whether an operator's promotion has begun. In a fleet every member then writes its own configuration file.
    pub promoted: bool,
    /// The fleet that shares the rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet: Option<String>,
    /// Plans that are latched, oldest first.
    pub latches: Vec<Latch>,
}

impl RolloutState {
    /// The version or flag whose share the rollout raises.
    pub fn subject(&self) -> SubjectName<'_> {
        SubjectName {
            kind: self.kind,
            name: &self.name,
            label: self.label.as_deref(),
        }
    }

    /// The share that the rollout has reached.
    pub fn share(&self) -> Share {
        Share(self.share.min(Share::WHOLE))
    }

    /// The latch of a plan.
    pub fn latch(&self, plan: &str) -> Option<&Latch> {
        self.latches.iter().find(|latch| latch.plan == plan)
    }

    pub(super) fn add_latch(&mut self, latch: Latch) {
        self.latches.retain(|known| known.plan != latch.plan);
        if self.latches.len() == LATCHES {
            self.latches.remove(0);
        }
        self.latches.push(latch);
    }

    /// Records that the current step was approved.
    pub(super) fn approved(&mut self) {
        self.approved_step = self.step;
    }

    /// Whether the current step was approved.
    pub(super) fn is_approved(&self) -> bool {
        self.step > 0 && self.approved_step == self.step
    }

    /// Whether the rollout has ended, well or not.
    pub fn has_ended(&self) -> bool {
        matches!(
            self.phase,
            RolloutPhase::Done | RolloutPhase::Aborted | RolloutPhase::RolledBack
        )
    }

    /// Whether the subject has lost its share to the guard, a check or an operator.
    pub(super) fn was_taken_back(&self) -> bool {
        matches!(self.phase, RolloutPhase::Aborted | RolloutPhase::RolledBack)
    }

    /// Whether a change from `before` must be on disk. Left out are changes that the next seconds show anyway: the running clock,
    /// and whether and why it stands. Holds that last are noted, and a note is always stored.
    pub fn differs_from(&self, before: &Self) -> bool {
        self.lasting() != before.lasting()
    }

    /// The state without its transient parts.
    fn lasting(&self) -> Self {
        let mut state = Self {
            held_ms: 0,
            ..self.clone()
        };
        match state.phase {
            RolloutPhase::Step | RolloutPhase::Held => {
                (state.phase, state.reason, state.since_s) = (RolloutPhase::Step, None, 0);
            }
            RolloutPhase::Waiting | RolloutPhase::AwaitingApproval => state.reason = None,
            RolloutPhase::Paused
            | RolloutPhase::Done
            | RolloutPhase::Aborted
            | RolloutPhase::RolledBack => {}
        }
        state
    }
}

#[cfg(test)]
impl RolloutState {
    /// The state of `v2` in the first step of a plan with this fingerprint, with 1 % of the traffic.
    pub(crate) fn in_first_step(plan: String) -> Self {
        Self {
            plan,
            name: "v2".to_owned(),
            phase: RolloutPhase::Step,
            step: 1,
            share: 10_000,
            epoch: 1,
            ..Self::default()
        }
    }
}
