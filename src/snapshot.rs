//! The immutable compiled configuration that workers read.
//!
//! A [`Snapshot`] is what a request needs, with every name resolved to an index or an `Arc`. It is built in two steps: the pure
//! function [`effective`] decides what is in force, then [`Snapshot::compile`] resolves it. A snapshot is never changed, only
//! replaced. Endpoints come from the registry, so their state outlives it; services that didn't change are shared with the
//! generation before.

mod build;
mod certificates;
mod decision_state;
mod effective;
#[cfg(test)]
pub(crate) mod fixtures;
pub(crate) mod sessions;
mod state;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use crate::config::Spec;
use crate::config::policy::Policies;
use crate::config::spec::{Share, Timeouts};
use crate::routing;
use crate::telemetry::{ListenerShard, RuleHits, ServiceMetrics, VersionMetrics};
use crate::upstream::{Endpoint, Pool, VersionLoad};

pub(crate) use build::{Inputs, Previous};
pub(crate) use certificates::{CertificateState, date};
pub(crate) use decision_state::DecisionState;
pub(crate) use sessions::{Keys, Sessions};
pub(crate) use state::ServiceState;

/// One generation.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up from 1 with every adopted configuration.
    pub generation: u64,
    /// What it was compiled from.
    pub spec: Arc<Spec>,
    /// Host and path to a service.
    pub table: routing::RouteTable,
    /// In the order of `spec.services`. A service that is the same in two generations is shared by them.
    pub services: Vec<Arc<Service>>,
    /// In the order of `spec.listeners`.
    pub listeners: Vec<Listener>,
    /// Counters of requests that no service got.
    pub unrouted: Arc<ServiceMetrics>,
    slots: EndpointSet,
}

/// The slots of all endpoints, a bit for each: whoever compares two generations looks at no endpoint that stays.
#[derive(Debug, PartialEq, Eq)]
struct EndpointSet(Box<[u64]>);

impl EndpointSet {
    fn of(services: &[Arc<Service>]) -> Self {
        let mut words = Vec::new();
        let members = services.iter().flat_map(|s| &s.versions);
        for slot in members
            .flat_map(|v| &v.pool.members)
            .map(|m| m.endpoint.slot)
        {
            if words.len() <= slot / 64 {
                words.resize(slot / 64 + 1, 0);
            }
            words[slot / 64] |= 1 << (slot % 64);
        }
        Self(words.into())
    }

    fn contains(&self, slot: usize) -> bool {
        let word = self.0.get(slot / 64).copied().unwrap_or(0);
        word & (1 << (slot % 64)) != 0
    }

    fn contains_all(&self, others: &Self) -> bool {
        let own = self.0.iter().copied().chain(std::iter::repeat(0));
        others
            .0
            .iter()
            .zip(own)
            .all(|(theirs, own)| theirs & !own == 0)
    }
}

/// A listener as the data path needs it.
#[derive(Debug)]
pub struct Listener {
    /// One shard a worker.
    pub metrics: Arc<[ListenerShard]>,
}

/// A service, compiled.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: Arc<str>,
    /// A number that the name keeps for the life of the process: per-worker state is indexed by it.
    pub slot: usize,
    /// Its counters.
    pub metrics: Arc<ServiceMetrics>,
    /// Rules, cohort, split.
    pub routing: routing::ServiceRouting,
    /// A counter for each rule.
    pub rule_hits: Arc<RuleHits>,
    /// What `balance = "hash"` hashes.
    pub hash: Option<routing::Cohort>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// What protects requests.
    pub policies: Policies,
    /// Sticky sessions, where the service has them.
    pub sessions: Option<Sessions>,
    /// In the order of the spec.
    pub versions: Vec<Version>,
    /// Versions (by index) whose new role or share waits until one of their endpoints passes a check.
    pub awaited: Vec<usize>,
    /// The effective split that it was built from.
    effective: effective::EffectiveSplit,
}

/// A version, compiled.
#[derive(Debug)]
pub struct Version {
    /// Its name.
    pub name: Arc<str>,
    /// Its endpoints.
    pub pool: Pool,
    /// Its counters.
    pub metrics: Arc<VersionMetrics>,
    /// What it is busy with, against its limits.
    pub load: Arc<VersionLoad>,
}

