//! The registry of all shards, by name.
//!
//! Building a snapshot looks up the shards of its services, versions, rules and listeners here, and creates those that
//! are new. Names that survive a reload keep their shards, so their counters continue. A scrape reads the sums.

mod ejections;
mod expiry;
mod labels;
mod sampling;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

use super::access_log::AccessLog;
use super::error_groups::ErrorGroups;
use super::flags::FlagCounter;
use super::goals::GoalCounter;
use super::guard::GuardCounters;
use super::log_limit::LogLimit;
use super::mirror::MirrorLog;
use super::shard::{
    ListenerShard, ListenerTotals, RuleShard, ServiceShard, ServiceTotals, VersionShard,
    VersionTotals,
};
use super::trace::sink::SpanCounts;
use super::words::FlagState;
use super::worker_id::WorkerId;
use crate::index::RuleIx;
use crate::prefetch::PrefetchShard;
use crate::reason::Reason;

/// Minimum time between two warnings about failures of one service with the same reason.
const WARN_EVERY: Duration = Duration::from_secs(10);

pub use ejections::MOST_RESOLVED;
pub use expiry::PresentSeries;
pub use labels::{Ejection, Rollback};

/// All counters of the process.
///
/// A version that is removed from the configuration and returns within an hour continues its counters. Building a
/// snapshot and scraping take a lock; workers never do, they count through the `Arc`s of their snapshot.
#[derive(Debug)]
pub struct Telemetry {
    workers: usize,
    access_log: AccessLog,
    /// Number of spans by outcome.
    pub spans: Arc<SpanCounts>,
    families: Mutex<Families>,
}

/// The counters of all subjects, by the name of the subject.
///
/// Snapshots hold the same `Arc`s, so an entry that nobody else holds belongs to no generation in use. Where a `Weak` is stored
/// instead, the counters are only of use to those who hold them, and end with the last one.
#[derive(Debug, Default)]
struct Families {
    versions: BTreeMap<(String, String), Arc<VersionMetrics>>,
    services: BTreeMap<String, Arc<ServiceMetrics>>,
    listeners: BTreeMap<String, Arc<[ListenerShard]>>,
    rules: BTreeMap<String, Arc<RuleHits>>,
    labels: BTreeMap<String, Vec<(String, String)>>,
    guards: BTreeMap<(String, String), Weak<GuardCounters>>,
    /// Conversions by service, version and goal.
    goals: BTreeMap<(String, String, String), Arc<GoalCounter>>,
    /// Requests by service and flag.
    flags: BTreeMap<(String, String), Arc<FlagCounter>>,
    /// Conversions by service, flag and goal, for each state of the flag.
    flag_goals: BTreeMap<(String, String, String), [Arc<GoalCounter>; FlagState::COUNT]>,
    mirrors: BTreeMap<String, Arc<MirrorLog>>,
    errors: BTreeMap<String, Weak<ErrorGroups>>,
    ejections: ejections::EjectionCounters,
    rollbacks: BTreeMap<Rollback, u64>,
    absent: expiry::Absent,
}

