//! What the driver of rollouts waits for: the store, and calls to the outside.

use crate::control::fleet::FleetNews;
use crate::control::outcall::prometheus::QueryAnswer;
use crate::rollout::events::Outcome;
use crate::rollout::store::StoreEvent;

/// Something that a rollout waited for.
#[derive(Debug)]
pub(in crate::control) enum RolloutNews {
    /// The store has taken or refused a change.
    Stored(Box<StoreEvent>),
    /// A call has ended.
    Ended(CallEnded),
    /// Something has happened in the fleet.
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
