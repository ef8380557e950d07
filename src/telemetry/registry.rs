//! The registry of all shards: it keeps them across reloads and adds them up.

mod expiry;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use super::log_limit::LogLimit;
use super::shard::{
    ListenerShard, ListenerTotals, RuleShard, ServiceShard, ServiceTotals, VersionShard,
    VersionTotals,
};
use super::words::{EjectionOutcome, EjectionReason, Reason};

/// How often the log warns of failures of one service that have the same reason.
const WARN_EVERY: Duration = Duration::from_secs(10);

pub(crate) use expiry::PresentSeries;

/// All counters of the process. A version that leaves the configuration and comes back within an hour goes on counting.
///
/// The lock inside is for whoever builds a snapshot or scrapes; workers write through the `Arc`s that it hands out.
#[derive(Debug)]
pub struct Telemetry {
    workers: usize,
    families: Mutex<Families>,
}

#[derive(Debug, Default)]
struct Families {
    versions: BTreeMap<(String, String), Arc<VersionMetrics>>,
    services: BTreeMap<String, Arc<ServiceMetrics>>,
    listeners: BTreeMap<String, Arc<[ListenerShard]>>,
    rules: BTreeMap<String, Arc<RuleHits>>,
    labels: BTreeMap<String, Vec<(String, String)>>,
    ejections: BTreeMap<Ejection, u64>,
    absent: expiry::Absent,
}

/// What `cutover_ejections_total` counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ejection {
    /// The service.
    pub service: String,
    /// The version.
    pub version: String,
    /// The endpoint, as an operator names it.
    pub endpoint: String,
    /// Why the endpoint is an outlier.
    pub reason: EjectionReason,
    /// What was done about it.
    pub outcome: EjectionOutcome,
}

impl Telemetry {
    /// For so many workers. Shard number `workers` (one more) belongs to the control thread.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            workers,
            families: Mutex::default(),
        })
    }

    /// How many workers write.
    pub fn workers(&self) -> usize {
        self.workers
    }

    fn families(&self) -> MutexGuard<'_, Families> {
        self.families.lock().expect("no holder of this lock panics")
    }

    fn shards<S: Default>(&self) -> impl Iterator<Item = S> {
        (0..=self.workers).map(|_| S::default())
    }

    /// The counters of one version, made on first use.
    pub fn version(&self, service: &str, version: &str) -> Arc<VersionMetrics> {
        self.families()
            .versions
            .entry((service.to_owned(), version.to_owned()))
            .or_insert_with(|| {
                Arc::new(VersionMetrics {
                    shards: self.shards().collect(),
                })
            })
            .clone()
    }

    /// The counters of one service, made on first use. The empty name stands for requests that no route matched.
    pub fn service(&self, name: &str) -> Arc<ServiceMetrics> {
        self.families()
            .services
            .entry(name.to_owned())
            .or_insert_with(|| {
                Arc::new(ServiceMetrics {
                    shards: self.shards().collect(),
                    warnings: OnceLock::new(),
                })
            })
            .clone()
    }

    /// Every service that ever was, added up. Sorted.
    pub fn services(&self) -> Vec<(String, ServiceTotals)> {
        let families = self.families();
        let all = families.services.iter();
        all.map(|(name, metrics)| (name.clone(), metrics.totals()))
            .collect()
    }

    /// The counters of one listener, made on first use: one shard a worker.
    pub fn listener(&self, name: &str) -> Arc<[ListenerShard]> {
        self.families()
            .listeners
            .entry(name.to_owned())
            .or_insert_with(|| self.shards().collect())
            .clone()
    }

    /// The counters of a service's `count` rules. Those that exist go on counting when rules are added at the end or
    /// nothing changes; all begin anew when there are fewer, since then the numbers mean other rules.
    pub fn rules(&self, service: &str, count: usize) -> Arc<RuleHits> {
        let mut families = self.families();
        let known = families.rules.get(service);
        if let Some(hits) = known.filter(|hits| hits.rules.len() == count) {
            return hits.clone();
        }
        let kept = known.filter(|hits| hits.rules.len() < count);
        let mut rules: Vec<Arc<[RuleShard]>> = kept.map_or_else(Vec::new, |h| h.rules.to_vec());
        rules.resize_with(count, || self.shards().collect());
        let hits = Arc::new(RuleHits {
            rules: rules.into(),
        });
        families.rules.insert(service.to_owned(), hits.clone());
        hits
    }

    /// Remembers the constant labels of a service, so that its series keep them when it is removed.
    pub(super) fn remember_labels(&self, service: &str, labels: &[(String, String)]) {
        let mut families = self.families();
        let known = families.labels.get(service);
        if known.map(Vec::as_slice) != Some(labels) {
            families.labels.insert(service.to_owned(), labels.to_vec());
        }
    }

    /// The constant labels of a service, as remembered.
    pub(super) fn labels(&self, service: &str) -> Vec<(String, String)> {
        self.families()
            .labels
            .get(service)
            .cloned()
            .unwrap_or_default()
    }

    /// Counts what outlier detection saw or did. Only for the control thread: it takes the lock.
    pub fn ejection(&self, what: Ejection) {
        *self.families().ejections.entry(what).or_default() += 1;
    }

    /// What outlier detection saw and did. Sorted.
    pub fn ejections(&self) -> Vec<(Ejection, u64)> {
        let families = self.families();
        let all = families.ejections.iter();
        all.map(|(what, n)| (what.clone(), *n)).collect()
    }

    /// Every version that ever was: service, version, counters. Sorted.
    pub fn versions(&self) -> Vec<(String, String, Arc<VersionMetrics>)> {
        let families = self.families();
        let all = families.versions.iter();
        all.map(|((s, v), m)| (s.clone(), v.clone(), m.clone()))
            .collect()
    }

    /// Every listener that ever was, added up. Sorted.
    pub fn listeners(&self) -> Vec<(String, ListenerTotals)> {
        let add_up = |shards: &Arc<[ListenerShard]>| {
            let mut totals = ListenerTotals::default();
            shards.iter().for_each(|s| s.add_to(&mut totals));
            totals
        };
        let families = self.families();
        let all = families.listeners.iter();
        all.map(|(name, shards)| (name.clone(), add_up(shards)))
            .collect()
    }

    /// Hits of every service that has rules, by rule. Sorted.
    pub fn rule_hits(&self) -> Vec<(String, Vec<u64>)> {
        let families = self.families();
        let all = families.rules.iter();
        all.map(|(name, hits)| (name.clone(), hits.totals()))
            .collect()
    }
}

