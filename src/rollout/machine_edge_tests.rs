//! States that rarely come together: late outcomes, stalls, slow stores, holds that flicker.

use super::*;

#[test]
fn a_call_of_before_a_resume_is_made_again() {
    let mut plan = plan(&[(10, Some(2)), (50, Some(60))]);
    plan.guard.on_fail = OnFail::Pause;
    let mut machine = begin(&plan);
    plan.hooks.before_step = hook();
    machine.outcome(Outcome::Hook(HookKind::BeforeStep, Ok(())), &plan, 1);
    let effects = pass(&mut machine, &facts(&plan), 4);
    assert!(effects.contains(&Effect::RunHook(HookKind::BeforeStep)));
    let verdict = failing();
    let bad = Facts {
        verdict: Some(&verdict),
        ..facts(&plan)
    };
    pass(&mut machine, &bad, 1);
    let order = OperatorCommand::Resume;
    machine.command(order, "ops", &plan, 5).unwrap();
    // The outcome of the first call belongs to the evidence before, and is dropped.
    let effects = pass(&mut machine, &facts(&plan), 3);
    assert!(effects.contains(&Effect::RunHook(HookKind::BeforeStep)));
}

#[test]
fn a_promotion_that_comes_too_late_keeps_the_reason_of_a_rollback() {
    let mut plan = plan(&[(10, Some(60))]);
    plan.hooks.before_promote = hook();
    let mut machine = begin(&plan);
    pass(&mut machine, &facts(&plan), 2);
    let order = OperatorCommand::Promote;
    machine.command(order, "ops", &plan, 5).unwrap();
    pass(&mut machine, &facts(&plan), 1);
    assert_eq!(
        (at(&machine).0, reason(&machine)),
        (RolloutPhase::Held, "waiting for hook before_promote")
    );
    let verdict = failing();
    let bad = Facts {
        verdict: Some(&verdict),
        ..facts(&plan)
    };
    pass(&mut machine, &bad, 1);
    let why = reason(&machine).to_owned();
    for late in [
        Outcome::Hook(HookKind::BeforePromote, Err("freeze".to_owned())),
        Outcome::PromoteFailed("read-only".to_owned()),
        Outcome::Hook(HookKind::BeforePromote, Ok(())),
    ] {
        let effects = machine.outcome(late, &plan, 1);
        assert!(!effects.iter().any(|e| matches!(e, Effect::Promote(_))));
        assert_eq!(
            (at(&machine), reason(&machine)),
            ((RolloutPhase::RolledBack, 1, 0), &*why)
        );
    }
}

#[test]
fn a_share_that_is_not_in_force_yet_does_not_hold_its_step() {
    let plan = plan(&[(10, Some(5)), (50, Some(5)), (100, Some(5))]);
    let mut machine = begin(&plan);
    pass(&mut machine, &facts(&plan), 1);
    let waits = Facts {
        in_force: share(0),
        ..facts(&plan)
    };
    pass(&mut machine, &waits, 60);
    assert_eq!(at(&machine), (RolloutPhase::Held, 1, 10));
    assert_eq!(
        reason(&machine),
        "10% isn't in force yet: the state is being written"
    );
    assert_eq!(machine.state().held_ms, 0);
    pass(&mut machine, &facts(&plan), 5);
    assert_eq!(at(&machine), (RolloutPhase::Step, 2, 50));
}

#[test]
fn a_canary_that_is_down_and_a_lower_max_share_hold_the_step() {
    let plan = plan(&[(10, Some(5)), (50, Some(5))]);
    let mut machine = begin(&plan);
    let limited = |most| Facts {
        max_share: Some(share(most)),
        ..facts(&plan)
    };
    pass(&mut machine, &limited(5), 60);
    assert_eq!(at(&machine), (RolloutPhase::Held, 0, 0));
    assert_eq!(reason(&machine), "step 1 gives 10%, max_share allows 5%");
    pass(&mut machine, &limited(10), 1);
    assert_eq!(at(&machine), (RolloutPhase::Step, 1, 10));
    pass(&mut machine, &limited(5), 60);
    assert_eq!(reason(&machine), "step 1 gives 10%, max_share allows 5%");
    let down = Facts {
        gate_open: false,
        ..facts(&plan)
    };
    pass(&mut machine, &down, 60);
    assert_eq!(at(&machine), (RolloutPhase::Held, 1, 10));
    assert_eq!(reason(&machine), "v2 has no endpoint that passes its check");
    assert_eq!(machine.state().held_ms, 0);
}

