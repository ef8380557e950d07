//! News for the driver of rollouts: from the store, the fleet and calls to the outside.

use crate::control::fleet::FleetNews;
use crate::control::outcall::prometheus::QueryAnswer;
use crate::rollout::events::Outcome;
use crate::rollout::store::StoreEvent;

/// A piece of news that a rollout has waited for.
#[derive(Debug)]
pub(in crate::control) enum RolloutNews {
    /// The store has taken or refused a change.
    Stored(Box<StoreEvent>),
    /// A call to the outside has ended: a smoke request, a hook or a query; or a promotion has failed.
    Ended(CallEnded),
    /// The state of the fleet has changed.
    Fleet(FleetNews),
}

/// The end of a call to the outside.
#[derive(Debug)]
pub(in crate::control) struct CallEnded {
    pub service: String,
    /// The attempt of the rollout that made the call.
    pub epoch: u64,
    pub result: CallResult,
}

#[derive(Debug)]
pub(in crate::control) enum CallResult {
    Outcome(Outcome),
    Query(usize, QueryAnswer),
}
