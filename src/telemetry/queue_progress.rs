//! The accounting of a bounded queue between threads that must not wait and a writer thread.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// The number of bytes in the queue, and the number of accepted items that the writer has finished.
///
/// Only the writer and threads that wait for it take a lock, so that queueing an item never waits for one.
#[derive(Debug)]
pub(super) struct QueueProgress {
    /// Maximum number of queued bytes. A larger item is accepted only into an empty queue.
    most_bytes: usize,
    queued_bytes: AtomicUsize,
    /// Items accepted into the queue so far.
    accepted: AtomicU64,
    /// Items taken from the queue and written, or lost to a failed write.
    finished: Mutex<u64>,
    has_finished: Condvar,
}

impl QueueProgress {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self {
            most_bytes,
            queued_bytes: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            finished: Mutex::new(0),
            has_finished: Condvar::new(),
        }
    }

    /// Queues an item of this size by `send`, which returns the item if it can't be queued.
    ///
    /// # Errors
    /// The item, if there is no room for it.
    pub(super) fn queue<T>(
        &self,
        size: usize,
        item: T,
        send: impl FnOnce(T) -> Result<(), T>,
    ) -> Result<(), T> {
        let before = self.queued_bytes.fetch_add(size, Relaxed);
        let has_room = before == 0 || before + size <= self.most_bytes;
        let queued = if has_room { send(item) } else { Err(item) };
        match &queued {
            // Counted after it is queued, so the writer may finish an item before it is accepted here. A flush sees all items of
            // threads that it happens after.
            Ok(()) => drop(self.accepted.fetch_add(1, Relaxed)),
            Err(_) => self.taken(size),
        }
        queued
    }

    /// Records that an item of this size is no longer in the queue.
    pub(super) fn taken(&self, size: usize) {
        self.queued_bytes.fetch_sub(size, Relaxed);
    }

    /// Records that the writer has finished this number of items.
    pub(super) fn finish(&self, items: u64) {
        // The lock can't be poisoned: its holders only add to a number, or wait.
        *self.finished.lock().expect("finished lock") += items;
        self.has_finished.notify_all();
    }

    /// Waits up to `limit` until all items accepted so far are finished; returns false if `limit` passed first.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let accepted = self.accepted.load(Relaxed);
        // The lock can't be poisoned; see `finish`.
        let finished = self.finished.lock().expect("finished lock");
        let waited = self
            .has_finished
            .wait_timeout_while(finished, limit, |finished| *finished < accepted);
        // The lock can't be poisoned; see `finish`.
        !waited.expect("finished lock").1.timed_out()
    }

    /// Waits up to `limit` until an item is finished. May return earlier.
    pub(super) fn wait_for_one(&self, limit: Duration) {
        // The lock can't be poisoned; see `finish`.
        let finished = self.finished.lock().expect("finished lock");
        drop(self.has_finished.wait_timeout(finished, limit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_bounded_and_a_larger_item_has_room_in_an_empty_queue() {
        let progress = QueueProgress::new(10);
        let queue = |size| progress.queue(size, (), |()| Ok(())).is_ok();
        assert!(queue(11));
        assert!(!queue(1));
        progress.taken(11);
        assert!(queue(4) && queue(6) && !queue(1));
        progress.taken(6);
        assert!(queue(6));
    }

    #[test]
    fn an_item_that_could_not_be_sent_takes_no_room_and_is_not_waited_for() {
        let progress = QueueProgress::new(10);
        assert_eq!(progress.queue(10, "item", Err), Err("item"));
        assert!(progress.flush(Duration::ZERO));
        assert_eq!(progress.queue(10, "item", |_| Ok(())), Ok(()));
        assert!(!progress.flush(Duration::ZERO));
        progress.finish(1);
        assert!(progress.flush(Duration::ZERO));
    }
}
