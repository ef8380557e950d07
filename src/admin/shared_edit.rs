//! A change of the tables that a fleet shares. It is in effect once etcd has it.

/// A change of the fleet's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SharedChange {
    /// Text of the tables before the change.
    pub before: String,
    /// Text of the tables after it.
    pub after: String,
    /// The author, for the history.
    pub by: String,
}

/// Why the fleet's tables were not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ShareRefused {
    /// Other members have changed the tables in between, or this member hasn't taken up their change yet.
    Overtaken,
    /// etcd doesn't answer, or refuses the change. If it doesn't answer, the tables may have been changed nevertheless.
    Failed(String),
    /// This member can't use the new tables, and the previous ones are in use still or again.
    Refused(String),
}
