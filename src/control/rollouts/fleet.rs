//! The rollouts of all services in a fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Rollouts;
use super::service::{KEEP_EVERY, ServiceRollout};
use super::shared_side::{Election, KeptRollout};
use super::shares::SharesInForce;
use crate::config::Spec;
use crate::config::fleet::{FleetSpec, OnLost};
use crate::control::etcd::LeaseId;
use crate::control::fleet::{Driver, FleetNews, FleetStore, Found};
use crate::control::membership::Membership;
use crate::net::clock::wall_s;
use crate::rollout::fleet::document::FleetDocument;
use crate::rollout::machine::Effect;
use crate::snapshot::Snapshot;

/// The fleet that shares the rollouts, as this member knows it.
///
/// Owned by [`Rollouts`]; another fleet is another value. It has what is known by service, also of services that are not configured
/// here (yet), so that a rollout that appears begins with what was read before.
#[derive(Debug)]
pub(super) struct SharingFleet {
    store: FleetStore,
    on_lost: OnLost,
    /// Number of live members, at least 1.
    members: usize,
    /// The lease of this member's keys, once it has joined.
    lease: Option<LeaseId>,
    drivers: BTreeMap<String, Driver>,
    /// The newest readable document of each service, and its revision.
    documents: BTreeMap<String, (i64, FleetDocument)>,
    /// Services without a document in the last read.
    absent: BTreeSet<String>,
    /// Revisions that were known when a read had older ones, by service.
    behind: BTreeMap<String, i64>,
    /// Unreadable values that have been logged: keys, and their revisions or steps.
    logged: BTreeMap<String, i64>,
    /// Time at which the last read began that was answered.
    read: Option<Instant>,
    /// The attempt and step whose counts are collected, by service.
    collected: BTreeMap<String, (u64, usize)>,
    kept: BTreeMap<String, Instant>,
    /// Rollouts that ran before this proxy joined.
    before: BTreeMap<String, KeptRollout>,
}

impl SharingFleet {
    fn new(store: FleetStore) -> Self {
        Self {
            store,
            on_lost: OnLost::Stay,
            members: 1,
            lease: None,
            drivers: BTreeMap::new(),
            documents: BTreeMap::new(),
            absent: BTreeSet::new(),
            behind: BTreeMap::new(),
            logged: BTreeMap::new(),
            read: None,
            collected: BTreeMap::new(),
            kept: BTreeMap::new(),
            before: BTreeMap::new(),
        }
    }

    /// Waits for news. Cancellation safe.
    pub(super) async fn news(&mut self) -> Option<FleetNews> {
        self.store.news().await
    }

    /// Makes the fleet share a rollout.
    pub(super) fn share(&self, name: &str, rollout: &mut ServiceRollout) {
        let names = (self.store.fleet.as_str(), self.store.member.as_str());
        rollout.share(names, &self.store.source, Instant::now());
        if let (Some(read), Some(side)) = (self.read, &mut rollout.shared) {
            side.replica.heard(read);
        }
        if let (Some(kept), Some(side)) = (self.before.get(name), &mut rollout.shared) {
            rollout.in_force = kept.in_force;
            side.kept = Some(kept.clone());
        }
        if let Some((revision, document)) = self.documents.get(name) {
            // Nothing follows the rollout yet, so that it has no effects.
            rollout.see(*revision, document, wall_s());
        }
    }

    /// Submits a change of the shared document, if there is one.
    pub(super) fn submit(&self, name: &str, rollout: &mut ServiceRollout) {
        if let Some((revision, document)) = rollout.shared_change(Instant::now()) {
            self.store.write(name, revision, document);
        }
    }

    /// Gives up the role of driver of services that are no longer rolled out here.
    fn resign(&self, services: &BTreeMap<String, ServiceRollout>) {
        for (name, driver) in &self.drivers {
            if driver.source == self.store.source && !services.contains_key(name) {
                self.store.resign(name);
            }
        }
    }