impl Snapshot {
    /// Every endpoint, with its service.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Service, &Arc<Endpoint>)> {
        self.services.iter().flat_map(|service| {
            let members = service.versions.iter().flat_map(|v| &v.pool.members);
            members.map(move |m| (&**service, &m.endpoint))
        })
    }

    /// Whether an endpoint of this generation, or one before it that is still held, is in it: by its slot.
    pub fn has_slot(&self, slot: usize) -> bool {
        self.slots.contains(slot)
    }

    /// Every endpoint of this generation that `next` doesn't have, with its service.
    pub fn gone_in<'s>(
        &'s self,
        next: &'s Self,
    ) -> impl Iterator<Item = (&'s Service, &'s Arc<Endpoint>)> {
        let some = !next.slots.contains_all(&self.slots);
        let all = some.then(|| self.endpoints()).into_iter().flatten();
        all.filter(|(_, endpoint)| !next.has_slot(endpoint.slot))
    }

    /// The effective share of a version.
    pub fn share(&self, service: usize, version: usize) -> Share {
        self.services[service].routing.split.share(version)
    }
}

/// What is running: read by all, written by the publisher alone.
#[derive(Debug)]
pub(crate) struct Live {
    current: arc_swap::ArcSwap<Snapshot>,
    /// Former generations, until nobody else holds them: to take a large one apart would halt a worker.
    former: Mutex<Vec<Arc<Snapshot>>>,
    adopted: Box<[AtomicU64]>,
    source: Mutex<ConfigSource>,
    certificates: Mutex<Vec<CertificateState>>,
}

/// What is known about the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConfigSource {
    /// The file.
    pub path: PathBuf,
    /// xxh3 of the text of the adopted generation, as 16 hex digits.
    pub hash: String,
    /// When the adopted generation was published.
    pub published: Option<SystemTime>,
    /// The texts that were adopted last, at most [`RECENT`], the newest at the end: hash and generation.
    pub recent: VecDeque<(String, u64)>,
    /// Why the file as it is now was not adopted; `None` when it is what runs.
    pub error: Option<String>,
    /// Hash of the text that was refused, if it could be read.
    pub refused_hash: Option<String>,
    /// Reloads that were refused, since the start.
    pub refused: u64,
}

/// Adopted texts that are remembered: a command that waits for its own edit finds it here after a later one.
const RECENT: usize = 32;

impl ConfigSource {
    /// The text with this hash is adopted as this generation.
    pub(crate) fn adopt(&mut self, hash: String, generation: u64) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((hash.clone(), generation));
        self.hash = hash;
        self.published = Some(SystemTime::now());
        self.error = None;
        self.refused_hash = None;
    }
}

impl Live {
    /// With a first generation, for so many workers.
    pub(crate) fn new(first: Snapshot, workers: usize, source: ConfigSource) -> Arc<Self> {
        Arc::new(Self {
            current: arc_swap::ArcSwap::from_pointee(first),
            former: Mutex::default(),
            adopted: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            source: Mutex::new(source),
            certificates: Mutex::default(),
        })
    }

    /// The published generation.
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// One store. Only for the publisher.
    pub(crate) fn publish(&self, next: Arc<Snapshot>) {
        let former = self.current.swap(next);
        self.former.lock().expect("former lock").push(former);
    }

    /// Takes former generations apart that nobody works by any more. For the control thread, now and then.
    pub(crate) fn bury(&self) {
        let mut former = self.former.lock().expect("former lock");
        former.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    /// Former generations that somebody still works by, or that are not buried yet.
    #[cfg(test)]
    pub(crate) fn former(&self) -> usize {
        self.former.lock().expect("former lock").len()
    }

    /// Worker `worker` works by this generation now.
    pub(crate) fn adopt(&self, worker: usize, generation: u64) {
        self.adopted[worker].store(generation, Ordering::Release);
    }

    /// The generation that every worker has adopted.
    pub(crate) fn adopted(&self) -> u64 {
        self.adopted
            .iter()
            .map(|a| a.load(Ordering::Acquire))
            .min()
            .unwrap_or(0)
    }

    /// What is known about the file.
    pub(crate) fn source(&self) -> ConfigSource {
        self.source.lock().expect("source lock").clone()
    }

    /// The certificates of all listeners.
    pub(crate) fn certificates(&self) -> Vec<CertificateState> {
        self.certificates.lock().expect("certificates lock").clone()
    }

    /// Only for the publisher.
    pub(crate) fn note_certificates(&self, now: Vec<CertificateState>) {
        *self.certificates.lock().expect("certificates lock") = now;
    }

    /// Only for the publisher.
    pub(crate) fn note_source(&self, change: impl FnOnce(&mut ConfigSource)) {
        change(&mut self.source.lock().expect("source lock"));
    }
}

#[cfg(test)]
mod tests;
