//! Sums for the status. Unlike totals, they allocate no memory.

use super::{ServiceMetrics, Telemetry, VersionMetrics};
use crate::telemetry::VersionShard;
use crate::telemetry::outcomes::OutcomeCounts;

impl Telemetry {
    /// Calls `visit` with the service, name and counters of every version that has series.
    pub(in crate::telemetry) fn each_version(
        &self,
        mut visit: impl FnMut(&str, &str, &VersionMetrics),
    ) {
        for ((service, version), metrics) in &self.families().versions {
            visit(service, version, metrics);
        }
    }

    /// Calls `visit` with the name and counters of every service that has series.
    pub(in crate::telemetry) fn each_service(&self, mut visit: impl FnMut(&str, &ServiceMetrics)) {
        for (service, metrics) in &self.families().services {
            visit(service, metrics);
        }
    }
}

impl VersionMetrics {
    /// Returns the number of requests in flight.
    pub fn in_flight(&self) -> i64 {
        self.shards
            .iter()
            .map(VersionShard::requests_in_flight)
            .sum()
    }

    /// Returns the outcomes of all attempts.
    pub(in crate::telemetry) fn outcomes(&self) -> OutcomeCounts {
        let mut counts = OutcomeCounts::default();
        let shards = self.shards.iter();
        shards.for_each(|shard| shard.add_outcomes_to(&mut counts));
        counts
    }
}

impl ServiceMetrics {
    /// Returns the outcomes of all requests.
    pub(in crate::telemetry) fn outcomes(&self) -> OutcomeCounts {
        let mut counts = OutcomeCounts::default();
        let shards = self.shards.iter();
        shards.for_each(|shard| shard.add_outcomes_to(&mut counts));
        counts
    }
}
