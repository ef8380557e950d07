//! Counters for the guard of a flag's rollout: the requests of users who have the flag and of those who don't.

use std::sync::Arc;
use std::time::Duration;

use super::Telemetry;
use super::cells::Cell as _;
use super::guard::GuardCounters;
use super::latency::{BUCKETS, Latency, LatencyTotals};
use super::words::FlagState;
use super::worker_id::WorkerId;

/// The counters of a flag under a rollout.
#[derive(Debug)]
pub struct FlagGuard {
    /// Counters by the state of the flag.
    sides: [Arc<GuardCounters>; FlagState::COUNT],
    /// Latency of the users without the flag, one shard per worker.
    latency: Box<[LatencyShard]>,
}

/// The latency that one worker saw, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct LatencyShard(Latency);

impl Telemetry {
    /// Creates the counters of a flag. Unlike those of versions they aren't exported, so that nothing outlives the rollout.
    pub(crate) fn flag_guard(&self) -> Arc<FlagGuard> {
        Arc::new(FlagGuard {
            sides: std::array::from_fn(|_| GuardCounters::new(self.workers())),
            latency: (0..self.workers())
                .map(|_| LatencyShard::default())
                .collect(),
        })
    }
}

impl FlagGuard {
    /// The requests of the users for whom the flag has this state.
    #[inline]
    pub fn side(&self, state: FlagState) -> &GuardCounters {
        &self.sides[state.index()]
    }

    /// Counts the latency of a user without the flag.
    pub(crate) fn took_without(&self, worker: WorkerId, took: Duration) {
        self.latency[worker.0].0.record(took);
    }

    /// The latencies of the users without the flag, over all workers.
    pub fn latency_without(&self) -> [u64; BUCKETS] {
        let mut totals = LatencyTotals::default();
        for shard in &self.latency {
            shard.0.add_to(&mut totals);
        }
        totals.buckets
    }
}
