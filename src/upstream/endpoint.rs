//! Endpoints, the addresses that serve a version, and the registry that finds them again after a reload.
//!
//! The [`Registry`] refers to each [`Endpoint`] weakly and returns the same one for as long as anything holds it, so that
//! health, ejection and load survive a reload. The control thread writes an endpoint's state, the workers its load; both
//! read without locks.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;

pub(crate) use super::endpoint_shard::EndpointShard;
use super::limits::ActiveCount;
use super::tls::TlsClient;
use super::weak_map::WeakMap;
use super::{Addresses, VersionLoad};
use crate::certificates;
use crate::config::spec::{self, EndpointAddress, ProxyProtocol, Scheme};
use crate::prefetch::prefetch;
use crate::telemetry::{VersionMetrics, WorkerId};

/// One address that serves a version, with its state and counters.
///
/// The order of the fields matters: what every request reads comes first, on one cache line. With thousands of endpoints
/// each further line is a cache miss for each request.
#[repr(C)]
pub struct Endpoint {
    /// Address, weight and other settings of the endpoint.
    pub spec: spec::EndpointSpec,
    /// A small number, unique among the living endpoints and reused later. Workers index their connections by it.
    pub slot: usize,
    /// Metrics of the version that the endpoint belongs to.
    pub metrics: Arc<VersionMetrics>,
    /// Outcomes of attempts for outlier detection, one shard for each worker.
    pub shards: Box<[EndpointShard]>,
    /// Load of the version that the endpoint belongs to.
    pub version: Arc<VersionLoad>,
    /// Name in logs and metrics: the address, written as in the configuration if it stands there.
    pub name: Box<str>,
    /// The authority for requests without a `Host`, and for health checks.
    pub authority: Box<str>,
    addresses: ArcSwap<Addresses>,
    /// `timeouts.idle` of the service, in milliseconds.
    pause_ms: AtomicU64,
    slots: Arc<SlotTable>,
    /// Whether the endpoint may be picked. Written by the control thread, except that workers raise [`flag::SUSPECT`].
    pub state: EndpointState,
    /// Written by every worker, and therefore on a cache line of its own.
    pub load: Load,
}

/// The reasons why an endpoint may not be picked, as bits. Several may hold at once.
pub mod flag {
    /// The endpoint has health checks, and none has passed yet.
    pub const UNPROVEN: u32 = 1;
    /// The health checks of the endpoint fail.
    pub const DOWN: u32 = 2;
    /// Outlier detection has ejected it.
    pub const EJECTED: u32 = 4;
    /// A worker saw a failure that should eject it, and the control thread has not decided yet.
    pub const SUSPECT: u32 = 8;
    /// An operator has drained it.
    pub const DRAINING: u32 = 16;
}

/// Whether an endpoint may be picked, and with which part of its weight. Any change increases the registry's epoch.
///
/// Owned by the endpoint and therefore kept across reloads. Workers read `flags` and `ramp` when they rebuild their view of a pool;
/// the rest is for display.
#[derive(Debug)]
#[repr(align(128))]
pub struct EndpointState {
    flags: AtomicU32,
    ramp: AtomicU32,
    ejected_until: Mutex<Option<Instant>>,
    checks: Mutex<Option<CheckNote>>,
    epoch: Arc<AtomicU64>,
}

/// The result of an endpoint's health checks, for display. Workers read only the flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckNote {
    /// Time since which it has been in its present state of health.
    pub since: SystemTime,
    /// Why the last failed check failed. Kept until a check passes while the endpoint is up.
    pub failure: Option<Arc<str>>,
}

impl EndpointState {
    fn new(epoch: Arc<AtomicU64>) -> Self {
        Self {
            flags: AtomicU32::new(0),
            ramp: AtomicU32::new(1000),
            ejected_until: Mutex::new(None),
            checks: Mutex::new(None),
            epoch,
        }
    }

    /// The present flags: bits of [`flag`].
    #[inline]
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Whether no flag is raised.
    #[inline]
    pub fn is_usable(&self) -> bool {
        self.flags() == 0
    }

    /// Raises these flags and returns whether that changed anything.
    pub fn raise(&self, flags: u32) -> bool {
        let changed = self.flags.fetch_or(flags, Ordering::Relaxed) & flags != flags;
        self.bump(changed)
    }

