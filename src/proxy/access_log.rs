//! The access log of a worker: decides which requests are logged, and gives their lines to the log and to its followers.
//!
//! A request that is neither logged nor followed costs two loads. The parts of its head that a line may contain are looked up only
//! when a line is written.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::error::Chain;
use crate::config::access_log::{AccessLogSpec, FieldSource, LogFormat, LoggedField};
use crate::config::spec::Share;
use crate::routing::{RequestView, any_cookie, any_parameter};
use crate::snapshot::{Service, Snapshot};
use crate::telemetry::access_log::buffer::LineBuffer;
use crate::telemetry::access_log::followers::{FollowerBuffers, Followers, LineFacts};
use crate::telemetry::access_log::line::{LogLine, LoggedHead, has_failed};
use crate::telemetry::access_log::places::KnownPlaces;
use crate::telemetry::access_log::timestamp::Timestamp;
use crate::telemetry::access_log::{combined, json, logfmt};
use crate::telemetry::record::RequestRecord;

/// The head of a request, for the values that its line may contain.
#[derive(Clone, Copy)]
pub(super) struct LoggedRequest<'a>(pub(super) &'a (dyn RequestView + 'a));

impl fmt::Debug for LoggedRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoggedRequest")
    }
}

/// A request that has ended.
#[derive(Clone, Copy)]
pub(super) struct EndedRequest<'a> {
    /// The configuration that applied to it.
    pub snapshot: &'a Snapshot,
    /// The service that it was routed to.
    pub service: Option<&'a Service>,
    /// The record of the request.
    pub record: &'a RequestRecord<'a>,
    /// The time at which its head had been read.
    pub started: Instant,
    /// The head of the request; `None` if it was rejected.
    pub head: Option<LoggedRequest<'a>>,
}

/// The lines of one worker.
///
/// The worker owns it, writes lines as requests end and passes them on at its ticks. The snapshot of the request says where its
/// line belongs, which may be another output than that of the requests which begin now.
#[derive(Debug)]
pub(crate) struct WorkerLog {
    followers: Arc<Followers>,
    /// Whether the log had a follower at the last tick.
    is_followed: Cell<bool>,
    /// Number of ticks since lines were passed on.
    ticks: Cell<u32>,
    state: RefCell<LogState>,
}

#[derive(Debug, Default)]
struct LogState {
    buffer: LineBuffer,
    followers: FollowerBuffers,
    time: Timestamp,
    /// Places of values in lines of JSON, those for followers included.
    json_places: KnownPlaces,
    logfmt_places: KnownPlaces,
}

/// Number of ticks after which lines are passed on, 100 ms. A buffer that has filled up is passed on at once.
const FLUSH_TICKS: u32 = 4;

impl WorkerLog {
    pub(super) fn new(followers: Arc<Followers>) -> Self {
        Self {
            followers,
            is_followed: Cell::new(false),
            ticks: Cell::new(0),
            state: RefCell::default(),
        }
    }

    /// Passes on the lines that have been logged, every [`FLUSH_TICKS`] ticks.
    pub(super) fn tick(&self, snapshot: &Snapshot, now: Instant) {
        let mut state = self.state.borrow_mut();
        if snapshot.access_log.is_none() && state.buffer.is_open() {
            state.buffer.close();
        }
        // Waking the writer costs as much as formatting a few lines, so lines are passed on in batches.
        self.ticks.set(self.ticks.get() + 1);
        if self.ticks.get() >= FLUSH_TICKS {
            self.ticks.set(0);
            state.buffer.flush();
        }
        state.time.synchronise(now, SystemTime::now());
        state.followers.refresh(&self.followers);
        self.is_followed.set(!state.followers.is_empty());
    }

    /// Whether a request may have to be logged.
    #[inline]
    pub(super) fn is_on(&self, snapshot: &Snapshot) -> bool {
        snapshot.access_log.is_some() || self.is_followed.get()
    }

