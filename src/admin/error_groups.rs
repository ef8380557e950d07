//! Failures that canaries have and stable doesn't have, in `/api/v1/status`.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::snapshot::Service;
use crate::telemetry::error_groups::ErrorGroup;

/// Number of groups that are listed.
pub(crate) const LISTED: usize = 10;

/// A group of failures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ErrorGroupStatus {
    /// The version.
    pub version: String,
    /// The path, with `{id}` in place of its variable parts.
    pub path: String,
    /// The status that counts for the version.
    pub status: u16,
    /// Why the attempts failed.
    pub reason: String,
    /// Number of failed attempts.
    pub count: u64,
    /// `x-request-id` of up to 5 of the requests.
    pub samples: Vec<String>,
}

impl ErrorGroupStatus {
    /// The group in one line: `v2: 500 upstream-status at /orders/{id}, 12 times, such as 4f1c, 90ab`.
    pub(crate) fn line(&self) -> String {
        let times = match self.count {
            1 => "once".to_owned(),
            count => format!("{count} times"),
        };
        let samples = self.samples.join(", ");
        format!(
            "{}: {} {} at {}, {times}, such as {samples}",
            self.version, self.status, self.reason, self.path
        )
    }
}

/// The largest groups of a service's other versions that its stable one doesn't have.
pub(crate) fn unknown_to_stable(service: &Service, stable: &str) -> Vec<ErrorGroupStatus> {
    let groups = service.errors.unknown_to(stable, Instant::now());
    groups.into_iter().take(LISTED).map(status).collect()
}

fn status(group: ErrorGroup) -> ErrorGroupStatus {
    ErrorGroupStatus {
        version: group.key.version,
        path: group.key.path,
        status: group.key.status,
        reason: group.key.reason.to_string(),
        count: group.count,
        samples: group.samples,
    }
}
