//! Everything that is counted and logged about a request. No other code does, and this code works
//! from the [`RequestRecord`] alone.
//!
//! A [`Recording`] guards the record while the request is served. Each try is counted when it ends,
//! so that outlier detection learns of a failure at once. The request is counted when the guard is
//! dropped: exactly once, also if the connection breaks, the task is cancelled or the code panics.

mod flags;
mod groups;
mod judging;
mod messages;
mod parked;
mod placed;
mod second;

use std::time::{Duration, Instant};

pub(crate) use self::parked::ParkedRecord;
use super::Worker;
use super::access_log::{EndedRequest, LoggedRequest};
use super::error::ExchangeError;
use super::headers::{Fields, Request};
use super::judged::User;
use super::peer::Peer;
use super::snapshots::RequestSnapshots;
use super::traces;
use crate::config::spec::{Balance, Share};
use crate::index::{EndpointIx, RuleIx, VersionIx};
use crate::routing::RequestView as _;
use crate::snapshot::{Service, Snapshot};
use crate::telemetry::VersionShard;
use crate::telemetry::record::{
    Chosen, Failure, FlagState, Origin, Protocol, Reason, RequestRecord, RetryReason, TryRecord,
};
use crate::upstream::limits::Limit;
use crate::upstream::outlier::AttemptVerdict;

/// The failure of a try that was cancelled in favour of another one.
const HEDGED: Failure = Failure {
    origin: Origin::Proxy,
    reason: Reason::Hedged,
};

/// A request in flight and its record. Dropping it counts and logs the request, unless it was parked.
///
/// It exists from the moment when a head has been read or rejected. The data path fills in `record`; what follows from the facts
/// there, such as verdicts and metrics, is computed here and nowhere else.
#[derive(Debug)]
pub struct Recording<'a> {
    /// The record.
    pub record: RequestRecord<'a>,
    worker: &'a Worker,
    peer: &'a Peer,
    service: Option<&'a Service>,
    snapshot: &'a Snapshot,
    /// The head of the request; `None` if it was rejected.
    head: Option<LoggedRequest<'a>>,
    started: Instant,
    /// The time at which the current try began.
    try_began: Instant,
    /// Duration from `started` to the end of a complete response. `None` before that, and after a failure.
    served_in: Option<Duration>,
    /// Whether the head of a response has arrived, and the clock hasn't been read since.
    head_is_untimed: bool,
    /// The running first try, if a rollout's guard judges it: its key in the worker's list.
    judged: Option<usize>,
    user: User,
    /// The state of the flag that follows a rollout, if the request is one of those that its guard compares.
    flag_drawn: Option<FlagState>,
    /// Name and index of the version for which the proxy answers.
    answering: Option<(&'a str, VersionIx)>,
}

/// The origin of a request, and the worker that serves it.
#[derive(Clone, Copy, Debug)]
pub struct Inbound<'a> {
    /// The worker that serves the request.
    pub worker: &'a Worker,
    /// The configuration snapshot that applies to the request.
    pub snapshot: &'a Snapshot,
    /// Keeps this snapshot, and later ones that the request uses.
    pub snapshots: &'a RequestSnapshots,
    /// The peer of the connection.
    pub peer: &'a Peer,
    /// The listener's name.
    pub listener: &'a str,
    /// The client's protocol.
    pub protocol: Protocol,
    /// The time at which the head had been read.
    pub started: Instant,
}

impl<'a> Recording<'a> {
    /// Starts a record of a request of which only the id is known, because its head was rejected.
    #[inline]
    pub fn begin(inbound: &Inbound<'a>, id: &'a [u8]) -> Self {
        let mut recording = Self::new(inbound, id);
        recording.begin_trace();
        recording
    }

    /// Starts a record of a request with a valid head.
    #[inline]
    pub fn of_request<F: Fields>(inbound: &Inbound<'a>, request: &'a Request<'_, F>) -> Self {
        let mut recording = Self::new(inbound, request.id_text());
        recording.describe(request);
        recording.begin_trace();
        recording
    }

    /// Records what the head says.
    #[inline]
    fn describe<F: Fields>(&mut self, request: &'a Request<'_, F>) {
        self.head = Some(LoggedRequest(request));
        let record = &mut self.record;
        record.client = request.client;
        record.method = request.method;
        record.method_text = request.method_text;
        record.host = request.host;
        record.path = request.path();
    }