    /// Whether a read shows that etcd's history is another one: its document is older than that of revision `known`, or another one
    /// of the same revision. The next read, which was begun after that revision was known, must show it too.
    ///
    /// A watch that was cut off doesn't notice a restored backup if more revisions have been written since than were lost.
    fn goes_back(&mut self, service: &str, found: &Found, known: i64) -> bool {
        let is_older = match found {
            Found::Document(revision, document) => {
                let same = self.documents.get(service).filter(|(r, _)| r == revision);
                *revision < known || same.is_some_and(|(_, same)| same != &**document)
            }
            Found::Unreadable(..) => false,
        };
        if !is_older {
            self.behind.remove(service);
            return false;
        }
        let Some(before) = self.behind.insert(service.to_owned(), known) else {
            return false;
        };
        self.behind.remove(service);
        // Revisions that became known in between don't count: the read may have been begun before.
        matches!(found, Found::Document(revision, _) if *revision <= before)
    }

    /// Logs drivers' keys with values that no member has written, once each.
    fn log_unknown_driver(&mut self, service: &str) {
        let Some(revision) = self.drivers.get(service).and_then(|d| d.replaceable) else {
            return;
        };
        let key = format!("driver/{service}");
        if self.logged.insert(key.clone(), revision) != Some(revision) {
            tracing::warn!(
                key,
                "fleet: ignoring a value that no member has written, a driver is elected"
            );
        }
    }

    /// Logs counts that no member has written, once a step.
    fn log_unreadable_counts(&mut self, service: &str, of: (u64, usize), key: Option<String>) {
        let Some(key) = key else { return };
        let step = (of.0 as i64).wrapping_mul(1 << 20) + of.1 as i64;
        let logged = self.logged.insert(format!("evidence/{service}"), step);
        if logged != Some(step) {
            tracing::warn!(key = ?key, "fleet: ignoring a value, which is no member's counts");
        }
    }

    /// Takes a document. Returns it if it is newer than the known one.
    fn found(&mut self, service: &str, found: Found) -> Option<(i64, FleetDocument)> {
        match found {
            Found::Document(revision, document) => {
                let known = self.documents.get(service).map_or(0, |known| known.0);
                let newest = (revision, *document);
                if revision > known {
                    self.documents.insert(service.to_owned(), newest.clone());
                }
                Some(newest)
            }
            Found::Unreadable(revision, error) => {
                let key = format!("state/{service}");
                if self.logged.insert(key.clone(), revision) != Some(revision) {
                    tracing::warn!(key, %error, "fleet: ignoring the shared state: its share stays");
                }
                None
            }
        }
    }
}

impl Rollouts {
    /// Time without the fleet's store after which this member gives no share.
    pub(super) fn lost_after(&self) -> Option<Duration> {
        match self.fleet.as_ref()?.on_lost {
            OnLost::Stay => None,
            OnLost::Rollback(after) => Some(after),
        }
    }

    /// Shares the rollouts with a fleet from now on, or stops sharing them. The configuration has to be adopted afterwards.
    fn join(&mut self, store: Option<FleetStore>, wait: Duration) {
        let until = Instant::now() + wait;
        let running = self.services.iter().filter(|_| self.fleet.is_none());
        let running = running.filter_map(|(name, rollout)| {
            let kept = KeptRollout {
                in_force: rollout.in_force(),
                state: rollout.state()?.clone(),
                until,
            };
            Some((name.clone(), kept))
        });
        let before = running.collect();
        // Their shares in force are read from the fleet's store, or else from the one on disk.
        self.services.clear();
        self.fleet = store.map(|store| SharingFleet {
            before,
            ..SharingFleet::new(store)
        });
    }

    /// Follows another configuration, in another fleet if it names one, and returns the shares that are in force.
    pub(in crate::control) fn follow(
        &mut self,
        spec: &Spec,
        membership: &mut Membership,
    ) -> SharesInForce {
        if let Some(store) = membership.connect(spec.fleet.as_ref()) {
            let wait = spec.fleet.as_ref().map(|fleet| fleet.join_wait);
            self.join(store, wait.unwrap_or_default());
        }
        self.adopt(spec)
    }

