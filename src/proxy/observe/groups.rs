//! Groups of failures.

use std::time::Instant;

use crate::proxy::Worker;
use crate::snapshot::Service;
use crate::telemetry::record::{Origin, Reason, RequestRecord, TryRecord};

/// Adds a try to the groups of its service if it has failed.
#[inline]
pub(super) fn note(
    worker: &Worker,
    service: &Service,
    record: &RequestRecord<'_>,
    attempt: &TryRecord<'_>,
    status: u16,
) {
    if status >= 500 {
        note_error(worker, service, record, attempt, status);
    }
}

/// Adds a failed try to the groups of its service.
#[cold]
fn note_error(
    worker: &Worker,
    service: &Service,
    record: &RequestRecord<'_>,
    attempt: &TryRecord<'_>,
    status: u16,
) {
    let reason = match attempt.failure {
        Some(failure) if failure.origin != Origin::Upstream => return,
        Some(failure) => failure.reason,
        None => Reason::UpstreamStatus,
    };
    let at = (attempt.version.0, record.path);
    let what = (status, reason);
    service
        .errors
        .add(worker.id, at, what, record.id, Instant::now());
}
