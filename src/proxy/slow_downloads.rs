//! Ends slow downloads when a version is at its limits, so that clients which read slowly can't
//! occupy all slots.
//!
//! A download is *blocked* while its client doesn't read what the proxy has buffered. If requests
//! wait for a slot, the blocked download with the lowest rate over the last ten seconds is ended,
//! however high that rate is. A response whose endpoint is silent (an event stream, a long poll) is
//! not blocked, and is never ended.
//!
//! Each worker knows only the downloads of its own connections. `VersionLoad::blocked` counts them
//! for all workers, `VersionLoad::slowest` publishes the lowest rate of each worker, and
//! `VersionLoad::wanted` asks the other workers to end one; they look at it once a tick.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use slab::Slab;

use crate::net::TaskControl;
use crate::telemetry::WorkerId;
use crate::upstream::{Endpoint, VersionLoad};

/// Half of the window over which a download's rate is measured.
const HALF_WINDOW_MS: u64 = 5_000;
/// The minimum age for a rate, one tick. It keeps the first bytes of a download from counting as an
/// enormous rate.
const MIN_AGE_MS: u64 = 25;

/// The rate of a download over the last five to ten seconds: the current half of the window so far,
/// and the half before. Two halves approximate a sliding window in constant space.
#[derive(Clone, Copy, Debug)]
struct Rate {
    began_ms: u64,
    half_began_ms: u64,
    /// Value of `moved` at the start of the current half.
    moved_before: u64,
    /// Bytes moved in the previous half.
    previous_half: u64,
    moved: u64,
}

impl Rate {
    fn new(now_ms: u64) -> Self {
        Self {
            began_ms: now_ms,
            half_began_ms: now_ms,
            moved_before: 0,
            previous_half: 0,
            moved: 0,
        }
    }

    /// Sets the number of bytes moved in all.
    fn update(&mut self, now_ms: u64, moved: u64) {
        let age = now_ms.saturating_sub(self.half_began_ms);
        if age >= HALF_WINDOW_MS {
            let in_last = self.moved - self.moved_before;
            // If a whole half passed without an update, nothing moved in it.
            self.previous_half = if age < 2 * HALF_WINDOW_MS { in_last } else { 0 };
            self.moved_before = self.moved;
            self.half_began_ms = now_ms - age % HALF_WINDOW_MS;
        }
        self.moved = moved;
    }

    fn per_second(mut self, now_ms: u64) -> u64 {
        self.update(now_ms, self.moved);
        let bytes = self.previous_half + (self.moved - self.moved_before);
        let age = now_ms.saturating_sub(self.began_ms);
        let window = (HALF_WINDOW_MS + now_ms.saturating_sub(self.half_began_ms)).min(age);
        bytes.saturating_mul(1000) / window.max(MIN_AGE_MS)
    }
}

/// A download that was blocked at least once.
///
/// The worker's registry has the control of its task, so that other requests can end it: `shed` tells the task why its deadline has
/// passed.
#[derive(Debug)]
struct BlockedDownload {
    version: Arc<VersionLoad>,
    watch: Rc<TaskControl>,
    rate: Rate,
    blocked: bool,
    shed: Rc<Cell<bool>>,
}

/// The downloads of one worker that were blocked at least once.
#[derive(Debug)]
pub struct Downloads {
    worker: WorkerId,
    entries: RefCell<Slab<BlockedDownload>>,
}

impl Downloads {
    /// An empty registry for this worker.
    pub fn new(worker: WorkerId) -> Self {
        Self {
            worker,
            entries: RefCell::default(),
        }
    }

