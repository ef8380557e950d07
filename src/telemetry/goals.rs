//! Conversions: how many requests reached a goal.

use super::cells::Counter;
use super::worker_id::WorkerId;

/// The conversions of one goal among some requests, such as those of a version: one shard per worker, and one for the control
/// thread.
#[derive(Debug)]
pub struct GoalCounter {
    shards: Box<[GoalShard]>,
}

/// The counts of one worker, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct GoalShard {
    requests: Counter,
    reached: Counter,
}

/// The number of requests, and how many of them reached the goal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conversions {
    /// All requests with a complete response.
    pub requests: u64,
    /// Requests that reached the goal.
    pub reached: u64,
}

impl GoalCounter {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            shards: (0..shards).map(|_| GoalShard::default()).collect(),
        }
    }

    /// Counts a request that worker `worker` saw, and whether it reached the goal.
    #[inline]
    pub(crate) fn request(&self, worker: WorkerId, reached: bool) {
        let shard = &self.shards[worker.0];
        shard.requests.add(1);
        if reached {
            shard.reached.add(1);
        }
    }

    /// Returns the sum of all shards.
    pub fn total(&self) -> Conversions {
        let mut total = Conversions::default();
        for shard in &self.shards {
            // In this order a sum never has more conversions than requests.
            total.reached += shard.reached.get();
            total.requests += shard.requests.get();
        }
        total
    }
}
