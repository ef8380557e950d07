//! How many connections the process takes, and what is left for everything else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::config::spec::ProxyLimits;

/// At least so many descriptors are kept for upstream connections, admin, files and logs (or half of them, where there are few).
const RESERVE_MIN: usize = 64;
/// More than so many are never set aside.
const RESERVE_MAX: usize = 8192;
/// How often a full house is spoken of.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The process-wide ceiling on downstream connections, and what else all accept loops share.
#[derive(Debug)]
pub struct Gate {
    open: AtomicUsize,
    ceiling: AtomicUsize,
    handshake_ms: AtomicU64,
    /// Connections that are to be shed for those who wait.
    wanted: AtomicUsize,
    /// What the descriptor limit leaves for downstream connections.
    room: usize,
    epoch: Instant,
    warned_ms: AtomicU64,
}

impl Gate {
    /// `descriptors` is the process's limit of open files, if it has one.
    pub fn new(limits: &ProxyLimits, descriptors: Option<usize>) -> Arc<Self> {
        let room = descriptors.map_or(usize::MAX, room);
        let gate = Self {
            open: AtomicUsize::new(0),
            ceiling: AtomicUsize::new(0),
            handshake_ms: AtomicU64::new(0),
            wanted: AtomicUsize::new(0),
            room,
            epoch: Instant::now(),
            warned_ms: AtomicU64::new(0),
        };
        gate.adopt(limits);
        Arc::new(gate)
    }

    /// From now on these limits hold.
    pub fn adopt(&self, limits: &ProxyLimits) {
        let wanted = limits.connections.unwrap_or(usize::MAX);
        if limits.connections.is_some() && wanted > self.room {
            tracing::warn!(
                "limits.connections = {wanted} is more than the limit of open files allows; {} are taken. \
                 Raise the hard limit (LimitNOFILE= in systemd, `ulimit -Hn`)",
                self.room
            );
        }
        self.ceiling.store(wanted.min(self.room), Ordering::Relaxed);
        let ms = limits.handshake_timeout.as_millis() as u64;
        self.handshake_ms.store(ms, Ordering::Relaxed);
    }

    /// Whether the house is full.
    pub fn is_full(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= self.ceiling.load(Ordering::Relaxed)
    }

    /// Downstream connections of the process.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Longest TLS handshake.
    pub fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_ms.load(Ordering::Relaxed))
    }

    /// A connection comes in if there is room. It is counted until the place is dropped.
    pub fn try_enter(self: &Arc<Self>) -> Option<Place> {
        let ceiling = self.ceiling.load(Ordering::Relaxed);
        let one_more = |open: usize| (open < ceiling).then_some(open + 1);
        let counted = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        counted.ok().map(|_| Place(self.clone()))
    }

    /// A connection comes in, whether there is room or not.
    pub fn enter(self: &Arc<Self>) -> Place {
        self.open.fetch_add(1, Ordering::Relaxed);
        Place(self.clone())
    }

    /// Somebody waits for a place: one connection that does nothing is to go.
    pub fn press(&self) {
        self.wanted.fetch_max(1, Ordering::Relaxed);
    }

    /// Whether the caller is to shed a connection.
    pub fn pressed(&self) -> bool {
        self.wanted.swap(0, Ordering::Relaxed) > 0
    }

    /// Says that the house is full, now and then.
    pub fn warn_full(&self) {
        let now = self.epoch.elapsed().as_millis() as u64 + WARN_EVERY.as_millis() as u64;
        let last = self.warned_ms.load(Ordering::Relaxed);
        let due = now >= last + WARN_EVERY.as_millis() as u64;
        let won = || {
            let swap = Ordering::Relaxed;
            self.warned_ms
                .compare_exchange(last, now, swap, swap)
                .is_ok()
        };
        if due && won() {
            tracing::warn!(
                "{} connections are open, as many as are allowed (limits.connections, or the limit of open files); \
                 new ones wait until others end",
                self.open()
            );
        }
    }
}

/// One connection's place; given up on drop.
#[derive(Debug)]
pub struct Place(Arc<Gate>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What `descriptors` leave for downstream connections: three quarters, within limits.
fn room(descriptors: usize) -> usize {
    let least = RESERVE_MIN.min(descriptors / 2);
    let reserve = (descriptors / 4).clamp(least, RESERVE_MAX);
    (descriptors - reserve).max(1)
}

/// Raises the soft limit of open files to the hard one. The limit that holds then; `None` = unlimited.
pub fn raise_descriptor_limit() -> Option<usize> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let former = limit.current;
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!("the limit of open files stays at {former:?}: {error}");
            limit.current = former;
        }
    }
    limit.current.and_then(|n| usize::try_from(n).ok())
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
    fn a_place_is_given_up_on_drop() {
        let gate = Gate::new(&limits(Some(2)), None);
        let (a, _b) = (gate.enter(), gate.enter());
        assert!(gate.is_full() && gate.try_enter().is_none());
        drop(a);
        assert!(!gate.is_full());
        gate.adopt(&limits(Some(1)));
        assert!(gate.is_full());
        assert_eq!(gate.open(), 1);
    }

    #[test]
    fn descriptors_are_kept_for_the_other_side() {
        assert_eq!(room(256), 192);
        assert_eq!(room(20_000), 15_000);
        assert_eq!(room(1 << 20), (1 << 20) - 8192);
        assert_eq!(room(64), 32);
        assert_eq!(room(0), 1);
        let gate = Gate::new(&limits(Some(1000)), Some(256));
        assert_eq!(gate.ceiling.load(Ordering::Relaxed), 192);
    }

    #[test]
    fn a_panic_gives_up_its_place() {
        let gate = Gate::new(&limits(None), None);
        let inner = gate.clone();
        let thread = std::thread::spawn(move || {
            let _place = inner.enter();
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        assert_eq!(gate.open(), 0);
    }
}
