//! A change of the tables that a fleet shares: it is in effect once etcd has it.

/// A change of the fleet's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SharedChange {
    /// The tables before.
    pub before: String,
    /// The new ones.
    pub after: String,
    /// The author, for the history.
    pub by: String,
}

/// Why the fleet's tables were not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ShareRefused {
    /// Others have changed them in between, or this member hasn't taken their change up yet.
    Overtaken,
    /// etcd doesn't answer, or refuses. If it doesn't answer, they may have been changed nevertheless.
    Failed(String),
    /// This member can't use the new ones, and the former are still there, or again.
    Refused(String),
}