    #[inline]
    fn new(inbound: &Inbound<'a>, id: &'a [u8]) -> Self {
        Self {
            record: RequestRecord::new(id, inbound.listener, inbound.peer.ip, inbound.protocol),
            worker: inbound.worker,
            peer: inbound.peer,
            service: None,
            snapshot: inbound.snapshot,
            head: None,
            started: inbound.started,
            try_began: inbound.started,
            served_in: None,
            head_is_untimed: false,
            judged: None,
            user: User::Anyone,
            flag_drawn: None,
            answering: None,
        }
    }

    #[inline]
    fn begin_trace(&mut self) {
        if self.snapshot.traces.is_some() {
            let begin = |rng: &mut _| traces::begin(self.snapshot, self.head, rng);
            self.record.trace = self.worker.with_rng(begin);
        }
    }

    /// Records the service, how its version was chosen, and the match rule that applied.
    #[inline]
    pub fn set_service(
        &mut self,
        service: &'a Service,
        (chosen, rule): (Option<Chosen>, Option<RuleIx>),
    ) {
        self.service = Some(service);
        self.record.service = &service.name;
        self.record.chosen = chosen;
        self.record.rule = rule;
        self.record.flags = None;
        self.flag_drawn = None;
    }

    /// Records the sender of the request, for a guard that counts a user's failures once.
    #[inline]
    pub(crate) fn set_user(&mut self, user: User) {
        self.user = user;
    }

    /// Records the failure of the request. `answered`: part of a response has gone to the client.
    pub fn fail(&mut self, error: ExchangeError, answered: bool) {
        self.record.failure = Some(error.failure(answered));
        self.record.cause = Some(Box::new(error));
    }

    /// Records the start of a try. `member` is the index of the endpoint in the version's pool;
    /// `None` if the version has no endpoint to try.
    #[inline]
    pub fn begin_try(&mut self, version: VersionIx, member: Option<EndpointIx>) {
        let Some(service) = self.service else { return };
        let first = self.record.last_try().is_none();
        self.try_began = if first { self.started } else { Instant::now() };
        if self.snapshot.is_large {
            self.prefetch(service, version, member);
        }
        let pool = &service.versions[version].pool;
        self.record.begin_try(TryRecord {
            version: (&service.versions[version].name, version),
            endpoint: member.map(|m| (&*pool.members[m].endpoint.name, m)),
            ..TryRecord::default()
        });
        if let Some(trace) = &mut self.record.trace {
            trace.begin_try(self.worker.with_rng(|rng| rng.u64(..)), self.try_began);
        }
        if first && let Some(guard) = &service.versions[version].guard {
            self.begin_judged(service, guard);
        }
    }

    /// Asks the CPU for the counters of a try, which a service that isn't used often doesn't have in its caches.
    #[inline]
    fn prefetch(&self, service: &Service, version: VersionIx, member: Option<EndpointIx>) {
        let (worker, version) = (self.worker.id, &service.versions[version]);
        let expected = self.worker.last_took.get();
        let shard = version.metrics.shard(worker);
        shard.prefetch(self.record.method, expected);
        service.metrics.shard(worker).prefetch(expected);
        if let Some(member) = member {
            let endpoint = &version.pool.members[member].endpoint;
            endpoint.prefetch(worker);
            self.worker.conns.prefetch_next(endpoint.slot);
        }
    }

    /// Records the head of the final response. A 5xx is reported to outlier detection now rather than
    /// at the end of the try, so that the client's next request already avoids an ejected endpoint.
    #[inline]
    pub fn head_arrived(&mut self, status: u16) {
        self.head_is_untimed = true;
        if let Some(attempt) = self.record.last_try_mut() {
            attempt.noted = status >= 500;
        }
        if status >= 500
            && let (Some(service), Some(attempt)) = (self.service, self.record.last_try())
        {
            note_outcome(self.worker, service, attempt, verdict(attempt, status));
        }
    }

    /// Records that the rest of the response is being waited for, so that the time of its head is
    /// taken now. A response that is complete at once needs only one reading of the clock, at its
    /// end.
    #[inline]
    pub fn response_waits(&mut self) {
        if self.head_is_untimed {
            self.elapsed();
        }
    }