    /// Lowers these flags and returns whether that changed anything.
    pub fn lower(&self, flags: u32) -> bool {
        let changed = self.flags.fetch_and(!flags, Ordering::Relaxed) & flags != 0;
        self.bump(changed)
    }

    /// The part of its weight that counts, in thousandths: 1000, or less during slow start, but at least 1.
    pub fn ramp(&self) -> u32 {
        self.ramp.load(Ordering::Relaxed)
    }

    /// Sets the part of its weight that counts; clamped to 1..=1000.
    pub fn set_ramp(&self, thousandths: u32) {
        let next = thousandths.clamp(1, 1000);
        let changed = self.ramp.swap(next, Ordering::Relaxed) != next;
        self.bump(changed);
    }

    /// Time at which the ejection ends, for display. Workers read only [`flag::EJECTED`].
    pub fn ejected_until(&self) -> Option<Instant> {
        *self.ejected_until.lock().expect("ejection lock")
    }

    /// Sets the time at which the ejection ends. Only for the control thread.
    pub fn set_ejected_until(&self, until: Option<Instant>) {
        *self.ejected_until.lock().expect("ejection lock") = until;
    }

    /// The result of its health checks; `None` if it has none.
    pub fn checks(&self) -> Option<CheckNote> {
        self.checks.lock().expect("checks lock").clone()
    }

    /// Updates the result of its health checks. Only for the control thread.
    pub fn note_checks(&self, change: impl FnOnce(&mut Option<CheckNote>)) {
        change(&mut self.checks.lock().expect("checks lock"));
    }

    fn bump(&self, changed: bool) -> bool {
        if changed {
            // Pairs with the `Acquire` of `PoolView::refresh`: a worker that sees the new epoch also sees the change.
            self.epoch.fetch_add(1, Ordering::Release);
        }
        changed
    }
}

/// The present load of an endpoint, written by all workers.
///
/// On cache lines of its own, since it changes with each request. Each value stands alone, so relaxed operations suffice; whoever
/// raises a count lowers it again by a guard.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Load {
    /// Requests in flight on all workers, including streams.
    pub active: AtomicU32,
    /// Of these, tunnels and streaming responses without a known end.
    pub streams: AtomicU32,
    /// Consecutive 5xx responses, over all workers.
    pub streak_5xx: AtomicU32,
    /// Consecutive gateway failures, over all workers.
    pub streak_gateway: AtomicU32,
    /// Moving average of the time to a response's head, in nanoseconds. Updated only under `peak_ewma`.
    ewma_ns: AtomicU64,
    ewma_at_ms: AtomicU64,
}

impl Endpoint {
    /// Asks the CPU for what an attempt reads, and for what [`Self::note_outcome`] writes.
    #[inline]
    pub fn prefetch(&self, worker: WorkerId) {
        prefetch(&self.slot);
        prefetch(&self.authority);
        prefetch(&self.shards[worker.0]);
    }

    /// Attempts since the endpoint was created, over all workers: those that succeeded, and those that failed (5xx or no
    /// response).
    pub fn outcomes(&self) -> (u64, u64) {
        let sum = |cell: fn(&EndpointShard) -> &AtomicU64| {
            self.shards
                .iter()
                .map(|s| cell(s).load(Ordering::Relaxed))
                .sum()
        };
        (sum(|s| &s.answered), sum(|s| &s.failed))
    }

    /// Requests since the endpoint was created that the guard of a rollout judges, over all workers, and those that failed.
    pub fn judged(&self) -> (u64, u64) {
        let sum = |cell: fn(&EndpointShard) -> &AtomicU64| {
            let shards = self.shards.iter();
            shards.map(|s| cell(s).load(Ordering::Relaxed)).sum()
        };
        (sum(|s| &s.judged), sum(|s| &s.judged_failed))
    }
}

impl Load {
    /// Time constant of the moving average: an observation of this age has the weight 1/e.
    const TAU_MS: f64 = 10_000.0;

