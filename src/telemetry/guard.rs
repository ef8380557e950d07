//! Counters for the guard of a rollout: requests of a version, its failures, and requests slower than published thresholds.
//!
//! Like all counters of the data path these are shards with a single writer each. A shard has an allocation of its own, so that a
//! worker may hold references to its shard without touching memory that other workers write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::cells::Counter;
use super::worker_id::WorkerId;

/// Largest number of latency thresholds.
pub const SLOTS: usize = 8;

/// Largest number of goals of a service.
pub const GOALS: usize = 16;

/// The threshold of a slot in which nothing is counted.
pub const UNUSED: u64 = u64::MAX;

/// The counters of one version.
#[derive(Debug)]
pub struct GuardCounters(Box<[Arc<GuardShard>]>);

/// One worker's counters of one version.
///
/// The worker alone counts, and the control thread alone sets the thresholds. Both only use relaxed operations: a request that is
/// compared with the thresholds of the second before is as good a sample, because those were chosen before it as well.
#[derive(Debug)]
#[repr(align(128))]
pub struct GuardShard {
    /// Durations above which a request is slow, in nanoseconds. Written by the control thread once a second.
    thresholds: [AtomicU64; SLOTS],
    requests: Counter,
    failed: Counter,
    fast: [Counter; SLOTS],
    slow: [Counter; SLOTS],
    goals: [Counter; GOALS],
    shielded: Counter,
    shield_failed: Counter,
}

impl Default for GuardShard {
    fn default() -> Self {
        Self {
            thresholds: [const { AtomicU64::new(UNUSED) }; SLOTS],
            requests: Counter::default(),
            failed: Counter::default(),
            fast: Default::default(),
            slow: Default::default(),
            goals: Default::default(),
            shielded: Counter::default(),
            shield_failed: Counter::default(),
        }
    }
}

/// The sums over all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardTotals {
    /// Requests whose outcome is known.
    pub requests: u64,
    /// Requests that failed.
    pub failed: u64,
    /// By threshold: requests that ended before it.
    pub fast: [u64; SLOTS],
    /// By threshold: requests that passed it.
    pub slow: [u64; SLOTS],
    /// By goal of the service: requests that reached it.
    pub goals: [u64; GOALS],
    /// Failed requests that were tried on stable instead.
    pub shielded: u64,
    /// Shielded requests that stable failed too.
    pub shield_failed: u64,
}

impl GuardCounters {
    pub(super) fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self((0..workers).map(|_| Arc::default()).collect()))
    }

    /// The shard of a worker.
    #[inline]
    pub fn shard(&self, worker: WorkerId) -> &Arc<GuardShard> {
        &self.0[worker.0]
    }

    /// Sets the thresholds, in nanoseconds.
    pub fn set_thresholds(&self, thresholds: &[u64; SLOTS]) {
        for shard in &self.0 {
            for (cell, threshold) in shard.thresholds.iter().zip(thresholds) {
                cell.store(*threshold, Relaxed);
            }
        }
    }

    /// The sums over all shards.
    pub fn totals(&self) -> GuardTotals {
        let mut totals = GuardTotals::default();
        for shard in &self.0 {
            totals.requests += shard.requests.get();
            totals.failed += shard.failed.get();
            for slot in 0..SLOTS {
                totals.fast[slot] += shard.fast[slot].get();
                totals.slow[slot] += shard.slow[slot].get();
            }
            for (total, goal) in totals.goals.iter_mut().zip(&shard.goals) {
                *total += goal.get();
            }
            totals.shielded += shard.shielded.get();
            totals.shield_failed += shard.shield_failed.get();
        }
        totals
    }
}

impl GuardShard {
    /// Counts a request whose outcome is known.
    #[inline]
    pub fn request(&self, failed: bool) {
        self.requests.add(1);
        if failed {
            self.failed.add(1);
        }
    }

    /// Counts a request as slow for each threshold that it has passed and that isn't among those counted before, one bit each.
    /// Returns these bits.
    #[inline]
    pub fn pass(&self, ns: u64, counted: u8) -> u8 {
        let mut now = counted;
        for (slot, threshold) in self.thresholds.iter().enumerate() {
            let threshold = threshold.load(Relaxed);
            // Slots are used from the first on.
            if threshold == UNUSED {
                break;
            }
            if ns > threshold && now & 1 << slot == 0 {
                now |= 1 << slot;
                self.slow[slot].add(1);
            }
        }
        now
    }

    /// Counts a request that has ended, for each threshold: as slow if it has passed it and wasn't counted before, else as fast.
    #[inline]
    pub fn end(&self, ns: u64, counted: u8) {
        for (slot, threshold) in self.thresholds.iter().enumerate() {
            let threshold = threshold.load(Relaxed);
            if threshold == UNUSED {
                break;
            }
            if counted & 1 << slot == 0 {
                let counter = if ns > threshold {
                    &self.slow
                } else {
                    &self.fast
                };
                counter[slot].add(1);
            }
        }
    }

    /// Counts a request that reached a goal of the service, by its index.
    pub fn goal(&self, at: usize) {
        if let Some(goal) = self.goals.get(at) {
            goal.add(1);
        }
    }

    /// Counts a failed request that was tried on stable instead, and whether stable failed too.
    pub fn shielded(&self, failed: bool) {
        self.shielded.add(1);
        if failed {
            self.shield_failed.add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_enters_each_slot_once() {
        let counters = GuardCounters::new(2);
        let mut thresholds = [UNUSED; SLOTS];
        thresholds[..2].copy_from_slice(&[100, 300]);
        counters.set_thresholds(&thresholds);
        let shard = counters.shard(WorkerId(1));
        shard.end(50, 0);
        // A running request passes the first threshold, and ends between the two.
        let counted = shard.pass(150, 0);
        let counted = shard.pass(200, counted);
        shard.end(250, counted);
        shard.end(400, 0);
        let totals = counters.totals();
        assert_eq!(totals.fast[..3], [1, 2, 0]);
        assert_eq!(totals.slow[..3], [2, 1, 0]);
    }
}