    /// The time since the head had been read, and since the current try began, by one reading of the
    /// clock. Both are the same in the first try.
    #[inline]
    fn elapsed(&mut self) -> (Duration, Duration) {
        let now = Instant::now();
        let since_start = now.duration_since(self.started);
        let took = match self.try_began == self.started {
            true => since_start,
            false => now.duration_since(self.try_began),
        };
        if std::mem::take(&mut self.head_is_untimed) {
            self.record.times.first_byte = Some(since_start);
            if let Some(attempt) = self.record.last_try_mut() {
                attempt.first_byte = Some(took);
            }
        }
        (since_start, took)
    }

    /// Adds time spent waiting for a connection slot.
    pub fn add_queued(&mut self, time: Duration) {
        self.record.times.queued += time;
    }

    /// Adds time spent opening a connection.
    pub fn add_connect(&mut self, time: Duration) {
        self.record.times.connect += time;
    }

    /// Records the end of a try with a complete response, which is also the end of the request.
    #[inline]
    pub fn end_try(&mut self, status: u16, grpc_status: Option<u8>) {
        let (since_start, took) = self.elapsed();
        self.served_in = Some(since_start);
        self.end_try_as(took, Some(status), grpc_status, None);
    }

    /// Records a failed try. `client_status` is the status of the response if its head has gone to
    /// the client.
    pub fn fail_try(&mut self, error: &ExchangeError, client_status: Option<u16>) {
        let failure = error.failure(client_status.is_some());
        let status = match failure.origin {
            Origin::Upstream => error.upstream_status(),
            // The upstream didn't cause the failure: a response that was cut off counts with its own status.
            Origin::Client | Origin::Proxy => client_status,
        };
        let (_, took) = self.elapsed();
        self.end_try_as(took, status, None, Some(failure));
        if let Some(attempt) = self.record.last_try() {
            messages::log_try(&self.record, attempt, error);
        }
    }

    #[inline]
    fn end_try_as(
        &mut self,
        took: Duration,
        status: Option<u16>,
        grpc: Option<u8>,
        failure: Option<Failure>,
    ) {
        let Some(attempt) = self.record.last_try_mut() else {
            return;
        };
        attempt.took = took;
        attempt.status = status;
        attempt.grpc_status = grpc;
        attempt.failure = failure;
        if let (Some(service), Some(attempt)) = (self.service, self.record.last_try()) {
            observe_try(self.worker, service, &self.record, attempt);
        }
        if let Some(key) = self.judged.take() {
            self.end_judged(key);
        } else if self.record.shielded {
            self.judge_shield();
        }
    }

    /// Counts a retry in the same version.
    pub fn retried(&mut self, reason: RetryReason) {
        if let Some(shard) = self.shard() {
            shard.retry(reason);
        }
    }

    /// Records that stable answers for the canary.
    pub fn shielded(&mut self) {
        self.record.shielded = true;
        if let Some(shard) = self.shard() {
            shard.shielded();
        }
    }

    /// Counts a try or retry that a limit of the version refused.
    pub fn limited(&mut self, limit: Limit) {
        if let Some(shard) = self.shard() {
            shard.limit_rejected(limit);
        }
    }

    /// This worker's metrics of the version of the last try.
    fn shard(&self) -> Option<&'a VersionShard> {
        let version = &self.service?.versions[self.record.last_try()?.version.1];
        Some(version.metrics.shard(self.worker.id))
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.judged.take() {
            // Cancelled: the request has no outcome.
            drop(self.worker.judged.remove(key));
        }
        // Dropped while unwinding: whatever the record says, the panic is why the request failed.
        if std::thread::panicking() {
            self.record.failure = Some(Failure {
                origin: Origin::Proxy,
                reason: Reason::Panic,
            });
        }
        self.record.times.total = self.served_in.unwrap_or_else(|| self.started.elapsed());
        observe_request(self);
    }
}

