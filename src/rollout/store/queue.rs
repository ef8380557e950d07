//! The queue of a store's writer thread. Changes come first, in their order; of evidence only the latest of each service is kept.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::{Evidence, JournalEntry};

/// A request to write.
#[derive(Debug, PartialEq)]
pub(super) enum Request {
    /// A change of the state of a service that has this revision.
    Change(String, u64, Box<JournalEntry>),
    /// The evidence of a service.
    Evidence(String, Evidence),
}

/// Requests of the control thread to the writer. Neither waits for the other's work.
///
/// Its length is bounded by the number of services: evidence that is not written yet is replaced by newer evidence, and a service
/// has one change on its way at a time.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pending: Mutex<Pending>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    changes: VecDeque<(String, u64, Box<JournalEntry>)>,
    /// Services with evidence to write, in the order in which it came.
    due: VecDeque<String>,
    evidence: HashMap<String, Evidence>,
    is_closed: bool,
}

impl Queue {
    pub(super) fn change(&self, service: &str, expected: u64, entry: JournalEntry) {
        let change = (service.to_owned(), expected, Box::new(entry));
        self.lock().changes.push_back(change);
        self.arrived.notify_one();
    }

    pub(super) fn evidence(&self, service: &str, evidence: Evidence) {
        let mut pending = self.lock();
        if pending
            .evidence
            .insert(service.to_owned(), evidence)
            .is_none()
        {
            pending.due.push_back(service.to_owned());
        }
        drop(pending);
        self.arrived.notify_one();
    }

    /// Ends the queue. Requests that are already in it are still taken.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.arrived.notify_one();
    }

    /// Waits for the next request. `None` once the queue is closed and empty.
    pub(super) fn next(&self) -> Option<Request> {
        let mut pending = self.lock();
        loop {
            if let Some((service, expected, entry)) = pending.changes.pop_front() {
                return Some(Request::Change(service, expected, entry));
            }
            if let Some(service) = pending.due.pop_front()
                && let Some(evidence) = pending.evidence.remove(&service)
            {
                return Some(Request::Evidence(service, evidence));
            }
            if pending.is_closed {
                return None;
            }
            let woken = self.arrived.wait(pending);
            pending = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // No code that holds this lock can panic halfway through a change of the queue.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(epoch: u64) -> Evidence {
        Evidence {
            epoch,
            ..Evidence::default()
        }
    }

    #[test]
    fn changes_come_before_evidence_of_which_the_latest_counts() {
        let queue = Queue::default();
        queue.evidence("shop", evidence(1));
        queue.evidence("api", evidence(2));
        queue.change("shop", 0, JournalEntry::default());
        queue.evidence("shop", evidence(3));
        queue.change("shop", 1, JournalEntry::default());
        queue.close();
        let taken: Vec<String> = std::iter::from_fn(|| queue.next())
            .map(|request| match request {
                Request::Change(service, expected, _) => format!("{service} {expected}"),
                Request::Evidence(service, evidence) => format!("{service} e{}", evidence.epoch),
            })
            .collect();
        assert_eq!(taken, ["shop 0", "shop 1", "shop e3", "api e2"]);
    }

    #[test]
    fn a_writer_waits_for_requests_and_ends_with_the_queue() {
        let queue = Queue::default();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| std::iter::from_fn(|| queue.next()).count());
            (0..100).for_each(|n| queue.change("shop", n, JournalEntry::default()));
            queue.close();
            assert_eq!(writer.join().unwrap(), 100);
        });
    }
}
