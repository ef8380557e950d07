//! Per-worker shards and the registry that keeps them across reloads.

use std::sync::Arc;
use std::time::Duration;

use crate::http1::Method;

/// All counters of the process. Series live as long as the process: a version that leaves and comes back goes on counting.
#[derive(Debug)]
pub struct Telemetry {
    workers: usize,
}

impl Telemetry {
    /// For so many workers. Shard number `workers` (one more) belongs to the control thread.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self { workers })
    }

    /// How many workers write.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The counters of one version, made on first use.
    pub fn version(&self, service: &str, version: &str) -> Arc<VersionMetrics> {
        let _ = (service, version);
        Arc::new(VersionMetrics {
            shards: Box::new([]),
        })
    }

    /// The counters of one listener, made on first use: one shard a worker.
    pub fn listener(&self, name: &str) -> Arc<[ListenerShard]> {
        let _ = name;
        Arc::new([])
    }

    /// `cutover_match_hits_total` of one service: a counter for each rule, for each worker. Made anew when the number of rules changes.
    pub fn rule_hit(&self, service: &str, worker: usize, rule: usize) {
        let _ = (service, worker, rule);
    }
}

/// The counters of one version: a shard for each worker.
#[derive(Debug)]
pub struct VersionMetrics {
    shards: Box<[VersionShard]>,
}

impl VersionMetrics {
    /// The shard that worker `worker` writes.
    #[inline]
    pub fn shard(&self, worker: usize) -> &VersionShard {
        &self.shards[worker]
    }
}

/// One worker's counters of one version.
#[derive(Debug, Default)]
pub struct VersionShard {}

impl VersionShard {
    /// An attempt ended: `http_requests_total` and `http_request_duration_seconds`.
    #[inline]
    pub fn request(&self, method: Method, status: u16, took: Duration) {
        let _ = (method, status, took);
    }

    /// A gRPC call ended with this `grpc-status` (0 to 16; others count as 2).
    #[inline]
    pub fn grpc(&self, status: u8) {
        let _ = status;
    }

    /// `http_requests_in_flight` by +1 or −1.
    #[inline]
    pub fn in_flight(&self, by: i64) {
        let _ = by;
    }

    /// `queue_depth` by +1 or −1: requests that wait for a connection.
    #[inline]
    pub fn queued(&self, by: i64) {
        let _ = by;
    }

    /// `cutover_upstream_connections` by +1 or −1.
    #[inline]
    pub fn connections(&self, by: i64) {
        let _ = by;
    }

    /// `cutover_retries_total`, by the index of a reason in [`super::names::RETRY_REASONS`].
    #[inline]
    pub fn retry(&self, reason: usize) {
        let _ = reason;
    }
}

/// One worker's counters of one listener.
#[derive(Debug, Default)]
pub struct ListenerShard {}

impl ListenerShard {
    /// A request was answered: `cutover_downstream_requests_total`.
    #[inline]
    pub fn request(&self, status: u16) {
        let _ = status;
    }

    /// `cutover_connections` by +1 or −1.
    #[inline]
    pub fn connections(&self, by: i64) {
        let _ = by;
    }
}