    /// Records the latency of a response. `now_ms` is the time on any clock that all workers share.
    ///
    /// A latency above the average replaces it at once (the peak); a lower one decays it exponentially, as in Finagle's
    /// PeakEwma. Concurrent updates may overwrite each other, which loses single observations and does no harm.
    pub fn note_latency(&self, took: Duration, now_ms: u64) {
        let seen = took.as_nanos() as f64;
        let old = self.ewma_ns.load(Ordering::Relaxed) as f64;
        let age = now_ms.saturating_sub(self.ewma_at_ms.swap(now_ms, Ordering::Relaxed)) as f64;
        let keep = (-age.max(1.0) / Self::TAU_MS).exp();
        let next = if seen > old {
            seen
        } else {
            old * keep + seen * (1.0 - keep)
        };
        self.ewma_ns.store(next as u64, Ordering::Relaxed);
    }

    /// The moving average in nanoseconds; 0 without any observation.
    pub fn latency_ns(&self) -> u64 {
        self.ewma_ns.load(Ordering::Relaxed)
    }

    /// Requests in flight on all workers, including streams.
    #[inline]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Requests in flight that aren't streams, and streams.
    pub fn apart(&self) -> (u32, u32) {
        let streams = self.streams.load(Ordering::Relaxed);
        (self.active().saturating_sub(streams), streams)
    }
}

impl Endpoint {
    /// The addresses to connect to: usually one. Empty for Unix sockets, and for a name that has not been looked up.
    pub fn addresses(&self) -> Arc<Addresses> {
        self.addresses.load_full()
    }

    /// Sets the addresses to connect to, unless they are these already. Only for the control thread.
    pub(crate) fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        if self.addresses.load().all() != addresses {
            self.addresses.store(Arc::new(Addresses::new(addresses)));
        }
    }

    /// The longest pause of the peer on a connection, from which [`crate::net::keepalive`] derives its timing.
    pub(crate) fn pause(&self) -> Duration {
        Duration::from_millis(self.pause_ms.load(Ordering::Relaxed))
    }

    /// Sets the longest pause for connections that are opened from now on.
    pub(crate) fn set_pause(&self, pause: Duration) {
        let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.pause_ms.store(ms, Ordering::Relaxed);
    }

    /// Host and port of the name that the endpoint is an address of; otherwise the endpoint's own name.
    pub fn host(&self) -> &str {
        let is_resolved = matches!(self.spec.address, EndpointAddress::Resolved(_));
        if is_resolved {
            &self.authority
        } else {
            &self.name
        }
    }

    /// Whether its checks, if it has any, pass.
    pub fn passes_checks(&self) -> bool {
        self.state.flags() & (flag::UNPROVEN | flag::DOWN) == 0
    }

    /// Whether the endpoint speaks HTTP/2 by prior knowledge (RFC 9113 section 3.3).
    pub fn is_h2c(&self) -> bool {
        self.spec.scheme == Scheme::H2c
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.name)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.slots.free(self.slot);
    }
}

#[derive(Debug, Default)]
struct SlotTable {
    free: Mutex<Vec<usize>>,
    next: AtomicUsize,
}

