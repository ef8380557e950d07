//! The immutable compiled configuration that workers read.
//!
//! A [`Snapshot`] holds everything that a request needs, with all names resolved to indices or `Arc`s. It is built in two steps:
//! the pure function [`effective`](effective::effective) decides what is in force, then [`Snapshot::compile`] resolves it. A
//! snapshot is never modified, only replaced. Endpoints come from the registry, so their state outlives the snapshot; services
//! that didn't change are shared with the previous generation.
//!
//! [`Live`] publishes the current snapshot. It also records which generation each worker has adopted and what is known about the
//! configuration file and the certificates, for the admin API.

mod actions;
mod build;
mod certificates;
mod client_limits;
mod decision_state;
mod effective;
#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures;
mod flags;
mod header_edits;
mod mirror;
mod needed;
pub(crate) mod sessions;
mod state;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use crate::config::Spec;
use crate::config::load::ConfigFile;
use crate::config::policy::Policies;
use crate::config::rollout::GoalSpec;
use crate::config::spec::{Share, Timeouts};
use crate::index::{ServiceIx, VersionIx};
use crate::routing;
use crate::telemetry::access_log::followers::Followers;
use crate::telemetry::access_log::sink::LogSink;
use crate::telemetry::error_groups::ErrorGroups;
use crate::telemetry::goals::GoalCounter;
use crate::telemetry::guard::GuardCounters;
use crate::telemetry::trace::sink::TraceSink;
use crate::telemetry::{ListenerShard, RuleHits, ServiceMetrics, VersionMetrics, WorkerId};
use crate::upstream::limits::ActiveCount;
use crate::upstream::{Endpoint, Pool, VersionLoad};

pub use actions::ServiceActions;
pub use build::{Inputs, Previous};
pub use certificates::{CertificateOwner, CertificateState};
pub(crate) use client_limits::{ListenerClientLimits, ServiceClientLimits};
pub use decision_state::DecisionState;
pub use effective::RolloutShare;
pub use flags::{FlagMetrics, RollingFlag};
pub(crate) use header_edits::{CompiledFields, MergedEdits};
pub use mirror::MirrorTarget;
pub(crate) use needed::NeededMemory;
pub use sessions::{Keys, Sessions};
pub use state::ServiceState;

/// One generation of the compiled configuration.
///
/// The publisher compiles it on the control thread and hands it to [`Live`]; from then on nobody changes it. A worker adopts the
/// newest one between two turns of its loop, and a request keeps the one that it began with until it ends, so that its indices stay
/// valid and it sees one configuration throughout. What does change, such as counters, the state of endpoints and limits in use, is
/// behind `Arc`s that one generation takes over from the other.
#[derive(Debug)]
pub struct Snapshot {
    /// The generation number. It starts at 1, or after the predecessor's in a takeover, and grows by one with every snapshot.
    pub generation: u64,
    /// The configuration that it was compiled from.
    pub spec: Arc<Spec>,
    /// Maps host and path to a service.
    pub table: Arc<routing::RouteTable>,
    /// The routes of each listener that names its services, by the listener's name.
    narrowed: Arc<[(String, routing::RouteTable)]>,
    /// Services in the order of `spec.services`. Generations share services that don't differ.
    pub services: Vec<Arc<Service>>,
    /// Listeners in the order of `spec.listeners`.
    pub listeners: Vec<Listener>,
    /// The sink to which requests are logged, if [`Spec::access_log`] is set.
    pub(crate) access_log: Option<Arc<LogSink>>,
    /// The sink to which spans are exported, if [`Spec::trace`] is set.
    pub(crate) traces: Option<Arc<TraceSink>>,
    /// The followers of the access log.
    pub(crate) followers: Arc<Followers>,
    /// Counters of requests that match no service.
    pub unrouted: Arc<ServiceMetrics>,
    /// Limits on the requests of single clients, by the name of the listener. Empty if there are none.
    pub(crate) listener_limits: ListenerClientLimits,
    /// Edits of responses that belong to no service.
    pub(crate) default_edits: MergedEdits,
    /// Whether endpoints are told the clients' addresses; see [`Spec::announces_clients`].
    pub(crate) announces_clients: bool,
    slots: EndpointSet,
    /// In the order of [`Self::services`]. Empty unless these are many.
    needed: Box<[NeededMemory]>,
    /// Whether there are many services or endpoints. The memory that a try needs is then seldom in the CPU's caches.
    pub(crate) is_large: bool,
}

/// The registry slots of a generation's endpoints, one bit each. Two generations are compared a word at a time, so a reload that
/// removes no endpoint doesn't visit them one by one.
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

/// The part of a listener that the data path needs.
#[derive(Debug)]
pub struct Listener {
    /// Counters, one shard per worker.
    pub metrics: Arc<[ListenerShard]>,
}