#[test]
fn a_stall_of_the_process_is_not_time_in_a_step() {
    let plan = plan(&[(10, Some(60)), (50, Some(5))]);
    let mut machine = begin(&plan);
    pass(&mut machine, &facts(&plan), 2);
    machine.tick(&facts(&plan), Duration::from_secs(3600), 1);
    assert_eq!(at(&machine), (RolloutPhase::Step, 1, 10));
}

#[test]
fn a_hold_that_lasts_is_noted_once_and_only_then_stored() {
    let plan = plan(&[(10, Some(60))]);
    let mut machine = begin(&plan);
    pass(&mut machine, &facts(&plan), 2);
    let before = machine.state().clone();
    let mut seconds = 0;
    let mut hold = |machine: &mut Machine, for_s: u64| {
        let mut effects = Vec::new();
        for _ in 0..for_s {
            seconds += 1;
            // As of a guard, whose reason has figures in it.
            let why = format!("stable fails too: {seconds} %");
            let held = Facts {
                obstacle: Some(&why),
                ..facts(&plan)
            };
            effects.extend(machine.tick(&held, S, seconds));
        }
        effects
    };
    assert!(hold(&mut machine, 2).is_empty());
    assert!(!machine.state().differs_from(&before));
    assert!(pass(&mut machine, &facts(&plan), 1).is_empty());
    let noted = hold(&mut machine, 60);
    assert_eq!(
        noted,
        [Effect::Note("v2: held: stable fails too: 5 %".to_owned())]
    );
    let continues = pass(&mut machine, &facts(&plan), 5);
    assert_eq!(
        continues,
        [Effect::Note("v2: continues after 60 s".to_owned())]
    );
}

#[test]
fn voided_sessions_stay_void_under_the_next_label() {
    let plan = plan(&[(10, Some(60))]);
    let mut machine = begin(&plan);
    pass(&mut machine, &facts(&plan), 2);
    let order = OperatorCommand::Abort;
    machine.command(order, "ops", &plan, 55).unwrap();
    let next = |version| {
        let names = ("next", SubjectName::version(version, Some("1.1.1")));
        let stored = machine.state().clone();
        Machine::new(stored, names, plan.unknown, true, 99).0
    };
    assert_eq!(next("v2").state().voided_s, Some(55));
    assert_eq!(next("v3").state().voided_s, None);
}

#[test]
fn a_query_that_fails_ends_a_paused_one_too() {
    let plan = plan(&[(5, Some(5))]);
    let mut machine = begin(&plan);
    pass(&mut machine, &facts(&plan), 2);
    let order = OperatorCommand::Pause;
    machine.command(order, "ops", &plan, 5).unwrap();
    machine.outcome(Outcome::QueryFailed("query `q` is 9".to_owned()), &plan, 1);
    assert_eq!(at(&machine), (RolloutPhase::RolledBack, 1, 0));
}

#[test]
fn what_is_awaited_before_the_first_step_is_not_stored() {
    let plan = plan(&[(10, Some(60))]);
    let mut machine = begin(&plan);
    let before = machine.state().clone();
    let closed = Facts {
        gate_open: false,
        ..facts(&plan)
    };
    pass(&mut machine, &closed, 60);
    assert_eq!(reason(&machine), "v2 has not passed its health check");
    assert!(!machine.state().differs_from(&before));
    pass(&mut machine, &facts(&plan), 1);
    assert!(machine.state().differs_from(&before));
}
