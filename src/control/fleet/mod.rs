//! The part of a fleet that concerns rollouts: the keys that they read from etcd and write to it.
//!
//! | key under `/cutover/FLEET/` | value |
//! |---|---|
//! | `state/SERVICE` | the shared document of a rollout (`rollout::fleet::document`), changed by compare-and-swap |
//! | `driver/SERVICE` | the process that drives it and its term, under the member's lease |
//! | `evidence/SERVICE/ATTEMPT/STEP/PROCESS` | the counts of a process in a step |
//! | `guard/SERVICE` | the state of the driver's guard, for the next driver |
//!
//! Documents are watched, so that all members learn of a change within milliseconds, and read every few seconds as well: an answer
//! proves that what is known is recent, and a watch that has silently stopped does no harm. All calls run as tasks and report
//! [`FleetNews`].

mod news;
mod store;

pub(super) use news::{Driver, FleetNews, Found, Written};
pub(super) use store::FleetStore;
