//! The states of a rollout, step by step, and over random events with kills.

use super::*;
use crate::rollout::fixtures::{S, begin, facts, failing, hook, plan, share, smoke};
use crate::telemetry::record::RollbackReason;

/// Lets seconds pass.
fn pass(machine: &mut Machine, facts: &Facts<'_>, seconds: u64) -> Vec<Effect> {
    (0..seconds)
        .flat_map(|_| machine.tick(facts, S, 1))
        .collect()
}

fn at(machine: &Machine) -> (RolloutPhase, usize, u32) {
    let state = machine.state();
    (state.phase, state.step, state.share / 1000)
}

fn reason(machine: &Machine) -> &str {
    machine.state().reason.as_deref().unwrap_or("")
}

#[test]
fn a_good_canary_walks_its_steps() {
    let plan = plan(&[(1, Some(5)), (50, Some(3)), (100, Some(2))]);
    let mut machine = begin(&plan);
    assert_eq!(at(&machine), (RolloutPhase::Waiting, 0, 0));
    let mut walked = Vec::new();
    for _ in 0..12 {
        pass(&mut machine, &facts(&plan), 1);
        walked.push(machine.state().share / 1000);
    }
    assert_eq!(walked, [1, 1, 1, 1, 1, 50, 50, 50, 100, 100, 100, 100]);
    assert_eq!(at(&machine), (RolloutPhase::Done, 3, 100));
}

#[test]
fn the_gate_hooks_and_smoke_requests_come_before_the_first_user() {
    let mut plan = plan(&[(5, Some(5))]);
    plan.hooks.before_rollout = hook();
    plan.hooks.before_step = hook();
    plan.smoke = smoke();
    let mut machine = begin(&plan);
    let closed = Facts {
        gate_open: false,
        ..facts(&plan)
    };
    assert!(pass(&mut machine, &closed, 3).is_empty());
    assert_eq!(reason(&machine), "v2 has not passed its health check");
    let run = |hook| vec![Effect::RunHook(hook)];
    assert_eq!(
        pass(&mut machine, &facts(&plan), 3),
        run(HookKind::BeforeRollout)
    );
    let outcome = |machine: &mut Machine, outcome| machine.outcome(outcome, &plan, 1);
    // A hook that says no is called again.
    outcome(
        &mut machine,
        Outcome::Hook(HookKind::BeforeRollout, Err("no".to_owned())),
    );
    assert!(pass(&mut machine, &facts(&plan), 9).is_empty());
    assert_eq!(reason(&machine), "hook before_rollout: no");
    assert_eq!(
        pass(&mut machine, &facts(&plan), 1),
        run(HookKind::BeforeRollout)
    );
    outcome(&mut machine, Outcome::Hook(HookKind::BeforeRollout, Ok(())));
    assert_eq!(pass(&mut machine, &facts(&plan), 2), [Effect::RunSmoke]);
    outcome(&mut machine, Outcome::Smoke(Ok(())));
    assert_eq!(
        pass(&mut machine, &facts(&plan), 2),
        run(HookKind::BeforeStep)
    );
    assert_eq!(machine.state().share, 0);
    outcome(&mut machine, Outcome::Hook(HookKind::BeforeStep, Ok(())));
    pass(&mut machine, &facts(&plan), 1);
    assert_eq!(at(&machine), (RolloutPhase::Step, 1, 5));
}

#[test]
fn smoke_requests_that_fail_three_times_end_it() {
    let mut plan = plan(&[(5, Some(5))]);
    plan.smoke = smoke();
    let mut machine = begin(&plan);
    for attempt in 1..=3 {
        assert_eq!(
            pass(&mut machine, &facts(&plan), 5),
            [Effect::RunSmoke],
            "{attempt}"
        );
        let effects = machine.outcome(Outcome::Smoke(Err("got 500".to_owned())), &plan, 7);
        assert_eq!(
            effects.contains(&Effect::Ended(RollbackReason::Check)),
            attempt == 3
        );
    }
    assert_eq!(at(&machine), (RolloutPhase::RolledBack, 0, 0));
    assert_eq!(reason(&machine), "smoke: got 500");
    assert!(machine.state().latch("print").is_some());
}