    /// Logs a request, if the configuration or a follower wants it. `draw` returns a random number below [`Share::WHOLE`].
    #[cold]
    pub(super) fn log(&self, request: &EndedRequest<'_>, draw: impl FnOnce() -> u32) {
        // No request ends while another one is being logged. If one did, its line would be lost; a panic could be the second
        // one, because records are also dropped while unwinding, and abort the process.
        let Ok(mut state) = self.state.try_borrow_mut() else {
            return;
        };
        let LogState {
            buffer,
            followers,
            time,
            json_places,
            logfmt_places,
        } = &mut *state;
        let record = request.record;
        let spec = request.snapshot.spec.access_log.as_ref();
        let facts = LineFacts {
            service: record.service,
            failed: has_failed(record),
            canary: is_canary(request),
        };
        let sink = request.snapshot.access_log.as_ref();
        let log = spec
            .zip(sink)
            .filter(|(spec, _)| is_logged(spec, facts, record.times.total, draw));
        if log.is_none() && followers.is_empty() {
            return;
        }
        time.set(request.started + record.times.total);
        let cause = record.cause.as_deref().map(|error| Chain(error));
        let head = ConfiguredHead {
            fields: spec.map_or(&[], |spec| &spec.fields),
            request: request.head,
        };
        let line = LogLine {
            record,
            time,
            service_id: request.service.map(|service| service.id),
            canary: facts.canary,
            cause: cause.as_ref().map(|chain| chain as &dyn fmt::Display),
            head: &head,
        };
        if let Some((spec, sink)) = log {
            buffer.add(sink, |out| match spec.format {
                LogFormat::Json => json::write(out, json_places, &line),
                LogFormat::Logfmt => logfmt::write(out, logfmt_places, &line),
                LogFormat::Combined => combined::write(out, &line),
            });
        }
        if !followers.is_empty() {
            followers.add(facts, |out| json::write(out, json_places, &line));
        }
    }
}

/// Whether the log takes a request: always if it failed, was slow or went to a canary, else by a draw.
fn is_logged(
    spec: &AccessLogSpec,
    facts: LineFacts<'_>,
    took: Duration,
    draw: impl FnOnce() -> u32,
) -> bool {
    let is_ordinary = !facts.failed && !facts.canary && took < spec.slow;
    !is_ordinary || spec.sample.0 == Share::WHOLE || draw() < spec.sample.0
}

/// Whether a try went to another version than stable.
pub(super) fn is_canary(request: &EndedRequest<'_>) -> bool {
    let Some(service) = request.service else {
        return false;
    };
    let stable = service.routing.split.stable();
    if let Some(only) = request.record.only_try() {
        return only.version.1 != stable;
    }
    let mut tries = request.record.tries();
    tries.any(|attempt| attempt.version.1 != stable)
}

/// The head of a request, and the fields that the configuration names.
struct ConfiguredHead<'a> {
    fields: &'a [LoggedField],
    request: Option<LoggedRequest<'a>>,
}

impl LoggedHead for ConfiguredHead<'_> {
    fn query(&self) -> Option<&[u8]> {
        let names = |field: &LoggedField| field.source == FieldSource::Query;
        self.request?
            .0
            .query()
            .filter(|_| self.fields.iter().any(names))
    }

    fn header(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        if let Some(LoggedRequest(request)) = self.request {
            let mut first = |value: &[u8]| {
                see(value);
                true
            };
            request.any_field(name, &mut first);
        }
    }

    fn each_field(&self, see: &mut dyn FnMut(&str, Option<&[u8]>)) {
        for field in self.fields {
            let mut first = |value: &[u8]| {
                see(&field.key, Some(value));
                true
            };
            let found = match (self.request, &field.source) {
                (None, _) => false,
                (Some(LoggedRequest(request)), source) => match source {
                    FieldSource::Header(name) => request.any_field(name, &mut first),
                    FieldSource::Cookie(name) => any_cookie(request, name.as_bytes(), first),
                    FieldSource::Parameter(name) => any_parameter(request, name.as_bytes(), first),
                    FieldSource::Query => request.query().is_some_and(first),
                },
            };
            if !found {
                see(&field.key, None);
            }
        }
    }
}

#[cfg(test)]
#[path = "access_log_tests.rs"]
mod tests;
