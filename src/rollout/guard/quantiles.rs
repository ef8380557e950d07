//! Quantiles of a version's recent durations, from the cumulative buckets of its metrics.

use std::time::Duration;

use crate::telemetry::latency::{BOUNDS, BUCKETS};

/// Half-life in seconds.
const HALF_LIFE: f64 = 120.0;

/// A histogram that forgets with a half-life of two minutes.
#[derive(Clone, Debug)]
pub struct DecayedLatency {
    buckets: [f64; BUCKETS],
    seen: Option<[u64; BUCKETS]>,
}

impl Default for DecayedLatency {
    fn default() -> Self {
        Self {
            buckets: [0.0; BUCKETS],
            seen: None,
        }
    }
}

impl DecayedLatency {
    /// Adds the counts of a second, given the counters' totals. Observations before the first call count once.
    pub fn second(&mut self, totals: &[u64; BUCKETS]) {
        let keep = 0.5f64.powf(1.0 / HALF_LIFE);
        let seen = self.seen.replace(*totals).unwrap_or([0; BUCKETS]);
        for ((sum, total), seen) in self.buckets.iter_mut().zip(totals).zip(seen) {
            *sum = keep * *sum + total.saturating_sub(seen) as f64;
        }
    }

    /// Returns the `q`-quantile, interpolated in its bucket on a logarithmic scale; `None` while fewer than one observation
    /// is left.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let total: f64 = self.buckets.iter().sum();
        if total < 1.0 {
            return None;
        }
        let wanted = q * total;
        let mut below = 0.0;
        for (bucket, n) in self.buckets.iter().enumerate() {
            if below + n >= wanted && *n > 0.0 {
                let last = BOUNDS[BOUNDS.len() - 1];
                let upper = BOUNDS.get(bucket).copied().unwrap_or(last) as f64;
                let lower = bucket
                    .checked_sub(1)
                    .map_or(upper / 2.0, |b| BOUNDS[b] as f64);
                let inside = (wanted - below) / n;
                return Some(Duration::from_nanos(
                    (lower * (upper / lower).powf(inside)) as u64,
                ));
            }
            below += n;
        }
        // Only a rounding error in `wanted` leads here.
        Some(Duration::from_nanos(BOUNDS[BOUNDS.len() - 1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::latency::bucket;

    #[test]
    fn quantiles_follow_within_minutes() {
        let mut latency = DecayedLatency::default();
        assert_eq!(latency.quantile(0.99), None);
        let mut totals = [0; BUCKETS];
        for (millis, expected) in [(9, 7.5..=10.0), (90, 75.0..=100.0)] {
            for _ in 0..1200 {
                totals[bucket(millis * 1_000_000)] += 100;
                latency.second(&totals);
            }
            let median = latency.quantile(0.5).unwrap().as_secs_f64() * 1e3;
            assert!(expected.contains(&median), "{median}");
        }
        for _ in 0..7200 {
            latency.second(&totals);
        }
        assert_eq!(latency.quantile(0.5), None, "forgotten");
    }

    #[test]
    fn what_is_slower_than_every_bound_counts_as_the_last() {
        let mut latency = DecayedLatency::default();
        let mut totals = [0; BUCKETS];
        totals[BUCKETS - 1] = 10;
        latency.second(&totals);
        assert_eq!(latency.quantile(0.5), Some(Duration::from_secs(120)));
    }
}
