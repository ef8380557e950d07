//! The inputs and outputs of a rollout's machine.

use super::guard::FailVerdict;
use crate::config::rollout::RolloutSpec;
use crate::config::spec::Share;
use crate::telemetry::record::RollbackReason;

words! {
    /// A command of an operator on a rollout.
    pub enum OperatorCommand {
        /// Keep the share and stop the clock.
        Pause "pause",
        /// Continue after a pause.
        Resume "resume",
        /// Make the version stable, or switch the flag on for all users.
        Promote "promote",
        /// End the rollout and take the traffic back.
        Abort "abort",
        /// Let a step end that awaits approval.
        Approve "approve",
        /// Begin again after a rollback or an abort.
        Retry "retry",
    }
}

words! {
    /// A hook of a rollout.
    pub enum HookKind {
        /// Before the first user reaches the version.
        BeforeRollout "before_rollout",
        /// Before each step.
        BeforeStep "before_step",
        /// Before `promote` is carried out.
        BeforePromote "before_promote",
        /// After a rollback or an abort.
        AfterRollback "after_rollback",
    }
}

/// The facts that the machine needs every second.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The plan.
    pub plan: &'a RolloutSpec,
    /// The largest share that the version may have.
    pub max_share: Option<Share>,
    /// The share that the version has at present. It is below that of the step until the store has the step.
    pub in_force: Share,
    /// Whether the version passes its checks, or has none.
    pub gate_open: bool,
    /// Whether stable has a usable endpoint.
    pub stable_usable: bool,
    /// The failing verdict of the guard.
    pub verdict: Option<&'a FailVerdict>,
    /// Why the version can't be judged now: stable fails too, or a query has no answer.
    pub obstacle: Option<&'a str>,
    /// Whether the evidence is near a verdict.
    pub leaning: bool,
    /// Whether the version has had the requests that passing a step needs.
    pub enough_requests: bool,
    /// Requests of the version in this step.
    pub requests: u64,
    /// Whether the version is proven to be within all limits.
    pub proven: bool,
    /// Why the state can't be stored, if it can't.
    pub store_error: Option<&'a str>,
}

/// A task for the owner of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send the smoke requests, and report [`Outcome::Smoke`].
    RunSmoke,
    /// Call a hook, and report [`Outcome::Hook`] unless it is [`HookKind::AfterRollback`].
    RunHook(HookKind),
    /// Begin the counts of a step.
    BeginStep,
    /// Discard the evidence of the guard.
    ResetGuard,
    /// Write `stable = VERSION` into the file and take the version out of the split, or write the share of the flag as 100 %.
    /// Contains the author of the command.
    Promote(String),
    /// Count a rollback or an abort.
    Ended(RollbackReason),
    /// Add an entry to the journal, log it and notify.
    Note(String),
}

/// The result of something that the machine asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Result of the smoke requests.
    Smoke(Result<(), String>),
    /// Result of a hook.
    Hook(HookKind, Result<(), String>),
    /// A query has missed its condition as often as the plan allows.
    QueryFailed(String),
    /// `promote` could not write the file.
    PromoteFailed(String),
}
