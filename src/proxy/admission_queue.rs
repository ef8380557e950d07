//! Admits new requests in batches while a worker is busy, so that requests in flight make progress
//! before more are started.
//!
//! An overloaded worker that starts every request as it arrives has thousands half done: each with
//! its buffers and its upstream connection, none of them in the CPU caches by the time its response
//! arrives. With thousands of busy clients that doubled the cost of a request. So once
//! [`BASE_LIMIT`] requests are in flight, new ones queue until the event loop has polled for I/O
//! once, and then a batch is admitted. The next poll comes at once, however slow the endpoints are:
//! a request never waits for the response of another one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Requests in flight up to which new ones are admitted at once. Their buffers and socket state fit
/// into the L2 cache of a core.
const BASE_LIMIT: usize = 64;
/// Minimum number of requests admitted after each poll for I/O.
const BATCH: usize = BASE_LIMIT / 2;

/// A worker's queue of requests that are about to start. First come, first served. Requests in
/// flight are never delayed.
#[derive(Debug, Default)]
pub struct AdmissionQueue(Rc<QueueState>);

#[derive(Debug)]
struct QueueState {
    in_flight: Cell<usize>,
    /// Maximum of `in_flight` until the next batch.
    limit: Cell<usize>,
    /// The wakers of tickets `admitted`, `admitted + 1`, and so on.
    waiting: RefCell<VecDeque<Waker>>,
    /// Tickets below this number have been admitted.
    admitted: Cell<u64>,
    /// The task that admits batches is running.
    is_draining: Cell<bool>,
}

/// The position of a connection in the queue. Dropping a ticket leaves its waker in the queue, where
/// it uses up one admission and delays nobody.
#[derive(Debug, Default)]
pub struct Ticket(Option<u64>);

/// Counts a request as in flight until it is dropped.
#[derive(Debug)]
pub struct Begun<'a>(&'a QueueState);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

impl Default for QueueState {
    fn default() -> Self {
        Self {
            in_flight: Cell::new(0),
            limit: Cell::new(BASE_LIMIT),
            waiting: RefCell::default(),
            admitted: Cell::new(0),
            is_draining: Cell::new(false),
        }
    }
}

impl AdmissionQueue {
    /// Counts a request as in flight.
    pub fn begin(&self) -> Begun<'_> {
        self.0.in_flight.set(self.0.in_flight.get() + 1);
        Begun(&self.0)
    }

    /// Number of requests in flight.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.get()
    }

    /// Whether a request would be admitted at once.
    pub fn is_open(&self) -> bool {
        self.0.is_open()
    }

    /// To be called once a tick: lowers the limit after a burst.
    pub fn tick(&self) {
        self.0
            .limit
            .set(self.0.limit.get().min(self.0.next_limit()));
    }

    /// Ready when the holder of `ticket` may start a request.
    pub fn poll_turn(&self, cx: &mut Context<'_>, ticket: &mut Ticket) -> Poll<()> {
        let turn = self.0.poll_turn(cx, ticket);
        if turn.is_pending() && !self.0.is_draining.replace(true) {
            tokio::task::spawn_local(self.0.clone().drain());
        }
        turn
    }
}

impl Ticket {
    /// Whether its holder is queued.
    pub fn waits(&self) -> bool {
        self.0.is_some()
    }
}

impl QueueState {
    fn is_open(&self) -> bool {
        self.in_flight.get() < self.limit.get() && self.waiting.borrow().is_empty()
    }

