//! Conversions: how often requests to a version reached a goal.

use super::cells::Counter;
use super::worker_id::WorkerId;

/// The conversions of one goal on one version: one shard per worker, and one for the control thread.
#[derive(Debug)]
pub struct GoalCounter {
    shards: Box<[GoalShard]>,
}

/// The conversions that one worker saw, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct GoalShard(Counter);

impl GoalCounter {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            shards: (0..shards).map(|_| GoalShard::default()).collect(),
        }
    }

    /// Counts a conversion that worker `worker` saw.
    #[inline]
    pub(crate) fn reached(&self, worker: WorkerId) {
        self.shards[worker.0].0.add(1);
    }

    /// Returns the sum of all shards.
    pub fn total(&self) -> u64 {
        self.shards.iter().map(|shard| shard.0.get()).sum()
    }
}
