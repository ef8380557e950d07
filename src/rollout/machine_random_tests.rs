//! A machine and its driver over random events, with kills of the process.

use super::*;

/// What a driver does with a machine: it stores every change, and raises the share in force only to a stored one.
struct Driven {
    machine: Machine,
    stored: RolloutState,
    in_force: u32,
}

impl Driven {
    /// Stores the state, if `stores`, and puts the share in force.
    fn settle(&mut self, stores: bool) {
        if stores {
            self.stored = self.machine.state().clone();
        }
        let allowed = self.stored.share.max(self.in_force);
        self.in_force = self.machine.state().share.min(allowed);
    }

    /// Kills the process: all that remains is what is stored.
    fn kill(&mut self, plan: &RolloutSpec) {
        let names = ("print", "v2", None);
        self.machine = Machine::new(self.stored.clone(), names, plan.unknown, true, 1).0;
        self.in_force = self.stored.share;
    }
}

#[test]
fn over_random_events_and_kills_no_share_is_above_the_plan_and_no_latch_is_lost() {
    let plan = plan(&[(1, Some(3)), (10, Some(3)), (50, None), (100, Some(3))]);
    let mut kills = 0;
    for seed in 0..500 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let machine = begin(&plan);
        let stored = machine.state().clone();
        let mut driven = Driven {
            machine,
            stored,
            in_force: 0,
        };
        let verdict = failing();
        for _ in 0..200 {
            let bad = rng.u8(..) < 3;
            let facts = Facts {
                verdict: bad.then_some(&verdict),
                gate_open: rng.bool(),
                obstacle: (rng.u8(..) < 20).then_some("an obstacle"),
                ..facts(&plan)
            };
            let before = driven.machine.state().clone();
            match rng.u8(..) {
                0..10 => {
                    let command = rng.choice(OperatorCommand::ALL).copied().unwrap();
                    let _ = driven.machine.command(command, "ops", &plan, 1);
                }
                _ => drop(driven.machine.tick(&facts, S, 1)),
            }
            let state = driven.machine.state();
            if state.step == before.step && state.epoch == before.epoch {
                assert!(state.held_ms >= before.held_ms, "seed {seed}");
            }
            let most = state
                .step
                .checked_sub(1)
                .map_or(0, |at| plan.steps[at].share.0);
            assert!(state.share <= most, "seed {seed}");
            if matches!(
                state.phase,
                RolloutPhase::RolledBack | RolloutPhase::Aborted
            ) {
                assert_eq!(state.share, 0, "seed {seed}");
                assert!(state.latch("print").is_some(), "seed {seed}");
            }
            driven.settle(rng.u8(..) < 200);
            assert!(
                driven.in_force <= driven.machine.state().share,
                "seed {seed}"
            );
            if rng.u8(..) < 5 {
                let latched = driven.stored.latch("print").is_some();
                driven.kill(&plan);
                kills += 1;
                let state = driven.machine.state();
                assert_eq!(state.latch("print").is_some(), latched, "seed {seed}");
                let most = state
                    .step
                    .checked_sub(1)
                    .map_or(0, |at| plan.steps[at].share.0);
                assert!(driven.in_force <= most, "seed {seed}");
            }
        }
    }
    assert!(kills > 1000, "{kills}");
}
