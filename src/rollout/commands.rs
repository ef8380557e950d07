//! Commands of operators on a rollout, and the states in which they are allowed.

use std::time::Duration;

use super::events::{Effect, OperatorCommand};
use super::machine::Machine;
use super::state::{RolloutPhase, RolloutState, SubjectKind};
use crate::config::rollout::{RolloutSpec, StepHold};
use crate::telemetry::record::RollbackReason;

impl Machine {
    /// Carries out a command.
    ///
    /// # Errors
    /// The state doesn't allow the command. The error says which states would.
    pub fn command(
        &mut self,
        command: OperatorCommand,
        by: &str,
        plan: &RolloutSpec,
        now_s: u64,
    ) -> Result<Vec<Effect>, String> {
        let mut effects = Vec::new();
        let phase = self.state.phase;
        let refuse = |what: &str| Err(format!("the rollout is {phase}: {what}"));
        match (command, phase) {
            (
                OperatorCommand::Pause,
                RolloutPhase::Waiting
                | RolloutPhase::Step
                | RolloutPhase::Held
                | RolloutPhase::AwaitingApproval,
            ) => {
                effects.push(self.note(&format!("paused by {by}")));
                self.enter(RolloutPhase::Paused, Some(format!("paused by {by}")), now_s);
            }
            (OperatorCommand::Pause, RolloutPhase::Paused) => {}
            (OperatorCommand::Pause, _) => {
                return refuse("it has ended, there is nothing to pause");
            }
            (OperatorCommand::Resume, RolloutPhase::Paused) => {
                self.resume(by, now_s, &mut effects);
            }
            (OperatorCommand::Resume, _) => return refuse("`resume` continues a paused one"),
            (OperatorCommand::Approve, RolloutPhase::AwaitingApproval | RolloutPhase::Held)
                if self
                    .step_of(plan)
                    .is_some_and(|s| s.hold == StepHold::Approval) =>
            {
                self.approve(by, plan, now_s, &mut effects);
            }
            (OperatorCommand::Approve, _) => {
                return refuse("`approve` ends a step that is written `until approved`");
            }
            (
                OperatorCommand::Promote,
                RolloutPhase::Waiting | RolloutPhase::Aborted | RolloutPhase::RolledBack,
            ) => {
                return refuse(match self.state.kind {
                    SubjectKind::Version => {
                        "the version has no traffic; write `stable` to make it stable anyway"
                    }
                    SubjectKind::Flag => {
                        "no user has the flag; write its share to switch it on anyway"
                    }
                });
            }
            (OperatorCommand::Promote, _) => {
                self.state.promoting = true;
                self.state.promoted_by = format!("{by} (promote)");
                self.pause = Duration::ZERO;
                effects.push(self.note(&format!("promote asked for by {by}")));
            }
            (OperatorCommand::Abort, RolloutPhase::Aborted | RolloutPhase::RolledBack) => {
                return refuse(match self.state.kind {
                    SubjectKind::Version => "it has no traffic",
                    SubjectKind::Flag => "no user has the flag",
                });
            }
            (OperatorCommand::Abort, _) => {
                let reason = RollbackReason::Operator;
                let why = format!("aborted by {by}");
                self.end(
                    RolloutPhase::Aborted,
                    why,
                    reason,
                    plan,
                    now_s,
                    &mut effects,
                );
            }
            (OperatorCommand::Retry, RolloutPhase::Aborted | RolloutPhase::RolledBack) => {
                self.retry(by, now_s, &mut effects);
            }
            (OperatorCommand::Retry, _) => {
                return refuse("`retry` begins one again that was rolled back or aborted");
            }
        }
        Ok(effects)
    }

    fn resume(&mut self, by: &str, now_s: u64, effects: &mut Vec<Effect>) {
        if std::mem::take(&mut self.state.paused_by_guard) {
            // The evidence is beyond the threshold: with it, the rollout would pause again at once.
            self.state.failed_rule = None;
            self.state.epoch += 1;
            // The outcome of a call that was made because of the evidence before is not delivered.
            (self.running, self.pause) = (None, Duration::ZERO);
            effects.push(Effect::ResetGuard);
        }
        let phase = match self.state.step {
            0 => RolloutPhase::Waiting,
            _ => RolloutPhase::Step,
        };
        self.enter(phase, None, now_s);
        effects.push(self.note(&format!("resumed by {by}")));
    }

    fn approve(&mut self, by: &str, plan: &RolloutSpec, now_s: u64, effects: &mut Vec<Effect>) {
        effects.push(self.note(&format!("step {} approved by {by}", self.state.step)));
        if self.is_last(plan) {
            self.enter(RolloutPhase::Done, None, now_s);
            return;
        }
        // An approved step has nothing left to hold, so that the next tick begins the next one.
        self.state.approved();
        self.enter(RolloutPhase::Held, Some("approved".to_owned()), now_s);
    }

    fn retry(&mut self, by: &str, now_s: u64, effects: &mut Vec<Effect>) {
        let state = &mut self.state;
        let plan = state.plan.clone();
        state.latches.retain(|latch| latch.plan != plan);
        *state = RolloutState {
            plan,
            name: std::mem::take(&mut state.name),
            kind: state.kind,
            label: state.label.take(),
            epoch: state.epoch + 1,
            voided_s: state.voided_s,
            fleet: state.fleet.take(),
            latches: std::mem::take(&mut state.latches),
            ..RolloutState::default()
        };
        (self.smoke_failures, self.pause, self.running) = (0, Duration::ZERO, None);
        (self.call_error, self.step_hook_passed) = (None, false);
        self.enter(RolloutPhase::Waiting, None, now_s);
        effects.push(Effect::ResetGuard);
        effects.push(self.note(&format!("retried by {by}")));
    }
}
