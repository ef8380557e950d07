//! Membership in a fleet: `[fleet]`.
//!
//! A member keeps a key with a document about itself, under a lease: when the member ends or is cut off, etcd deletes the key.
//! [`presence`] keeps the key, [`roster`] follows the keys of all members. Nothing here changes traffic.

#[cfg(test)]
mod alone_tests;
#[cfg(test)]
mod crowd_tests;
mod document;
mod presence;
mod roster;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;
use xxhash_rust::xxh3::xxh3_64;

use super::etcd::{Etcd, LeaseId};
use super::fleet::FleetStore;
use crate::admin::fleet::{Fingerprints, FleetLink, FleetState, FleetView};
use crate::admin::view::cohort_key;
use crate::config::Spec;
use crate::config::fleet::FleetSpec;
use crate::config::spec::CohortSpec;
use crate::rollout::plan::fingerprint;
use crate::routing::sticky::version_id;
use crate::snapshot::Keys;
use document::MemberDocument;
use presence::Presence;
use roster::Roster;

/// Longest time for the farewell when the process ends.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);

/// The host of the member's tasks.
///
/// Owned by the control thread. `etcd` is connected when a configuration is read, because the shared rollouts and tables come
/// before the rest; `joined` follows only when the configuration is adopted, so that a process which fails to start is never seen
/// as a member.
#[derive(Debug)]
pub(super) struct Membership {
    view: Arc<FleetView>,
    /// Distinguishes this process from others with the same member name.
    instance: String,
    /// The client of etcd, which the rollouts use as well.
    etcd: Option<(FleetSpec, Etcd)>,
    joined: Option<Joined>,
}

