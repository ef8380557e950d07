//! A machine and its driver over random events, with a store that is slow or fails, edits of the plan, and kills of the process.

use super::*;
use crate::config::rollout::Hooks;
use crate::config::spec::Share;

/// Plans that edits switch between, by fingerprint.
const PRINTS: [&str; 2] = ["print", "other"];

/// What a driver does with a machine: it stores every lasting change, one at a time, and raises the share in force only to a stored
/// one.
struct Driven {
    machine: Machine,
    print: usize,
    stored: RolloutState,
    /// The change that is on its way to the store.
    submitted: Option<RolloutState>,
    has_notes: bool,
    store_error: bool,
    in_force: u32,
    /// Calls whose outcome is due, with the attempt that made them.
    calls: Vec<(u64, Option<HookKind>)>,
    promotions: usize,
}

impl Driven {
    fn new(plan: &RolloutSpec) -> Self {
        let mut driven = Self {
            machine: begin(plan),
            print: 0,
            stored: RolloutState::default(),
            submitted: None,
            has_notes: true,
            store_error: false,
            in_force: 0,
            calls: Vec::new(),
            promotions: 0,
        };
        driven.submit();
        driven
    }

    fn take(&mut self, effects: Vec<Effect>) {
        let epoch = self.machine.state().epoch;
        for effect in effects {
            match effect {
                Effect::RunSmoke => self.calls.push((epoch, None)),
                Effect::RunHook(hook) => self.calls.push((epoch, Some(hook))),
                Effect::Promote(_) => self.promotions += 1,
                Effect::Note(_) => self.has_notes = true,
                Effect::BeginStep | Effect::ResetGuard | Effect::Ended(_) => {}
            }
        }
        self.submit();
        self.enforce();
    }

    fn submit(&mut self) {
        let state = self.machine.state();
        let is_due = self.has_notes || self.store_error || state.differs_from(&self.stored);
        if self.submitted.is_none() && is_due {
            self.submitted = Some(state.clone());
            self.has_notes = false;
        }
    }

    /// The store has taken the change, or refused it.
    fn answer(&mut self, works: bool) {
        if let Some(state) = self.submitted.take() {
            self.store_error = !works;
            match works {
                true => self.stored = state,
                false => self.has_notes = true,
            }
        }
        if works {
            self.submit();
        }
        self.enforce();
    }

    fn enforce(&mut self) {
        let state = self.machine.state();
        let is_stored = self.stored.plan == state.plan && self.stored.epoch == state.epoch;
        let allowed = if is_stored { self.stored.share } else { 0 };
        self.in_force = state.share.min(allowed.max(self.in_force));
    }

    /// Delivers the outcome of a call, unless it belongs to an earlier attempt.
    fn outcome(&mut self, at: usize, plan: &RolloutSpec, passes: bool) {
        let (epoch, hook) = self.calls.swap_remove(at);
        if epoch != self.machine.state().epoch {
            return;
        }
        let result = if passes { Ok(()) } else { Err("no".to_owned()) };
        let outcome = match hook {
            Some(hook) => Outcome::Hook(hook, result),
            None => Outcome::Smoke(result),
        };
        let effects = self.machine.outcome(outcome, plan, 1);
        self.take(effects);
    }

    /// The file names another plan.
    fn edit(&mut self, plan: &RolloutSpec) {
        self.print = 1 - self.print;
        self.adopt(self.machine.state().clone(), plan);
    }

    /// Kills the process: all that remains is what the store has, which may be more than it has acknowledged.
    fn kill(&mut self, plan: &RolloutSpec, writes: bool) {
        if let Some(state) = self.submitted.take().filter(|_| writes) {
            self.stored = state;
        }
        self.calls.clear();
        (self.has_notes, self.store_error, self.in_force) = (false, false, 0);
        self.adopt(self.stored.clone(), plan);
    }

    fn adopt(&mut self, state: RolloutState, plan: &RolloutSpec) {
        let names = (PRINTS[self.print], SubjectName::version("v2", None));
        let (machine, effects) = Machine::new(state, names, plan.unknown, true, 1);
        self.machine = machine;
        self.take(effects);
    }
}

fn full_plan(on_fail: OnFail) -> RolloutSpec {
    let mut plan = plan(&[(1, Some(3)), (10, Some(3)), (50, None), (100, Some(3))]);
    plan.guard.on_fail = on_fail;
    plan.hooks = Hooks {
        before_rollout: hook(),
        before_step: hook(),
        before_promote: hook(),
        after_rollback: hook(),
    };
    plan.smoke = smoke();
    plan
}

