//! Stores for the state and the evidence of rollouts.
//!
//! A [`RolloutStore`] holds one state for each service, with a revision. It is changed only by compare-and-swap: a change names the
//! revision that it is based on, and fails if there is another by now. So of two processes that drive the same rollout, as during
//! a takeover, one loses. Results arrive as [`StoreEvent`]s, because the thread that drives rollouts never waits for a disk.
//!
//! [`FileStore`] is the implementation for a single proxy: a journal for each service in the state directory.

mod file;
mod journal;
mod paths;
mod queue;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::state::RolloutState;

pub use file::{FileStore, Opened};

/// An entry of a rollout's journal: the events, and the state that they led to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JournalEntry {
    /// Time of the change, in seconds since the Unix epoch.
    pub at_s: u64,
    /// Descriptions of the events, in words. Empty for an entry that only advances the clock.
    pub notes: Vec<String>,
    /// Evidence by rule of the guard, as log10.
    pub evidence: Vec<(String, f64)>,
    /// The state after the change.
    pub state: RolloutState,
}

/// A state and its revision. A service without a rollout so far has revision 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// Number that grows by one with each change.
    pub revision: u64,
    /// The state.
    pub state: RolloutState,
}

/// The evidence that was gathered for a rollout, beside its state. It is opaque to the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// Fingerprint of the plan.
    pub plan: String,
    /// Number of the attempt: [`RolloutState::epoch`].
    pub epoch: u64,
    /// The evidence.
    pub data: serde_json::Value,
}

/// Why a store can't be read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The stored data is damaged. Contains the damage that was found, and its place.
    Corrupt(String),
    /// Another process has changed the state.
    Conflict,
    /// The store can't be reached, or is full.
    Io(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(what) => write!(f, "the journal is damaged: {what}"),
            Self::Conflict => f.write_str("another process has changed the rollout"),
            Self::Io(error) => f.write_str(error),
        }
    }
}

impl std::error::Error for StoreError {}

/// A report of a store. Reports come in the order in which things happened.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreEvent {
    /// The service.
    pub service: String,
    /// The state that is stored now, or the reason why it couldn't be changed.
    pub result: Result<Stored, StoreError>,
}

/// A store of rollouts.
pub trait RolloutStore {
    /// Reads the state of a service. May block; for starting up.
    ///
    /// # Errors
    /// The stored state is damaged or can't be read.
    fn load(&self, service: &str) -> Result<Stored, StoreError>;

    /// Asks for a change of the state that has the revision `expected`. The result arrives as an event; until then the service must
    /// not ask for another.
    ///
    /// A change that was refused with [`StoreError::Io`] may have been stored all the same, if the disk failed at the worst moment.
    /// Made again, it then conflicts with itself, and [`load`](Self::load) returns it.
    fn cas(&self, service: &str, expected: u64, entry: JournalEntry);

    /// Receives the next event. Cancellation safe.
    fn watch(&mut self) -> impl Future<Output = Option<StoreEvent>>;

    /// Stores evidence. A later one replaces an earlier one. Evidence that can't be stored is lost, which costs time and not
    /// correctness.
    fn push_evidence(&self, service: &str, evidence: Evidence);

    /// Reads the evidence that was stored last. May block; for starting up. `None` if there is none, or if it is damaged.
    fn read_evidence(&self, service: &str) -> Option<Evidence>;
}
