//! The state of a fleet's member beside a shared rollout itself.

use std::time::{Duration, Instant};

use super::fleet_guard::FleetGuard;
use crate::config::rollout::UnknownPast;
use crate::config::spec::Share;
use crate::rollout::fleet::evidence::StepCounts;
use crate::rollout::fleet::replica::Replica;
use crate::rollout::guard::Guard;
use crate::rollout::state::{RolloutState, SubjectKind, SubjectName};
use crate::rollout::store::Stored;
use crate::snapshot::RolloutShare;

/// The state that a member keeps beside the rollout itself.
///
/// It belongs to the [`ServiceRollout`](super::service::ServiceRollout) of one service, on the control thread. `replica` is what
/// the fleet's store is known to have; the machine may be ahead of it by decisions of this member, which are the replica's intents
/// until the store has them.
#[derive(Debug)]
pub(super) struct SharedSide {
    pub replica: Replica,
    /// Names the process that counts.
    pub source: String,
    /// The plan in this member's configuration.
    pub own: Option<OwnPlan>,
    /// The stored copy on disk.
    pub file: Stored,
    pub is_copying: bool,
    /// The counts of this member in a step.
    pub counts: StepCounts,
    pub counts_of: (u64, usize),
    pub reported: Option<Instant>,
    pub reported_counts: StepCounts,
    pub members: usize,
    /// The fleet's guard, while this member drives or is about to.
    pub guard: Option<FleetGuard>,
    /// Whether the evidence of the driver before was read, or there is none.
    pub is_guard_known: bool,
    /// The number of intents that the change on its way has.
    pub on_its_way: Option<usize>,
    /// Whether a document came that is newer than what the change on its way is based on.
    pub is_overtaken: bool,
    /// Whether the next change takes over as driver.
    pub claims: bool,
    /// Whether `on_lost` has taken the share away, because the store doesn't answer.
    pub is_lost: bool,
    /// The rollout that ran here before this proxy joined the fleet.
    pub kept: Option<KeptRollout>,
    pub written: Option<Instant>,
}

/// The state of a rollout when its proxy joined a fleet. It is kept until the fleet's state is known, and becomes that state if the
/// fleet has none.
#[derive(Clone, Debug)]
pub(super) struct KeptRollout {
    pub in_force: RolloutShare,
    pub state: RolloutState,
    /// Time until which it is kept.
    pub until: Instant,
}

/// The plan of this member's configuration.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OwnPlan {
    pub print: String,
    pub kind: SubjectKind,
    pub name: String,
    pub label: Option<String>,
    pub unknown: UnknownPast,
    pub known: bool,
}

/// The decision of a member about the driver's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Election {
    Nothing,
    /// No member is the driver: ask to become it.
    Campaign,
    /// This member has the role, and takes over in the document.
    Claim,
    /// This member has the role but no use for it.
    Resign,
}

impl SharedSide {
    /// The state that is kept while the fleet's state isn't known.
    pub(super) fn kept(&self, now: Instant) -> Option<&KeptRollout> {
        let own = self.own.as_ref()?;
        let is_unknown = self.replica.revision() == 0 && self.replica.state().plan.is_empty();
        let kept = self.kept.as_ref().filter(|_| is_unknown)?;
        (now < kept.until && kept.state.plan == own.print).then_some(kept)
    }

    /// The share that the fleet allows at present, out of the one in the machine's state. It is 0 after `lost_after` without the
    /// store.
    pub(super) fn share(
        &self,
        state: &RolloutState,
        (most, before): (Share, Share),
        lost_after: Option<Duration>,
        now: Instant,
    ) -> Share {
        if self.takes_away(lost_after, now) {
            return Share(0);
        }
        self.replica
            .allowed(state, state.share().min(most), before, now)
    }

    /// Whether the store has not answered for so long that no share is given.
    pub(super) fn takes_away(&self, lost_after: Option<Duration>, now: Instant) -> bool {
        let lost = lost_after.zip(self.replica.alone(now));
        lost.is_some_and(|(after, silence)| silence >= after)
    }

    /// Number of processes whose counts this one adds up.
    pub(super) fn counting(&self) -> usize {
        let guard = self.guard.as_ref().filter(|_| self.replica.is_driver());
        guard.map_or(0, FleetGuard::sources)
    }

    /// The guard of the fleet, if this member drives.
    pub(super) fn deciding_guard(&self) -> Option<&Guard> {
        let guard = self.guard.as_ref().filter(|_| self.replica.is_driver());
        guard.map(|fleet| &fleet.guard)
    }

    pub(super) fn names(own: &OwnPlan) -> (&str, SubjectName<'_>) {
        let subject = SubjectName {
            kind: own.kind,
            name: &own.name,
            label: own.label.as_deref(),
        };
        (&own.print, subject)
    }
}
