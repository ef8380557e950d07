//! What has begun goes on before more begins.
//!
//! A worker that has more to do than it can do would otherwise begin whatever comes, and have all of it half done: each request with
//! its memory and an upstream connection of its own, none of them in the processor's caches when its answer comes. With thousands
//! of busy clients that doubled what a request costs. So, when so many requests have begun, the next ones wait for one look at what
//! came back, and go after it. However slow endpoints are, the next look is taken at once: nobody waits for an answer.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// So many may be in flight without a look at what came back. Their memory and sockets fit into a core's second-level cache.
const FEW: usize = 64;
/// So many begin with each look at least.
const STEP: usize = FEW / 2;

/// Where a worker's requests wait for their turn to begin. Whoever is in flight already never waits.
#[derive(Debug, Default)]
pub struct AdmissionQueue(Rc<LookQueue>);

#[derive(Debug)]
struct LookQueue {
    in_flight: Cell<usize>,
    /// So many may be in flight until the next look.
    most: Cell<usize>,
    waiting: RefCell<VecDeque<Waker>>,
    /// Tickets below this one have been called.
    called: Cell<u64>,
    /// A task calls those who wait.
    is_called: Cell<bool>,
}

/// The place of one connection in the queue.
#[derive(Debug, Default)]
pub struct Ticket(Option<u64>);

/// A request in flight.
#[derive(Debug)]
pub struct Begun<'a>(&'a LookQueue);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

impl Default for LookQueue {
    fn default() -> Self {
        Self {
            in_flight: Cell::new(0),
            most: Cell::new(FEW),
            waiting: RefCell::default(),
            called: Cell::new(0),
            is_called: Cell::new(false),
        }
    }
}

impl AdmissionQueue {
    /// A request begins.
    pub fn begin(&self) -> Begun<'_> {
        self.0.in_flight.set(self.0.in_flight.get() + 1);
        Begun(&self.0)
    }

    /// Requests that have begun and not ended.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.get()
    }

    /// Whether one may begin without waiting.
    pub fn is_open(&self) -> bool {
        self.0.is_open()
    }

    /// From time to time: what was a crowd may be over.
    pub fn tick(&self) {
        self.0.most.set(self.0.most.get().min(self.0.room()));
    }

    /// Ready when a request may begin; first come, first served.
    pub fn poll_turn(&self, cx: &mut Context<'_>, ticket: &mut Ticket) -> Poll<()> {
        let turn = self.0.poll_turn(cx, ticket);
        if turn.is_pending() && !self.0.is_called.replace(true) {
            tokio::task::spawn_local(self.0.clone().call_all());
        }
        turn
    }
}

impl Ticket {
    /// Whether its holder waits.
    pub fn waits(&self) -> bool {
        self.0.is_some()
    }
}

impl LookQueue {
    fn is_open(&self) -> bool {
        self.in_flight.get() < self.most.get() && self.waiting.borrow().is_empty()
    }

    fn poll_turn(&self, cx: &mut Context<'_>, ticket: &mut Ticket) -> Poll<()> {
        let Some(number) = ticket.0 else {
            if self.is_open() {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            ticket.0 = Some(self.called.get() + waiting.len() as u64);
            waiting.push_back(cx.waker().clone());
            return Poll::Pending;
        };
        let Some(place) = number.checked_sub(self.called.get()) else {
            ticket.0 = None;
            return Poll::Ready(());
        };
        self.waiting.borrow_mut()[place as usize].clone_from(cx.waker());
        Poll::Pending
    }

    /// Until nobody waits: a look at what came back, then some are called.
    async fn call_all(self: Rc<Self>) {
        while !self.waiting.borrow().is_empty() {
            // Goes on behind all those for whom the kernel had something.
            tokio::task::yield_now().await;
            self.call();
        }
        self.is_called.set(false);
    }

    fn room(&self) -> usize {
        (self.in_flight.get() + STEP).max(FEW)
    }

    fn call(&self) {
        self.most.set(self.room());
        let mut waiting = self.waiting.borrow_mut();
        let n = waiting.len().min(self.room() - self.in_flight.get());
        self.called.set(self.called.get() + n as u64);
        waiting.drain(..n).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::{Builder, LocalOptions};

    /// Connections that want to begin a request each.
    #[derive(Default)]
    struct House {
        admission: AdmissionQueue,
        tickets: Vec<(usize, Ticket)>,
        begun: Vec<usize>,
    }

    impl House {
        fn of(n: usize) -> Self {
            let tickets = (0..n).map(|number| (number, Ticket::default())).collect();
            Self {
                tickets,
                ..Self::default()
            }
        }

        /// All of them ask; how many began.
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
    fn few_begin_at_once_and_some_with_each_look_though_none_ends() {
        let mut house = House::of(FEW + 2 * STEP + 1);
        assert_eq!((house.ask(), house.ask()), (FEW, 0));
        for began in [STEP, STEP, 1, 0] {
            house.admission.0.call();
            assert_eq!((house.ask(), house.ask()), (began, 0));
        }
        assert!(house.begun.is_sorted(), "{:?}", house.begun);
    }

    #[test]
    fn as_many_begin_as_have_ended() {
        let mut house = House::of(1000);
        house.ask();
        house.end(FEW - 5);
        assert_eq!(house.ask(), 0, "somebody waits already");
        house.admission.0.call();
        assert_eq!(house.ask(), FEW - 5);
    }

    #[test]
    fn who_leaves_the_queue_holds_nobody_up() {
        let mut house = House::of(FEW + STEP + 1);
        house.ask();
        // All but the last one.
        house.tickets.drain(..STEP);
        house.admission.0.call();
        house.admission.0.call();
        assert_eq!((house.ask(), house.begun.last()), (1, Some(&(FEW + STEP))));
    }

    #[test]
    fn a_crowd_that_is_over_leaves_no_trace() {
        let mut house = House::of(500);
        while house.ask() > 0 {
            house.admission.0.call();
        }
        house.end(500);
        house.admission.tick();
        house.tickets = House::of(100).tickets;
        assert_eq!(house.ask(), FEW);
    }

    #[test]
    fn all_are_called_whenever_a_queue_forms() {
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
