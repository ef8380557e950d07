//! The state of all monitored endpoints and pools, and the decisions about them.
//!
//! Each input (a published snapshot, a check result, a suspect, a tick of the clock) updates the state and is carried out at once:
//! flags and ramps of endpoints are set, ejections are counted, transitions are logged. The verdicts themselves come from pure
//! code in [`crate::upstream::health`] and [`crate::upstream::outlier`].

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use super::endpoint::{CheckEnded, CheckTask, MonitoredEndpoint, PoolName};
use super::pace::CheckPacer;
use crate::config::policy;
use crate::index::VersionIx;
use crate::snapshot::{Service, Snapshot, Version};
use crate::telemetry::Telemetry;
use crate::telemetry::record::EjectionOutcome;
use crate::telemetry::registry::Ejection;
use crate::upstream::Endpoint;
use crate::upstream::endpoint::{CheckNote, flag};
use crate::upstream::health::{CheckHistory, Transition, Verdict};
use crate::upstream::outlier::{AttemptCounts, Decision, Judge, Suspect};

/// Interval at which the ramps of slow starts are updated.
const RAMP: Duration = Duration::from_millis(100);
/// The wait when nothing is scheduled.
const LATER: Duration = Duration::from_secs(3600);
/// Flags, besides ejection, that keep an endpoint from getting traffic.
const ABSENT: u32 = flag::UNPROVEN | flag::DOWN | flag::DRAINING;

/// All monitored endpoints, by slot, and all pools. Only drains and suspicious workers change flags of endpoints besides it.
#[derive(Debug)]
pub(super) struct MonitorState {
    endpoints: HashMap<usize, MonitoredEndpoint>,
    pools: HashMap<PoolName, MonitoredPool>,
    telemetry: Arc<Telemetry>,
    results: mpsc::UnboundedSender<CheckEnded>,
    rng: fastrand::Rng,
    pacer: Rc<CheckPacer>,
    /// Cache of [`Self::next_due`]. `None` after a change that may have moved it.
    due: Cell<Option<Instant>>,
    /// Whether no snapshot has been adopted yet. The endpoints of the first one get no slow start: all are equally new, so there
    /// are no others that could take the traffic in the meantime.
    is_first: bool,
    /// The services of the snapshot that was adopted last.
    adopted: Vec<Arc<Service>>,
}

#[derive(Debug)]
struct MonitoredPool {
    policy: policy::Outlier,
    judge: Judge,
    slots: Vec<usize>,
    next_sweep: Instant,
    /// Whether the version has a share of its service's traffic.
    has_share: bool,
}

impl MonitorState {
    /// Creates an empty state whose checks send their results to `results`.
    pub(super) fn new(
        telemetry: Arc<Telemetry>,
        results: mpsc::UnboundedSender<CheckEnded>,
    ) -> Self {
        Self {
            endpoints: HashMap::new(),
            pools: HashMap::new(),
            telemetry,
            results,
            rng: fastrand::Rng::new(),
            pacer: Rc::default(),
            due: Cell::default(),
            is_first: true,
            adopted: Vec::new(),
        }
    }

    /// Whether there is any evidence about the endpoint: it is checked, or its version has had traffic.
    fn is_known(&self, monitored: &MonitoredEndpoint) -> bool {
        monitored.check.is_some() || self.pools.get(&monitored.pool).is_some_and(|p| p.has_share)
    }

    /// Whether the endpoint is monitored, known, and passes its checks.
    pub(super) fn passes(&self, endpoint: &Endpoint) -> bool {
        let monitored = self.endpoints.get(&endpoint.slot);
        monitored.is_some_and(|m| self.is_known(m)) && endpoint.passes_checks()
    }

    /// Sets the flags that the endpoints of `next` must have before it is published.
    ///
    /// An endpoint that is new (or comes back: the registry may still hold its old state) starts without flags, and unproven if
    /// its service has checks. A monitored endpoint that had neither checks nor traffic so far becomes unproven as well.
    pub(super) fn prepare(&self, next: &Snapshot) {
        for (service, checked) in services(next) {
            let members = service.versions.iter().flat_map(|v| &v.pool.members);
            for endpoint in members.map(|m| &m.endpoint) {
                let state = &endpoint.state;
                match self.endpoints.get(&endpoint.slot) {
                    Some(monitored) => {
                        if checked.is_some() && !self.is_known(monitored) {
                            state.raise(flag::UNPROVEN);
                        }
                    }
                    None => {
                        match checked {
                            Some(_) => state.raise(flag::UNPROVEN),
                            None => state.lower(flag::UNPROVEN),
                        };
                        state.lower(flag::DOWN | flag::EJECTED | flag::SUSPECT);
                        state.note_checks(|note| *note = None);
                        state.set_ejected_until(None);
                        state.set_ramp(1000);
                        endpoint.forget_streaks();
                    }
                }
            }
        }
    }