#[test]
fn a_failing_verdict_takes_the_share_back_and_latches_the_plan() {
    let mut plan = plan(&[(10, Some(60)), (100, Some(60))]);
    plan.hooks.after_rollback = hook();
    let mut machine = begin(&plan);
    pass(&mut machine, &facts(&plan), 3);
    let verdict = failing();
    let bad = Facts {
        verdict: Some(&verdict),
        ..facts(&plan)
    };
    let effects = machine.tick(&bad, S, 77);
    assert_eq!(at(&machine), (RolloutPhase::RolledBack, 1, 0));
    assert!(effects.contains(&Effect::Ended(RollbackReason::Errors)));
    assert!(effects.contains(&Effect::RunHook(HookKind::AfterRollback)));
    assert_eq!(machine.state().voided_s, Some(77));
    // Over a restart, and for the same plan after the split was edited in between.
    let stored = machine.state().clone();
    let names = ("print", SubjectName::version("v2", None));
    let (again, _) = Machine::new(stored.clone(), names, UnknownPast::Start, true, 99);
    assert_eq!(at(&again).0, RolloutPhase::RolledBack);
    let (other, _) = Machine::new(
        stored,
        ("other", SubjectName::version("v2", Some("1.1.1"))),
        UnknownPast::Start,
        true,
        99,
    );
    assert_eq!(at(&other), (RolloutPhase::Waiting, 0, 0));
    let (back, _) = Machine::new(other.state().clone(), names, UnknownPast::Start, true, 99);
    assert_eq!(at(&back), (RolloutPhase::RolledBack, 0, 0));
    assert_eq!(
        reason(&back),
        "errors x1.5: the canary failed 9 of 10 requests"
    );
}

#[test]
fn on_fail_pause_pauses_until_resume_begins_the_guard_anew() {
    let mut plan = plan(&[(10, Some(60))]);
    let verdict = failing();
    let mut machine = begin(&plan);
    pass(&mut machine, &facts(&plan), 3);
    plan.guard.on_fail = OnFail::Pause;
    let bad = Facts {
        verdict: Some(&verdict),
        ..facts(&plan)
    };
    pass(&mut machine, &bad, 5);
    assert_eq!(at(&machine), (RolloutPhase::Paused, 1, 10));
    let effects = machine
        .command(OperatorCommand::Resume, "ops", &plan, 1)
        .unwrap();
    assert!(effects.contains(&Effect::ResetGuard));
    assert_eq!(machine.state().phase, RolloutPhase::Step);
}

#[test]
fn obstacles_stop_the_clock_and_say_why() {
    let plan = plan(&[(10, Some(10)), (100, Some(10))]);
    let mut machine = begin(&plan);
    pass(&mut machine, &facts(&plan), 4);
    let held_ms = machine.state().held_ms;
    for (facts, why) in [
        (
            Facts {
                stable_usable: false,
                ..facts(&plan)
            },
            "stable has no usable endpoint",
        ),
        (
            Facts {
                obstacle: Some("stable fails too"),
                ..facts(&plan)
            },
            "stable fails too",
        ),
        (
            Facts {
                store_error: Some("disk full"),
                ..facts(&plan)
            },
            "the state can't be written: disk full",
        ),
    ] {
        pass(&mut machine, &facts, 100);
        assert_eq!(
            (at(&machine), reason(&machine)),
            ((RolloutPhase::Held, 1, 10), why)
        );
        assert_eq!(machine.state().held_ms, held_ms);
    }
    pass(&mut machine, &facts(&plan), 1);
    assert_eq!(at(&machine).0, RolloutPhase::Step);
    let limited = Facts {
        max_share: Some(share(20)),
        ..facts(&plan)
    };
    pass(&mut machine, &limited, 100);
    assert_eq!(reason(&machine), "step 2 gives 100%, max_share allows 20%");
    pass(&mut machine, &facts(&plan), 1);
    assert_eq!(at(&machine), (RolloutPhase::Step, 2, 100));
}

#[test]
fn silence_holds_extends_or_passes() {
    let mut plan = plan(&[(10, Some(10)), (100, Some(10))]);
    let run = |plan: &RolloutSpec, seconds: u64| {
        let silent = Facts {
            enough_requests: false,
            requests: 12,
            ..facts(plan)
        };
        let mut machine = begin(plan);
        pass(&mut machine, &silent, seconds + 1);
        machine
    };
    let held = run(&plan, 500);
    assert_eq!(at(&held), (RolloutPhase::Held, 1, 10));
    assert_eq!(reason(&held), "12 of 200 requests that a verdict needs");
    plan.guard.on_silence = OnSilence::Pass;
    assert_eq!(at(&run(&plan, 10)), (RolloutPhase::Step, 2, 100));
    plan.guard.on_silence = OnSilence::Extend;
    assert_eq!(at(&run(&plan, 19)), (RolloutPhase::Step, 1, 10));
    assert_eq!(at(&run(&plan, 30)), (RolloutPhase::Held, 1, 10));
}

#[test]
fn a_step_is_prolonged_once_while_a_verdict_is_near_and_ends_early_once_proven() {
    let mut plan = plan(&[(10, Some(10)), (100, Some(10))]);
    let mut machine = begin(&plan);
    let leaning = Facts {
        leaning: true,
        ..facts(&plan)
    };
    pass(&mut machine, &leaning, 20);
    assert_eq!(at(&machine), (RolloutPhase::Step, 1, 10));
    pass(&mut machine, &leaning, 1);
    assert_eq!(at(&machine), (RolloutPhase::Step, 2, 100));
    plan.guard.early = true;
    let mut machine = begin(&plan);
    let proven = Facts {
        proven: true,
        ..facts(&plan)
    };
    pass(&mut machine, &proven, 2);
    assert_eq!(
        at(&machine),
        (RolloutPhase::Step, 2, 100),
        "never in the last step"
    );
    pass(&mut machine, &proven, 9);
    assert_eq!(at(&machine), (RolloutPhase::Step, 2, 100));
}

