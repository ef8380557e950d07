//! Room under `limits.requests` for new requests when clients that read slowly take all of it.
//!
//! A download whose client doesn't take what the proxy holds of it is *blocked*. When a version is full, the blocked
//! download with the lowest rate over the last ten seconds gives up its room, whatever that rate is. A download whose
//! endpoint is silent (an event stream, a long poll) is never blocked, so it is never the one.
//!
//! Each worker knows the blocked downloads of its own connections only. `VersionLoad::blocked` says whether there are any
//! on the version, `VersionLoad::wanted` asks the other workers, which look at it with each tick.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use slab::Slab;

use super::Worker;
use crate::net::TaskControl;
use crate::upstream::{Endpoint, VersionLoad};

/// Half of the window over which a download's rate is measured.
const HALF_MS: u64 = 5_000;
/// A younger download is judged as if it were so old, which is one tick of the worker.
const YOUNGEST_MS: u64 = 25;

/// Bytes a second over the last ten seconds, in two halves.
#[derive(Clone, Copy, Debug)]
struct Rate {
    began_ms: u64,
    half_began_ms: u64,
    /// Bytes moved when the current half began, and in the half before.
    moved_before: u64,
    former: u64,
    moved: u64,
}

impl Rate {
    fn new(now_ms: u64) -> Self {
        Self {
            began_ms: now_ms,
            half_began_ms: now_ms,
            moved_before: 0,
            former: 0,
            moved: 0,
        }
    }

    /// `moved` bytes have moved in all.
    fn update(&mut self, now_ms: u64, moved: u64) {
        let age = now_ms.saturating_sub(self.half_began_ms);
        if age >= HALF_MS {
            let in_last = self.moved - self.moved_before;
            // A half without any update had no bytes.
            self.former = if age < 2 * HALF_MS { in_last } else { 0 };
            self.moved_before = self.moved;
            self.half_began_ms = now_ms - age % HALF_MS;
        }
        self.moved = moved;
    }

    fn per_second(mut self, now_ms: u64) -> u64 {
        self.update(now_ms, self.moved);
        let bytes = self.former + (self.moved - self.moved_before);
        let age = now_ms.saturating_sub(self.began_ms);
        let window = (HALF_MS + now_ms.saturating_sub(self.half_began_ms)).min(age);
        bytes.saturating_mul(1000) / window.max(YOUNGEST_MS)
    }
}

/// A download that was blocked at least once.
#[derive(Debug)]
struct BlockedDownload {
    version: Arc<VersionLoad>,
    watch: Rc<TaskControl>,
    rate: Rate,
    blocked: bool,
    shed: Rc<Cell<bool>>,
}

/// One worker's downloads that were blocked at least once.
#[derive(Debug)]
pub struct Downloads {
    worker: usize,
    entries: RefCell<Slab<BlockedDownload>>,
}

impl Downloads {
    /// None yet, for this worker.
    pub fn new(worker: usize) -> Self {
        Self {
            worker,
            entries: RefCell::default(),
        }
    }

    /// Ends the blocked download of this version with the lowest rate; `false`: this worker has none, or another worker has
    /// one that is slower.
    pub fn shed_slowest(&self, version: &Arc<VersionLoad>, now_ms: u64) -> bool {
        let mut entries = self.entries.borrow_mut();
        let slowest = entries
            .iter_mut()
            .filter(|(_, e)| e.blocked && Arc::ptr_eq(&e.version, version))
            .min_by_key(|(_, e)| e.rate.per_second(now_ms));
        let Some((_, entry)) = slowest else {
            return false;
        };
        let rate = entry.rate.per_second(now_ms);
        if version.slowest.is_lower_elsewhere(self.worker, rate) {
            return false;
        }
        entry.blocked = false;
        entry.shed.set(true);
        entry.watch.hurry();
        true
    }