impl Telemetry {
    /// Creates an empty registry for `workers` workers.
    ///
    /// Every subject gets one shard more than that: the shard with the index `workers` belongs to the control thread.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            workers,
            access_log: AccessLog::default(),
            spans: Arc::default(),
            families: Mutex::default(),
        })
    }

    /// Returns the access log.
    pub fn access_log(&self) -> &AccessLog {
        &self.access_log
    }

    /// Returns the number of workers.
    pub fn workers(&self) -> usize {
        self.workers
    }

    fn families(&self) -> MutexGuard<'_, Families> {
        // The holders of this lock only insert into, copy and sum maps, and `expire` calls a function that reads a configuration.
        self.families.lock().expect("no holder of this lock panics")
    }

    fn shards<S: Default>(&self) -> impl Iterator<Item = S> {
        (0..=self.workers).map(|_| S::default())
    }

    /// Returns the counters of a version, creating them on first use.
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

    /// Returns the counters of a service, creating them on first use.
    ///
    /// The service with the empty name counts requests that no route matched.
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

    /// Returns the totals of every service that has series, sorted by name.
    pub fn services(&self) -> Vec<(String, ServiceTotals)> {
        let families = self.families();
        let all = families.services.iter();
        all.map(|(name, metrics)| (name.clone(), metrics.totals()))
            .collect()
    }

    /// Returns the counters of a listener, one shard per worker, creating them on first use.
    pub fn listener(&self, name: &str) -> Arc<[ListenerShard]> {
        self.families()
            .listeners
            .entry(name.to_owned())
            .or_insert_with(|| self.shards().collect())
            .clone()
    }

    /// Returns the counters of a service's `count` match rules, creating those that are missing.
    ///
    /// Rules are identified by their index. Counters continue if the number of rules is unchanged or has grown; if it has
    /// shrunk, all restart from zero, because the indices then stand for other rules.
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

    /// Stores the constant labels of a service, so that its series keep them after it was removed.
    pub(super) fn remember_labels(&self, service: &str, labels: &[(String, String)]) {
        let mut families = self.families();
        let known = families.labels.get(service);
        if known.map(Vec::as_slice) != Some(labels) {
            families.labels.insert(service.to_owned(), labels.to_vec());
        }
    }

    /// Returns the stored constant labels of a service.
    pub(super) fn labels(&self, service: &str) -> Vec<(String, String)> {
        self.families()
            .labels
            .get(service)
            .cloned()
            .unwrap_or_default()
    }

    /// Counts an event of outlier detection. `is_resolved` tells whether the endpoint is an address of a name: the number of their
    /// series is limited. Takes the lock, so only the control thread may call it.
    pub fn ejection(&self, what: Ejection, is_resolved: bool) {
        self.families().ejections.add(what, is_resolved);
    }

    /// Returns the count of each event of outlier detection, sorted.
    pub fn ejections(&self) -> Vec<(Ejection, u64)> {
        let families = self.families();
        let all = families.ejections.iter();
        all.map(|(what, n)| (what.clone(), n)).collect()
    }

    /// Returns the counters of a version for the guard of a rollout: the existing ones while anything holds them, else new ones.
    pub fn guard(&self, service: &str, version: &str) -> Arc<GuardCounters> {
        let mut families = self.families();
        families.guards.retain(|_, known| known.strong_count() > 0);
        let key = (service.to_owned(), version.to_owned());
        if let Some(known) = families.guards.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let new = GuardCounters::new(self.workers);
        families.guards.insert(key, Arc::downgrade(&new));
        new
    }

    /// Returns the counter of a goal on a version, and creates it if it is new.
    pub fn goal(&self, service: &str, version: &str, goal: &str) -> Arc<GoalCounter> {
        let mut families = self.families();
        let key = (service.to_owned(), version.to_owned(), goal.to_owned());
        let new = || Arc::new(GoalCounter::new(self.workers));
        families.goals.entry(key).or_insert_with(new).clone()
    }

    /// Returns service, version, goal and count of every goal that has series, sorted.
    pub fn goals(&self) -> Vec<((String, String, String), u64)> {
        let families = self.families();
        let all = families.goals.iter();
        all.map(|(key, counter)| (key.clone(), counter.total().reached))
            .collect()
    }

    /// Returns the counter of a flag, and creates it if it is new.
    pub fn flag(&self, service: &str, flag: &str) -> Arc<FlagCounter> {
        let mut families = self.families();
        let key = (service.to_owned(), flag.to_owned());
        let new = || Arc::new(FlagCounter::new(self.workers));
        families.flags.entry(key).or_insert_with(new).clone()
    }

    /// Returns the counters of a goal by the state of a flag, and creates them if they are new.
    pub fn flag_goal(
        &self,
        service: &str,
        flag: &str,
        goal: &str,
    ) -> [Arc<GoalCounter>; FlagState::COUNT] {
        let mut families = self.families();
        let key = (service.to_owned(), flag.to_owned(), goal.to_owned());
        let new = || std::array::from_fn(|_| Arc::new(GoalCounter::new(self.workers)));
        families.flag_goals.entry(key).or_insert_with(new).clone()
    }

    /// Returns service, name and counter of every flag that has series, sorted.
    pub fn flags(&self) -> Vec<((String, String), Arc<FlagCounter>)> {
        let families = self.families();
        let all = families.flags.iter();
        all.map(|(key, counter)| (key.clone(), counter.clone()))
            .collect()
    }

    /// Returns the groups of a service's failures: the existing ones while anything holds them, else new ones.
    pub(crate) fn errors(&self, service: &str) -> Arc<ErrorGroups> {
        let mut families = self.families();
        families.errors.retain(|_, known| known.strong_count() > 0);
        if let Some(known) = families.errors.get(service).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(ErrorGroups::new(self.workers + 1));
        families
            .errors
            .insert(service.to_owned(), Arc::downgrade(&new));
        new
    }

    /// Returns the log of a service's mirror, creating it on first use.
    pub(crate) fn mirror(&self, service: &str) -> Arc<MirrorLog> {
        let mut families = self.families();
        families
            .mirrors
            .entry(service.to_owned())
            .or_default()
            .clone()
    }

    /// Returns the log of every mirror that has series, sorted by service.
    pub(crate) fn mirrors(&self) -> Vec<(String, Arc<MirrorLog>)> {
        let families = self.families();
        let all = families.mirrors.iter();
        all.map(|(service, log)| (service.clone(), log.clone()))
            .collect()
    }

    /// Counts a rollback. Takes the lock, so only the control thread may call it.
    pub fn rolled_back(&self, what: Rollback) {
        *self.families().rollbacks.entry(what).or_default() += 1;
    }

    /// Returns the count of each kind of rollback, sorted.
    pub fn rollbacks(&self) -> Vec<(Rollback, u64)> {
        let families = self.families();
        let all = families.rollbacks.iter();
        all.map(|(what, n)| (what.clone(), *n)).collect()
    }

    /// Returns the service, name and counters of every version that has series, sorted.
    pub fn versions(&self) -> Vec<(String, String, Arc<VersionMetrics>)> {
        let families = self.families();
        let all = families.versions.iter();
        all.map(|((s, v), m)| (s.clone(), v.clone(), m.clone()))
            .collect()
    }

    /// Returns the totals of every listener that has series, sorted by name.
    pub fn listeners(&self) -> Vec<(String, ListenerTotals)> {
        let sum = |shards: &Arc<[ListenerShard]>| {
            let mut totals = ListenerTotals::default();
            shards.iter().for_each(|s| s.add_to(&mut totals));
            totals
        };
        let families = self.families();
        let all = families.listeners.iter();
        all.map(|(name, shards)| (name.clone(), sum(shards)))
            .collect()
    }

    /// Returns the hits of every service that has match rules, by rule index, sorted by service.
    pub fn rule_hits(&self) -> Vec<(String, Vec<u64>)> {
        let families = self.families();
        let all = families.rules.iter();
        all.map(|(name, hits)| (name.clone(), hits.totals()))
            .collect()
    }
}

