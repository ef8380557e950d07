//! One address that serves a version. Its state outlives reloads: the registry hands out the same one again as long as somebody holds it.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use arc_swap::ArcSwap;

use crate::config::spec::{self, Address, Scheme};
use crate::telemetry::VersionMetrics;

/// One address that serves a version, with what is known about it.
pub struct Endpoint {
    /// What the configuration says.
    pub spec: spec::Endpoint,
    /// As an operator names it.
    pub name: Box<str>,
    /// A number of its own, small and reused after it is gone: workers index their idle connections by it.
    pub slot: usize,
    /// The counters of its version.
    pub metrics: Arc<VersionMetrics>,
    /// What `Host` is set to where a request has none, and the name that TLS is asked for.
    pub authority: Box<str>,
    addresses: ArcSwap<Vec<SocketAddr>>,
    /// Written by every worker; on a cache line of its own.
    pub load: Load,
    slots: Arc<Slots>,
}

/// What workers write about an endpoint.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Load {
    /// Requests in flight, of all workers.
    pub active: AtomicU32,
}

impl Load {
    /// Requests in flight, of all workers.
    #[inline]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }
}

impl Endpoint {
    /// Where to dial: the literal address, or what the name resolved to last (empty: not resolved yet). Always empty for Unix sockets.
    pub fn addresses(&self) -> Arc<Vec<SocketAddr>> {
        self.addresses.load_full()
    }

    /// The name resolved to these. Only for [`super::discovery`].
    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.addresses.store(Arc::new(addresses));
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
struct Slots {
    free: Mutex<Vec<usize>>,
    next: AtomicUsize,
}

impl Slots {
    fn take(&self) -> usize {
        let reused = self.free.lock().expect("slots lock").pop();
        reused.unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn free(&self, slot: usize) {
        self.free.lock().expect("slots lock").push(slot);
    }
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    service: String,
    version: String,
    scheme: spec::Scheme,
    address: spec::Address,
}

/// Every endpoint that is in use, and every service's slot.
#[derive(Default)]
pub struct Registry {
    endpoints: Mutex<HashMap<Key, Weak<Endpoint>>>,
    services: Mutex<HashMap<String, usize>>,
    slots: Arc<Slots>,
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
        spec: &spec::Endpoint,
        metrics: &Arc<VersionMetrics>,
    ) -> Arc<Endpoint> {
        let key = Key {
            service: service.to_owned(),
            version: version.to_owned(),
            scheme: spec.scheme,
            address: spec.address.clone(),
        };
        let mut endpoints = self.endpoints.lock().expect("registry lock");
        if let Some(living) = endpoints.get(&key).and_then(Weak::upgrade) {
            return living;
        }
        let made = Arc::new(Endpoint {
            name: spec.to_string().into(),
            authority: spec.address.to_string().into(),
            addresses: ArcSwap::from_pointee(match &spec.address {
                Address::Ip(address) => vec![*address],
                Address::Name(..) | Address::Unix(_) => Vec::new(),
            }),
            spec: spec.clone(),
            slot: self.slots.take(),
            metrics: metrics.clone(),
            load: Load::default(),
            slots: self.slots.clone(),
        });
        endpoints.retain(|_, e| e.strong_count() > 0);
        endpoints.insert(key, Arc::downgrade(&made));
        made
    }

    /// Every endpoint that somebody holds.
    pub fn living(&self) -> Vec<Arc<Endpoint>> {
        let endpoints = self.endpoints.lock().expect("registry lock");
        endpoints.values().filter_map(Weak::upgrade).collect()
    }

    /// The number that this service keeps for the life of the process.
    pub fn service_slot(&self, name: &str) -> usize {
        let mut services = self.services.lock().expect("registry lock");
        let next = services.len();
        *services.entry(name.to_owned()).or_insert(next)
    }
}
