//! The effects of the outcomes of smoke requests, hooks and queries.

use std::time::Duration;

use super::events::{Effect, HookKind, Outcome};
use super::machine::{Call, Machine};
use super::state::RolloutPhase;
use crate::config::rollout::RolloutSpec;
use crate::telemetry::record::RollbackReason;

/// Number of attempts of the smoke requests before the rollout ends.
const SMOKE_ATTEMPTS: u32 = 3;
/// Time between two attempts of the smoke requests.
const SMOKE_AGAIN: Duration = Duration::from_secs(5);
/// Time between two calls of a hook that failed.
const HOOK_AGAIN: Duration = Duration::from_secs(10);

impl Machine {
    /// Takes the outcome of a call that the machine asked for.
    pub fn outcome(&mut self, outcome: Outcome, plan: &RolloutSpec, now_s: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        match outcome {
            Outcome::Smoke(result) => {
                self.finish_call(Call::Smoke);
                self.smoked(result, plan, now_s, &mut effects);
            }
            Outcome::Hook(hook, result) => {
                self.finish_call(Call::Hook(hook));
                self.called(hook, result, &mut effects);
            }
            Outcome::QueryFailed(why) => {
                let judged = match self.state.phase {
                    RolloutPhase::Step | RolloutPhase::Held | RolloutPhase::AwaitingApproval => {
                        true
                    }
                    // Unlike a verdict of the guard, also if the guard has paused it: a query is evidence of its own, and it always
                    // rolls back.
                    RolloutPhase::Paused => self.state.share > 0,
                    _ => false,
                };
                if judged {
                    let reason = RollbackReason::Query;
                    self.end(
                        RolloutPhase::RolledBack,
                        why,
                        reason,
                        plan,
                        now_s,
                        &mut effects,
                    );
                }
            }
            Outcome::PromoteFailed(why) => {
                self.not_promoted(&why, &mut effects);
            }
        }
        effects
    }

    fn finish_call(&mut self, call: Call) {
        // A call of an earlier attempt may end after a retry has begun another.
        if self.running == Some(call) {
            self.running = None;
        }
    }

    fn smoked(
        &mut self,
        result: Result<(), String>,
        plan: &RolloutSpec,
        now_s: u64,
        effects: &mut Vec<Effect>,
    ) {
        if self.state.phase != RolloutPhase::Waiting {
            return;
        }
        match result {
            Ok(()) => {
                self.call_error = None;
                self.state.smoke_passed = true;
                effects.push(self.note("smoke requests passed"));
            }
            Err(why) => {
                self.smoke_failures += 1;
                if self.smoke_failures < SMOKE_ATTEMPTS {
                    self.pause = SMOKE_AGAIN;
                    self.call_error = Some(why);
                    return;
                }
                let why = format!("smoke: {why}");
                let reason = RollbackReason::Check;
                self.end(RolloutPhase::RolledBack, why, reason, plan, now_s, effects);
            }
        }
    }

    fn called(&mut self, hook: HookKind, result: Result<(), String>, effects: &mut Vec<Effect>) {
        match result {
            Ok(()) => {
                self.call_error = None;
                match hook {
                    HookKind::BeforeRollout => self.state.hook_passed = true,
                    HookKind::BeforeStep => self.step_hook_passed = true,
                    HookKind::BeforePromote if self.state.promoting => {
                        (self.state.promoting, self.state.reason) = (false, None);
                        effects.push(Effect::Promote(self.state.promoted_by.clone()));
                    }
                    HookKind::BeforePromote | HookKind::AfterRollback => {}
                }
            }
            Err(why) => {
                // The hook is called again: an answer other than 2xx means "not yet".
                self.pause = HOOK_AGAIN;
                self.call_error = Some(why.clone());
                // A promotion is a command that somebody waits for, so it fails instead of being tried again later.
                if hook == HookKind::BeforePromote {
                    (self.state.promoting, self.call_error) = (false, None);
                    self.not_promoted(&format!("hook {hook}: {why}"), effects);
                }
            }
        }
    }

    fn not_promoted(&mut self, why: &str, effects: &mut Vec<Effect>) {
        self.state.promoted = false;
        let text = format!("not promoted: {why}");
        effects.push(self.note(&text));
        // The reason of a rollback matters more than the failure of a promotion that came too late.
        if !self.state.was_taken_back() {
            self.state.reason = Some(text);
        }
    }
}
