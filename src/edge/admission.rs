//! Connection admission: limits the client connections of the process, and leaves file descriptors for everything else.
//!
//! An accept loop takes a [`ConnectionPermit`] for each connection. Near the ceiling it requests shedding, which the workers
//! carry out at their next tick: they close connections that are idle or slow in a handshake or a head, oldest first. So a
//! client that connects is delayed rather than refused, and connections that do nothing make room for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::client_connections::ClientConnection;
use crate::config::spec::ProxyLimits;

/// One part in this many of the ceiling is kept free, by shedding connections before a client has to wait.
const SLACK: usize = 64;
/// Most connections that a worker sheds per tick.
const BATCH: usize = 64;
/// Least time between two warnings that the ceiling is reached.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The process-wide ceiling on downstream connections and the requests to shed some. Shared by all workers.
///
/// All atomics are relaxed: each is a value of its own, and no other memory is published through them.
#[derive(Debug)]
pub struct Admission {
    open: AtomicUsize,
    ceiling: AtomicUsize,
    handshake_ms: AtomicU64,
    proxy_header_ms: AtomicU64,
    /// Whether a client waits for a permit, or accepting fails for want of descriptors.
    shedding_requested: AtomicBool,
    /// Number of connections that the next request sheds. Doubles while requests keep coming, and starts over at 1 otherwise.
    shed_next: AtomicUsize,
    /// The share of the descriptor limit that downstream connections may use.
    descriptor_share: usize,
    epoch: Instant,
    /// When the last warning was logged, in milliseconds since one [`WARN_EVERY`] before `epoch`.
    warned_ms: AtomicU64,
}

impl Admission {
    /// `descriptors` is the process's limit of open files; `None` if there is none.
    pub fn new(limits: &ProxyLimits, descriptors: Option<usize>) -> Arc<Self> {
        let admission = Self {
            open: AtomicUsize::new(0),
            ceiling: AtomicUsize::new(0),
            handshake_ms: AtomicU64::new(0),
            proxy_header_ms: AtomicU64::new(0),
            shedding_requested: AtomicBool::new(false),
            shed_next: AtomicUsize::new(1),
            descriptor_share: descriptors.map_or(usize::MAX, descriptor_share),
            epoch: Instant::now(),
            warned_ms: AtomicU64::new(0),
        };
        admission.adopt(limits);
        Arc::new(admission)
    }

    /// Applies the limits of a new configuration. If the ceiling falls below the number of open connections, idle ones are shed.
    pub fn adopt(&self, limits: &ProxyLimits) {
        let wanted = limits.connections.unwrap_or(usize::MAX);
        if limits.connections.is_some() && wanted > self.descriptor_share {
            tracing::warn!(
                wanted,
                allowed = self.descriptor_share,
                "limits.connections exceeds what the limit of open files allows; \
                 raise the hard limit (LimitNOFILE= in systemd, `ulimit -Hn`)"
            );
        }
        self.ceiling
            .store(wanted.min(self.descriptor_share), Ordering::Relaxed);
        let ms = limits.handshake_timeout.as_millis() as u64;
        self.handshake_ms.store(ms, Ordering::Relaxed);
        let header = limits.header_timeout.min(limits.handshake_timeout);
        let ms = header.as_millis() as u64;
        self.proxy_header_ms.store(ms, Ordering::Relaxed);
    }

    /// Whether the ceiling is reached.
    pub(crate) fn is_full(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= self.ceiling.load(Ordering::Relaxed)
    }

    /// Number of open downstream connections.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Time limit of a TLS handshake.
    pub(crate) fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_ms.load(Ordering::Relaxed))
    }

    /// Time limit of the header of the PROXY protocol.
    pub(crate) fn proxy_header_timeout(&self) -> Duration {
        Duration::from_millis(self.proxy_header_ms.load(Ordering::Relaxed))
    }

    /// Takes a permit unless the ceiling is reached.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<ConnectionPermit> {
        let ceiling = self.ceiling.load(Ordering::Relaxed);
        let one_more = |open: usize| (open < ceiling).then_some(open + 1);
        let counted = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        counted.ok().map(|_| ConnectionPermit::new(self.clone()))
    }

    /// Takes a permit even if the ceiling is reached.
    pub(crate) fn acquire(self: &Arc<Self>) -> ConnectionPermit {
        self.open.fetch_add(1, Ordering::Relaxed);
        ConnectionPermit::new(self.clone())
    }

    /// Asks the workers to shed at least one connection.
    pub(crate) fn request_shedding(&self) {
        self.shedding_requested.store(true, Ordering::Relaxed);
    }

    /// The number of connections that the calling worker should shed now. It takes over the request of all workers, and reports the
    /// result by [`Self::report_shed`].
    pub(crate) fn claim_shedding(&self) -> usize {
        let open = self.open.load(Ordering::Relaxed);
        let ceiling = self.ceiling.load(Ordering::Relaxed);
        let surplus = open.saturating_sub(ceiling - ceiling / SLACK);
        let requested = if self.shedding_requested.swap(false, Ordering::Relaxed) {
            self.shed_next.load(Ordering::Relaxed)
        } else {
            self.shed_next.store(1, Ordering::Relaxed);
            0
        };
        surplus.max(requested).min(BATCH)
    }

    /// Reports the number of connections that were shed after [`Self::claim_shedding`].
    pub(crate) fn report_shed(&self, shed: usize) {
        if shed == 0 {
            // The request is passed on: another worker may have a connection to shed. The client that waits repeats it as well,
            // but this worker, which has none, might be the one that claims it again and again.
            self.request_shedding();
        } else {
            // If it is requested again at the next tick, this was not enough.
            self.shed_next
                .store((2 * shed).min(BATCH), Ordering::Relaxed);
        }
    }

    /// Logs that the ceiling is reached, at most once every [`WARN_EVERY`].
    pub(crate) fn warn_full(&self) {
        // One interval is added so that the first warning is due at once.
        let now = self.epoch.elapsed().as_millis() as u64 + WARN_EVERY.as_millis() as u64;
        let last = self.warned_ms.load(Ordering::Relaxed);
        let due = now >= last + WARN_EVERY.as_millis() as u64;
        // Of several threads that find it due, one logs it.
        let won = || {
            let swap = Ordering::Relaxed;
            self.warned_ms
                .compare_exchange(last, now, swap, swap)
                .is_ok()
        };
        if due && won() {
            tracing::warn!(
                connections = self.open(),
                "connection limit reached (limits.connections or the limit of open files); \
                 new connections wait until others close"
            );
        }
    }
}