    /// With each tick: tells the other workers of the slowest downloads, and makes the room that they ask for.
    pub fn tick(&self, now_ms: u64) {
        if self.entries.borrow().is_empty() {
            return;
        }
        for (version, slowest) in self.slowest_of_each(now_ms) {
            version.slowest.publish(self.worker, Some(slowest));
            while version.wanted.load(Ordering::Relaxed) > 0
                && self.shed_slowest(&version, now_ms)
                && version.meet_wish()
            {}
        }
    }

    /// Versions that have blocked downloads here, with the lowest rate of each.
    fn slowest_of_each(&self, now_ms: u64) -> Vec<(Arc<VersionLoad>, u64)> {
        let entries = self.entries.borrow();
        let mut found: Vec<(Arc<VersionLoad>, u64)> = Vec::new();
        for (_, entry) in entries.iter().filter(|(_, e)| e.blocked) {
            let rate = entry.rate.per_second(now_ms);
            match found
                .iter_mut()
                .find(|(v, _)| Arc::ptr_eq(v, &entry.version))
            {
                Some((_, slowest)) => *slowest = rate.min(*slowest),
                None => found.push((entry.version.clone(), rate)),
            }
        }
        found
    }
}

/// One response on its way to its client. Costs nothing until the client blocks it for the first time.
#[derive(Debug)]
pub(crate) struct Download<'a> {
    worker: &'a Worker,
    endpoint: &'a Endpoint,
    known: Option<(usize, Rc<Cell<bool>>)>,
}

impl<'a> Download<'a> {
    /// A response from this endpoint.
    pub(crate) fn new(worker: &'a Worker, endpoint: &'a Endpoint) -> Self {
        Self {
            worker,
            endpoint,
            known: None,
        }
    }

    /// `moved` bytes have moved, and the client does (not) take what there is.
    #[inline]
    pub(crate) fn update(&mut self, blocked: bool, moved: u64, watch: &TaskControl) {
        if blocked || self.known.is_some() {
            self.note(blocked, moved, watch);
        }
    }

    fn note(&mut self, blocked: bool, moved: u64, watch: &TaskControl) {
        let now_ms = self.worker.watches.now_ms();
        let mut entries = self.worker.downloads.entries.borrow_mut();
        let (key, shed) = self.known.get_or_insert_with(|| {
            let version = self.endpoint.version.clone();
            version.blocked.fetch_add(1, Ordering::Relaxed);
            let shed = Rc::new(Cell::new(false));
            let key = entries.insert(BlockedDownload {
                version,
                watch: watch.handle(),
                rate: Rate::new(now_ms),
                blocked,
                shed: shed.clone(),
            });
            (key, shed)
        });
        let entry = &mut entries[*key];
        entry.rate.update(now_ms, moved);
        entry.blocked = blocked && !shed.get();
    }

    /// It was ended to make room.
    pub(crate) fn is_shed(&self) -> bool {
        self.known.as_ref().is_some_and(|(_, shed)| shed.get())
    }
}

impl Drop for Download<'_> {
    fn drop(&mut self) {
        if let Some((key, _)) = self.known {
            let entry = self.worker.downloads.entries.borrow_mut().remove(key);
            entry.version.blocked.fetch_sub(1, Ordering::Relaxed);
            // The next tick tells what is left.
            entry.version.slowest.publish(self.worker.id, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_ten_seconds() {
        let mut rate = Rate::new(0);
        rate.update(25, 100_000);
        assert_eq!(rate.per_second(25), 4_000_000, "young: over its age");
        assert_eq!(rate.per_second(1_000), 100_000);
        assert_eq!(rate.per_second(5_000), 20_000);
        rate.update(9_000, 100_000);
        assert!(rate.per_second(9_900) >= 10_000);
        assert_eq!(rate.per_second(20_000), 0, "nothing moved since");
        rate.update(20_100, 150_000);
        assert!(rate.per_second(20_100) > 0);
    }

    #[test]
    fn a_stalled_download_has_a_lower_rate_than_one_that_has_just_begun() {
        let mut stalled = Rate::new(0);
        stalled.update(50, 2_500_000);
        let mut young = Rate::new(2_900);
        young.update(2_910, 300_000);
        assert!(stalled.per_second(3_000) < young.per_second(3_000));
    }
}
