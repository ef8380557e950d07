//! Log messages about failures.

use std::time::Instant;

use crate::proxy::error::{Chain, ExchangeError};
use crate::telemetry::ServiceMetrics;
use crate::telemetry::record::{Failure, RequestRecord, TryRecord};

/// The error chain of a failed request, root cause last. Empty if there is none.
fn cause(record: &RequestRecord<'_>) -> String {
    match &record.cause {
        Some(error) => Chain(&**error).to_string(),
        None => String::new(),
    }
}

/// Logs a failed try.
#[cold]
pub(super) fn log_try(record: &RequestRecord<'_>, attempt: &TryRecord<'_>, error: &ExchangeError) {
    let Some(failure) = attempt.failure else {
        return;
    };
    tracing::debug!(
        id = %EscapedBytes(record.id),
        service = record.service,
        version = attempt.version.0,
        endpoint = attempt.endpoint.map_or("", |e| e.0),
        origin = failure.origin.as_str(),
        reason = failure.reason.as_str(),
        status = attempt.status,
        cause = %Chain(error),
        "attempt failed"
    );
}

/// Logs a failed request.
#[cold]
pub(super) fn log_request(record: &RequestRecord<'_>, failure: Failure) {
    let attempt = record.last_try();
    tracing::debug!(
        id = %EscapedBytes(record.id),
        listener = record.listener,
        client = %record.client,
        method = %EscapedBytes(record.method_text),
        host = record.host,
        path = %EscapedBytes(record.path),
        service = record.service,
        rule = record.rule.map(|rule| rule.0),
        version = attempt.map_or("", |t| t.version.0),
        endpoint = attempt.and_then(|t| t.endpoint).map_or("", |e| e.0),
        origin = failure.origin.as_str(),
        reason = failure.reason.as_str(),
        status = record.status,
        tries = record.tries().count(),
        cause = cause(record),
        "request failed"
    );
}

/// Warns of a failure of the proxy or of a version, at most once in ten seconds for each service and
/// reason.
#[cold]
pub(super) fn warn(metrics: &ServiceMetrics, record: &RequestRecord<'_>, failure: Failure) {
    let Some(suppressed) = metrics.may_warn(failure.reason, Instant::now()) else {
        return;
    };
    let attempt = record.last_try();
    tracing::warn!(
        service = record.service,
        version = attempt.map_or("", |t| t.version.0),
        endpoint = attempt.and_then(|t| t.endpoint).map_or("", |e| e.0),
        origin = failure.origin.as_str(),
        reason = failure.reason.as_str(),
        id = %EscapedBytes(record.id),
        cause = cause(record),
        suppressed,
        "requests fail"
    );
}

/// Untrusted bytes as text for a log. Anything but printable ASCII is escaped, which prevents log
/// injection.
struct EscapedBytes<'a>(&'a [u8]);

impl std::fmt::Display for EscapedBytes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}
