//! The record of a request whose response waits for its client: only what neither the request's head nor its snapshot says.
//!
//! A client that reads slowly, or not at all, may have many streams like that, so each keeps little. When a stream ends, its
//! [`Recording`] is made again and published as if it had been there all the time.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::{Duration, Instant};

use super::{Inbound, Recording};
use crate::index::{EndpointIx, RuleIx, ServiceIx, VersionIx};
use crate::net::TaskControl;
use crate::proxy::headers::{Fields, Request};
use crate::proxy::judged::{User, nanos};
use crate::proxy::silence::Silence;
use crate::snapshot::Snapshot;
use crate::telemetry::record::{Chosen, FlagState, Times, TryRecord};
use crate::telemetry::trace::request::RequestTrace;

/// A record without what it borrows. Its owner has to publish it with [`Self::resume`].
///
/// Indices are below 2^32, since no list is that long; those that may be missing are kept by [`packed`]. Times are in nanoseconds.
#[derive(Debug)]
pub(crate) struct ParkedRecord {
    service: u32,
    version: u32,
    endpoint: Option<NonZeroU32>,
    rule: Option<NonZeroU32>,
    judged: Option<NonZeroU32>,
    chosen: Option<Chosen>,
    grpc: bool,
    noted: bool,
    head_is_untimed: bool,
    status: u16,
    flag_drawn: Option<FlagState>,
    user: User,
    bytes_received: u64,
    /// When the request and its only try began.
    started: Instant,
    queued: u64,
    connect: u64,
    first_byte: Option<NonZeroU64>,
    trace: Option<Box<RequestTrace>>,
}

/// An index that may be missing, plus 1.
fn packed(index: Option<usize>) -> Option<NonZeroU32> {
    NonZeroU32::new(index? as u32 + 1)
}

fn unpacked(packed: Option<NonZeroU32>) -> Option<usize> {
    packed.map(|index| index.get() as usize - 1)
}

impl Recording<'_> {
    /// Whether [`Self::park`] can keep the record of a request that `snapshot` has forwarded. Most can: those with a single try
    /// that hasn't failed, and no flags.
    pub(in crate::proxy) fn can_park(&self, snapshot: &Snapshot) -> bool {
        let record = &self.record;
        // A request that has waited may have been routed by a later snapshot.
        std::ptr::eq(self.snapshot, snapshot)
            && self.service.is_some()
            && record.only_try().is_some()
            && record.flags.is_none()
            && record.failure.is_none()
            && record.cause.is_none()
            && self.answering.is_none()
            && !record.shielded
    }

    /// Keeps the record until the client has read the response, and counts the request as in flight meanwhile. `None` if
    /// [`Self::can_park`] was false.
    pub(crate) fn park(mut self) -> Option<ParkedRecord> {
        let service = self.service?;
        let mut services = ServiceIx::enumerate(&self.snapshot.services);
        let (service, _) = services.find(|(_, other)| std::ptr::eq(&***other, service))?;
        let attempt = self.record.only_try()?;
        let parked = ParkedRecord {
            service: service.0 as u32,
            version: attempt.version.1.0 as u32,
            endpoint: packed(attempt.endpoint.map(|(_, member)| member.0)),
            rule: packed(self.record.rule.map(|rule| rule.0)),
            judged: packed(self.judged),
            chosen: self.record.chosen,
            grpc: self.record.grpc,
            noted: attempt.noted,
            head_is_untimed: self.head_is_untimed,
            status: self.record.status,
            flag_drawn: self.flag_drawn,
            user: self.user,
            bytes_received: self.record.bytes_received,
            started: self.started,
            queued: nanos(self.record.times.queued),
            connect: nanos(self.record.times.connect),
            first_byte: attempt
                .first_byte
                .and_then(|t| NonZeroU64::new(nanos(t).max(1))),
            trace: self.record.trace.take(),
        };
        if let Some(shard) = self.shard() {
            shard.in_flight(1);
        }
        // It would be published. It owns no memory: a record with more tries or a failure isn't parked.
        std::mem::forget(self);
        Some(parked)
    }
}

impl ParkedRecord {
    /// The deadline of the response's next progress.
    pub(crate) fn silence<'a>(
        &self,
        snapshot: &'a Snapshot,
        watch: &'a TaskControl,
    ) -> Silence<'a> {
        Silence {
            watch,
            timeouts: &snapshot.services[self.service as usize].timeouts,
            started: self.started,
        }
    }

    /// Makes the recording again, of the same request and by the same snapshot. `request` is `None` if the head can't be read.
    pub(crate) fn resume<'a, F: Fields>(
        self,
        inbound: &Inbound<'a>,
        request: Option<&'a Request<'_, F>>,
    ) -> Recording<'a> {
        let service = &*inbound.snapshot.services[self.service as usize];
        let version_ix = VersionIx(self.version as usize);
        let version = &service.versions[version_ix];
        let id = request.map_or(&b""[..], Request::id_text);
        let mut recording = Recording::new(inbound, id);
        if let Some(request) = request {
            recording.describe(request);
        }
        let rule = unpacked(self.rule).map(RuleIx);
        let endpoint = unpacked(self.endpoint).map(EndpointIx);
        let first_byte = self.first_byte.map(|t| Duration::from_nanos(t.get()));
        recording.set_service(service, (self.chosen, rule));
        recording.record.begin_try(TryRecord {
            version: (&version.name, version_ix),
            endpoint: endpoint.map(|m| (&*version.pool.members[m].endpoint.name, m)),
            noted: self.noted,
            first_byte,
            ..TryRecord::default()
        });
        recording.record.grpc = self.grpc;
        recording.record.status = self.status;
        recording.record.bytes_received = self.bytes_received;
        recording.record.times = Times {
            queued: Duration::from_nanos(self.queued),
            connect: Duration::from_nanos(self.connect),
            first_byte,
            total: Duration::ZERO,
        };
        recording.record.trace = self.trace;
        recording.head_is_untimed = self.head_is_untimed;
        recording.flag_drawn = self.flag_drawn;
        recording.user = self.user;
        recording.judged = unpacked(self.judged);
        recording.started = self.started;
        recording.try_began = self.started;
        version.metrics.shard(inbound.worker.id).in_flight(-1);
        recording
    }
}