    /// Begins with this configuration, and returns the shares that are in force. In a fleet it waits for the shared state for a
    /// limited time.
    pub(in crate::control) async fn start(
        &mut self,
        spec: &Spec,
        store: Option<FleetStore>,
    ) -> SharesInForce {
        self.join(store, Duration::ZERO);
        let has_rollouts = spec.services.iter().any(|s| s.rollout.is_some());
        let wait = spec.fleet.as_ref().filter(|_| has_rollouts);
        let wait = wait.map(|fleet| fleet.join_wait);
        let is_known = match wait {
            Some(wait) => self.is_joined(wait).await,
            None => true,
        };
        let shares = self.adopt(spec);
        if is_known {
            return shares;
        }
        for (name, rollout) in &mut self.services {
            rollout.begin_alone();
            let share = rollout.in_force().share;
            tracing::warn!(service = name, %share, "fleet: the shared state is not known, beginning with what is stored here");
        }
        self.adopt(spec)
    }

    /// Waits until the shared state is known, for at most this time. Returns whether it is.
    async fn is_joined(&mut self, wait: Duration) -> bool {
        let read = async {
            while let Some(fleet) = &mut self.fleet {
                if fleet.read.is_some() {
                    return;
                }
                let Some(news) = fleet.news().await else {
                    return;
                };
                self.on_fleet(news, None);
            }
        };
        tokio::time::timeout(wait, read).await.is_ok()
    }

    /// Takes the fleet's settings from a configuration.
    pub(super) fn adopt_fleet(&mut self, spec: Option<&FleetSpec>) {
        if let Some((fleet, spec)) = self.fleet.as_mut().zip(spec) {
            fleet.on_lost = spec.on_lost;
        }
    }

    /// Takes the number of live members and this member's lease.
    pub(in crate::control) fn set_members(&mut self, (members, lease): (usize, Option<LeaseId>)) {
        if let Some(fleet) = &mut self.fleet {
            (fleet.members, fleet.lease) = (members.max(1), lease);
        }
    }

    /// Takes news of the fleet.
    pub(super) fn on_fleet(&mut self, news: FleetNews, snapshot: Option<&Snapshot>) {
        let Some(fleet) = &mut self.fleet else {
            return;
        };
        match news {
            FleetNews::Read {
                sent,
                documents,
                drivers,
            } => {
                fleet.read = fleet.read.max(Some(sent));
                fleet.drivers = drivers;
                for service in self.services.keys() {
                    fleet.log_unknown_driver(service);
                }
                fleet.resign(&self.services);
                let known = self.services.keys().cloned();
                let absent: BTreeSet<_> =
                    known.filter(|name| !documents.contains_key(name)).collect();
                let before = std::mem::replace(&mut fleet.absent, absent);
                // One read may have been begun before a document was written.
                let gone: Vec<_> = before.intersection(&fleet.absent).cloned().collect();
                for name in gone {
                    fleet.documents.remove(&name);
                    if let Some(rollout) = self.services.get_mut(&name) {
                        rollout.forget_revision();
                    }
                }
                for rollout in self.services.values_mut() {
                    if let Some(side) = &mut rollout.shared {
                        side.replica.heard(sent);
                    }
                }
                for (service, found) in documents {
                    self.check_history(&service, &found);
                    self.on_found(&service, found, snapshot);
                }
            }
            FleetNews::Document(service, found) => self.on_found(&service, found, snapshot),
            FleetNews::Driver(service, Some(driver)) => {
                fleet.drivers.insert(service.clone(), driver);
                fleet.log_unknown_driver(&service);
            }
            FleetNews::Driver(service, None) => {
                fleet.drivers.remove(&service);
            }
            FleetNews::Restored => {
                tracing::warn!("fleet: etcd's history is another one: reading the rollouts again");
                fleet.documents.clear();
                self.services
                    .values_mut()
                    .for_each(ServiceRollout::forget_revision);
            }
            FleetNews::Written(service, sent, result) => {
                if let Some(rollout) = self.services.get_mut(&service) {
                    let effects = rollout.written(result, sent, wall_s());
                    self.carry_out(&service, effects, snapshot);
                }
            }
            FleetNews::Evidence(service, of, found) => {
                fleet.log_unreadable_counts(&service, of, found.unreadable);
                if let Some(rollout) = self.services.get_mut(&service) {
                    for (source, counts) in found.counts {
                        rollout.take_evidence(of, &source, &counts);
                    }
                }
            }
            FleetNews::Guard(service, kept) => {
                if let Some(rollout) = self.services.get_mut(&service).filter(|r| r.needs_guard()) {
                    let kept = kept.and_then(|kept| match serde_json::from_slice(&kept) {
                        Ok(kept) => Some(kept),
                        Err(_) => {
                            let key = format!("guard/{service}");
                            tracing::warn!(
                                key,
                                "fleet: ignoring a value, the evidence begins from zero"
                            );
                            None
                        }
                    });
                    rollout.take_guard(kept);
                }
            }
        }
    }

