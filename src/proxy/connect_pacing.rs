//! Paces the opening of upstream connections, so that a burst of requests which all need a new one doesn't stall a worker.
//!
//! Opening a connection costs several times as much as a request on a kept one, and over a fast network the kernel does most
//! of the handshake within the call. A thousand requests that arrive together, or the streams of one HTTP/2 connection, would
//! keep every other request of the worker waiting for all of them. So a worker opens only a few connections between two polls
//! for I/O. Further requests wait in order of arrival; those that find a kept connection don't.
//!
//! Clients whose connection has carried a complete response have a queue of their own. They don't wait behind a crowd of new
//! clients, and can't keep new ones from being served either.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Semaphore;

/// Connections that a worker opens for each of the queues between two polls for I/O: about half a millisecond of work over a
/// fast network.
const PER_ROUND: usize = 4;

/// The kind of client whose request needs a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applicant {
    /// A client whose connection has carried no complete response yet.
    New,
    /// A client whose connection has carried a complete response.
    Known,
}

/// One worker's pace. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct ConnectPacing(Rc<PacingState>);

#[derive(Debug)]
struct PacingState {
    /// Number of connections that may still be opened before the next poll for I/O, by [`Applicant`].
    left: [Semaphore; 2],
    /// Whether the task that refills them is running.
    is_refilling: Cell<bool>,
}

impl Default for ConnectPacing {
    fn default() -> Self {
        Self(Rc::new(PacingState {
            left: [Semaphore::new(PER_ROUND), Semaphore::new(PER_ROUND)],
            is_refilling: Cell::new(false),
        }))
    }
}

impl ConnectPacing {
    /// Waits until a connection may be opened. First come, first served. Dropping the future leaves the queue.
    pub(crate) async fn turn(&self, applicant: Applicant) {
        if !self.0.is_refilling.replace(true) {
            tokio::task::spawn_local(self.0.clone().refill());
        }
        // The semaphore is never closed, so a permit is all that it can return.
        if let Ok(permit) = self.0.left[applicant as usize].acquire().await {
            permit.forget();
        }
    }
}

impl PacingState {
    /// Refills after each poll for I/O, until one passes in which no connection was opened.
    async fn refill(self: Rc<Self>) {
        loop {
            // The runtime polls the I/O driver and every task that it wakes before this task again.
            tokio::task::yield_now().await;
            let mut was_used = false;
            for left in &self.left {
                let missing = PER_ROUND.saturating_sub(left.available_permits());
                was_used |= missing > 0;
                left.add_permits(missing);
            }
            if !was_used {
                break;
            }
        }
        self.is_refilling.set(false);
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::{Builder, LocalOptions};

    use super::Applicant::{Known, New};
    use super::*;

    fn on_worker(test: impl Future<Output = ()>) {
        let runtime = { Builder::new_current_thread() }.build_local(LocalOptions::default());
        runtime.unwrap().block_on(test);
    }

    /// Starts this many tasks that each want to open a connection; their numbers appear in the list as they may.
    fn wanting(
        pacing: &ConnectPacing,
        n: usize,
        applicant: Applicant,
    ) -> Rc<std::cell::RefCell<Vec<usize>>> {
        let opened = Rc::<std::cell::RefCell<Vec<usize>>>::default();
        for number in 0..n {
            let (pacing, opened) = (pacing.clone(), opened.clone());
            tokio::task::spawn_local(async move {
                pacing.turn(applicant).await;
                opened.borrow_mut().push(number);
            });
        }
        opened
    }

    #[test]
    fn a_burst_opens_a_few_connections_in_each_round_in_order() {
        on_worker(async {
            let opened = wanting(&ConnectPacing::default(), 5 * PER_ROUND + 1, New);
            let mut before = 0;
            let mut rounds = 0;
            while before < 5 * PER_ROUND + 1 {
                tokio::task::yield_now().await;
                let now = opened.borrow().len();
                // A refill falls between two looks of this task, so that a look may see the end of one round and the next one.
                assert!(now - before <= 2 * PER_ROUND, "{before} and then {now}");
                before = now;
                rounds += 1;
                assert!(rounds < 100, "stuck at {now}");
            }
            assert!(rounds >= 5, "all of them in {rounds} rounds");
            assert!(opened.borrow().is_sorted());
        });
    }

    #[test]
    fn those_that_gave_up_delay_no_other() {
        on_worker(async {
            let pacing = ConnectPacing::default();
            let crowd: Vec<_> = (0..20 * PER_ROUND)
                .map(|_| {
                    let pacing = pacing.clone();
                    tokio::task::spawn_local(async move { pacing.turn(New).await })
                })
                .collect();
            tokio::task::yield_now().await;
            crowd.iter().for_each(tokio::task::JoinHandle::abort);
            let opened = wanting(&pacing, 1, New);
            let mut rounds = 0;
            while opened.borrow().is_empty() {
                tokio::task::yield_now().await;
                rounds += 1;
                assert!(rounds < 10, "behind those that left");
            }
        });
    }

    #[test]
    fn a_known_client_does_not_wait_behind_a_crowd_of_new_ones() {
        on_worker(async {
            let pacing = ConnectPacing::default();
            let crowd = wanting(&pacing, 12 * PER_ROUND, New);
            tokio::task::yield_now().await;
            let known = wanting(&pacing, PER_ROUND, Known);
            // The runtime polls for I/O in between if many tasks are ready, so that it may take more than one round.
            let mut rounds = 0;
            while known.borrow().len() < PER_ROUND {
                tokio::task::yield_now().await;
                rounds += 1;
                assert!(rounds < 8, "{}", known.borrow().len());
            }
            assert!(crowd.borrow().len() < 12 * PER_ROUND, "they still wait");
            // Nor does the crowd wait for ever behind those.
            let more = wanting(&pacing, 100 * PER_ROUND, Known);
            for _ in 0..40 {
                tokio::task::yield_now().await;
            }
            assert_eq!(crowd.borrow().len(), 12 * PER_ROUND);
            assert!(more.borrow().len() < 100 * PER_ROUND);
        });
    }

    #[test]
    fn the_refilling_ends_when_nothing_is_opened() {
        on_worker(async {
            let pacing = ConnectPacing::default();
            for _ in 0..2 {
                pacing.turn(Known).await;
                assert!(pacing.0.is_refilling.get());
                for _ in 0..5 {
                    tokio::task::yield_now().await;
                }
                assert!(!pacing.0.is_refilling.get());
                let left = pacing.0.left.each_ref().map(Semaphore::available_permits);
                assert_eq!(left, [PER_ROUND; 2]);
            }
        });
    }
}
