//! Obstacles that stop the clock of a step, and the notes about them.

use std::time::Duration;

use super::events::{Effect, Facts};
use super::machine::Machine;
use super::state::RolloutPhase;

/// Duration from which on a hold is noted. Shorter ones, such as a single slow check, would fill the journal.
const NOTED_AFTER: Duration = Duration::from_secs(3);

impl Machine {
    /// Returns the reason why the clock doesn't run and the next step doesn't begin; `None` if there is none.
    pub(super) fn obstacle(&self, facts: &Facts<'_>) -> Option<String> {
        if let Some(error) = facts.store_error {
            return Some(format!("the state can't be written: {error}"));
        }
        if !facts.stable_usable {
            return Some("stable has no usable endpoint".to_owned());
        }
        if !facts.gate_open {
            let version = self.state.subject();
            return Some(format!("{version} has no endpoint that passes its check"));
        }
        let share = self.state.share();
        if let Some(most) = facts.max_share.filter(|most| *most < share) {
            let step = self.state.step;
            return Some(format!(
                "step {step} gives {share}, max_share allows {most}"
            ));
        }
        if facts.in_force < share {
            // The store is slow, or hangs. Users don't have the share yet, so that nothing is learnt about the version.
            return Some(format!(
                "{share} isn't in force yet: the state is being written"
            ));
        }
        facts.obstacle.map(str::to_owned)
    }

    /// Notes that the rollout has been held for some time, and later that it continues. Called at the end of a tick.
    pub(super) fn note_hold(&mut self, elapsed: Duration, effects: &mut Vec<Effect>) {
        if self.state.phase == RolloutPhase::Held {
            self.held_for += elapsed;
            if self.held_for >= NOTED_AFTER && !self.hold_noted {
                self.hold_noted = true;
                let why = self.state.reason.as_deref().unwrap_or("no reason");
                effects.push(self.note(&format!("held: {why}")));
            }
            return;
        }
        let continues = matches!(
            self.state.phase,
            RolloutPhase::Step | RolloutPhase::AwaitingApproval
        );
        if self.hold_noted && continues {
            let seconds = self.held_for.as_secs();
            effects.push(self.note(&format!("continues after {seconds} s")));
        }
        (self.held_for, self.hold_noted) = (Duration::ZERO, false);
    }
}
