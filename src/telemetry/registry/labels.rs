//! The labels of rare events, which are counted by the control thread.

use crate::telemetry::words::{EjectionOutcome, EjectionReason, RollbackReason};

/// An event of outlier detection: the labels of `cutover_ejections_total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ejection {
    /// Name of the service.
    pub service: String,
    /// Name of the version.
    pub version: String,
    /// Name of the endpoint in the configuration.
    pub endpoint: String,
    /// Why the endpoint is an outlier.
    pub reason: EjectionReason,
    /// The reaction to the outlier.
    pub outcome: EjectionOutcome,
}

/// The end of a rollout by a rollback or an abort: the labels of `cutover_rollbacks_total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rollback {
    /// Name of the service.
    pub service: String,
    /// Name of the version or flag.
    pub subject: String,
    /// Whether the subject is a flag.
    pub is_flag: bool,
    /// Why the subject lost its share.
    pub reason: RollbackReason,
}