/// Membership in one fleet.
#[derive(Debug)]
struct Joined {
    spec: FleetSpec,
    document: watch::Sender<MemberDocument>,
    presence: Rc<Presence>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Membership {
    /// Creates a membership in no fleet. The state is shown in `view`.
    pub(super) fn new(view: Arc<FleetView>) -> Self {
        Self {
            view,
            instance: format!("{:016x}", fastrand::u64(..)),
            etcd: None,
            joined: None,
        }
    }

    /// Connects to the fleet of a configuration that is going to be adopted. Returns how rollouts are shared from now on, unless
    /// that stays as it is.
    pub(super) fn connect(&mut self, fleet: Option<&FleetSpec>) -> Option<Option<FleetStore>> {
        let is_same = match (&self.etcd, fleet) {
            (Some((known, _)), Some(fleet)) => known.is_same_member(fleet),
            (known, fleet) => known.is_none() && fleet.is_none(),
        };
        if is_same {
            return None;
        }
        self.etcd = fleet.map(|fleet| (fleet.clone(), Etcd::new(fleet)));
        let store = self.etcd.as_ref().map(|(fleet, etcd)| {
            let names = (fleet.name.as_str(), fleet.prefix());
            let member = member_name(fleet);
            FleetStore::new(etcd.clone(), names, (&member, &self.instance))
        });
        Some(store)
    }

    /// The client of the fleet's etcd.
    pub(super) fn etcd(&self) -> Option<&Etcd> {
        self.etcd.as_ref().map(|(_, etcd)| etcd)
    }

    /// The number of live members, and the lease of this member's keys.
    pub(super) fn members(&self) -> (usize, Option<LeaseId>) {
        let lease = self
            .joined
            .as_ref()
            .and_then(|joined| joined.presence.lease());
        (self.view.members(), lease)
    }

    /// Follows the configuration that was [connected](Self::connect) to: joins, leaves, or tells the others about changes.
    pub(super) fn adopt(&mut self, spec: &Spec, keys: &Keys) {
        let fleet = spec.fleet.as_ref();
        if let Some(joined) = self
            .joined
            .take_if(|joined| !fleet.is_some_and(|fleet| joined.spec.is_same_member(fleet)))
        {
            // In the background: reloading must not wait for etcd.
            spawn_local(joined.leave());
            self.view.set(None);
        }
        let Some((fleet, etcd)) = self.etcd.clone() else {
            return;
        };
        let fingerprints = fingerprints(spec, keys);
        let own = fingerprints.clone();
        let document = MemberDocument {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.clone(),
            fingerprints,
        };
        match &self.joined {
            Some(joined) => {
                self.view.update(|state| state.own = own);
                joined.document.send_if_modified(|known| {
                    let is_new = *known != document;
                    *known = document;
                    is_new
                });
            }
            None => self.joined = Some(self.join(&fleet, etcd, document)),
        }
    }

    fn join(&self, spec: &FleetSpec, etcd: Etcd, document: MemberDocument) -> Joined {
        let member = member_name(spec);
        self.view.set(Some(FleetState {
            name: spec.name.clone(),
            member: member.clone(),
            link: FleetLink::Alone(Instant::now(), None),
            fault: None,
            revision: 0,
            members: Default::default(),
            own: document.fingerprints.clone(),
            config: None,
        }));
        let prefix = format!("{}members/", spec.prefix());
        let presence = Presence::new(etcd.clone(), format!("{prefix}{member}"));
        let presence = Rc::new(presence);
        let roster = Roster {
            fleet: spec.name.clone(),
            member,
            instance: self.instance.clone(),
            prefix,
            view: self.view.clone(),
            presence: presence.clone(),
        };
        let (document, documents) = watch::channel(document);
        let tasks = [
            spawn_local(presence.clone().keep(documents, self.view.clone())),
            spawn_local(roster.follow(etcd)),
        ];
        Joined {
            spec: spec.clone(),
            document,
            presence,
            tasks,
        }
    }

    /// The number of members among which `limits.requests` is divided: those that this member saw last, itself included.
    pub(super) fn limit_members(&self) -> u32 {
        let divides = { self.joined.as_ref() }.is_some_and(|joined| joined.spec.divide_limits);
        match divides {
            true => u32::try_from(self.view.members()).map_or(u32::MAX, |members| members.max(1)),
            false => 1,
        }
    }

    /// Leaves the fleet, so that the others learn at once that this process ends.
    pub(super) async fn leave(&mut self) {
        if let Some(joined) = self.joined.take() {
            joined.leave().await;
        }
    }

    /// Leaves the member's key to the process that takes over.
    pub(super) fn hand_over(&mut self) {
        self.joined = None;
    }
}

impl Joined {
    async fn leave(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        // Without a connection the lease simply expires.
        let _ = timeout(LEAVE_LIMIT, self.presence.end()).await;
    }
}

fn member_name(spec: &FleetSpec) -> String {
    spec.member.clone().unwrap_or_else(host_name)
}

/// The host's name, in characters that the name of a member may have.
fn host_name() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    let fitting = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') {
            c
        } else {
            '-'
        }
    };
    let name: String = name.chars().take(63).map(fitting).collect();
    match name.is_empty() {
        true => "unnamed".to_owned(),
        false => name,
    }
}

/// Fingerprints of the settings that must be the same on all members.
fn fingerprints(spec: &Spec, keys: &Keys) -> Fingerprints {
    let mut found = Fingerprints::default();
    for service in &spec.services {
        let name = || service.name.clone();
        if let Some(plan) = fingerprint(service) {
            found.plans.insert(name(), plan);
        }
        if let Some(sticky) = &service.policies.sticky
            && let Some(key) = keys.get(&sticky.key_file)
        {
            // A keyed hash of a fixed text, which doesn't reveal the key. No version has an empty name.
            let id = version_id(key, "", "");
            found.sticky.insert(name(), format!("{id:016x}"));
        }
        if let Some(cohort) = &service.cohort {
            found.cohorts.insert(name(), cohort_fingerprint(cohort));
        }
    }
    found
}

fn cohort_fingerprint(cohort: &CohortSpec) -> String {
    let mut text = format!("{:?}", cohort.salt);
    for key in &cohort.by {
        text.push('\n');
        text.push_str(&cohort_key(key));
    }
    format!("{:016x}", xxh3_64(text.as_bytes()))
}
