//! What is known of every endpoint of the published snapshot, and what follows from it: flags, ramps, counters, log.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use super::endpoint::{CheckEnded, CheckTask, MonitoredEndpoint, PoolName};
use super::pace::CheckPacer;

use crate::config::policy;
use crate::snapshot::{Service, Snapshot, Version};
use crate::telemetry::Telemetry;
use crate::telemetry::record::EjectionOutcome;
use crate::telemetry::registry::Ejection;
use crate::upstream::Endpoint;
use crate::upstream::endpoint::{CheckNote, flag};
use crate::upstream::health::{CheckHistory, Transition, Verdict};
use crate::upstream::outlier::{AttemptCounts, Decision, Judge, Suspect};

/// How often ramps move on.
const RAMP: Duration = Duration::from_millis(100);
/// When nothing is due.
const LATER: Duration = Duration::from_secs(3600);
/// What keeps an endpoint from traffic besides its ejection.
const ABSENT: u32 = flag::UNPROVEN | flag::DOWN | flag::DRAINING;

/// Every endpoint that is watched over, by slot, and every pool.
#[derive(Debug)]
pub(super) struct MonitorState {
    wards: HashMap<usize, MonitoredEndpoint>,
    pools: HashMap<PoolName, MonitoredPool>,
    telemetry: Arc<Telemetry>,
    results: mpsc::UnboundedSender<CheckEnded>,
    rng: fastrand::Rng,
    pace: Rc<CheckPacer>,
    /// When something is due next; `None`: to be found out.
    due: Cell<Option<Instant>>,
    /// No snapshot has been adopted yet: all endpoints are new, and none is newer than another.
    is_first: bool,
}

#[derive(Debug)]
struct MonitoredPool {
    terms: policy::Outlier,
    judge: Judge,
    slots: Vec<usize>,
    next_sweep: Instant,
    /// It has a share of the traffic.
    has_share: bool,
}

impl MonitorState {
    /// An empty one, which gets results of checks through the other end of `results`.
    pub(super) fn new(
        telemetry: Arc<Telemetry>,
        results: mpsc::UnboundedSender<CheckEnded>,
    ) -> Self {
        Self {
            wards: HashMap::new(),
            pools: HashMap::new(),
            telemetry,
            results,
            rng: fastrand::Rng::new(),
            pace: Rc::default(),
            due: Cell::default(),
            is_first: true,
        }
    }

    /// Whether anything is known of it: by its checks, or because it had traffic.
    fn is_known(&self, ward: &MonitoredEndpoint) -> bool {
        ward.check.is_some() || self.pools.get(&ward.pool).is_some_and(|p| p.has_share)
    }

    /// Whether the endpoint is monitored, known, and passes its checks.
    pub(super) fn passes(&self, endpoint: &Endpoint) -> bool {
        let ward = self.wards.get(&endpoint.slot);
        ward.is_some_and(|ward| self.is_known(ward)) && endpoint.passes_checks()
    }

