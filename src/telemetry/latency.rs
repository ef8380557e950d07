//! The duration histogram: fixed buckets in one array per shard, without allocation.
//!
//! The internal buckets are finer than the exported ones: about ten a decade, so an interpolated quantile is off by at
//! most the width of its bucket. They include every exported bound, so the exported buckets are sums of internal ones.

use std::time::Duration;

use super::cells::{Cell, Counter};
use crate::prefetch::prefetch;

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;
const S: u64 = 1_000 * MS;

/// Inclusive upper bounds of the internal buckets, in nanoseconds, ascending.
#[rustfmt::skip]
pub const BOUNDS: [u64; 60] = [
    50 * US, 75 * US,
    100 * US, 125 * US, 150 * US, 200 * US, 250 * US, 300 * US, 400 * US, 500 * US, 600 * US, 750 * US,
    MS, 1_250 * US, 1_500 * US, 2 * MS, 2_500 * US, 3 * MS, 4 * MS, 5 * MS, 6 * MS, 7_500 * US,
    10 * MS, 12_500 * US, 15 * MS, 20 * MS, 25 * MS, 30 * MS, 40 * MS, 50 * MS, 60 * MS, 75 * MS,
    100 * MS, 125 * MS, 150 * MS, 200 * MS, 250 * MS, 300 * MS, 400 * MS, 500 * MS, 600 * MS, 750 * MS,
    S, 1_250 * MS, 1_500 * MS, 2 * S, 2_500 * MS, 3 * S, 4 * S, 5 * S, 6 * S, 7_500 * MS,
    10 * S, 15 * S, 20 * S, 30 * S, 45 * S, 60 * S, 90 * S, 120 * S,
];

/// Number of internal buckets: one for each bound, and one for longer durations.
pub const BUCKETS: usize = BOUNDS.len() + 1;

/// The exported bounds: the value of `le` in seconds, and the same bound in nanoseconds.
pub(crate) const EXPORTED: [(&str, u64); 15] = [
    ("0.001", MS),
    ("0.0025", 2_500 * US),
    ("0.005", 5 * MS),
    ("0.01", 10 * MS),
    ("0.025", 25 * MS),
    ("0.05", 50 * MS),
    ("0.1", 100 * MS),
    ("0.25", 250 * MS),
    ("0.5", 500 * MS),
    ("1", S),
    ("2.5", 2_500 * MS),
    ("5", 5 * S),
    ("10", 10 * S),
    ("30", 30 * S),
    ("60", 60 * S),
];

/// The first bucket that can hold a duration, by the position of the duration's highest set bit.
///
/// A power of two spans at most six buckets, so [`bucket`] advances by at most five from here.
const FIRST: [u8; 64] = {
    let mut first = [0u8; 64];
    let mut bit = 0;
    while bit < 64 {
        let mut bucket = 0;
        while bucket < BOUNDS.len() && BOUNDS[bucket] < 1u64 << bit {
            bucket += 1;
        }
        first[bit] = bucket as u8;
        bit += 1;
    }
    first
};

/// Returns the index of the internal bucket for a duration in nanoseconds.
#[inline]
pub fn bucket(nanos: u64) -> usize {
    let mut bucket = usize::from(FIRST[63 - (nanos | 1).leading_zeros() as usize]);
    while bucket < BOUNDS.len() && BOUNDS[bucket] < nanos {
        bucket += 1;
    }
    bucket
}

/// One worker's histogram.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Latency {
    buckets: [Counter; BUCKETS],
    nanos: Counter,
}

impl Latency {
    /// Offset of the sum.
    #[cfg(test)]
    pub(super) const NANOS: usize = std::mem::offset_of!(Self, nanos);

    /// Asks the CPU for the sum, and for the bucket of a duration like the expected one.
    #[inline]
    pub(super) fn prefetch(&self, expected: Duration) {
        prefetch(&self.nanos);
        prefetch(&self.buckets[bucket(expected.as_nanos() as u64)]);
    }

    /// Adds an observation.
    #[inline]
    pub(super) fn record(&self, took: Duration) {
        // A u64 holds 584 years of nanoseconds.
        let nanos = took.as_nanos() as u64;
        self.buckets[bucket(nanos)].add(1);
        self.nanos.add(nanos);
    }

    /// Returns the counts of the internal buckets.
    pub(super) fn buckets(&self) -> &[Counter; BUCKETS] {
        &self.buckets
    }
}

impl Cell for Latency {
    type Total = LatencyTotals;

    fn add_to(&self, totals: &mut LatencyTotals) {
        self.buckets.add_to(&mut totals.buckets);
        self.nanos.add_to(&mut totals.nanos);
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            buckets: [const { Counter::new() }; BUCKETS],
            nanos: Counter::new(),
        }
    }
}

/// A histogram summed over the shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencyTotals {
    /// Observations in each internal bucket, not cumulative.
    pub buckets: [u64; BUCKETS],
    /// Sum of all observations in nanoseconds.
    pub nanos: u64,
}

impl Default for LatencyTotals {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            nanos: 0,
        }
    }
}

impl LatencyTotals {
    /// Returns the number of observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the number of observations of at most `bound` nanoseconds.
    ///
    /// The result is exact only if `bound` is one of [`BOUNDS`].
    pub fn at_most(&self, bound: u64) -> u64 {
        self.buckets[..=bucket(bound)].iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_ascend_and_contain_the_exported() {
        assert!(BOUNDS.windows(2).all(|w| w[0] < w[1]));
        for (text, bound) in EXPORTED {
            assert!(BOUNDS.contains(&bound), "{text}");
            assert_eq!(text.parse::<f64>().unwrap(), bound as f64 / 1e9);
        }
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        for (i, bound) in BOUNDS.into_iter().enumerate() {
            assert_eq!(bucket(bound), i);
            assert_eq!(bucket(bound + 1), i + 1);
        }
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), BOUNDS.len());
    }

    proptest! {
        #[test]
        fn lookup_is_the_plain_search(nanos in prop_oneof![0..200 * S, 0..2 * MS, any::<u64>()]) {
            prop_assert_eq!(bucket(nanos), BOUNDS.partition_point(|b| *b < nanos));
        }
    }

    #[test]
    fn sums_are_exact() {
        let latency = Latency::default();
        for ms in [1, 1, 2, 90_000, 500_000] {
            latency.record(Duration::from_millis(ms));
        }
        let mut totals = LatencyTotals::default();
        latency.add_to(&mut totals);
        latency.add_to(&mut totals);
        assert_eq!(totals.count(), 10);
        assert_eq!(totals.nanos, 2 * 590_004 * MS);
        assert_eq!(totals.at_most(MS), 4);
        assert_eq!(totals.at_most(60 * S), 6);
        assert_eq!(totals.at_most(90 * S), 8);
    }
}