/// The counters of one version: a shard for each worker, and one for the control thread.
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

    /// How many workers have a shard.
    pub fn workers(&self) -> usize {
        self.shards.len()
    }

    /// All shards added up.
    pub fn totals(&self) -> VersionTotals {
        let mut totals = VersionTotals::default();
        self.shards.iter().for_each(|s| s.add_to(&mut totals));
        totals
    }
}

/// The counters of one service: a shard for each worker, and one for the control thread.
#[derive(Debug)]
pub struct ServiceMetrics {
    shards: Box<[ServiceShard]>,
    /// Made with the first warning: most services never have one.
    warnings: OnceLock<LogLimit>,
}

impl ServiceMetrics {
    /// The shard that worker `worker` writes.
    #[inline]
    pub fn shard(&self, worker: usize) -> &ServiceShard {
        &self.shards[worker]
    }

    /// Whether a failure of this reason may be logged as a warning at `now`: one in ten seconds may. `Some(n)`: it may, and
    /// `n` were left out since the last one.
    pub fn may_warn(&self, reason: Reason, now: Instant) -> Option<u64> {
        self.warnings
            .get_or_init(|| LogLimit::new(Reason::COUNT, WARN_EVERY, now))
            .check(reason.index(), now)
    }

    /// All shards added up.
    pub fn totals(&self) -> ServiceTotals {
        let mut totals = ServiceTotals::default();
        self.shards.iter().for_each(|s| s.add_to(&mut totals));
        totals
    }
}

/// The counters of one service's rules: for each rule a cell for each worker.
#[derive(Debug)]
pub struct RuleHits {
    rules: Box<[Arc<[RuleShard]>]>,
}

impl RuleHits {
    /// `cutover_match_hits_total`: worker `worker` followed the rule of this index.
    #[inline]
    pub fn hit(&self, worker: usize, rule: usize) {
        self.rules[rule][worker].0.add(1);
    }

    /// Hits by rule, all workers added up.
    pub fn totals(&self) -> Vec<u64> {
        let add_up = |cells: &Arc<[RuleShard]>| cells.iter().map(|c| c.0.get()).sum();
        self.rules.iter().map(add_up).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::Method;

    #[test]
    fn workers_and_the_control_thread_add_up() {
        let telemetry = Telemetry::new(2);
        let metrics = telemetry.version("shop", "v1");
        for worker in 0..=2 {
            let shard = metrics.shard(worker);
            shard.request(Method::Post, 201, Duration::from_millis(3));
            shard.grpc(14);
            shard.in_flight(1);
            shard.queued(2);
            shard.connections(3);
            shard.retry(crate::telemetry::record::RetryReason::ALL[worker]);
        }
        metrics.shard(0).in_flight(-1);
        let totals = metrics.totals();
        assert_eq!(totals.requests[&("POST", 201)], 3);
        assert_eq!(totals.latency.count(), 3);
        assert_eq!(totals.latency.nanos, 9_000_000);
        assert_eq!(totals.grpc[14], 3);
        assert_eq!(
            (totals.in_flight, totals.queued, totals.connections),
            (2, 6, 9)
        );
        assert_eq!(totals.retries[..4], [1, 1, 1, 0]);
    }

    #[test]
    fn a_version_that_comes_back_goes_on_counting() {
        let telemetry = Telemetry::new(1);
        let first = telemetry.version("shop", "v1");
        first.shard(0).request(Method::Get, 200, Duration::ZERO);
        drop(first);
        let again = telemetry.version("shop", "v1");
        assert_eq!(again.totals().requests[&("GET", 200)], 1);
        assert_eq!(
            telemetry.version("shop", "v2").totals(),
            VersionTotals::default()
        );
        let listener = telemetry.listener("http");
        listener[1].request(404);
        listener[0].connections(1);
        drop(listener);
        let (name, totals) = telemetry.listeners().remove(0);
        assert_eq!(
            (name.as_str(), totals.requests[&404], totals.connections),
            ("http", 1, 1)
        );
    }

    #[test]
    fn rules_keep_counting_when_they_grow_and_begin_anew_when_they_shrink() {
        let telemetry = Telemetry::new(2);
        let two = telemetry.rules("shop", 2);
        two.hit(0, 1);
        two.hit(1, 1);
        let three = telemetry.rules("shop", 3);
        // A worker that hasn't adopted the new generation yet still counts into the same cells.
        two.hit(0, 0);
        three.hit(2, 2);
        assert_eq!(telemetry.rules("shop", 3).totals(), [1, 2, 1]);
        assert_eq!(telemetry.rules("shop", 2).totals(), [0, 0]);
        assert_eq!(telemetry.rule_hits(), [("shop".to_owned(), vec![0, 0])]);
    }
}