/// A compiled service.
///
/// Immutable like its snapshot. Consecutive generations share it for as long as its specification, its effective split, its sticky
/// key and its part of the fleet's limits stay the same; whatever depends on anything else belongs into the snapshot instead, or is
/// read anew for each request.
#[derive(Debug)]
pub struct Service {
    /// The name in the configuration.
    pub name: Arc<str>,
    /// A number that no other compiled service of the process has. It identifies data that was derived from this service.
    pub(crate) id: u64,
    /// Index of per-worker state. A name keeps its slot for the life of the process.
    pub slot: usize,
    /// Counters of the service.
    pub metrics: Arc<ServiceMetrics>,
    /// Match rules, cohort and effective split.
    pub routing: routing::ServiceRouting,
    /// Redirects and responses by which the proxy answers requests of the service itself, and edits of requests.
    pub actions: ServiceActions,
    /// Limits on the requests of single clients, of the service and of its rules.
    pub(crate) client_limits: ServiceClientLimits,
    /// Groups of failures of the versions.
    pub errors: Arc<ErrorGroups>,
    /// The target of copies of requests, if the service has a mirror.
    pub mirror: Option<Arc<MirrorTarget>>,
    /// Counters of the flags, in the order of [`routing::ServiceRouting::flags`].
    pub flags: Box<[FlagMetrics]>,
    /// The flag that follows a rollout. With one, the guard compares users by the flag, and not by their versions.
    pub rolling_flag: Option<RollingFlag>,
    /// Counters of requests by match rule.
    pub rule_hits: Arc<RuleHits>,
    /// The request keys that `balance = "hash"` hashes; `None` for other policies.
    pub hash: Option<routing::Cohort>,
    /// Maximum size of a request body in bytes.
    pub body_bytes: Option<u64>,
    /// Timeouts of requests.
    pub timeouts: Timeouts,
    /// Retries, limits, health checks, outlier detection and the other policies.
    pub policies: Policies,
    /// Business events that are counted.
    pub goals: Vec<GoalSpec>,
    /// Requests that wait for an endpoint, counted over all workers.
    pub(crate) held: Arc<ActiveCount>,
    /// Sticky sessions, if the service has them.
    pub sessions: Option<Sessions>,
    /// Versions in the order of the spec.
    pub versions: Vec<Version>,
    /// Versions (by index) that the stable gate holds back: their new role or share waits until one of their endpoints passes a
    /// check.
    pub awaited: Vec<VersionIx>,
    /// The effective split that `routing` was built from.
    effective: effective::EffectiveSplit,
}

/// A compiled version of a service.
///
/// Its counters and its load belong to the name: the registry and the telemetry hand them on to the next generation, also when the
/// service was compiled anew.
#[derive(Debug)]
pub struct Version {
    /// The name in the configuration.
    pub name: Arc<str>,
    /// The endpoints, weighted and balanced.
    pub pool: Pool,
    /// Counters of the version.
    pub metrics: Arc<VersionMetrics>,
    /// Counters of the service's goals, in their order.
    pub goals: Vec<Arc<GoalCounter>>,
    /// Counters for the guard of a rollout, if the service has a plan.
    pub guard: Option<Arc<GuardCounters>>,
    /// Requests, retries and connections in use, counted against the version's limits.
    pub load: Arc<VersionLoad>,
}

indexed_by!(ServiceIx: Service);
indexed_by!(VersionIx: Version);

impl Snapshot {
    /// The memory that a request to this service needs, if there are many services.
    #[inline]
    pub(crate) fn needed_for(&self, service: ServiceIx) -> Option<&NeededMemory> {
        self.needed.get(service.0)
    }

    /// The routes of the listener with this name.
    #[inline]
    pub fn table_of(&self, listener: &str) -> &routing::RouteTable {
        let mut narrowed = self.narrowed.iter();
        let found = narrowed.find(|(name, _)| name == listener);
        found.map_or(&self.table, |(_, table)| table)
    }

    /// All endpoints with their services.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Service, &Arc<Endpoint>)> {
        self.services.iter().flat_map(|service| {
            let members = service.versions.iter().flat_map(|v| &v.pool.members);
            members.map(move |m| (&**service, &m.endpoint))
        })
    }

    /// Whether this generation has the endpoint with this slot. The endpoint must still be alive, of this or an earlier
    /// generation: the registry reuses the slots of endpoints that were dropped.
    pub fn has_slot(&self, slot: usize) -> bool {
        self.slots.contains(slot)
    }

    /// All endpoints of this generation that `next` doesn't have, with their services.
    pub fn gone_in<'s>(
        &'s self,
        next: &'s Self,
    ) -> impl Iterator<Item = (&'s Service, &'s Arc<Endpoint>)> {
        let any = !next.slots.contains_all(&self.slots);
        let all = any.then(|| self.endpoints()).into_iter().flatten();
        all.filter(|(_, endpoint)| !next.has_slot(endpoint.slot))
    }

    /// The effective share of a version, both by index.
    ///
    /// # Panics
    /// If the indices are out of bounds.
    pub fn share(&self, service: ServiceIx, version: VersionIx) -> Share {
        self.services[service].routing.split.share(version)
    }
}

