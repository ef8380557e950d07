//! Per-worker shards: what the request path writes.
//!
//! A shard has one writer, its worker, so counting is a relaxed load and a relaxed store, without the bus lock of an
//! atomic addition. Whoever reads (the control thread) sees a value that is at most a moment old.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::latency::{Latency, LatencyTotals};
use super::names::{LIMITS, METHODS};
use super::record::{Reason, RetryReason};
use crate::http1::Method;

/// A counter with one writer.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Zero.
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts. Only for the one thread that owns the shard.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// What was counted. For every thread.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A gauge with one writer: one worker's part of it, which may be below zero for a moment.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicI64);

impl Gauge {
    /// Moves it. Only for the one thread that owns the shard.
    #[inline]
    pub(crate) fn add(&self, by: i64) {
        self.0.store(self.0.load(Relaxed) + by, Relaxed);
    }

    /// Where it is. For every thread.
    pub(crate) fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Counters by status, in `GROUPS` groups. The hundred of a class (`2xx`) is made when its first status comes, so that
/// what never happens costs one pointer and no memory is taken on the path after warm-up.
#[derive(Debug)]
struct Statuses<const GROUPS: usize> {
    classes: [[OnceLock<Box<[Counter; 100]>>; 5]; GROUPS],
}

impl<const GROUPS: usize> Default for Statuses<GROUPS> {
    fn default() -> Self {
        Self {
            classes: [const { [const { OnceLock::new() }; 5] }; GROUPS],
        }
    }
}

impl<const GROUPS: usize> Statuses<GROUPS> {
    #[inline]
    fn add(&self, group: usize, status: u16) {
        // What isn't a status amounts to a broken answer.
        let status = if matches!(status, 100..=599) {
            status
        } else {
            502
        };
        let (class, rest) = (usize::from(status / 100) - 1, usize::from(status % 100));
        let row =
            self.classes[group][class].get_or_init(|| Box::new([const { Counter::new() }; 100]));
        row[rest].add(1);
    }

    /// Every group and status that has been counted.
    fn each(&self, mut see: impl FnMut(usize, u16, u64)) {
        for (group, classes) in self.classes.iter().enumerate() {
            for (class, row) in (1u16..).zip(classes) {
                for (rest, counter) in (0u16..).zip(row.get().into_iter().flat_map(|r| r.iter())) {
                    if counter.get() > 0 {
                        see(group, class * 100 + rest, counter.get());
                    }
                }
            }
        }
    }
}

/// Counters by reason. They are made when the first one comes: most reasons never happen.
#[derive(Debug, Default)]
struct Reasons(OnceLock<Box<[Counter; Reason::COUNT]>>);

impl Reasons {
    fn add(&self, reason: Reason) {
        let counters = self
            .0
            .get_or_init(|| Box::new([const { Counter::new() }; Reason::COUNT]));
        counters[reason.index()].add(1);
    }

    fn add_to(&self, totals: &mut ReasonTotals) {
        let Some(counters) = self.0.get() else {
            return;
        };
        for (reason, counter) in Reason::ALL.iter().zip(&**counters) {
            if counter.get() > 0 {
                *totals.entry(reason.as_str()).or_default() += counter.get();
            }
        }
    }
}

/// Counts by the word of a [`Reason`]; only those that happened.
pub(crate) type ReasonTotals = std::collections::BTreeMap<&'static str, u64>;

/// One worker's counters of one version, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct VersionShard {
    requests: Statuses<{ METHODS.len() }>,
    latency: Latency,
    in_flight: Gauge,
    queued: Gauge,
    connections: Gauge,
    grpc: [Counter; 17],
    retries: [Counter; RetryReason::COUNT],
    limit_rejected: [Counter; LIMITS.len()],
    shielded: Counter,
    failures: Reasons,
}

impl VersionShard {
    /// An attempt ended: `http_requests_total` and `http_request_duration_seconds`. A status outside 100 to 599 counts as 502.
    ///
    /// Budget: 97 instructions (`just instructions`: record).
    #[inline]
    pub fn request(&self, method: Method, status: u16, took: Duration) {
        self.requests.add(method as usize, status);
        self.latency.record(took);
    }

    /// A gRPC call ended with this `grpc-status` (0 to 16; others count as 2, "unknown").
    #[inline]
    pub fn grpc(&self, status: u8) {
        let known = if status <= 16 { status } else { 2 };
        self.grpc[usize::from(known)].add(1);
    }

    /// `http_requests_in_flight` by +1 or −1.
    #[inline]
    pub fn in_flight(&self, by: i64) {
        self.in_flight.add(by);
    }

    /// `queue_depth` by +1 or −1: requests that wait for a connection.
    #[inline]
    pub fn queued(&self, by: i64) {
        self.queued.add(by);
    }

    /// `cutover_upstream_connections` by +1 or −1.
    #[inline]
    pub fn connections(&self, by: i64) {
        self.connections.add(by);
    }

    /// `cutover_retries_total`.
    #[inline]
    pub fn retry(&self, reason: RetryReason) {
        self.retries[reason.index()].add(1);
    }

    /// `cutover_upstream_failures_total`: the version failed an attempt.
    pub fn failed(&self, reason: Reason) {
        self.failures.add(reason);
    }

    /// `cutover_limit_rejections_total`, by the index of a limit in [`LIMITS`].
    #[inline]
    pub fn limit_rejected(&self, limit: usize) {
        self.limit_rejected[limit].add(1);
    }