/// Counts one downstream connection as open until it is dropped.
///
/// A connection has it from accept to close, handshake included. The accept loop takes it before it spawns the task.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    admission: Arc<Admission>,
    /// Counts the connection for its client, if the listener limits that.
    client: Option<ClientConnection>,
}

impl ConnectionPermit {
    fn new(admission: Arc<Admission>) -> Self {
        Self {
            admission,
            client: None,
        }
    }

    /// Also holds the guard that counts the connection for its client.
    pub(crate) fn with(self, client: Option<ClientConnection>) -> Self {
        // Not a struct update: the permit implements `Drop`.
        let mut permit = self;
        permit.client = client;
        permit
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.admission.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The share of the process's descriptors that downstream connections may use: half. The rest is for upstream connections, of
/// which each client may need one, and for admin connections, logs, files and the pipes of large bodies.
fn descriptor_share(descriptors: usize) -> usize {
    (descriptors / 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections: Option<usize>) -> ProxyLimits {
        ProxyLimits {
            header_bytes: 0,
            headers: 0,
            target_bytes: 0,
            body_bytes: None,
            header_timeout: Duration::ZERO,
            body_timeout: Duration::ZERO,
            keepalive_timeout: Duration::ZERO,
            handshake_timeout: Duration::from_secs(5),
            connections,
            streams: 0,
            underscores: false,
        }
    }

    #[test]
    fn a_permit_is_released_on_drop() {
        let admission = Admission::new(&limits(Some(2)), None);
        let (a, _b) = (admission.acquire(), admission.acquire());
        assert!(admission.is_full() && admission.try_acquire().is_none());
        drop(a);
        assert!(!admission.is_full());
        admission.adopt(&limits(Some(1)));
        assert!(admission.is_full());
        assert_eq!(admission.open(), 1);
    }

    #[test]
    fn half_of_the_descriptors_are_kept_for_upstreams() {
        assert_eq!(descriptor_share(256), 128);
        assert_eq!(descriptor_share(20_000), 10_000);
        assert_eq!(descriptor_share(1 << 20), 1 << 19);
        assert_eq!(descriptor_share(0), 1);
        let admission = Admission::new(&limits(Some(1000)), Some(256));
        assert_eq!(admission.ceiling.load(Ordering::Relaxed), 128);
    }

    #[test]
    fn more_is_shed_the_longer_a_client_waits() {
        let admission = Admission::new(&limits(Some(10)), None);
        assert_eq!(admission.claim_shedding(), 0);
        for expected in [1, 2, 4] {
            admission.request_shedding();
            assert_eq!(admission.claim_shedding(), expected);
            admission.report_shed(expected);
        }
        // Nobody waited in between.
        assert_eq!(admission.claim_shedding(), 0);
        admission.request_shedding();
        assert_eq!(admission.claim_shedding(), 1);
        admission.report_shed(0);
        assert_eq!(admission.claim_shedding(), 1, "for another worker");
    }

    #[test]
    fn a_part_of_a_large_ceiling_is_kept_free() {
        let admission = Admission::new(&limits(Some(640)), None);
        let mut permits: Vec<_> = (0..630).map(|_| admission.acquire()).collect();
        assert_eq!(admission.claim_shedding(), 0);
        permits.push(admission.acquire());
        assert_eq!(admission.claim_shedding(), 1);
        // A reload may lower the ceiling by much.
        admission.adopt(&limits(Some(64)));
        assert_eq!(admission.claim_shedding(), BATCH);
    }

    #[test]
    fn a_panic_releases_its_permit() {
        let admission = Admission::new(&limits(None), None);
        let inner = admission.clone();
        let thread = std::thread::spawn(move || {
            let _permit = inner.acquire();
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        assert_eq!(admission.open(), 0);
    }
}
