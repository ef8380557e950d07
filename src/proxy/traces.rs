//! The trace of a request: begun with its head, passed on to endpoints, exported when it has ended.
//!
//! Without `[trace]` nothing of this runs: `traceparent` and `tracestate` are forwarded like any other field.

use std::cell::RefCell;
use std::fmt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::access_log::{EndedRequest, LoggedRequest, is_canary};
use crate::config::spec::Share;
use crate::config::trace::TracedKind;
use crate::snapshot::Snapshot;
use crate::telemetry::record::RequestRecord;
use crate::telemetry::trace::context::TraceContext;
use crate::telemetry::trace::request::RequestTrace;
use crate::telemetry::trace::sink::SpanBuffer;
use crate::telemetry::trace::span::{SpanFacts, spans};

/// The origin of a request, as far as its record doesn't contain it.
#[derive(Clone, Copy, Debug)]
pub(super) struct TraceOrigin {
    /// The time at which the head had been read.
    pub started: Instant,
    /// Whether the connection is encrypted.
    pub is_tls: bool,
    /// The user's point in the cohort, from 0 to 1.
    pub cohort: Option<f64>,
}

/// The spans of one worker.
#[derive(Default)]
pub(crate) struct WorkerTraces(RefCell<SpanBuffer>);

impl fmt::Debug for WorkerTraces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkerTraces")
    }
}

impl WorkerTraces {
    /// Passes on the spans since the last tick.
    pub(super) fn tick(&self) {
        self.0.borrow_mut().flush();
    }
}

/// Begins the trace of a request, under a configuration with `[trace]`.
#[cold]
pub(super) fn begin(
    snapshot: &Snapshot,
    head: Option<LoggedRequest<'_>>,
    rng: &mut fastrand::Rng,
) -> Option<Box<RequestTrace>> {
    let spec = snapshot.spec.trace.as_ref()?;
    let client = head.and_then(client_context);
    let is_drawn = client.is_none() && rng.u32(..Share::WHOLE) < spec.sample.0;
    let trace = RequestTrace::begin(client, is_drawn, || rng.u64(..));
    Some(Box::new(trace))
}

/// The context that the client sent. A field that occurs twice is malformed.
fn client_context(LoggedRequest(head): LoggedRequest<'_>) -> Option<TraceContext> {
    let (mut found, mut count) = (None, 0);
    head.any_field("traceparent", &mut |value| {
        found = TraceContext::parse(value);
        count += 1;
        false
    });
    found.filter(|_| count == 1)
}

/// The client's `tracestate`, which may be split into several fields (W3C Trace Context, section 3.3.1.1).
fn client_state(head: Option<LoggedRequest<'_>>) -> String {
    let mut state = String::new();
    if let Some(LoggedRequest(head)) = head {
        head.any_field("tracestate", &mut |value| {
            if !state.is_empty() {
                state.push(',');
            }
            state.push_str(&String::from_utf8_lossy(value));
            false
        });
    }
    state
}

/// Whether a client, or one of the tries, got a 5xx.
fn has_server_error(record: &RequestRecord<'_>) -> bool {
    let is_error = |status: u16| (500..600).contains(&status);
    let mut tries = record.tries();
    is_error(record.counted_status()) || tries.any(|attempt| attempt.status.is_some_and(is_error))
}

/// Exports the spans of a request that has ended, if its trace is sampled or it is of a kind that is always exported.
#[cold]
pub(super) fn end(
    own: &WorkerTraces,
    trace: &RequestTrace,
    request: &EndedRequest<'_>,
    origin: TraceOrigin,
) {
    let snapshot = request.snapshot;
    let (Some(spec), Some(sink)) = (&snapshot.spec.trace, &snapshot.traces) else {
        return;
    };
    let record = request.record;
    let canary = is_canary(request);
    let is_kept = trace.is_sampled()
        || (spec.keeps(TracedKind::Canary) && canary)
        || (spec.keeps(TracedKind::ServerError) && has_server_error(record));
    if !is_kept {
        return;
    }
    // No request ends while the spans of another one are added. If one did, its spans would be lost; a panic could be the second
    // one, because records are also dropped while unwinding, and abort the process.
    let Ok(mut buffer) = own.0.try_borrow_mut() else {
        return;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let split = |version| request.service.map(|s| s.routing.split.share(version));
    let facts = SpanFacts {
        started: origin.started,
        // A u64 holds the nanoseconds until the year 2554.
        ended_unix_nanos: now.map_or(0, |now| now.as_nanos() as u64),
        scheme: match origin.is_tls {
            true => "https",
            false => "http",
        },
        trace_state: match trace.sent().keeps_state {
            true => client_state(request.head),
            false => String::new(),
        },
        split: record
            .last_try()
            .and_then(|last| split(last.version.1))
            .map(Share::ratio),
        cohort: origin.cohort,
        canary,
    };
    buffer.add(sink, spans(record, trace, &facts));
}