    /// `cutover_shielded_total`: this version failed, stable answered.
    #[inline]
    pub fn shielded(&self) {
        self.shielded.add(1);
    }

    pub(super) fn add_to(&self, totals: &mut VersionTotals) {
        self.requests.each(|method, status, n| {
            *totals
                .requests
                .entry((METHODS[method], status))
                .or_default() += n;
        });
        self.latency.add_to(&mut totals.latency);
        totals.in_flight += self.in_flight.get();
        totals.queued += self.queued.get();
        totals.connections += self.connections.get();
        for (total, n) in totals.grpc.iter_mut().zip(&self.grpc) {
            *total += n.get();
        }
        for (total, n) in totals.retries.iter_mut().zip(&self.retries) {
            *total += n.get();
        }
        for (total, n) in totals.limit_rejected.iter_mut().zip(&self.limit_rejected) {
            *total += n.get();
        }
        totals.shielded += self.shielded.get();
        self.failures.add_to(&mut totals.failures);
    }
}

/// The counters of one version, added up over the workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionTotals {
    /// Attempts by method label and status; only those that happened.
    pub requests: std::collections::BTreeMap<(&'static str, u16), u64>,
    /// Their durations.
    pub latency: LatencyTotals,
    /// Attempts in flight.
    pub in_flight: i64,
    /// Requests that wait for a connection.
    pub queued: i64,
    /// Open connections upstream.
    pub connections: i64,
    /// gRPC calls by status.
    pub grpc: [u64; 17],
    /// Repeated attempts by the index of a [`RetryReason`].
    pub retries: [u64; RetryReason::COUNT],
    /// Refusals by the index of a limit in [`LIMITS`].
    pub limit_rejected: [u64; LIMITS.len()],
    /// Requests that it failed and stable answered.
    pub shielded: u64,
    /// Attempts that it failed.
    pub failures: ReasonTotals,
}

/// One worker's counters of one service, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ServiceShard {
    requests: Statuses<1>,
    own_answers: Reasons,
}

impl ServiceShard {
    /// A request ended with this status for its client: `cutover_service_requests_total`.
    #[inline]
    pub fn request(&self, status: u16) {
        self.requests.add(0, status);
    }

    /// The proxy answered by itself: `cutover_own_answers_total`.
    pub fn own_answer(&self, reason: Reason) {
        self.own_answers.add(reason);
    }

    pub(super) fn add_to(&self, totals: &mut ServiceTotals) {
        self.requests.each(|_, status, n| {
            *totals.requests.entry(status).or_default() += n;
        });
        self.own_answers.add_to(&mut totals.own_answers);
    }
}

/// The counters of one service, added up over the workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTotals {
    /// Requests by the status that the client got; only those that happened.
    pub requests: std::collections::BTreeMap<u16, u64>,
    /// Answers of the proxy itself.
    pub own_answers: ReasonTotals,
}

/// One worker's counters of one listener, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ListenerShard {
    requests: Statuses<1>,
    connections: Gauge,
    panics: AtomicU64,
    failures: Reasons,
}

impl ListenerShard {
    /// A request was answered: `cutover_downstream_requests_total`.
    #[inline]
    pub fn request(&self, status: u16) {
        self.requests.add(0, status);
    }

    /// `cutover_connections` by +1 or −1.
    #[inline]
    pub fn connections(&self, by: i64) {
        self.connections.add(by);
    }

    /// A client failed a request or a handshake: `cutover_client_failures_total`.
    pub fn client_failed(&self, reason: Reason) {
        self.failures.add(reason);
    }

    /// A panic ended a connection or stream: `cutover_panics_total`.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    pub(super) fn add_to(&self, totals: &mut ListenerTotals) {
        self.requests.each(|_, status, n| {
            *totals.requests.entry(status).or_default() += n;
        });
        totals.connections += self.connections.get();
        totals.panics += self.panics.load(Relaxed);
        self.failures.add_to(&mut totals.failures);
    }
}

/// The counters of one listener, added up over the workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerTotals {
    /// Answered requests by status; only those that happened.
    pub requests: std::collections::BTreeMap<u16, u64>,
    /// Open connections.
    pub connections: i64,
    /// Connections and streams that a panic ended.
    pub panics: u64,
    /// Requests and handshakes that clients failed.
    pub failures: ReasonTotals,
}

/// One worker's counter of one rule.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct RuleShard(pub(super) Counter);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_that_are_none_count_as_a_bad_gateway() {
        let shard = VersionShard::default();
        for status in [0, 99, 100, 599, 600, 999, u16::MAX] {
            shard.request(Method::Get, status, Duration::ZERO);
        }
        let mut totals = VersionTotals::default();
        shard.add_to(&mut totals);
        assert_eq!(
            totals.requests.into_iter().collect::<Vec<_>>(),
            [(("GET", 100), 1), (("GET", 502), 5), (("GET", 599), 1)]
        );
    }

    #[test]
    fn foreign_grpc_statuses_count_as_unknown() {
        let shard = VersionShard::default();
        for status in [0, 2, 16, 17, 255] {
            shard.grpc(status);
        }
        let mut totals = VersionTotals::default();
        shard.add_to(&mut totals);
        assert_eq!((totals.grpc[0], totals.grpc[2], totals.grpc[16]), (1, 3, 1));
    }

    #[test]
    fn shards_of_neighbours_share_no_cache_line() {
        assert_eq!(align_of::<VersionShard>(), 128);
        assert_eq!(align_of::<ListenerShard>(), 128);
        assert_eq!(align_of::<RuleShard>(), 64);
    }
}
