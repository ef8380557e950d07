//! How many connections the process takes, and what is left for everything else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::config::spec::ProxyLimits;

/// With less than this part of the ceiling free, connections that do nothing are shed before anybody has to wait for them.
const SLACK: usize = 64;
/// Most connections that are shed at a time.
const BATCH: usize = 64;
/// How often a full house is spoken of.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The process-wide ceiling on downstream connections, and what else all accept loops share.
#[derive(Debug)]
pub(crate) struct Admission {
    open: AtomicUsize,
    ceiling: AtomicUsize,
    handshake_ms: AtomicU64,
    /// Somebody waits for a place.
    wanted: AtomicBool,
    /// How many connections are shed for those who wait: twice as many each time that it was not enough.
    pace: AtomicUsize,
    /// What the descriptor limit leaves for downstream connections.
    room: usize,
    epoch: Instant,
    warned_ms: AtomicU64,
}

impl Admission {
    /// `descriptors` is the process's limit of open files, if it has one.
    pub(crate) fn new(limits: &ProxyLimits, descriptors: Option<usize>) -> Arc<Self> {
        let room = descriptors.map_or(usize::MAX, room);
        let gate = Self {
            open: AtomicUsize::new(0),
            ceiling: AtomicUsize::new(0),
            handshake_ms: AtomicU64::new(0),
            wanted: AtomicBool::new(false),
            pace: AtomicUsize::new(1),
            room,
            epoch: Instant::now(),
            warned_ms: AtomicU64::new(0),
        };
        gate.adopt(limits);
        Arc::new(gate)
    }

    /// From now on these limits hold.
    pub(crate) fn adopt(&self, limits: &ProxyLimits) {
        let wanted = limits.connections.unwrap_or(usize::MAX);
        if limits.connections.is_some() && wanted > self.room {
            tracing::warn!(
                wanted,
                allowed = self.room,
                "limits.connections is above what the limit of open files allows; \
                 raise the hard limit (LimitNOFILE= in systemd, `ulimit -Hn`)"
            );
        }
        self.ceiling.store(wanted.min(self.room), Ordering::Relaxed);
        let ms = limits.handshake_timeout.as_millis() as u64;
        self.handshake_ms.store(ms, Ordering::Relaxed);
    }

    /// Whether the house is full.
    pub(crate) fn is_full(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= self.ceiling.load(Ordering::Relaxed)
    }

    /// Downstream connections of the process.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Longest TLS handshake.
    pub(crate) fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_ms.load(Ordering::Relaxed))
    }

    /// A connection comes in if there is room. It is counted until the place is dropped.
    pub(crate) fn try_enter(self: &Arc<Self>) -> Option<ConnectionPermit> {
        let ceiling = self.ceiling.load(Ordering::Relaxed);
        let one_more = |open: usize| (open < ceiling).then_some(open + 1);
        let counted = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        counted.ok().map(|_| ConnectionPermit(self.clone()))
    }

    /// A connection comes in, whether there is room or not.
    pub(crate) fn enter(self: &Arc<Self>) -> ConnectionPermit {
        self.open.fetch_add(1, Ordering::Relaxed);
        ConnectionPermit(self.clone())
    }

    /// Somebody waits for a place: one connection that does nothing is to go.
    pub(crate) fn press(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// How many connections the caller is to shed now; it [says](Self::shed) how many it did.
    pub(crate) fn claim(&self) -> usize {
        let open = self.open.load(Ordering::Relaxed);
        let ceiling = self.ceiling.load(Ordering::Relaxed);
        let surplus = open.saturating_sub(ceiling - ceiling / SLACK);
        let waited_for = if self.wanted.swap(false, Ordering::Relaxed) {
            self.pace.load(Ordering::Relaxed)
        } else {
            self.pace.store(1, Ordering::Relaxed);
            0
        };
        surplus.max(waited_for).min(BATCH)
    }

    /// How many of those that were claimed have been shed.
    pub(crate) fn shed(&self, shed: usize) {
        if shed == 0 {
            // Another worker may have a connection to spare. The waiting client would ask again, but maybe just before this worker looks.
            self.press();
        } else {
            // A client that still waits at the next look needs more than that.
            self.pace.store((2 * shed).min(BATCH), Ordering::Relaxed);
        }
    }

    /// Says that the house is full, now and then.
    pub(crate) fn warn_full(&self) {
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
                connections = self.open(),
                "as many connections are open as limits.connections or the limit of open files allows; \
                 new ones wait until others end"
            );
        }
    }
}

/// One connection's place; given up on drop.
#[derive(Debug)]
pub(crate) struct ConnectionPermit(Arc<Admission>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many of the process's descriptors downstream connections may have: half. Each of them may need another one upstream, and the
/// rest serves admin, logs, files and the pipes of large bodies.
fn room(descriptors: usize) -> usize {
    (descriptors / 2).max(1)
}

/// Raises the soft limit of open files to the hard one. The limit that holds then; `None` = unlimited.
pub(crate) fn raise_descriptor_limit() -> Option<usize> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let former = limit.current;
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(limit = ?former, %error, "the limit of open files can't be raised");
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
        let gate = Admission::new(&limits(Some(2)), None);
        let (a, _b) = (gate.enter(), gate.enter());
        assert!(gate.is_full() && gate.try_enter().is_none());
        drop(a);
        assert!(!gate.is_full());
        gate.adopt(&limits(Some(1)));
        assert!(gate.is_full());
        assert_eq!(gate.open(), 1);
    }

    #[test]
    fn half_of_the_descriptors_are_kept_for_the_other_side() {
        assert_eq!(room(256), 128);
        assert_eq!(room(20_000), 10_000);
        assert_eq!(room(1 << 20), 1 << 19);
        assert_eq!(room(0), 1);
        let gate = Admission::new(&limits(Some(1000)), Some(256));
        assert_eq!(gate.ceiling.load(Ordering::Relaxed), 128);
    }

    #[test]
    fn more_is_shed_the_longer_somebody_waits() {
        let gate = Admission::new(&limits(Some(10)), None);
        assert_eq!(gate.claim(), 0);
        for expected in [1, 2, 4] {
            gate.press();
            assert_eq!(gate.claim(), expected);
            gate.shed(expected);
        }
        // Nobody waited in between.
        assert_eq!(gate.claim(), 0);
        gate.press();
        assert_eq!(gate.claim(), 1);
        gate.shed(0);
        assert_eq!(gate.claim(), 1, "for another worker");
    }

    #[test]
    fn a_part_of_a_large_ceiling_is_kept_free() {
        let gate = Admission::new(&limits(Some(640)), None);
        let mut places: Vec<_> = (0..630).map(|_| gate.enter()).collect();
        assert_eq!(gate.claim(), 0);
        places.push(gate.enter());
        assert_eq!(gate.claim(), 1);
        // A reload may lower the ceiling by much.
        gate.adopt(&limits(Some(64)));
        assert_eq!(gate.claim(), BATCH);
    }

    #[test]
    fn a_panic_gives_up_its_place() {
        let gate = Admission::new(&limits(None), None);
        let inner = gate.clone();
        let thread = std::thread::spawn(move || {
            let _place = inner.enter();
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        assert_eq!(gate.open(), 0);
    }
}