/// Counts a try and reports it to outlier detection. Failures caused by the client or the proxy count for neither version nor
/// endpoint.
#[inline]
fn observe_try(
    worker: &Worker,
    service: &Service,
    record: &RequestRecord<'_>,
    attempt: &TryRecord<'_>,
) {
    let version = &service.versions[attempt.version.1];
    let shard = version.metrics.shard(worker.id);
    if let Some(failure) = attempt.failure
        && failure.origin == Origin::Upstream
    {
        shard.failed(failure.reason);
    }
    let Some(status) = attempt.status else {
        if attempt.failure == Some(HEDGED) {
            note_latency(worker, service, attempt, attempt.took);
        }
        return;
    };
    shard.request(record.method, status, attempt.took);
    groups::note(worker, service, record, attempt, status);
    if let Some(code) = attempt.grpc_status {
        shard.grpc(code);
    }
    // Only complete responses reach a goal.
    if !service.goals.is_empty() && attempt.failure.is_none() {
        flags::note_goals(worker, service, record, (attempt, status));
    }
    if attempt.endpoint.is_none() {
        return;
    }
    if let Some(first_byte) = attempt.first_byte {
        note_latency(worker, service, attempt, first_byte);
    }
    if !attempt.noted {
        note_outcome(worker, service, attempt, verdict(attempt, status));
    }
}

/// Reports the latency of a try to the balancer, if that uses it. A cancelled try would have taken longer still.
#[inline]
fn note_latency(worker: &Worker, service: &Service, attempt: &TryRecord<'_>, latency: Duration) {
    let pool = &service.versions[attempt.version.1].pool;
    if pool.balance == Balance::PeakEwma
        && let Some((_, member)) = attempt.endpoint
    {
        let now_ms = worker.controls.now_ms();
        let endpoint = &pool.members[member].endpoint;
        endpoint.load.note_latency(latency, now_ms);
    }
}

/// Reports a verdict about an endpoint to outlier detection.
#[inline]
fn note_outcome(
    worker: &Worker,
    service: &Service,
    attempt: &TryRecord<'_>,
    verdict: AttemptVerdict,
) {
    if let Some((_, member)) = attempt.endpoint {
        let pool = &service.versions[attempt.version.1].pool;
        let endpoint = &pool.members[member].endpoint;
        worker.note(endpoint, verdict, &service.policies.outlier);
    }
}

/// The verdict of a try about its endpoint.
fn verdict(attempt: &TryRecord<'_>, status: u16) -> AttemptVerdict {
    let without_answer = |failure: Failure| {
        failure.origin == Origin::Upstream && failure.reason != Reason::UpstreamStatus
    };
    match status {
        502..=504 => AttemptVerdict::Gateway,
        _ if attempt.failure.is_some_and(without_answer) => AttemptVerdict::Gateway,
        500..=599 => AttemptVerdict::ServerError,
        _ => AttemptVerdict::Ok,
    }
}

/// Counts a request, and logs it if it failed.
fn observe_request(recording: &Recording<'_>) {
    let Recording { record, worker, .. } = recording;
    let status = record.counted_status();
    let listener = &recording.peer.metrics[worker.id.0];
    listener.request(status);
    worker.last_took.set(record.times.total);
    let metrics = match recording.service {
        Some(service) => {
            let grpc = record.last_try().and_then(|attempt| attempt.grpc_status);
            let shard = service.metrics.shard(worker.id);
            shard.request(status, grpc, record.times.total);
            &*service.metrics
        }
        None => &*recording.snapshot.unrouted,
    };
    if let Some(reason) = record.local_reply {
        metrics.shard(worker.id).own_answer(reason);
    }
    if let (Some(service), Some(flags)) = (recording.service, record.flags) {
        flags::note_request(worker, service, flags);
    }
    if let Some(failure) = record.failure {
        if failure.origin == Origin::Client {
            listener.client_failed(failure.reason);
        } else if failure.reason != Reason::Shutdown {
            messages::warn(metrics, record, failure);
        }
        messages::log_request(record, failure);
    }
    let ended = || EndedRequest {
        snapshot: recording.snapshot,
        service: recording.service,
        record,
        started: recording.started,
        head: recording.head,
    };
    if let Some(trace) = &record.trace {
        traces::end(&worker.traces, trace, &ended(), recording.trace_origin());
    }
    if worker.log.is_on(recording.snapshot) {
        let draw = || worker.with_rng(|rng| rng.u32(..Share::WHOLE));
        worker.log.log(&ended(), draw);
    }
}
