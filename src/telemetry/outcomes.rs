//! Counts of requests by outcome, from which windows of time are computed.

use std::time::Duration;

use super::cells::{Cell, Counter};
use super::latency::{BUCKETS, bucket};
use crate::prefetch::prefetch;

/// gRPC status codes that count as failures of the server: `UNKNOWN`, `DEADLINE_EXCEEDED`, `RESOURCE_EXHAUSTED`,
/// `UNIMPLEMENTED`, `INTERNAL`, `UNAVAILABLE`, `DATA_LOSS`.
const GRPC_FAILURES: [u8; 7] = [2, 4, 8, 12, 13, 14, 15];

/// Whether a `grpc-status` counts as a failure of the server.
pub(crate) fn is_server_failure(status: u8) -> bool {
    GRPC_FAILURES.contains(&status)
}

/// Sum of the counts of the gRPC statuses that count as failures of the server.
pub(super) fn server_failures(counts: &[Counter; 17]) -> u64 {
    let counts = GRPC_FAILURES.iter().map(|s| counts[usize::from(*s)].get());
    counts.sum()
}

/// One worker's counts of the outcomes that a service's clients got.
#[derive(Debug)]
pub(super) struct ClientOutcomes {
    errors: Counter,
    durations: [Counter; BUCKETS],
}

impl ClientOutcomes {
    /// Asks the CPU for the count of durations like the expected one.
    #[inline]
    pub(super) fn prefetch(&self, expected: Duration) {
        prefetch(&self.durations[bucket(expected.as_nanos() as u64)]);
    }

    /// Adds a request.
    #[inline]
    pub(super) fn record(&self, took: Duration, is_failed: bool) {
        // A u64 holds 584 years of nanoseconds.
        self.durations[bucket(took.as_nanos() as u64)].add(1);
        if is_failed {
            self.errors.add(1);
        }
    }
}

impl Default for ClientOutcomes {
    fn default() -> Self {
        Self {
            errors: Counter::new(),
            durations: [const { Counter::new() }; BUCKETS],
        }
    }
}

impl Cell for ClientOutcomes {
    type Total = OutcomeCounts;

    fn add_to(&self, total: &mut OutcomeCounts) {
        total.add(&self.durations, self.errors.get(), 0);
    }
}

/// Attempts of a version, or requests of a service's clients, since the process started. Only differences within a minute are
/// of use: the counts are modulo 2^32, which halves the memory of the samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutcomeCounts {
    errors: u32,
    durations: [u32; BUCKETS],
    cancelled: u32,
}

impl Default for OutcomeCounts {
    fn default() -> Self {
        Self {
            errors: 0,
            durations: [0; BUCKETS],
            cancelled: 0,
        }
    }
}

impl OutcomeCounts {
    /// Adds the counts of a shard.
    pub(super) fn add(&mut self, durations: &[Counter; BUCKETS], errors: u64, cancelled: u64) {
        for (bucket, counter) in self.durations.iter_mut().zip(durations) {
            *bucket = bucket.wrapping_add(counter.get() as u32);
        }
        self.errors = self.errors.wrapping_add(errors as u32);
        self.cancelled = self.cancelled.wrapping_add(cancelled as u32);
    }

    /// Number since an earlier time, by internal bucket of the duration.
    pub(super) fn durations_since(&self, earlier: &Self) -> [u64; BUCKETS] {
        let both = |bucket: usize| (self.durations[bucket], earlier.durations[bucket]);
        std::array::from_fn(|bucket| since(both(bucket)))
    }

    /// Number since an earlier time that failed: status 5xx, or a gRPC status that counts as a failure of the server.
    pub(super) fn errors_since(&self, earlier: &Self) -> u64 {
        since((self.errors, earlier.errors))
    }

    /// Attempts since an earlier time that were cancelled because another one of the same request answered first. They have no
    /// duration.
    pub(super) fn cancelled_since(&self, earlier: &Self) -> u64 {
        since((self.cancelled, earlier.cancelled))
    }
}

fn since((now, earlier): (u32, u32)) -> u64 {
    now.wrapping_sub(earlier).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_right_where_counts_wrap() {
        let outcomes = ClientOutcomes::default();
        outcomes.durations[0].add(u64::from(u32::MAX));
        let mut before = OutcomeCounts::default();
        outcomes.add_to(&mut before);
        (0..3).for_each(|n| outcomes.record(Duration::ZERO, n == 0));
        let mut now = OutcomeCounts::default();
        outcomes.add_to(&mut now);
        assert_eq!(now.durations_since(&before)[..2], [3, 0]);
        assert_eq!(
            (now.errors_since(&before), now.cancelled_since(&before)),
            (1, 0)
        );
    }
}