    fn poll_turn(&self, cx: &mut Context<'_>, ticket: &mut Ticket) -> Poll<()> {
        let Some(number) = ticket.0 else {
            if self.is_open() {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            // Tickets are numbered without gaps, so that a number less `admitted` is the place in the queue.
            ticket.0 = Some(self.admitted.get() + waiting.len() as u64);
            waiting.push_back(cx.waker().clone());
            return Poll::Pending;
        };
        let Some(position) = number.checked_sub(self.admitted.get()) else {
            ticket.0 = None;
            return Poll::Ready(());
        };
        // In range: a ticket that isn't admitted has its waker in the queue.
        self.waiting.borrow_mut()[position as usize].clone_from(cx.waker());
        Poll::Pending
    }

    /// Admits a batch after each poll for I/O until the queue is empty.
    async fn drain(self: Rc<Self>) {
        while !self.waiting.borrow().is_empty() {
            // The runtime polls the I/O driver and every task that it wakes before this task again.
            tokio::task::yield_now().await;
            self.admit_batch();
        }
        self.is_draining.set(false);
    }

    /// The limit if a batch were admitted now.
    fn next_limit(&self) -> usize {
        (self.in_flight.get() + BATCH).max(BASE_LIMIT)
    }

    fn admit_batch(&self) {
        self.limit.set(self.next_limit());
        let mut waiting = self.waiting.borrow_mut();
        let n = waiting.len().min(self.next_limit() - self.in_flight.get());
        self.admitted.set(self.admitted.get() + n as u64);
        waiting.drain(..n).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::{Builder, LocalOptions};

    /// Connections that each want to start a request.
    #[derive(Default)]
    struct Clients {
        admission: AdmissionQueue,
        tickets: Vec<(usize, Ticket)>,
        begun: Vec<usize>,
    }

    impl Clients {
        fn of(n: usize) -> Self {
            let tickets = (0..n).map(|number| (number, Ticket::default())).collect();
            Self {
                tickets,
                ..Self::default()
            }
        }

        /// Polls the tickets of all that are waiting; returns how many were admitted.
        fn ask(&mut self) -> usize {
            let cx = &mut Context::from_waker(Waker::noop());
            let before = self.begun.len();
            let queue = &self.admission.0;
            self.tickets.retain_mut(|(number, ticket)| {
                let turn = queue.poll_turn(cx, ticket);
                if turn.is_ready() {
                    std::mem::forget(self.admission.begin());
                    self.begun.push(*number);
                }
                turn.is_pending()
            });
            self.begun.len() - before
        }

        fn end(&self, n: usize) {
            (0..n).for_each(|_| drop(Begun(&self.admission.0)));
        }
    }

    #[test]
    fn a_batch_is_admitted_after_each_poll_although_none_ends() {
        let mut clients = Clients::of(BASE_LIMIT + 2 * BATCH + 1);
        assert_eq!((clients.ask(), clients.ask()), (BASE_LIMIT, 0));
        for began in [BATCH, BATCH, 1, 0] {
            clients.admission.0.admit_batch();
            assert_eq!((clients.ask(), clients.ask()), (began, 0));
        }
        assert!(clients.begun.is_sorted(), "{:?}", clients.begun);
    }

    #[test]
    fn ended_requests_are_replaced() {
        let mut clients = Clients::of(1000);
        clients.ask();
        clients.end(BASE_LIMIT - 5);
        assert_eq!(clients.ask(), 0, "others are queued already");
        clients.admission.0.admit_batch();
        assert_eq!(clients.ask(), BASE_LIMIT - 5);
    }

    #[test]
    fn a_dropped_ticket_delays_no_other() {
        let mut clients = Clients::of(BASE_LIMIT + BATCH + 1);
        clients.ask();
        // All queued connections but the last one give up.
        clients.tickets.drain(..BATCH);
        clients.admission.0.admit_batch();
        clients.admission.0.admit_batch();
        assert_eq!(
            (clients.ask(), clients.begun.last()),
            (1, Some(&(BASE_LIMIT + BATCH)))
        );
    }

    #[test]
    fn the_limit_falls_back_after_a_burst() {
        let mut clients = Clients::of(500);
        while clients.ask() > 0 {
            clients.admission.0.admit_batch();
        }
        clients.end(500);
        clients.admission.tick();
        clients.tickets = Clients::of(100).tickets;
        assert_eq!(clients.ask(), BASE_LIMIT);
    }

    #[test]
    fn the_queue_drains_without_further_requests() {
        let runtime = { Builder::new_current_thread() }.build_local(LocalOptions::default());
        runtime.unwrap().block_on(async {
            let admission = AdmissionQueue::default();
            for _ in 0..300 {
                let mut ticket = Ticket::default();
                std::future::poll_fn(|cx| admission.poll_turn(cx, &mut ticket)).await;
                std::mem::forget(admission.begin());
            }
            assert_eq!(admission.0.in_flight.get(), 300);
        });
    }
}
