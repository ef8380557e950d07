//! Events of outlier detection by their labels, with a ceiling on the addresses of names.
//!
//! A name server could make any number of addresses, each with series that are kept for an hour. Beyond
//! [`MOST_RESOLVED`] addresses of a version, events of further ones are counted together.

use std::collections::{BTreeMap, BTreeSet};

use super::labels::Ejection;

/// Most addresses of names that have series of their own, by version.
pub const MOST_RESOLVED: usize = 256;

/// The label `endpoint` of all further addresses of a version. No endpoint has this name, because its name has a port or a path.
pub(super) const FURTHER: &str = "other";

/// The counters of `cutover_ejections_total`.
#[derive(Debug, Default)]
pub(super) struct EjectionCounters {
    counts: BTreeMap<Ejection, u64>,
    /// Addresses of names that have series, by service and version.
    resolved: BTreeMap<(String, String), BTreeSet<String>>,
}

impl EjectionCounters {
    /// Counts an event. `is_resolved` tells whether the endpoint is an address of a name.
    pub(super) fn add(&mut self, mut what: Ejection, is_resolved: bool) {
        if is_resolved {
            let version = (what.service.clone(), what.version.clone());
            let known = self.resolved.entry(version).or_default();
            if known.len() < MOST_RESOLVED {
                known.insert(what.endpoint.clone());
            } else if !known.contains(&what.endpoint) {
                what.endpoint = FURTHER.to_owned();
            }
        }
        *self.counts.entry(what).or_default() += 1;
    }

    /// The labels of all series, sorted.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Ejection> {
        self.counts.keys()
    }

    /// All series, sorted.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Ejection, u64)> {
        self.counts.iter().map(|(what, n)| (what, *n))
    }

    /// Drops the series that are not to be kept. Their addresses make room for others.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Ejection) -> bool) {
        self.counts.retain(|what, _| keep(what));
        let left = self.counts.keys();
        let left: BTreeSet<_> = left
            .map(|what| (&*what.service, &*what.version, &*what.endpoint))
            .collect();
        self.resolved.retain(|(service, version), known| {
            known.retain(|endpoint| left.contains(&(&**service, &**version, &**endpoint)));
            !known.is_empty()
        });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.counts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::record::{EjectionOutcome, EjectionReason};

    fn ejection(version: &str, endpoint: &str) -> Ejection {
        Ejection {
            service: "shop".into(),
            version: version.into(),
            endpoint: endpoint.into(),
            reason: EjectionReason::Consecutive5xx,
            outcome: EjectionOutcome::Enforced,
        }
    }

    fn endpoints(counters: &EjectionCounters) -> Vec<(&str, u64)> {
        let all = counters.iter();
        all.map(|(what, n)| (&*what.endpoint, n)).collect()
    }

    #[test]
    fn further_addresses_of_a_version_are_counted_together() {
        let mut counters = EjectionCounters::default();
        for n in 0..MOST_RESOLVED + 10 {
            counters.add(
                ejection("v1", &format!("10.0.{}.{}:80", n / 250, n % 250)),
                true,
            );
        }
        // A known address keeps its series, and one of the configuration always has one.
        counters.add(ejection("v1", "10.0.0.0:80"), true);
        counters.add(ejection("v1", "192.0.2.1:80"), false);
        assert_eq!(counters.len(), MOST_RESOLVED + 2);
        let count = |name: &str| {
            let found = endpoints(&counters).into_iter().find(|(e, _)| *e == name);
            found.map_or(0, |(_, n)| n)
        };
        assert_eq!((count(FURTHER), count("10.0.0.0:80")), (10, 2));
        assert_eq!(count("192.0.2.1:80"), 1);
        // Each version has its own ceiling.
        counters.add(ejection("v2", "10.9.9.9:80"), true);
        assert!(endpoints(&counters).contains(&("10.9.9.9:80", 1)));
    }

    #[test]
    fn addresses_whose_series_expired_make_room() {
        let mut counters = EjectionCounters::default();
        for n in 0..MOST_RESOLVED {
            counters.add(ejection("v1", &format!("10.0.0.1:{}", n + 1)), true);
        }
        counters.retain(|what| what.endpoint == "10.0.0.1:1");
        assert_eq!(counters.len(), 1);
        counters.add(ejection("v1", "10.0.0.2:80"), true);
        assert_eq!(
            endpoints(&counters),
            [("10.0.0.1:1", 1), ("10.0.0.2:80", 1)]
        );
    }
}