/// The published state of the process. Every thread reads it; only the publisher writes it, except that each worker reports the
/// generation that it has adopted.
///
/// It lives as long as the process. Publishing doesn't wait for the workers; a superseded generation is kept until the last one has
/// left it.
#[derive(Debug)]
pub struct Live {
    current: arc_swap::ArcSwap<Snapshot>,
    /// Superseded snapshots, kept here until no worker uses them. Dropping the last reference to a large snapshot takes
    /// milliseconds, which would stall a worker's event loop; see [`Live::drop_unused`].
    superseded: Mutex<Vec<Arc<Snapshot>>>,
    adopted: Box<[AtomicU64]>,
    source: Mutex<ConfigSource>,
    certificates: Mutex<Vec<CertificateState>>,
}

/// The state of the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigSource {
    /// Path of the file.
    pub path: PathBuf,
    /// The files of the adopted configuration, the main file first.
    pub files: Arc<[ConfigFile]>,
    /// XXH3 hash of the text of the adopted configuration, as 16 hex digits.
    pub hash: String,
    /// When the adopted generation was published.
    pub published: Option<SystemTime>,
    /// Hash and generation of the texts that were adopted last, oldest first, at most [`RECENT`].
    pub recent: VecDeque<(String, u64)>,
    /// The rendered diagnostics if the current file was refused; `None` if it is the running configuration.
    pub error: Option<String>,
    /// Hash of the refused text, if it could be read.
    pub refused_hash: Option<String>,
    /// Number of refused reloads since the process started.
    pub refused: u64,
}

/// Number of adopted texts that are remembered. A command that waits until its own edit is adopted would otherwise miss it when
/// another edit follows quickly.
const RECENT: usize = 32;

impl ConfigSource {
    /// Records that the text with this hash, from these files, was adopted as this generation.
    pub fn adopt(&mut self, hash: String, files: Arc<[ConfigFile]>, generation: u64) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((hash.clone(), generation));
        self.hash = hash;
        self.files = files;
        self.published = Some(SystemTime::now());
        self.error = None;
        self.refused_hash = None;
    }
}

impl Live {
    /// Creates the state with a first snapshot and `workers` adoption counters.
    pub fn new(first: Snapshot, workers: usize, source: ConfigSource) -> Arc<Self> {
        Arc::new(Self {
            current: arc_swap::ArcSwap::from_pointee(first),
            superseded: Mutex::default(),
            adopted: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            source: Mutex::new(source),
            certificates: Mutex::default(),
        })
    }

    /// The current snapshot.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Replaces the current snapshot with a single atomic store. Only for the publisher.
    pub fn publish(&self, next: Arc<Snapshot>) {
        let previous = self.current.swap(next);
        let mut superseded = self.superseded.lock().expect("superseded lock");
        superseded.push(previous);
    }

    /// Drops superseded snapshots that nobody else uses. The control thread calls this periodically.
    pub fn drop_unused(&self) {
        let mut superseded = self.superseded.lock().expect("superseded lock");
        // No new reference can appear in between, because `current` no longer returns these snapshots.
        superseded.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    /// The number of superseded snapshots that have not been dropped yet.
    #[cfg(test)]
    pub(crate) fn superseded(&self) -> usize {
        self.superseded.lock().expect("superseded lock").len()
    }

    /// Records that `worker` has adopted this generation.
    pub fn adopt(&self, worker: WorkerId, generation: u64) {
        self.adopted[worker.0].store(generation, Ordering::Release);
    }

    /// The newest generation that every worker has adopted; 0 before all have adopted one.
    pub fn adopted(&self) -> u64 {
        self.adopted
            .iter()
            .map(|a| a.load(Ordering::Acquire))
            .min()
            .unwrap_or(0)
    }

    /// The state of the configuration file.
    pub fn source(&self) -> ConfigSource {
        self.source.lock().expect("source lock").clone()
    }

    /// The state of the certificates of all listeners.
    pub fn certificates(&self) -> Vec<CertificateState> {
        self.certificates.lock().expect("certificates lock").clone()
    }

    /// Replaces the state of the certificates. Only for the publisher.
    pub fn note_certificates(&self, now: Vec<CertificateState>) {
        *self.certificates.lock().expect("certificates lock") = now;
    }

    /// Changes the state of the configuration file. Only for the publisher.
    pub fn note_source(&self, change: impl FnOnce(&mut ConfigSource)) {
        change(&mut self.source.lock().expect("source lock"));
    }
}

#[cfg(test)]
mod tests;
