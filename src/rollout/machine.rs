//! The states of a rollout, and the transitions between them.
//!
//! ```text
//! waiting ─ gate, hook, smoke ─► step ⇄ held ─ last step ─► done
//!                                 │  ⇅
//!                                 │ paused, awaiting-approval
//!                                 ├─ guard, query ─► rolled-back ─ retry ─► waiting
//!                                 └─ operator ────► aborted ───── retry ─► waiting
//! ```
//!
//! [`Machine`] is pure: facts, outcomes and commands go in, the state changes, and [`Effect`]s come out. Its owner has two duties.
//! A share that rises may be put in force only after the state has been stored; one that falls is put in force at once. And it
//! calls [`Machine::tick`] about once a second with the time since the last call by a clock that can't be set.

use std::time::Duration;

pub use super::events::{Effect, Facts, HookKind, OperatorCommand, Outcome};
use super::guard::{FailVerdict, GuardKind};
use super::state::{Latch, RolloutPhase, RolloutState, SubjectName};
use crate::config::rollout::{OnFail, OnSilence, RolloutSpec, RolloutStep, StepHold, UnknownPast};
use crate::telemetry::record::RollbackReason;

/// Largest time by which a tick may come early, in milliseconds.
const TICK_JITTER_MS: u64 = 100;
/// Longest time that a tick adds to a step. After a stall of the control thread or a takeover that was called off, the guard has
/// seen a single second, so the time in between was not observed.
const LONGEST_TICK: Duration = Duration::from_secs(5);

/// A call whose outcome is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Smoke,
    Hook(HookKind),
}

/// A rollout in progress.
///
/// The control thread owns one for each service with a plan; no other thread sees it. Only `state` is stored and shared with a
/// fleet. All else is about calls and waits of this process, and is empty after a restart: calls that were running or whose success
/// isn't part of the state are made again, so a hook may be called twice.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The state of the rollout.
    pub(super) state: RolloutState,
    /// The running call. Not stored: after a restart it is made again.
    pub(super) running: Option<Call>,
    /// The time until a failed call is made again.
    pub(super) pause: Duration,
    pub(super) smoke_failures: u32,
    /// The error of the last call.
    pub(super) call_error: Option<String>,
    /// Whether the hook `before_step` of the next step has passed.
    pub(super) step_hook_passed: bool,
    /// Time for which the rollout has been held without a break.
    pub(super) held_for: Duration,
    /// Whether that hold was noted.
    pub(super) hold_noted: bool,
}