    /// Endpoints that are new (or come back) begin unproven where they are to be checked, and with no other flag. So do
    /// those that were not checked and had no traffic either: nothing is known of them.
    pub(super) fn prepare(&self, next: &Snapshot) {
        for (service, checked) in services(next) {
            let members = service.versions.iter().flat_map(|v| &v.pool.members);
            for endpoint in members.map(|m| &m.endpoint) {
                let state = &endpoint.state;
                match self.wards.get(&endpoint.slot) {
                    Some(ward) => {
                        if checked.is_some() && !self.is_known(ward) {
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

    /// Takes up what came, lets go what went.
    pub(super) fn adopt(&mut self, published: &Snapshot, now: Instant) {
        self.due.take();
        let (mut slots, mut pools) = (HashSet::new(), HashSet::new());
        for ((service, checked), spec) in services(published).zip(&published.spec.services) {
            for (at, (version, of)) in service.versions.iter().zip(&spec.versions).enumerate() {
                let name = (service.name.clone(), version.name.clone());
                for member in &version.pool.members {
                    slots.insert(member.endpoint.slot);
                    self.enter(&member.endpoint, &name, of.slow_start, checked, now);
                }
                self.enter_pool(&name, version, &spec.policies.outlier, now);
                if let Some(pool) = self.pools.get_mut(&name) {
                    pool.has_share = service.routing.split.share(at).0 > 0;
                }
                pools.insert(name);
            }
        }
        self.wards.retain(|slot, _| slots.contains(slot));
        self.pools.retain(|name, _| pools.contains(name));
        self.is_first = false;
    }

    fn enter(
        &mut self,
        endpoint: &Arc<Endpoint>,
        pool: &PoolName,
        slow_start: Option<Duration>,
        checked: Option<&policy::HealthPolicy>,
        now: Instant,
    ) {
        let is_new = !self.wards.contains_key(&endpoint.slot);
        let is_first = self.is_first;
        let ward = self
            .wards
            .entry(endpoint.slot)
            .or_insert_with(|| MonitoredEndpoint {
                endpoint: endpoint.clone(),
                pool: pool.clone(),
                slow_start,
                ramps: None,
                excused: Cell::default(),
                check: None,
            });
        ward.slow_start = slow_start;
        let Some(terms) = checked else {
            ward.check = None;
            ward.endpoint.state.note_checks(|note| *note = None);
            ward.endpoint.state.lower(flag::UNPROVEN | flag::DOWN);
            if is_new && !is_first {
                ward.begin_ramp(now);
            }
            return;
        };
        if ward.check.as_ref().is_some_and(|c| c.terms == *terms) {
            return;
        }
        let health = match ward.check.take() {
            Some(check) => check.health,
            None if ward.endpoint.state.flags() & flag::UNPROVEN != 0 => {
                CheckHistory::unproven(now)
            }
            // It has had traffic: it goes on having some until its checks fail.
            None => CheckHistory::trusted(now),
        };
        ward.endpoint.state.note_checks(|note| {
            note.get_or_insert_with(|| CheckNote {
                since: SystemTime::now(),
                failure: None,
            });
        });
        let rng = self.rng.fork();
        let pace = self.pace.clone();
        ward.check = Some(CheckTask::begin(
            endpoint,
            terms,
            health,
            &self.results,
            pace,
            rng,
        ));
    }

    fn enter_pool(
        &mut self,
        name: &PoolName,
        version: &Version,
        terms: &policy::Outlier,
        now: Instant,
    ) {
        let pool = self
            .pools
            .entry(name.clone())
            .or_insert_with(|| MonitoredPool {
                terms: terms.clone(),
                judge: Judge::default(),
                slots: Vec::new(),
                next_sweep: now + terms.interval,
                has_share: false,
            });
        if pool.terms.interval != terms.interval {
            pool.next_sweep = now + terms.interval;
        }
        pool.terms = terms.clone();
        pool.slots = version
            .pool
            .members
            .iter()
            .map(|m| m.endpoint.slot)
            .collect();
        for slot in pool.judge.keep(&pool.slots, terms.max_ejected) {
            admit(&mut self.wards, slot, "its pool became too small", now);
        }
    }

    /// Every check has had a result.
    pub(super) fn is_informed(&self) -> bool {
        let mut checks = self.wards.values().filter_map(|w| w.check.as_ref());
        checks.all(|check| check.informed)
    }

    /// A check has ended; whether that is news: it came up, or the result was its first.
    pub(super) fn checked(&mut self, checked: &CheckEnded, now: Instant) -> bool {
        let slot = checked.endpoint.slot;
        let Some(ward) = self.wards.get_mut(&slot) else {
            return false;
        };
        let Some(check) = ward
            .check
            .as_mut()
            .filter(|_| same(&ward.endpoint, checked))
        else {
            return false;
        };
        let was_informed = std::mem::replace(&mut check.informed, true);
        let passed = checked.result.is_ok();
        let change = check.health.on_result(passed, &check.terms, now);
        note(&ward.endpoint, checked, change, check.health.verdict());
        let (service, version) = &ward.pool;
        let endpoint = &ward.endpoint.name;
        match (change, &checked.result) {
            (Some(Transition::Failed), Err(why)) => {
                ward.endpoint.state.raise(flag::DOWN);
                tracing::warn!(%service, %version, %endpoint, reason = %why, "health check failed, endpoint is down");
            }
            (Some(_), _) => {
                tracing::info!(%service, %version, %endpoint, "health check passed, endpoint is up");
                ward.begin_ramp(now);
                ward.endpoint.state.lower(flag::UNPROVEN | flag::DOWN);
                if ward.ramps.is_some() {
                    self.due.take();
                }
            }
            (None, Err(why)) if !was_informed => {
                tracing::warn!(%service, %version, %endpoint, reason = %why, "first health check failed");
            }
            (None, _) => {}
        }
        if passed
            && let Some(pool) = self.pools.get_mut(&ward.pool)
            && pool.judge.passed(slot, checked.began)
        {
            self.due.take();
            admit(&mut self.wards, slot, "health check passed", now);
        }
        !was_informed || (change.is_some() && passed)
    }

    /// A worker saw a row of failures reach its threshold.
    pub(super) fn suspected(&mut self, suspect: &Suspect, now: Instant) {
        self.due.take();
        let endpoint = &suspect.endpoint;
        let ward = self.wards.get(&endpoint.slot);
        let ward = ward.filter(|w| Arc::ptr_eq(&w.endpoint, endpoint));
        let pool = ward.and_then(|w| self.pools.get_mut(&w.pool));
        let wards = &self.wards;
        let absent = |slot| is_absent(wards, slot);
        let decision = pool.and_then(|p| {
            p.judge
                .suspect(endpoint.slot, suspect.reason, &p.terms, now, &absent)
        });
        match decision {
            Some(decision) => self.carry_out(&decision, now),
            None => settle(endpoint),
        }
    }

    fn carry_out(&self, decision: &Decision, now: Instant) {
        let Some(ward) = self.wards.get(&decision.slot) else {
            return;
        };
        let (endpoint, reason) = (&ward.endpoint, decision.reason.as_str());
        let (service, version) = &ward.pool;
        let count = |outcome| {
            self.telemetry.ejection(Ejection {
                service: service.to_string(),
                version: version.to_string(),
                endpoint: endpoint.name.to_string(),
                reason: decision.reason,
                outcome,
            });
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
                let pool = self.pools.get(&ward.pool);
                let every = pool.map_or(LATER, |p| p.terms.interval);
                if let Some(left_out) = ward.excuse(every, now) {
                    tracing::warn!(
                        %service, %version, endpoint = %name, reason, left_out,
                        "outlier detected, not ejected: max_ejected reached"
                    );
                }
            }
        }
        settle(endpoint);
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Instant) {
        self.due.take();
        let mut decisions = Vec::new();
        let wards = &self.wards;
        let absent = |slot| is_absent(wards, slot);
        let mut back = Vec::new();
        for pool in self.pools.values_mut() {
            back.extend(pool.judge.readmit(now));
            if pool.next_sweep <= now {
                pool.next_sweep = now + pool.terms.interval;
                let tallies: Vec<AttemptCounts> = pool
                    .slots
                    .iter()
                    .filter_map(|slot| tally(wards, *slot))
                    .collect();
                decisions.extend(pool.judge.sweep(&tallies, &pool.terms, now, &absent));
            }
        }
        for slot in back {
            admit(&mut self.wards, slot, "its time is over", now);
        }
        for decision in &decisions {
            self.carry_out(decision, now);
        }
        for ward in self.wards.values_mut() {
            ward.move_ramp(now);
        }
    }

    /// When something is due next. Found once for all results of checks that change nothing.
    pub(super) fn next_due(&self, now: Instant) -> Instant {
        let due = self.due.get().unwrap_or_else(|| self.find_due(now));
        self.due.set(Some(due));
        due
    }

    fn find_due(&self, now: Instant) -> Instant {
        let pools = self.pools.values();
        let sweeps = pools.clone().map(|p| p.next_sweep);
        let ends = pools.filter_map(|p| p.judge.next_due());
        let ramps = self.wards.values().any(|w| w.ramps.is_some());
        let ramp = ramps.then(|| now + RAMP);
        let next = sweeps.chain(ends).chain(ramp).min();
        next.unwrap_or_else(|| now + LATER)
    }
}

/// Every service with the checks that it wants.
fn services(of: &Snapshot) -> impl Iterator<Item = (&Service, Option<&policy::HealthPolicy>)> {
    let specs = of.spec.services.iter();
    let health = specs.map(|s| s.policies.health.as_ref());
    of.services.iter().map(|service| &**service).zip(health)
}

fn same(endpoint: &Arc<Endpoint>, checked: &CheckEnded) -> bool {
    Arc::ptr_eq(endpoint, &checked.endpoint)
}

fn is_absent(wards: &HashMap<usize, MonitoredEndpoint>, slot: usize) -> bool {
    let ward = wards.get(&slot);
    ward.is_none_or(|w| w.endpoint.state.flags() & ABSENT != 0)
}

fn tally(wards: &HashMap<usize, MonitoredEndpoint>, slot: usize) -> Option<AttemptCounts> {
    let (answered, failed) = wards.get(&slot)?.endpoint.outcomes();
    Some(AttemptCounts {
        slot,
        answered,
        failed,
    })
}

/// Keeps what a check said for who shows it.
fn note(endpoint: &Endpoint, checked: &CheckEnded, change: Option<Transition>, verdict: Verdict) {
    endpoint.state.note_checks(|note| {
        let Some(note) = note else { return };
        if change.is_some() {
            note.since = SystemTime::now();
        }
        match &checked.result {
            Err(why) => note.failure = Some(why.to_string().into()),
            // Until it is up the last failure says why it is not.
            Ok(()) if verdict == Verdict::Up => note.failure = None,
            Ok(()) => {}
        }
    });
}

/// It was judged: the row begins anew.
fn settle(endpoint: &Endpoint) {
    endpoint.forget_streaks();
    endpoint.state.lower(flag::SUSPECT);
}

/// It is back among the others.
fn admit(wards: &mut HashMap<usize, MonitoredEndpoint>, slot: usize, why: &str, now: Instant) {
    let Some(ward) = wards.get_mut(&slot) else {
        return;
    };
    let (service, version) = &ward.pool;
    tracing::info!(%service, %version, endpoint = %ward.endpoint.name, reason = why, "no longer ejected");
    ward.endpoint.state.set_ejected_until(None);
    ward.begin_ramp(now);
    settle(&ward.endpoint);
    ward.endpoint.state.lower(flag::EJECTED);
}