    /// Drops the revision of the newest document, if a read shows that etcd's history is another one.
    fn check_history(&mut self, service: &str, found: &Found) {
        let Some((fleet, rollout)) = self.fleet.as_mut().zip(self.services.get_mut(service)) else {
            return;
        };
        let known = { rollout.shared.as_ref() }.map_or(0, |side| side.replica.revision());
        if fleet.goes_back(service, found, known) {
            tracing::warn!(
                service,
                "fleet: etcd's history is another one: reading the rollout again"
            );
            fleet.documents.remove(service);
            rollout.forget_revision();
        }
    }

    fn on_found(&mut self, service: &str, found: Found, snapshot: Option<&Snapshot>) {
        let Some(fleet) = &mut self.fleet else {
            return;
        };
        let Some((revision, document)) = fleet.found(service, found) else {
            if let Some(rollout) = self.services.get_mut(service) {
                rollout.forget_revision();
            }
            return;
        };
        let is_own = document.writer == fleet.store.member;
        let Some(rollout) = self.services.get_mut(service) else {
            return;
        };
        if let Some(effects) = rollout.see(revision, &document, wall_s()) {
            for note in document.notes.iter().filter(|_| !is_own) {
                tracing::info!(service, member = document.writer, "rollout: {note}");
            }
            self.carry_out(service, effects, snapshot);
        }
    }

    /// Advances a rollout that a fleet shares by a second.
    pub(super) fn second_of_fleet(&mut self, name: &str, now: Instant, snapshot: &Snapshot) {
        let Some((fleet, rollout)) = self.fleet.as_mut().zip(self.services.get_mut(name)) else {
            return;
        };
        let driver = fleet.drivers.get(name);
        let mut effects: Vec<Effect> = Vec::new();
        match (rollout.election(driver, now), fleet.lease) {
            (Election::Campaign, Some(lease)) => {
                let replaced = driver.and_then(|driver| driver.replaceable);
                fleet.store.campaign(name, lease, replaced);
            }
            (Election::Claim, _) => effects = rollout.claim(now, wall_s()),
            (Election::Resign, _) => fleet.store.resign(name),
            (Election::Campaign | Election::Nothing, _) => {}
        }
        if rollout.needs_guard() {
            fleet.store.read_guard(name);
        }
        if let (Some(term), Some(driver), Some(lease)) =
            (rollout.term_driven(), driver, fleet.lease)
            && driver.source == fleet.store.source
            && driver.term != term
        {
            fleet.store.announce(name, term, lease);
        }
        if let Some((of, counts)) = rollout.report(now, fleet.members) {
            fleet.store.report(name, of, &counts);
        }
        if let Some(of) = rollout.evidence_wanted() {
            fleet.store.read_evidence(name, of);
            if fleet.collected.insert(name.to_owned(), of) != Some(of) {
                fleet.store.clear_evidence(name, of);
            }
        }
        let is_due = |at: &Instant| now.saturating_duration_since(*at) >= KEEP_EVERY;
        if fleet.kept.get(name).is_none_or(is_due)
            && let Some(kept) = rollout.guard_to_keep()
            && let Ok(kept) = serde_json::to_vec(&kept)
        {
            fleet.store.keep_guard(name, kept);
            fleet.kept.insert(name.to_owned(), now);
        }
        self.carry_out(name, effects, Some(snapshot));
    }
}