impl Machine {
    /// Continues from a stored state under the plan with this fingerprint, or begins if the state belongs to another plan.
    /// `known`: whether the state directory has any journal of an earlier rollout of a service.
    pub fn new(
        stored: RolloutState,
        (plan, subject): (&str, SubjectName<'_>),
        unknown: UnknownPast,
        known: bool,
        now_s: u64,
    ) -> (Self, Vec<Effect>) {
        let mut machine = Self {
            state: stored,
            running: None,
            pause: Duration::ZERO,
            smoke_failures: 0,
            call_error: None,
            step_hook_passed: false,
            held_for: Duration::ZERO,
            hold_noted: false,
        };
        // The same plan goes on in the phase in which it was stored, also in one that ended it: a restart is no retry.
        if machine.state.plan == plan {
            return (machine, Vec::new());
        }
        let state = &mut machine.state;
        // Sessions of the version that an earlier rollback voided stay void under a new label.
        let voided_s = state
            .voided_s
            .filter(|_| (state.kind, &*state.name) == (subject.kind, subject.name));
        *state = RolloutState {
            plan: plan.to_owned(),
            name: subject.name.to_owned(),
            kind: subject.kind,
            label: subject.label.map(str::to_owned),
            epoch: state.epoch + 1,
            since_s: now_s,
            voided_s,
            fleet: state.fleet.take(),
            latches: std::mem::take(&mut state.latches),
            ..RolloutState::default()
        };
        // The plan has failed or was aborted before, maybe with others in between. It stays ended until an operator retries it, or
        // else going back and forth in the configuration would expose users to a version that is known to be bad.
        if let Some(latch) = state.latch(plan).cloned() {
            state.phase = match latch.aborted {
                true => RolloutPhase::Aborted,
                false => RolloutPhase::RolledBack,
            };
            state.reason = Some(latch.reason);
            state.voided_s = Some(latch.at_s);
            return (machine, vec![Effect::ResetGuard]);
        }
        let begun = match unknown {
            UnknownPast::Hold if !known => {
                state.phase = RolloutPhase::Paused;
                let why = "nothing is known of earlier rollouts (unknown = \"hold\"): `cutover resume` starts it";
                state.reason = Some(why.to_owned());
                format!("rollout of {subject} not started: {why}")
            }
            _ => format!("rollout of {subject} began"),
        };
        (machine, vec![Effect::ResetGuard, Effect::Note(begun)])
    }

    /// The current state of the rollout.
    pub fn state(&self) -> &RolloutState {
        &self.state
    }

    /// Advances the rollout by the time since the last call.
    pub fn tick(&mut self, facts: &Facts<'_>, elapsed: Duration, now_s: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.pause = self.pause.saturating_sub(elapsed);
        // First, so that no step begins in the second in which the guard fails it.
        if let Some(verdict) = facts.verdict
            && self.fails(verdict, facts.plan, now_s, &mut effects)
        {
            return effects;
        }
        match self.state.phase {
            // An operator who promotes overrides whatever the phase waits for.
            _ if self.state.promoting => self.promote(facts, now_s, &mut effects),
            RolloutPhase::Waiting => self.wait(facts, now_s, &mut effects),
            RolloutPhase::Step | RolloutPhase::Held => {
                self.hold(facts, elapsed, now_s, &mut effects);
            }
            RolloutPhase::Paused
            | RolloutPhase::AwaitingApproval
            | RolloutPhase::Done
            | RolloutPhase::Aborted
            | RolloutPhase::RolledBack => {}
        }
        self.note_hold(elapsed, &mut effects);
        effects
    }

    /// Carries out a failing verdict of one member of a fleet. The others may have passed the last step in the meantime.
    pub fn veto(&mut self, verdict: &FailVerdict, plan: &RolloutSpec, now_s: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.state.phase == RolloutPhase::Done {
            self.state.phase = RolloutPhase::Step;
        }
        self.fails(verdict, plan, now_s, &mut effects);
        effects
    }

    /// Takes the state that the members of a fleet share.
    pub fn follow(&mut self, state: RolloutState) -> Vec<Effect> {
        let before = std::mem::replace(&mut self.state, state);
        let state = &self.state;
        if (before.epoch, &before.plan) != (state.epoch, &state.plan) {
            (self.running, self.pause, self.call_error) = (None, Duration::ZERO, None);
            (self.smoke_failures, self.step_hook_passed) = (0, false);
            (self.held_for, self.hold_noted) = (Duration::ZERO, false);
            return vec![Effect::ResetGuard];
        }
        let mut effects = Vec::new();
        if before.step != state.step {
            self.step_hook_passed = false;
            effects.push(Effect::BeginStep);
        }
        if state.promoted && !before.promoted {
            effects.push(Effect::Promote(state.promoted_by.clone()));
        }
        effects
    }

    /// Tells the other members of the fleet that the promotion has begun.
    pub fn share_promotion(&mut self) {
        self.state.promoted = true;
    }

    /// Carries out a failing verdict, if the rollout has traffic. Returns whether it did.
    fn fails(
        &mut self,
        verdict: &FailVerdict,
        plan: &RolloutSpec,
        now_s: u64,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let judged = match self.state.phase {
            RolloutPhase::Step | RolloutPhase::Held | RolloutPhase::AwaitingApproval => true,
            // A pause leaves the traffic as it is, so the guard goes on. Of a rollout that it has paused itself it has nothing new
            // to say: the same evidence would fail it in each second.
            RolloutPhase::Paused => self.state.share > 0 && !self.state.paused_by_guard,
            _ => false,
        };
        if !judged {
            return false;
        }
        let reason = format!("{}: {}", verdict.guard, verdict.reason);
        self.state.failed_rule = Some(verdict.guard.clone());
        match plan.guard.on_fail {
            OnFail::Rollback => {
                let why = match verdict.kind {
                    GuardKind::Errors => RollbackReason::Errors,
                    GuardKind::Latency => RollbackReason::Latency,
                    GuardKind::Goal => RollbackReason::Goal,
                };
                self.end(RolloutPhase::RolledBack, reason, why, plan, now_s, effects);
            }
            OnFail::Pause => {
                self.state.paused_by_guard = true;
                effects.push(self.note(&format!("paused: {reason}")));
                self.enter(RolloutPhase::Paused, Some(reason), now_s);
            }
        }
        true
    }

    /// Before the first step: makes the calls that must succeed, and begins the first step.
    fn wait(&mut self, facts: &Facts<'_>, now_s: u64, effects: &mut Vec<Effect>) {
        if !facts.gate_open {
            let why = format!("{} has not passed its health check", self.state.subject());
            return self.enter(RolloutPhase::Waiting, Some(why), now_s);
        }
        let hooks = &facts.plan.hooks;
        if hooks.before_rollout.is_some() && !self.state.hook_passed {
            return self.call(
                Call::Hook(HookKind::BeforeRollout),
                RolloutPhase::Waiting,
                now_s,
                effects,
            );
        }
        if !facts.plan.smoke.is_empty() && !self.state.smoke_passed {
            return self.call(Call::Smoke, RolloutPhase::Waiting, now_s, effects);
        }
        self.advance(facts, RolloutPhase::Waiting, now_s, effects);
    }

    /// Makes a call, unless it runs, or has failed just now. Meanwhile the rollout is in `phase`.
    fn call(&mut self, call: Call, phase: RolloutPhase, now_s: u64, effects: &mut Vec<Effect>) {
        let what = match call {
            Call::Smoke => "smoke requests".to_owned(),
            Call::Hook(hook) => format!("hook {hook}"),
        };
        if self.running.is_none() && self.pause.is_zero() {
            self.running = Some(call);
            effects.push(match call {
                Call::Smoke => Effect::RunSmoke,
                Call::Hook(hook) => Effect::RunHook(hook),
            });
        }
        let why = match &self.call_error {
            Some(error) => format!("{what}: {error}"),
            None => format!("waiting for {what}"),
        };
        self.enter(phase, Some(why), now_s);
    }

    /// In a step: lets its time pass unless something holds it, and ends it when its time has passed.
    fn hold(
        &mut self,
        facts: &Facts<'_>,
        elapsed: Duration,
        now_s: u64,
        effects: &mut Vec<Effect>,
    ) {
        if self.state.step == 0 {
            // `max_share` holds the rollout before its first step.
            return self.wait(facts, now_s, effects);
        }
        let Some(step) = self.step_of(facts.plan) else {
            // The plan has fewer steps than the stored state says. Its fingerprint excludes that, so the state was tampered with.
            let why = "the stored step isn't part of the plan".to_owned();
            return self.enter(RolloutPhase::Held, Some(why), now_s);
        };
        if let Some(why) = self.obstacle(facts) {
            return self.enter(RolloutPhase::Held, Some(why), now_s);
        }
        let StepHold::For(hold) = step.hold else {
            let why = format!("step {} ends by `cutover approve`", self.state.step);
            return self.enter(RolloutPhase::AwaitingApproval, Some(why), now_s);
        };
        let limit = hold.as_millis() as u64 * if self.state.prolonged { 2 } else { 1 };
        // A tick may come a little early: a step of five seconds ends with the fifth tick.
        let limit = limit.saturating_sub(TICK_JITTER_MS);
        let may_end_early = facts.plan.guard.early && facts.proven && !self.is_last(facts.plan);
        if self.state.held_ms < limit && !may_end_early {
            self.state.held_ms += elapsed.min(LONGEST_TICK).as_millis() as u64;
            self.enter(RolloutPhase::Step, None, now_s);
        }
        if self.state.held_ms < limit && !may_end_early {
            return;
        }
        // An operator who approves a step accepts that little is known.
        let approved = self.state.is_approved();
        if !approved && !facts.enough_requests && !self.may_pass_in_silence(facts, now_s) {
            return;
        }
        if !approved && facts.leaning && !self.state.prolonged {
            self.state.prolonged = true;
            effects.push(self.note(&format!(
                "step {} prolonged: a verdict is near",
                self.state.step
            )));
            return;
        }
        if self.is_last(facts.plan) {
            self.enter(RolloutPhase::Done, None, now_s);
            effects.push(self.note("all steps passed"));
            return;
        }
        self.advance(facts, RolloutPhase::Held, now_s, effects);
    }

    /// Whether a step passes although there were too few requests for a verdict. Otherwise it is prolonged or held.
    fn may_pass_in_silence(&mut self, facts: &Facts<'_>, now_s: u64) -> bool {
        let guard = &facts.plan.guard;
        match guard.on_silence {
            OnSilence::Pass => true,
            OnSilence::Extend if !self.state.prolonged => {
                self.state.prolonged = true;
                false
            }
            OnSilence::Hold | OnSilence::Extend => {
                let why = format!(
                    "{} of {} requests that a verdict needs",
                    facts.requests, guard.min_requests
                );
                self.enter(RolloutPhase::Held, Some(why), now_s);
                false
            }
        }
    }

    /// Begins the next step, once its hook has passed and its share is allowed. Until then the rollout is in `phase`.
    fn advance(
        &mut self,
        facts: &Facts<'_>,
        phase: RolloutPhase,
        now_s: u64,
        effects: &mut Vec<Effect>,
    ) {
        let number = self.state.step + 1;
        let Some(next) = facts.plan.steps.get(number - 1).copied() else {
            return;
        };
        if let Some(most) = facts.max_share
            && next.share > most
        {
            let why = format!(
                "step {number} gives {}, max_share allows {most}",
                next.share
            );
            return self.enter(RolloutPhase::Held, Some(why), now_s);
        }
        if let Some(why) = self.obstacle(facts) {
            return self.enter(phase, Some(why), now_s);
        }
        if facts.plan.hooks.before_step.is_some() && !self.step_hook_passed {
            return self.call(Call::Hook(HookKind::BeforeStep), phase, now_s, effects);
        }
        self.step_hook_passed = false;
        let state = &mut self.state;
        (state.step, state.share, state.held_ms) = (number, next.share.0, 0);
        state.prolonged = false;
        let phase = match next.hold {
            StepHold::For(_) => RolloutPhase::Step,
            StepHold::Approval => RolloutPhase::AwaitingApproval,
        };
        let why = matches!(next.hold, StepHold::Approval)
            .then(|| format!("step {number} ends by `cutover approve`"));
        self.enter(phase, why, now_s);
        effects.push(Effect::BeginStep);
        let steps = facts.plan.steps.len();
        effects.push(self.note(&format!("step {number} of {steps}: {}", next.share)));
    }

    /// Promotes, once the hook has passed.
    fn promote(&mut self, facts: &Facts<'_>, now_s: u64, effects: &mut Vec<Effect>) {
        if facts.plan.hooks.before_promote.is_some() {
            let phase = match self.state.phase {
                // The time of the step stands still while the hook is asked.
                RolloutPhase::Step => RolloutPhase::Held,
                phase => phase,
            };
            return self.call(Call::Hook(HookKind::BeforePromote), phase, now_s, effects);
        }
        self.state.promoting = false;
        effects.push(Effect::Promote(self.state.promoted_by.clone()));
    }

    /// Ends the rollout: its share is 0, its sessions are void, and its plan is latched.
    pub(super) fn end(
        &mut self,
        phase: RolloutPhase,
        why: String,
        reason: RollbackReason,
        plan: &RolloutSpec,
        now_s: u64,
        effects: &mut Vec<Effect>,
    ) {
        let state = &mut self.state;
        let (number, share) = (state.step, state.share());
        state.add_latch(Latch {
            plan: state.plan.clone(),
            reason: why.clone(),
            at_s: now_s,
            aborted: phase == RolloutPhase::Aborted,
        });
        state.share = 0;
        state.promoting = false;
        state.voided_s = Some(now_s);
        self.running = None;
        self.enter(phase, Some(why.clone()), now_s);
        effects.push(Effect::Ended(reason));
        effects.push(self.note(&format!("{phase} from step {number} at {share}: {why}")));
        if plan.hooks.after_rollback.is_some() {
            effects.push(Effect::RunHook(HookKind::AfterRollback));
        }
    }

    pub(super) fn enter(&mut self, phase: RolloutPhase, reason: Option<String>, now_s: u64) {
        if self.state.phase != phase {
            self.state.phase = phase;
            self.state.since_s = now_s;
        }
        self.state.reason = reason;
    }

    pub(super) fn note(&self, text: &str) -> Effect {
        Effect::Note(format!("{}: {text}", self.state.subject()))
    }

    pub(super) fn step_of(&self, plan: &RolloutSpec) -> Option<RolloutStep> {
        let at = self.state.step.checked_sub(1)?;
        let mut step = *plan.steps.get(at)?;
        if self.state.is_approved() {
            step.hold = StepHold::For(Duration::ZERO);
        }
        Some(step)
    }

    pub(super) fn is_last(&self, plan: &RolloutSpec) -> bool {
        self.state.step >= plan.steps.len()
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
