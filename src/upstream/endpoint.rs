//! One address that serves a version. Its state outlives reloads: the registry hands out the same one again as long as somebody holds it.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;

use super::{Addresses, VersionLoad};
use crate::config::spec::{self, EndpointAddress, Scheme};
use crate::telemetry::VersionMetrics;

/// One address that serves a version, with what is known about it.
///
/// In this order, because what every request needs comes first: among thousands of endpoints each cache line costs it a wait for memory.
#[repr(C)]
pub struct Endpoint {
    /// What the configuration says.
    pub spec: spec::EndpointSpec,
    /// A number of its own, small and reused after it is gone: workers index their idle connections by it.
    pub slot: usize,
    /// The counters of its version.
    pub metrics: Arc<VersionMetrics>,
    /// What each worker saw of it, for the outlier sweep: one shard a worker.
    pub shards: Box<[EndpointShard]>,
    /// What its version is busy with.
    pub version: Arc<VersionLoad>,
    /// As an operator names it.
    pub name: Box<str>,
    /// What `Host` is set to where a request has none, and the name that TLS is asked for.
    pub authority: Box<str>,
    addresses: ArcSwap<Addresses>,
    /// `timeouts.idle` of its service, in milliseconds.
    pause_ms: AtomicU64,
    slots: Arc<SlotTable>,
    /// Whether it may be picked. Written by the control thread, suspicion by workers too.
    pub state: EndpointState,
    /// Written by every worker; on a cache line of its own.
    pub load: Load,
}

/// Why an endpoint may not be picked; several may hold at once.
pub(crate) mod flag {
    /// It is checked, and no check has passed yet.
    pub(crate) const UNPROVEN: u32 = 1;
    /// Its checks fail.
    pub(crate) const DOWN: u32 = 2;
    /// Outlier detection has taken it out.
    pub(crate) const EJECTED: u32 = 4;
    /// A worker saw the failure that ejects it; the control thread has not judged yet.
    pub(crate) const SUSPECT: u32 = 8;
    /// An operator drains it.
    pub(crate) const DRAINING: u32 = 16;
}

/// Whether an endpoint may be picked, and with how much of its weight.
#[derive(Debug)]
#[repr(align(128))]
pub struct EndpointState {
    flags: AtomicU32,
    ramp: AtomicU32,
    ejected_until: Mutex<Option<Instant>>,
    checks: Mutex<Option<CheckNote>>,
    epoch: Arc<AtomicU64>,
}

/// What the health checks of an endpoint say, for who shows it; workers go by the flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckNote {
    /// Since when its health is what it is.
    pub(crate) since: SystemTime,
    /// Why the last check failed. Kept until the endpoint is up and a check passes.
    pub(crate) failure: Option<Arc<str>>,
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

    /// The flags that hold: bits of [`flag`].
    #[inline]
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// No flag holds.
    #[inline]
    pub fn is_usable(&self) -> bool {
        self.flags() == 0
    }

    /// Raises these flags; says whether that changed anything.
    pub fn raise(&self, flags: u32) -> bool {
        let changed = self.flags.fetch_or(flags, Ordering::Relaxed) & flags != flags;
        self.bump(changed)
    }

    /// Lowers these flags; says whether that changed anything.
    pub fn lower(&self, flags: u32) -> bool {
        let changed = self.flags.fetch_and(!flags, Ordering::Relaxed) & flags != 0;
        self.bump(changed)
    }

    /// The share of its weight that counts now, in thousandths, at least 1 (slow start).
    pub fn ramp(&self) -> u32 {
        self.ramp.load(Ordering::Relaxed)
    }

    /// Sets the share of its weight that counts.
    pub fn set_ramp(&self, thousandths: u32) {
        let next = thousandths.clamp(1, 1000);
        let changed = self.ramp.swap(next, Ordering::Relaxed) != next;
        self.bump(changed);
    }

    /// Until when it is ejected, for who shows it; workers go by [`flag::EJECTED`].
    pub fn ejected_until(&self) -> Option<Instant> {
        *self.ejected_until.lock().expect("ejection lock")
    }

    /// Only for who ejects, on the control thread.
    pub fn set_ejected_until(&self, until: Option<Instant>) {
        *self.ejected_until.lock().expect("ejection lock") = until;
    }

    /// What its checks say; `None`: it is not checked.
    pub(crate) fn checks(&self) -> Option<CheckNote> {
        self.checks.lock().expect("checks lock").clone()
    }

    /// Only for who checks, on the control thread.
    pub(crate) fn note_checks(&self, change: impl FnOnce(&mut Option<CheckNote>)) {
        change(&mut self.checks.lock().expect("checks lock"));
    }

    fn bump(&self, changed: bool) -> bool {
        if changed {
            self.epoch.fetch_add(1, Ordering::Release);
        }
        changed
    }
}

/// What workers write about an endpoint.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Load {
    /// Requests in flight, streams among them, of all workers.
    pub active: AtomicU32,
    /// Tunnels, and answers without an end in sight.
    pub streams: AtomicU32,
    /// 5xx in a row, of all workers together.
    pub streak_5xx: AtomicU32,
    /// Gateway failures in a row, of all workers together.
    pub streak_gateway: AtomicU32,
    /// Moving average of the time to a response's head, in nanoseconds; only kept for `peak_ewma`.
    ewma_ns: AtomicU64,
    ewma_at_ms: AtomicU64,
}