    /// Updates endpoints and pools to a published snapshot. Services that it shares with the one before cost nothing.
    pub(super) fn adopt(&mut self, published: &Snapshot, now: Instant) {
        self.due.take();
        let before = std::mem::replace(&mut self.adopted, published.services.clone());
        let (known, kept) = (addresses(&before), addresses(&published.services));
        let (mut slots, mut pools) = (HashSet::new(), HashSet::new());
        for ((service, checked), spec) in services(published).zip(&published.spec.services) {
            if known.contains(&std::ptr::from_ref(service)) {
                continue;
            }
            let versions = service.versions.iter().zip(&spec.versions);
            for (at, (version, of)) in VersionIx::all(spec.versions.len()).zip(versions) {
                let name = (service.name.clone(), version.name.clone());
                for member in &version.pool.members {
                    slots.insert(member.endpoint.slot);
                    self.update_endpoint(&member.endpoint, &name, of.slow_start, checked, now);
                }
                self.update_pool(&name, version, &spec.policies.outlier, now);
                if let Some(pool) = self.pools.get_mut(&name) {
                    pool.has_share = service.routing.split.share(at).0 > 0;
                }
                pools.insert(name);
            }
        }
        // Endpoints and pools belong to one service by name, so those of a service that stays belong to no replaced one.
        let replaced = before.iter().filter(|s| !kept.contains(&Arc::as_ptr(s)));
        for (service, version) in replaced.flat_map(|s| s.versions.iter().map(move |v| (s, v))) {
            for member in &version.pool.members {
                let slot = member.endpoint.slot;
                if !slots.contains(&slot) {
                    self.endpoints.remove(&slot);
                }
            }
            let name = (service.name.clone(), version.name.clone());
            if !pools.contains(&name) {
                self.pools.remove(&name);
            }
        }
        self.is_first = false;
    }

    fn update_endpoint(
        &mut self,
        endpoint: &Arc<Endpoint>,
        pool: &PoolName,
        slow_start: Option<Duration>,
        checked: Option<&policy::HealthPolicy>,
        now: Instant,
    ) {
        let is_new = !self.endpoints.contains_key(&endpoint.slot);
        let is_first = self.is_first;
        let monitored = self
            .endpoints
            .entry(endpoint.slot)
            .or_insert_with(|| MonitoredEndpoint::new(endpoint.clone(), pool.clone()));
        monitored.slow_start = slow_start;
        let Some(policy) = checked else {
            monitored.check = None;
            monitored.endpoint.state.note_checks(|note| *note = None);
            monitored.endpoint.state.lower(flag::UNPROVEN | flag::DOWN);
            if is_new && !is_first {
                monitored.begin_ramp(now);
            }
            return;
        };
        if monitored
            .check
            .as_ref()
            .is_some_and(|c| c.policy == *policy)
        {
            return;
        }
        // A changed policy keeps the history, so that an edit of the interval doesn't restart the count of passes.
        let health = match monitored.check.take() {
            Some(check) => check.health,
            None if monitored.endpoint.state.flags() & flag::UNPROVEN != 0 => {
                CheckHistory::unproven(now)
            }
            // Checks were added to an endpoint in use: it keeps its traffic until they fail.
            None => CheckHistory::trusted(now),
        };
        monitored.endpoint.state.note_checks(|note| {
            note.get_or_insert_with(|| CheckNote {
                since: SystemTime::now(),
                failure: None,
            });
        });
        let rng = self.rng.fork();
        let pacer = self.pacer.clone();
        monitored.check = Some(CheckTask::begin(
            endpoint,
            policy,
            health,
            &self.results,
            pacer,
            rng,
        ));
    }

    fn update_pool(
        &mut self,
        name: &PoolName,
        version: &Version,
        policy: &policy::Outlier,
        now: Instant,
    ) {
        let pool = self
            .pools
            .entry(name.clone())
            .or_insert_with(|| MonitoredPool {
                policy: policy.clone(),
                judge: Judge::default(),
                slots: Vec::new(),
                next_sweep: now + policy.interval,
                has_share: false,
            });
        if pool.policy.interval != policy.interval {
            pool.next_sweep = now + policy.interval;
        }
        pool.policy = policy.clone();
        pool.slots = version
            .pool
            .members
            .iter()
            .map(|m| m.endpoint.slot)
            .collect();
        for slot in pool.judge.keep(&pool.slots, policy.max_ejected) {
            readmit(&mut self.endpoints, slot, "pool became too small", now);
        }
    }