impl SlotTable {
    fn take(&self) -> usize {
        let reused = self.free.lock().expect("slots lock").pop();
        reused.unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn free(&self, slot: usize) {
        self.free.lock().expect("slots lock").push(slot);
    }
}

/// What makes two entries of the configuration the same endpoint. The weight isn't part of it, so that an endpoint keeps its health
/// and its connections when its weight changes.
#[derive(PartialEq, Eq, Hash)]
struct EndpointKey {
    service: String,
    version: String,
    scheme: Scheme,
    address: EndpointAddress,
}

impl EndpointKey {
    fn new(service: &str, version: &str, spec: &spec::EndpointSpec) -> Self {
        Self {
            service: service.to_owned(),
            version: version.to_owned(),
            scheme: spec.scheme,
            address: spec.address.clone(),
        }
    }
}

/// All endpoints and version loads that are in use, and the slots of services.
///
/// A process has one, and only its control thread looks things up in it. Entries are weak: what no snapshot, connection or request
/// refers to any more is forgotten, and an address that comes back later starts afresh. Slots of services are the exception,
/// because workers index their state by them.
#[derive(Default)]
pub struct Registry {
    endpoints: Mutex<WeakMap<EndpointKey, Endpoint>>,
    services: Mutex<HashMap<String, usize>>,
    loads: Mutex<WeakMap<(String, String), VersionLoad>>,
    held: Mutex<WeakMap<String, ActiveCount>>,
    slots: Arc<SlotTable>,
    epoch: Arc<AtomicU64>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
    }
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// The endpoint of this address for this version: the existing one while anything holds it, else a new one.
    pub fn endpoint(
        &self,
        service: &str,
        version: &str,
        spec: &spec::EndpointSpec,
        metrics: &Arc<VersionMetrics>,
    ) -> Arc<Endpoint> {
        let key = EndpointKey::new(service, version, spec);
        let mut endpoints = self.endpoints.lock().expect("registry lock");
        if let Some(living) = endpoints.get(&key) {
            return living;
        }
        if spec.scheme == Scheme::Https {
            certificates::seed();
        }
        let made = Arc::new(Endpoint {
            name: spec.to_string().into(),
            authority: spec.address.authority().into(),
            // A name that has not been looked up has no addresses.
            addresses: ArcSwap::from_pointee(Addresses::new(
                spec.address.socket().into_iter().collect(),
            )),
            pause_ms: AtomicU64::new(0),
            spec: spec.clone(),
            slot: self.slots.take(),
            metrics: metrics.clone(),
            version: self.load(service, version),
            state: EndpointState::new(self.epoch.clone()),
            load: Load::default(),
            shards: (0..metrics.workers())
                .map(|_| EndpointShard::default())
                .collect(),
            slots: self.slots.clone(),
        });
        endpoints.add(key, &made);
        made
    }

    /// The endpoint of this address for this version, if it is in use.
    pub fn find(
        &self,
        service: &str,
        version: &str,
        spec: &spec::EndpointSpec,
    ) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.lock().expect("registry lock");
        endpoints.get(&EndpointKey::new(service, version, spec))
    }

    /// The load of this version: the existing one while anything holds it, else a new one.
    pub fn load(&self, service: &str, version: &str) -> Arc<VersionLoad> {
        let key = (service.to_owned(), version.to_owned());
        let mut loads = self.loads.lock().expect("registry lock");
        if let Some(living) = loads.get(&key) {
            return living;
        }
        let made = Arc::new(VersionLoad::default());
        loads.add(key, &made);
        made
    }

    /// Sets how connections to the endpoints of this version are opened from now on. Connections that were opened otherwise
    /// carry no more requests.
    pub fn set_transport(
        &self,
        service: &str,
        version: &str,
        tls: Option<&Arc<TlsClient>>,
        header: Option<ProxyProtocol>,
    ) {
        self.load(service, version).transport.set(tls, header);
    }

    /// The count of this service's requests that wait for an endpoint: the existing one while anything holds it.
    pub(crate) fn held(&self, service: &str) -> Arc<ActiveCount> {
        let mut held = self.held.lock().expect("registry lock");
        held.get(&service.to_owned()).unwrap_or_else(|| {
            let made = Arc::<ActiveCount>::default();
            held.add(service.to_owned(), &made);
            made
        })
    }

    /// A counter that increases whenever the state of any endpoint changes. Views of pools compare it to find out whether they
    /// are outdated.
    pub fn epoch(&self) -> Arc<AtomicU64> {
        self.epoch.clone()
    }

    /// All endpoints that are in use.
    pub fn living(&self) -> Vec<Arc<Endpoint>> {
        let endpoints = self.endpoints.lock().expect("registry lock");
        endpoints.known.values().filter_map(Weak::upgrade).collect()
    }

    /// The index that this service has for the life of the process.
    pub fn service_slot(&self, name: &str) -> usize {
        let mut services = self.services.lock().expect("registry lock");
        let next = services.len();
        *services.entry(name.to_owned()).or_insert(next)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn what_every_request_needs_of_an_endpoint_is_on_one_cache_line() {
        let scheme = offset_of!(Endpoint, spec) + offset_of!(spec::EndpointSpec, scheme);
        let metrics = offset_of!(Endpoint, metrics) + size_of::<Arc<VersionMetrics>>();
        assert_eq!(align_of::<Endpoint>(), 128);
        assert!(scheme < 64 && offset_of!(Endpoint, slot) < 64 && metrics <= 64);
    }
}