/// What one worker saw of an endpoint. One writer.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct EndpointShard {
    answered: AtomicU64,
    failed: AtomicU64,
}

impl EndpointShard {
    /// An attempt ended.
    #[inline]
    pub fn note(&self, failed: bool) {
        let cell = if failed { &self.failed } else { &self.answered };
        cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

impl Endpoint {
    /// Attempts since the start that succeeded, and that failed (5xx, or no answer), of all workers.
    pub fn outcomes(&self) -> (u64, u64) {
        let sum = |cell: fn(&EndpointShard) -> &AtomicU64| {
            self.shards
                .iter()
                .map(|s| cell(s).load(Ordering::Relaxed))
                .sum()
        };
        (sum(|s| &s.answered), sum(|s| &s.failed))
    }
}

impl Load {
    /// Time constant of the moving average: what was seen so long ago counts 1/e.
    const TAU_MS: f64 = 10_000.0;

    /// An answer's head came after `took`; `now_ms` on any clock that all workers share. A slower one counts at once
    /// (the peak), a faster one by and by.
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

    /// The moving average in nanoseconds; 0 when nothing was seen.
    pub fn latency_ns(&self) -> u64 {
        self.ewma_ns.load(Ordering::Relaxed)
    }
}

impl Load {
    /// Requests in flight, streams among them, of all workers.
    #[inline]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Requests and streams in flight, apart.
    pub fn apart(&self) -> (u32, u32) {
        let streams = self.streams.load(Ordering::Relaxed);
        (self.active().saturating_sub(streams), streams)
    }
}

impl Endpoint {
    /// Where to dial: the literal address, or what the name resolved to last (empty: not resolved yet). Always empty for Unix sockets.
    pub fn addresses(&self) -> Arc<Addresses> {
        self.addresses.load_full()
    }

    /// The name resolved to these. Only for [`super::discovery`].
    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.addresses.store(Arc::new(Addresses::new(addresses)));
    }

    /// How long its peer may pause on a connection: what [`crate::net::keepalive`] needs to know of it.
    pub(crate) fn pause(&self) -> Duration {
        Duration::from_millis(self.pause_ms.load(Ordering::Relaxed))
    }

    /// Sets how long its peer may pause on connections that are opened from now on.
    pub(crate) fn set_pause(&self, pause: Duration) {
        let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.pause_ms.store(ms, Ordering::Relaxed);
    }

    /// Whether its checks, if it has any, pass.
    pub(crate) fn passes_checks(&self) -> bool {
        self.state.flags() & (flag::UNPROVEN | flag::DOWN) == 0
    }

    /// Spoken to in HTTP/2 whatever is negotiated.
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

/// What is found by a key as long as somebody holds it.
struct Living<K, V> {
    known: HashMap<K, Weak<V>>,
    /// With so many entries it is looked for those that are gone: seldom enough that it costs each newcomer the same.
    full: usize,
}

impl<K, V> Default for Living<K, V> {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            full: 64,
        }
    }
}

impl<K: Eq + Hash, V> Living<K, V> {
    fn get(&self, key: &K) -> Option<Arc<V>> {
        self.known.get(key).and_then(Weak::upgrade)
    }

    fn add(&mut self, key: K, value: &Arc<V>) {
        if self.known.len() >= self.full {
            self.known.retain(|_, held| held.strong_count() > 0);
            self.full = 64.max(2 * self.known.len());
        }
        self.known.insert(key, Arc::downgrade(value));
    }
}

/// Every endpoint that is in use, and every service's slot.
#[derive(Default)]
pub struct Registry {
    endpoints: Mutex<Living<EndpointKey, Endpoint>>,
    services: Mutex<HashMap<String, usize>>,
    loads: Mutex<Living<(String, String), VersionLoad>>,
    slots: Arc<SlotTable>,
    epoch: Arc<AtomicU64>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
    }
}

impl Registry {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The endpoint of this address for this version: the living one, or a new one.
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
        let made = Arc::new(Endpoint {
            name: spec.to_string().into(),
            authority: match &spec.address {
                // A socket's path is no host.
                EndpointAddress::Unix(_) => "localhost".into(),
                address => address.to_string().into(),
            },
            addresses: ArcSwap::from_pointee(Addresses::new(match &spec.address {
                EndpointAddress::Ip(address) => vec![*address],
                EndpointAddress::Name(..) | EndpointAddress::Unix(_) => Vec::new(),
            })),
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
    pub(crate) fn find(
        &self,
        service: &str,
        version: &str,
        spec: &spec::EndpointSpec,
    ) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.lock().expect("registry lock");
        endpoints.get(&EndpointKey::new(service, version, spec))
    }

    /// What this version is busy with: the living one, as long as a snapshot holds it, or a new one.
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

    /// Counts up whenever the state of any endpoint changes: whoever keeps a view of a pool compares it.
    pub fn epoch(&self) -> Arc<AtomicU64> {
        self.epoch.clone()
    }

    /// Every endpoint that somebody holds.
    pub fn living(&self) -> Vec<Arc<Endpoint>> {
        let endpoints = self.endpoints.lock().expect("registry lock");
        endpoints.known.values().filter_map(Weak::upgrade).collect()
    }

    /// The number that this service keeps for the life of the process.
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