    /// Whether every checked endpoint has had a result.
    pub(super) fn have_results(&self) -> bool {
        let mut checks = self.endpoints.values().filter_map(|e| e.check.as_ref());
        checks.all(|check| check.has_result)
    }

    /// Handles a check result. Returns whether the endpoint came up, went down or is no longer ejected, or the result was its
    /// first.
    pub(super) fn on_check(&mut self, checked: &CheckEnded, now: Instant) -> bool {
        let slot = checked.endpoint.slot;
        let Some(monitored) = self.endpoints.get_mut(&slot) else {
            return false;
        };
        let Some(check) = monitored
            .check
            .as_mut()
            .filter(|_| same(&monitored.endpoint, checked))
        else {
            return false;
        };
        let had_result = std::mem::replace(&mut check.has_result, true);
        let passed = checked.result.is_ok();
        let change = check.health.on_result(passed, &check.policy, now);
        record_result(&monitored.endpoint, checked, change, check.health.verdict());
        let (service, version) = &monitored.pool;
        let endpoint = &monitored.endpoint.name;
        match (change, &checked.result) {
            (Some(Transition::Failed), Err(why)) => {
                monitored.endpoint.state.raise(flag::DOWN);
                tracing::warn!(%service, %version, %endpoint, reason = %why, "health check failed, endpoint is down");
            }
            (Some(_), _) => {
                tracing::info!(%service, %version, %endpoint, "health check passed, endpoint is up");
                monitored.begin_ramp(now);
                monitored.endpoint.state.lower(flag::UNPROVEN | flag::DOWN);
                if monitored.ramp_since.is_some() {
                    self.due.take();
                }
            }
            (None, Err(why)) if !had_result => {
                tracing::warn!(%service, %version, %endpoint, reason = %why, "first health check failed");
            }
            (None, _) => {}
        }
        let pool = self.pools.get_mut(&monitored.pool);
        let returns = passed && pool.is_some_and(|p| p.judge.passed(slot, checked.began));
        if returns {
            self.due.take();
            readmit(&mut self.endpoints, slot, "health check passed", now);
        }
        !had_result || change.is_some() || returns
    }

    /// Handles an endpoint whose consecutive failures reached the threshold on some worker. Returns whether it was ejected.
    pub(super) fn on_suspect(&mut self, suspect: &Suspect, now: Instant) -> bool {
        self.due.take();
        let endpoint = &suspect.endpoint;
        let monitored = self.endpoints.get(&endpoint.slot);
        let monitored = monitored.filter(|e| Arc::ptr_eq(&e.endpoint, endpoint));
        let pool = monitored.and_then(|e| self.pools.get_mut(&e.pool));
        let endpoints = &self.endpoints;
        let absent = |slot| is_absent(endpoints, slot);
        let decision = pool.and_then(|p| {
            p.judge
                .suspect(endpoint.slot, suspect.reason, &p.policy, now, &absent)
        });
        match decision {
            Some(decision) => self.apply(&decision, now),
            None => {
                reset_outcomes(endpoint);
                false
            }
        }
    }

    /// Carries out a decision. Returns whether the endpoint was ejected.
    fn apply(&self, decision: &Decision, now: Instant) -> bool {
        let Some(monitored) = self.endpoints.get(&decision.slot) else {
            return false;
        };
        let (endpoint, reason) = (&monitored.endpoint, decision.reason.as_str());
        let (service, version) = &monitored.pool;
        let is_resolved = endpoint.spec.address.is_resolved();
        let count = |outcome| {
            let what = Ejection {
                service: service.to_string(),
                version: version.to_string(),
                endpoint: endpoint.name.to_string(),
                reason: decision.reason,
                outcome,
            };
            self.telemetry.ejection(what, is_resolved);
        };
        count(EjectionOutcome::Detected);
        let name = &endpoint.name;
        match decision.out_for {
            Some(out_for) => {
                endpoint.state.raise(flag::EJECTED);
                endpoint.state.set_ejected_until(Some(now + out_for));
                count(EjectionOutcome::Enforced);
                tracing::warn!(%service, %version, endpoint = %name, reason, ejected_for = ?out_for, "outlier ejected");
            }
            None => {
                count(EjectionOutcome::Overflow);
                let pool = self.pools.get(&monitored.pool);
                let every = pool.map_or(LATER, |p| p.policy.interval);
                if let Some(left_out) = monitored.count_overflow(every, now) {
                    tracing::warn!(
                        %service, %version, endpoint = %name, reason, left_out,
                        "outlier detected, not ejected: max_ejected reached"
                    );
                }
            }
        }
        reset_outcomes(endpoint);
        decision.out_for.is_some()
    }