    /// Ends the slowest blocked download of a version. `false`: this worker has none, or another
    /// worker has a slower one and this one `defers` to it. The task of the download is woken and
    /// frees its slot when it runs.
    pub fn shed_slowest(&self, version: &Arc<VersionLoad>, now_ms: u64, defers: bool) -> bool {
        let mut entries = self.entries.borrow_mut();
        let slowest = entries
            .iter_mut()
            .filter(|(_, e)| e.blocked && Arc::ptr_eq(&e.version, version))
            .min_by_key(|(_, e)| e.rate.per_second(now_ms));
        let Some((_, entry)) = slowest else {
            return false;
        };
        let rate = entry.rate.per_second(now_ms);
        if defers && version.slowest.is_lower_elsewhere(self.worker, rate) {
            return false;
        }
        // Not a candidate again before its task has run.
        entry.blocked = false;
        entry.shed.set(true);
        entry.watch.hurry();
        true
    }

    /// To be called once a tick: publishes the lowest rates, and ends downloads that other workers
    /// have asked for.
    pub fn tick(&self, now_ms: u64) {
        if self.entries.borrow().is_empty() {
            return;
        }
        for (version, slowest) in self.slowest_of_each(now_ms) {
            version.slowest.publish(self.worker, Some(slowest));
            // A request for room is taken only after a download was ended, so that one which this worker can't grant is left to
            // others.
            while version.wanted.load(Ordering::Relaxed) > 0
                && self.shed_slowest(&version, now_ms, true)
                && version.take_room_request()
            {}
        }
    }

    /// The versions with blocked downloads on this worker, and the lowest rate of each.
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

/// A response on its way to its client. It is registered, and costs something, only once the client
/// has blocked it.
#[derive(Debug)]
pub(crate) struct Download<'a> {
    downloads: &'a Downloads,
    endpoint: &'a Endpoint,
    /// The key in the worker's registry, and the flag that says that it was ended.
    registered: Option<(usize, Rc<Cell<bool>>)>,
}

impl<'a> Download<'a> {
    /// An unregistered download from this endpoint.
    pub(crate) fn new(downloads: &'a Downloads, endpoint: &'a Endpoint) -> Self {
        Self {
            downloads,
            endpoint,
            registered: None,
        }
    }

    /// Updates progress: the bytes moved in all, and whether the client blocks the download now.
    #[inline]
    pub(crate) fn update(&mut self, blocked: bool, moved: u64, watch: &TaskControl) {
        if blocked || self.registered.is_some() {
            self.note(blocked, moved, watch);
        }
    }

    fn note(&mut self, blocked: bool, moved: u64, watch: &TaskControl) {
        let now_ms = watch.now_ms();
        let mut entries = self.downloads.entries.borrow_mut();
        let (key, shed) = self.registered.get_or_insert_with(|| {
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

    /// Whether the download was ended to free its slot.
    pub(crate) fn is_shed(&self) -> bool {
        self.registered.as_ref().is_some_and(|(_, shed)| shed.get())
    }
}

impl Drop for Download<'_> {
    fn drop(&mut self) {
        if let Some((key, _)) = self.registered {
            let entry = self.downloads.entries.borrow_mut().remove(key);
            entry.version.blocked.fetch_sub(1, Ordering::Relaxed);
            // The next tick publishes the rate of the remaining downloads.
            entry.version.slowest.publish(self.downloads.worker, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{ListenerId, TaskControls};

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
    fn a_worker_defers_to_one_with_a_slower_download_unless_that_takes_too_long() {
        let controls = TaskControls::new();
        let control = controls.register(ListenerId(0));
        let version = Arc::<VersionLoad>::default();
        let downloads = Downloads::new(WorkerId(0));
        let shed = Rc::<Cell<bool>>::default();
        downloads.entries.borrow_mut().insert(BlockedDownload {
            version: version.clone(),
            watch: control.handle(),
            rate: Rate::new(0),
            blocked: true,
            shed: shed.clone(),
        });
        downloads.entries.borrow_mut()[0].rate.update(10, 10_000);
        version.slowest.publish(WorkerId(1), Some(1));
        assert!(!downloads.shed_slowest(&version, 100, true) && !shed.get());
        assert!(downloads.shed_slowest(&version, 100, false) && shed.get());
        assert!(
            !downloads.shed_slowest(&version, 100, false),
            "there is no other"
        );
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
