//! An abort reaches the fleet whatever its store does meanwhile.

use super::*;

/// The shared state in the first step of the fleet's plan.
fn first_step(fleet: &Fleet) -> RolloutState {
    RolloutState::in_first_step(fingerprint(&fleet.spec.services[0]).unwrap())
}

#[test]
fn an_abort_is_not_lost_that_comes_while_the_shared_state_is_not_known() {
    let mut fleet = Fleet::new(1);
    fleet.start(0);
    let now = fleet.now;
    let state = first_step(&fleet);
    let document = FleetDocument::new(("m1", 1), "m1", &[], Vec::new(), state);
    let rollout = fleet.members[0].rollout.as_mut().unwrap();
    assert!(rollout.see(5, &document, 0).is_some());
    // The store's document is gone, can't be read, or is an older one.
    rollout.forget_revision();
    { rollout.command_shared(OperatorCommand::Abort, "alice", now, 0) }.unwrap();
    assert!(rollout.see(6, &document, 0).is_some());
    let phase = |state: &RolloutState| state.phase;
    assert_eq!(rollout.state().map(phase), Some(RolloutPhase::Aborted));
    let (revision, change) = rollout.shared_change(now).expect("the fleet is told");
    assert_eq!((revision, change.state.phase), (6, RolloutPhase::Aborted));
}

#[test]
fn an_abort_is_not_lost_that_comes_before_the_first_document_could_be_written() {
    let mut fleet = Fleet::new(1);
    fleet.start(0);
    let now = fleet.now;
    let own = Driver {
        source: fleet.members[0].source.clone(),
        term: 0,
        replaceable: None,
    };
    let rollout = fleet.members[0].rollout.as_mut().unwrap();
    rollout.shared.as_mut().unwrap().replica.heard(now);
    let claim = |rollout: &mut ServiceRollout| {
        assert_eq!(rollout.election(Some(&own), now), Election::Claim);
        rollout.claim(now, 0);
        rollout.retries_at_tick = false;
        rollout.shared_change(now).expect("it takes over").1
    };
    let first = claim(rollout).state;
    assert_eq!((first.epoch, first.phase), (1, RolloutPhase::Waiting));
    let full = || Written::Failed("etcd's quota is full".to_owned());
    rollout.written(full(), now, 0);
    { rollout.command_shared(OperatorCommand::Abort, "alice", now, 0) }.unwrap();
    // The next second takes over once more.
    assert_eq!(claim(rollout).state.phase, RolloutPhase::Aborted);
    // Another member has begun the same attempt in between.
    let theirs = RolloutState {
        phase: RolloutPhase::Step,
        step: 1,
        share: 10_000,
        ..first
    };
    let document = FleetDocument::new(("m1", 1), "m1", &[], Vec::new(), theirs);
    let conflict = Written::Conflict(Some((7, Box::new(document))));
    rollout.written(conflict, now, 0);
    let (revision, change) = rollout.shared_change(now).expect("the fleet is told");
    assert_eq!((revision, change.state.phase), (7, RolloutPhase::Aborted));
}

#[test]
fn an_abort_of_another_member_is_not_lost_that_overtakes_a_step_which_cannot_be_written() {
    let mut fleet = Fleet::new(1);
    fleet.start(0);
    let now = fleet.now;
    let state = first_step(&fleet);
    let rollout = fleet.members[0].rollout.as_mut().unwrap();
    let document =
        |state: &RolloutState| FleetDocument::new(("m0", 1), "m0", &[], Vec::new(), state.clone());
    let side = rollout.shared.as_mut().unwrap();
    side.replica.wrote(5, &document(&state));
    rollout.synchronize(0);
    let (machine, plan) = (rollout.machine.as_mut().unwrap(), &rollout.plan);
    { machine.command(OperatorCommand::Promote, "the plan", plan, 0) }.unwrap();
    assert!(rollout.shared_change(now).is_some(), "it is on its way");
    let aborted = RolloutState {
        phase: RolloutPhase::Aborted,
        share: 0,
        ..state
    };
    assert!(rollout.see(6, &document(&aborted), 0).is_some());
    rollout.written(Written::Failed("timeout".to_owned()), now, 0);
    assert_eq!(rollout.state().unwrap().phase, RolloutPhase::Aborted);
    rollout.retries_at_tick = false;
    let (revision, change) = rollout
        .shared_change(now)
        .expect("the store is tried again");
    assert_eq!((revision, change.state.phase), (6, RolloutPhase::Aborted));
}