    /// Carries out the work that is due at `now`: readmissions, sweeps of the pools, ramps. Returns whether an endpoint was ejected
    /// or readmitted.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        self.due.take();
        let mut decisions = Vec::new();
        let endpoints = &self.endpoints;
        let absent = |slot| is_absent(endpoints, slot);
        let mut back = Vec::new();
        for pool in self.pools.values_mut() {
            back.extend(pool.judge.readmit(now));
            if pool.next_sweep <= now {
                pool.next_sweep = now + pool.policy.interval;
                let counts: Vec<AttemptCounts> = pool
                    .slots
                    .iter()
                    .filter_map(|slot| attempt_counts(endpoints, *slot))
                    .collect();
                decisions.extend(pool.judge.sweep(&counts, &pool.policy, now, &absent));
            }
        }
        let mut has_news = !back.is_empty();
        for slot in back {
            readmit(&mut self.endpoints, slot, "ejection time elapsed", now);
        }
        for decision in &decisions {
            has_news |= self.apply(decision, now);
        }
        for monitored in self.endpoints.values_mut() {
            monitored.move_ramp(now);
        }
        has_news
    }

    /// The time of the next [`Self::tick`]. Cached, because most check results change nothing and the search visits every endpoint.
    pub(super) fn next_due(&self, now: Instant) -> Instant {
        let due = self.due.get().unwrap_or_else(|| self.find_due(now));
        self.due.set(Some(due));
        due
    }

    fn find_due(&self, now: Instant) -> Instant {
        let pools = self.pools.values();
        let sweeps = pools.clone().map(|p| p.next_sweep);
        let ends = pools.filter_map(|p| p.judge.next_due());
        let ramps = self.endpoints.values().any(|e| e.ramp_since.is_some());
        let ramp = ramps.then(|| now + RAMP);
        let next = sweeps.chain(ends).chain(ramp).min();
        next.unwrap_or_else(|| now + LATER)
    }
}

/// All services with their health policies.
fn services(of: &Snapshot) -> impl Iterator<Item = (&Service, Option<&policy::HealthPolicy>)> {
    let specs = of.spec.services.iter();
    let health = specs.map(|s| s.policies.health.as_ref());
    of.services.iter().map(|service| &**service).zip(health)
}

fn addresses(services: &[Arc<Service>]) -> HashSet<*const Service> {
    services.iter().map(Arc::as_ptr).collect()
}

/// Whether the result is about this very endpoint. Slots are reused after an endpoint is dropped.
fn same(endpoint: &Arc<Endpoint>, checked: &CheckEnded) -> bool {
    Arc::ptr_eq(endpoint, &checked.endpoint)
}

fn is_absent(endpoints: &HashMap<usize, MonitoredEndpoint>, slot: usize) -> bool {
    let monitored = endpoints.get(&slot);
    monitored.is_none_or(|e| e.endpoint.state.flags() & ABSENT != 0)
}

fn attempt_counts(
    endpoints: &HashMap<usize, MonitoredEndpoint>,
    slot: usize,
) -> Option<AttemptCounts> {
    let (answered, failed) = endpoints.get(&slot)?.endpoint.outcomes();
    Some(AttemptCounts {
        slot,
        answered,
        failed,
    })
}

/// Records a result for the admin API.
fn record_result(
    endpoint: &Endpoint,
    checked: &CheckEnded,
    change: Option<Transition>,
    verdict: Verdict,
) {
    endpoint.state.note_checks(|note| {
        let Some(note) = note else { return };
        if change.is_some() {
            note.since = SystemTime::now();
        }
        match &checked.result {
            Err(why) => note.failure = Some(why.to_string().into()),
            // A pass below the `rise` threshold keeps the last failure: it still explains why the endpoint isn't up.
            Ok(()) if verdict == Verdict::Up => note.failure = None,
            Ok(()) => {}
        }
    });
}

/// Restarts the count of consecutive failures after a decision, so that workers can report the endpoint again.
fn reset_outcomes(endpoint: &Endpoint) {
    endpoint.forget_streaks();
    endpoint.state.lower(flag::SUSPECT);
}

/// Ends an ejection. The ramp is set before the flag is cleared, so that no worker sends the endpoint its full share first.
fn readmit(
    endpoints: &mut HashMap<usize, MonitoredEndpoint>,
    slot: usize,
    why: &str,
    now: Instant,
) {
    let Some(monitored) = endpoints.get_mut(&slot) else {
        return;
    };
    let (service, version) = &monitored.pool;
    tracing::info!(%service, %version, endpoint = %monitored.endpoint.name, reason = why, "no longer ejected");
    monitored.endpoint.state.set_ejected_until(None);
    monitored.begin_ramp(now);
    reset_outcomes(&monitored.endpoint);
    monitored.endpoint.state.lower(flag::EJECTED);
}