/// A random event. Returns whether it was a retry that was carried out.
fn event(driven: &mut Driven, rng: &mut fastrand::Rng, plan: &RolloutSpec) -> bool {
    match rng.u8(..) {
        0..8 => {
            let command = rng.choice(OperatorCommand::ALL).copied().unwrap();
            if let Ok(effects) = driven.machine.command(command, "ops", plan, 1) {
                driven.take(effects);
                return command == OperatorCommand::Retry;
            }
        }
        8..60 if !driven.calls.is_empty() => {
            let at = rng.usize(..driven.calls.len());
            driven.outcome(at, plan, rng.u8(..) < 200);
        }
        60..62 => {
            let effects = driven
                .machine
                .outcome(Outcome::QueryFailed("no".to_owned()), plan, 1);
            driven.take(effects);
        }
        62..64 => driven.edit(plan),
        64..110 => driven.answer(rng.u8(..) < 200),
        _ => {
            let verdict = failing();
            let facts = Facts {
                verdict: (rng.u8(..) < 3).then_some(&verdict),
                gate_open: rng.u8(..) > 10,
                stable_usable: rng.u8(..) > 10,
                obstacle: (rng.u8(..) < 20).then_some("an obstacle"),
                leaning: rng.u8(..) < 20,
                max_share: (rng.u8(..) < 10).then_some(share(10)),
                enough_requests: rng.u8(..) > 20,
                in_force: Share(driven.in_force),
                store_error: driven.store_error.then_some("disk full"),
                ..facts(plan)
            };
            let before = (driven.machine.state().clone(), driven.in_force);
            let effects = driven.machine.tick(&facts, S, 1);
            let after = driven.machine.state();
            let moves = after.held_ms > before.0.held_ms;
            if moves && after.step == before.0.step {
                assert_eq!(
                    before.1, before.0.share,
                    "the clock runs only for a share in force"
                );
                assert!(facts.store_error.is_none() && facts.obstacle.is_none());
            }
            driven.take(effects);
        }
    }
    false
}

/// Checks the invariants that hold after every event.
fn check(driven: &Driven, before: &RolloutState, retried: bool, plan: &RolloutSpec) {
    let state = driven.machine.state();
    let at = state.step.checked_sub(1);
    let most = at.map_or(0, |at| plan.steps[at].share.0);
    assert!(state.share <= most && driven.in_force <= state.share);
    let same_step = (state.step, state.epoch) == (before.step, before.epoch);
    assert!(!same_step || state.held_ms >= before.held_ms);
    assert!(retried || before.latches.len() <= state.latches.len());
    if state.was_taken_back() {
        assert_eq!((state.share, driven.in_force), (0, 0));
        assert!(state.latch(&state.plan).is_some() && state.voided_s.is_some());
    }
}

/// With everything in order, a rollout gets to an end from wherever it is.
fn finish(driven: &mut Driven, plan: &RolloutSpec) {
    for _ in 0..120 {
        let command = match driven.machine.state().phase {
            RolloutPhase::Paused => Some(OperatorCommand::Resume),
            RolloutPhase::AwaitingApproval => Some(OperatorCommand::Approve),
            _ => None,
        };
        if let Some(command) = command {
            let effects = driven.machine.command(command, "ops", plan, 1).unwrap();
            driven.take(effects);
        }
        while !driven.calls.is_empty() {
            driven.outcome(0, plan, true);
        }
        driven.answer(true);
        let facts = Facts {
            in_force: Share(driven.in_force),
            ..facts(plan)
        };
        let effects = driven.machine.tick(&facts, S, 1);
        driven.take(effects);
    }
    driven.answer(true);
    let state = driven.machine.state();
    assert!(state.has_ended() && !state.promoting, "stuck: {state:#?}");
    assert_eq!(driven.in_force, state.share);
    assert!(!state.differs_from(&driven.stored));
}

#[test]
fn over_random_events_and_kills_no_share_is_above_the_plan_and_no_latch_is_lost() {
    let mut kills = 0;
    let mut ends = [0; 8];
    for seed in 0..2000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let on_fail = if rng.bool() {
            OnFail::Rollback
        } else {
            OnFail::Pause
        };
        let plan = full_plan(on_fail);
        let mut driven = Driven::new(&plan);
        for _ in 0..200 {
            let before = driven.machine.state().clone();
            let retried = event(&mut driven, &mut rng, &plan);
            check(&driven, &before, retried, &plan);
            if rng.u8(..) < 4 {
                let (stored, writing) = (driven.stored.clone(), driven.submitted.clone());
                driven.kill(&plan, rng.bool());
                kills += 1;
                let now = driven.machine.state();
                let known = |state: &RolloutState| {
                    now.plan != state.plan
                        || (now.share, now.held_ms) == (state.share, state.held_ms)
                };
                assert!(
                    known(&stored) || writing.as_ref().is_some_and(known),
                    "seed {seed}"
                );
                check(&driven, &RolloutState::default(), false, &plan);
            }
        }
        finish(&mut driven, &plan);
        ends[driven.machine.state().phase.index()] += 1;
    }
    assert!(kills > 5000, "{kills}");
    for end in [
        RolloutPhase::Done,
        RolloutPhase::Aborted,
        RolloutPhase::RolledBack,
    ] {
        assert!(ends[end.index()] > 50, "{ends:?}");
    }
}