#[test]
fn approval_pause_abort_and_retry() {
    let plan = plan(&[(50, None), (100, Some(10))]);
    let mut machine = begin(&plan);
    pass(&mut machine, &facts(&plan), 100);
    assert_eq!(at(&machine), (RolloutPhase::AwaitingApproval, 1, 50));
    let mut order = |command| machine.command(command, "ops", &plan, 5);
    assert!(order(OperatorCommand::Resume).is_err());
    assert!(order(OperatorCommand::Retry).is_err());
    order(OperatorCommand::Pause).unwrap();
    assert!(order(OperatorCommand::Approve).is_err());
    order(OperatorCommand::Resume).unwrap();
    pass(&mut machine, &facts(&plan), 2);
    assert_eq!(at(&machine), (RolloutPhase::AwaitingApproval, 1, 50));
    machine
        .command(OperatorCommand::Approve, "ops", &plan, 5)
        .unwrap();
    // An approved step passes even if the guard has seen little.
    let silent = Facts {
        enough_requests: false,
        ..facts(&plan)
    };
    pass(&mut machine, &silent, 1);
    assert_eq!(at(&machine), (RolloutPhase::Step, 2, 100));
    machine
        .command(OperatorCommand::Abort, "ops", &plan, 5)
        .unwrap();
    assert_eq!(at(&machine), (RolloutPhase::Aborted, 2, 0));
    let effects = machine
        .command(OperatorCommand::Retry, "ops", &plan, 5)
        .unwrap();
    assert!(effects.contains(&Effect::ResetGuard));
    assert!(machine.state().latch("print").is_none());
    pass(&mut machine, &facts(&plan), 1);
    assert_eq!(at(&machine), (RolloutPhase::AwaitingApproval, 1, 50));
}

#[test]
fn promote_waits_for_its_hook_and_done_promotes_nothing() {
    let mut plan = plan(&[(100, Some(2))]);
    let mut machine = begin(&plan);
    let effects = pass(&mut machine, &facts(&plan), 20);
    assert_eq!(machine.state().phase, RolloutPhase::Done);
    assert!(!effects.iter().any(|e| matches!(e, Effect::Promote(_))));
    machine
        .command(OperatorCommand::Promote, "ops", &plan, 5)
        .unwrap();
    assert_eq!(
        pass(&mut machine, &facts(&plan), 3),
        [Effect::Promote("ops (promote)".to_owned())]
    );
    plan.hooks.before_promote = hook();
    machine
        .command(OperatorCommand::Promote, "ops", &plan, 5)
        .unwrap();
    assert_eq!(
        pass(&mut machine, &facts(&plan), 3),
        [Effect::RunHook(HookKind::BeforePromote)]
    );
    let refused = Outcome::Hook(HookKind::BeforePromote, Err("freeze".to_owned()));
    assert!(
        !machine
            .outcome(refused, &plan, 1)
            .contains(&Effect::Promote("ops (promote)".to_owned()))
    );
    assert_eq!(
        reason(&machine),
        "not promoted: hook before_promote: freeze"
    );
    pass(&mut machine, &facts(&plan), 20);
    machine
        .command(OperatorCommand::Promote, "ops", &plan, 5)
        .unwrap();
    pass(&mut machine, &facts(&plan), 1);
    let passed = Outcome::Hook(HookKind::BeforePromote, Ok(()));
    assert!(
        machine
            .outcome(passed, &plan, 1)
            .contains(&Effect::Promote("ops (promote)".to_owned()))
    );
}

#[test]
fn a_lost_past_holds_if_the_plan_says_so() {
    let mut plan = plan(&[(5, Some(5))]);
    plan.unknown = UnknownPast::Hold;
    let names = ("print", SubjectName::version("v2", None));
    let (mut machine, _) = Machine::new(RolloutState::default(), names, plan.unknown, false, 0);
    pass(&mut machine, &facts(&plan), 100);
    assert_eq!(at(&machine), (RolloutPhase::Paused, 0, 0));
    machine
        .command(OperatorCommand::Resume, "ops", &plan, 5)
        .unwrap();
    pass(&mut machine, &facts(&plan), 2);
    assert_eq!(at(&machine), (RolloutPhase::Step, 1, 5));
}

#[test]
fn a_query_that_fails_ends_it() {
    let plan = plan(&[(5, Some(5))]);
    let mut machine = begin(&plan);
    pass(&mut machine, &facts(&plan), 2);
    let effects = machine.outcome(Outcome::QueryFailed("query `q` is 9".to_owned()), &plan, 1);
    assert!(effects.contains(&Effect::Ended(RollbackReason::Query)));
    assert_eq!(at(&machine), (RolloutPhase::RolledBack, 1, 0));
}

#[path = "machine_edge_tests.rs"]
mod edges;

#[path = "machine_random_tests.rs"]
mod random;
