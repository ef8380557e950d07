//! The driver of a rollout that a fleet shares: how a member takes over, and the evidence that it collects.

use std::time::{Duration, Instant};

use super::fleet_guard::{FleetGuard, KeptGuard};
use super::service::ServiceRollout;
use super::shared_side::{Election, SharedSide};
use crate::control::fleet::Driver;
use crate::rollout::fleet::evidence::{StepCounts, cadence};
use crate::rollout::machine::{Effect, Machine};
use crate::rollout::state::RolloutState;

/// Time between two reports of a member that has seen new failures of the canary.
const BAD_NEWS: Duration = Duration::from_millis(200);

impl ServiceRollout {
    /// Decides whether to ask for, use or give up the driver's role. `driver` is the process that has it.
    pub(super) fn election(&mut self, driver: Option<&Driver>, now: Instant) -> Election {
        let Some(side) = &mut self.shared else {
            return Election::Nothing;
        };
        let Some(own) = &side.own else {
            let is_own = driver.is_some_and(|driver| driver.source == side.source);
            return if is_own {
                Election::Resign
            } else {
                Election::Nothing
            };
        };
        if side.on_its_way.is_some() || side.replica.alone(now).is_some() {
            return Election::Nothing;
        }
        match driver {
            None => Election::Campaign,
            Some(driver) if driver.replaceable.is_some() => Election::Campaign,
            Some(driver) if driver.source == side.source => {
                // Another plan in the driver's configuration is another rollout.
                let is_own = side.replica.state().plan == own.print;
                match side.replica.is_driver() && is_own {
                    true => Election::Nothing,
                    false => Election::Claim,
                }
            }
            Some(driver) => {
                // The other process drives this very attempt: not all members have left it.
                if driver.term == side.replica.term() && driver.term > 0 {
                    side.replica.rejoin();
                }
                Election::Nothing
            }
        }
    }

    /// The term in which this process drives; `None` if it doesn't drive.
    pub(super) fn term_driven(&self) -> Option<u64> {
        let side = self
            .shared
            .as_ref()
            .filter(|side| side.replica.is_driver())?;
        Some(side.replica.term())
    }

    /// Records that the store's document is gone or another one than the known one.
    pub(super) fn forget_revision(&mut self) {
        if let Some(side) = &mut self.shared {
            side.replica.forget_revision();
        }
    }

    /// Takes over as driver: continues the shared rollout, or begins one if it belongs to another plan.
    pub(super) fn claim(&mut self, now: Instant, now_s: u64) -> Vec<Effect> {
        let Some(side) = &mut self.shared else {
            return Vec::new();
        };
        let Some(own) = &side.own else {
            return Vec::new();
        };
        let mut state = side.replica.state().clone();
        if let Some(kept) = side.kept(now) {
            // The fleet has no state yet: the rollout on this member becomes the fleet's.
            state = RolloutState {
                fleet: state.fleet,
                latches: state.latches,
                ..kept.state.clone()
            };
        }
        if side.replica.has_left() {
            // All members have left it, so the same plan begins again.
            state.plan.clear();
        }
        let continues = state.plan == own.print;
        side.claims = true;
        side.guard = Some(FleetGuard::new(&self.guard));
        side.is_guard_known = !continues;
        // The attempt that an earlier claim has begun here, and that could not be written yet. It may have been aborted since.
        let is_begun = |machine: &Machine| {
            let begun = machine.state();
            begun.plan == own.print && begun.epoch > side.replica.state().epoch
        };
        if { self.machine.as_ref() }.is_some_and(|machine| continues || is_begun(machine)) {
            return Vec::new();
        }
        let known = own.known || side.replica.revision() > 0;
        let names = SharedSide::names(own);
        let (machine, effects) = Machine::new(state, names, own.unknown, known, now_s);
        self.machine = Some(machine);
        effects
    }

    /// Whether the guard's state that the previous driver has kept has to be read.
    pub(super) fn needs_guard(&self) -> bool {
        { self.shared.as_ref() }.is_some_and(|s| s.replica.is_driver() && !s.is_guard_known)
    }

    /// Takes the guard's state that the previous driver has kept, if there is any.
    pub(super) fn take_guard(&mut self, kept: Option<KeptGuard>) {
        let names = self.guard.names();
        let Some(side) = &mut self.shared else { return };
        side.is_guard_known = true;
        let epoch = side.replica.state().epoch;
        if let (Some(guard), Some(kept)) = (&mut side.guard, kept.filter(|k| k.epoch == epoch)) {
            guard.resume(&self.plan.guard, kept, names);
        }
    }

    /// The guard's state for the next driver.
    pub(super) fn guard_to_keep(&self) -> Option<KeptGuard> {
        let side = self.shared.as_ref()?;
        let guard = side.guard.as_ref().filter(|_| side.is_guard_known)?;
        Some(guard.kept()).filter(|_| side.replica.is_driver())
    }

    /// The attempt and step whose counts the driver needs.
    pub(super) fn evidence_wanted(&self) -> Option<(u64, usize)> {
        let side = self.shared.as_ref().filter(|s| s.replica.is_driver())?;
        let of = side.guard.as_ref()?.of();
        (of.1 > 0).then_some(of)
    }

    /// Takes the counts of another member.
    pub(super) fn take_evidence(&mut self, of: (u64, usize), source: &str, counts: &StepCounts) {
        if let Some(side) = &mut self.shared
            && let Some(guard) = side.guard.as_mut().filter(|guard| guard.of() == of)
        {
            guard.take(source, counts);
        }
    }

    /// The counts to report, if a report is due: the attempt and step, and the counts.
    pub(super) fn report(
        &mut self,
        now: Instant,
        members: usize,
    ) -> Option<((u64, usize), StepCounts)> {
        let side = self.shared.as_mut()?;
        side.members = members.max(1);
        let failures = side.counts.errors.canary().events;
        let is_bad = failures > side.reported_counts.errors.canary().events;
        let every = if is_bad { BAD_NEWS } else { cadence(members) };
        let is_due = { side.reported }.is_none_or(|at| now.saturating_duration_since(at) >= every);
        let is_known = side.counts == side.reported_counts;
        if !is_due || side.counts_of.1 == 0 || is_known {
            return None;
        }
        (side.reported, side.reported_counts) = (Some(now), side.counts.clone());
        Some((side.counts_of, side.counts.clone()))
    }
}