/// The counters of one version: one shard per worker, and one for the control thread.
#[derive(Debug)]
pub struct VersionMetrics {
    shards: Box<[VersionShard]>,
}

impl VersionMetrics {
    /// Returns the shard that worker `worker` writes.
    #[inline]
    pub fn shard(&self, worker: WorkerId) -> &VersionShard {
        &self.shards[worker.0]
    }

    /// The place of what is written when a request begins.
    pub(crate) fn needed(&self) -> PrefetchShard {
        PrefetchShard::of(&self.shards, VersionShard::flight_gauge)
    }

    /// Returns the number of shards: the workers, and one for the control thread.
    pub fn workers(&self) -> usize {
        self.shards.len()
    }

    /// Returns the sum of all shards.
    pub fn totals(&self) -> VersionTotals {
        let mut totals = VersionTotals::default();
        self.shards.iter().for_each(|s| s.add_to(&mut totals));
        totals
    }
}

/// The counters of one service: one shard per worker, and one for the control thread.
#[derive(Debug)]
pub struct ServiceMetrics {
    shards: Box<[ServiceShard]>,
    /// Allocated with the first warning: most services never have one.
    warnings: OnceLock<LogLimit>,
}

impl ServiceMetrics {
    /// Returns the shard that worker `worker` writes.
    #[inline]
    pub fn shard(&self, worker: WorkerId) -> &ServiceShard {
        &self.shards[worker.0]
    }

    /// Returns whether a failure with this reason may be logged as a warning at `now`; one in ten seconds may.
    ///
    /// `Some(n)` permits it; `n` warnings were omitted since the previous one.
    pub fn may_warn(&self, reason: Reason, now: Instant) -> Option<u64> {
        self.warnings
            .get_or_init(|| LogLimit::new(Reason::COUNT, WARN_EVERY, now))
            .check(reason.index(), now)
    }

    /// Returns the sum of all shards.
    pub fn totals(&self) -> ServiceTotals {
        let mut totals = ServiceTotals::default();
        self.shards.iter().for_each(|s| s.add_to(&mut totals));
        totals
    }
}

/// The hits of one service's match rules: for each rule, a counter for each worker.
#[derive(Debug)]
pub struct RuleHits {
    rules: Box<[Arc<[RuleShard]>]>,
}

impl RuleHits {
    /// Adds one to `cutover_match_hits_total`: worker `worker` applied the rule with this index.
    #[inline]
    pub fn hit(&self, worker: WorkerId, rule: RuleIx) {
        self.rules[rule.0][worker.0].0.add(1);
    }

    /// Returns the hits of each rule, summed over the workers.
    pub fn totals(&self) -> Vec<u64> {
        let sum = |cells: &Arc<[RuleShard]>| cells.iter().map(|c| c.0.get()).sum();
        self.rules.iter().map(sum).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::Method;

    #[test]
    fn workers_and_the_control_thread_sum() {
        let telemetry = Telemetry::new(2);
        let metrics = telemetry.version("shop", "v1");
        for worker in 0..=2 {
            let shard = metrics.shard(WorkerId(worker));
            shard.request(Method::Post, 201, Duration::from_millis(3));
            shard.grpc(14);
            shard.in_flight(1);
            shard.queued(2);
            shard.connections(3);
            shard.retry(crate::telemetry::record::RetryReason::ALL[worker]);
        }
        metrics.shard(WorkerId(0)).in_flight(-1);
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
    fn a_version_that_comes_back_continues_its_counters() {
        let telemetry = Telemetry::new(1);
        let first = telemetry.version("shop", "v1");
        first
            .shard(WorkerId(0))
            .request(Method::Get, 200, Duration::ZERO);
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
    fn rules_keep_counting_when_they_grow_and_restart_when_they_shrink() {
        let telemetry = Telemetry::new(2);
        let two = telemetry.rules("shop", 2);
        two.hit(WorkerId(0), RuleIx(1));
        two.hit(WorkerId(1), RuleIx(1));
        let three = telemetry.rules("shop", 3);
        // A worker that has not adopted the new generation yet counts into the same cells.
        two.hit(WorkerId(0), RuleIx(0));
        three.hit(WorkerId(2), RuleIx(2));
        assert_eq!(telemetry.rules("shop", 3).totals(), [1, 2, 1]);
        assert_eq!(telemetry.rules("shop", 2).totals(), [0, 0]);
        assert_eq!(telemetry.rule_hits(), [("shop".to_owned(), vec![0, 0])]);
    }
}
