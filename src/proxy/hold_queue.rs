//! Requests that wait until their version has a usable endpoint again, first come, first served.
//!
//! Each worker has a queue for each version that is waited for. The queue decides how many requests it releases, and when
//! ([`HoldPace`]), from the state of the version, which it is told at each tick. A request keeps its number when it has to wait
//! again, so that it isn't overtaken because its endpoint went away once more.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Requests that are released first after a probe, to try whether the endpoint really works. Twice as many follow at each tick.
const PILOTS: usize = 4;
/// Time between two probes, in milliseconds.
const PROBE_EVERY_MS: u64 = 100;
/// Longest time between two probes, in milliseconds. It doubles up to this while endpoints accept a probe and then refuse requests.
const PROBE_MAX_MS: u64 = 1_000;

/// The version that a request waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Awaited {
    /// The slot of the service.
    pub service: usize,
    /// The name of the version, which outlives a reload.
    pub version: Arc<str>,
    /// Whether no other version may take the request.
    pub pinned: bool,
}

/// The state of a version, as a worker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// Requests for it must be routed again: it has left the configuration, or another version takes over.
    Elsewhere,
    /// The version has no usable endpoint.
    Down,
    /// The version has a usable endpoint, and room for this many more requests on this worker.
    Up(usize),
}

/// The decision of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HoldStep {
    /// Nothing happens yet.
    Wait,
    /// An endpoint is to be probed.
    Probe,
    /// This many requests are released, the first ones of the queue.
    Release(usize),
}

/// Decides when requests are released, and how many at a time.
#[derive(Debug)]
pub(crate) struct HoldPace {
    /// Whether an endpoint has refused a connection although it counts as usable.
    refused: bool,
    is_probing: bool,
    next_probe_ms: u64,
    probe_every_ms: u64,
    batch: usize,
}

impl Default for HoldPace {
    fn default() -> Self {
        Self {
            refused: false,
            is_probing: false,
            next_probe_ms: 0,
            probe_every_ms: PROBE_EVERY_MS,
            batch: PILOTS,
        }
    }
}

impl HoldPace {
    /// Records that a request could not connect to the version.
    pub(crate) fn refuse(&mut self, now_ms: u64) {
        if !self.refused {
            self.refused = true;
            self.next_probe_ms = now_ms + self.probe_every_ms;
            self.probe_every_ms = (2 * self.probe_every_ms).min(PROBE_MAX_MS);
        }
        self.batch = PILOTS;
    }

    /// Records the result of a probe.
    pub(crate) fn probed(&mut self, passed: bool, now_ms: u64) {
        self.is_probing = false;
        self.refused &= !passed;
        self.next_probe_ms = now_ms + PROBE_EVERY_MS;
    }

    /// The next step for a queue of `waiting` requests.
    pub(crate) fn step(&mut self, outlook: Outlook, waiting: usize, now_ms: u64) -> HoldStep {
        match outlook {
            Outlook::Elsewhere => HoldStep::Release(waiting),
            Outlook::Down => HoldStep::Wait,
            Outlook::Up(_) if self.refused => {
                if self.is_probing || now_ms < self.next_probe_ms {
                    return HoldStep::Wait;
                }
                self.is_probing = true;
                HoldStep::Probe
            }
            Outlook::Up(room) => {
                let batch = self.batch;
                self.batch = batch.saturating_mul(2);
                match room.min(batch).min(waiting) {
                    0 => HoldStep::Wait,
                    n => HoldStep::Release(n),
                }
            }
        }
    }
}

/// A request in a queue.
#[derive(Debug)]
struct Waiting {
    /// Identifies the compiled service that decided about the request.
    compiled: usize,
    is_released: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Debug)]
struct HoldQueue {
    awaited: Awaited,
    pace: HoldPace,
    /// Waiting requests by number.
    waiting: BTreeMap<u64, Rc<Waiting>>,
    /// The result of the probe that is under way, once there is one.
    probe: Rc<Cell<Option<bool>>>,
}

/// The queues of a worker.
#[derive(Debug, Default)]
pub(crate) struct HoldQueues {
    queues: RefCell<Vec<HoldQueue>>,
    last_number: Cell<u64>,
}

/// The position of a request in a queue. Dropping it leaves the queue.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    queues: &'a HoldQueues,
    awaited: Awaited,
    number: u64,
    waiting: Rc<Waiting>,
}

/// Reports the result of a probe.
#[derive(Debug)]
pub(crate) struct ProbeReport(Rc<Cell<Option<bool>>>);

impl ProbeReport {
    /// Reports whether the endpoint has accepted a connection.
    pub(crate) fn send(self, passed: bool) {
        self.0.set(Some(passed));
    }
}

impl HoldQueues {
    /// Whether no request waits.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.borrow().is_empty()
    }

    /// Whether requests wait for this version, which newcomers don't overtake.
    pub(crate) fn is_awaited(&self, service: usize, version: &str, pinned: bool) -> bool {
        let is_it = |queue: &HoldQueue| {
            let awaited = &queue.awaited;
            awaited.service == service
                && awaited.pinned == pinned
                && *awaited.version == *version
                && !queue.waiting.is_empty()
        };
        self.queues.borrow().iter().any(is_it)
    }

    /// A number for a new request.
    pub(crate) fn next_number(&self) -> u64 {
        self.last_number.set(self.last_number.get() + 1);
        self.last_number.get()
    }

    /// Queues a request under its number. `compiled` identifies the compiled service that decided about it. `refused`: it could not connect to an endpoint that counts as usable.
    pub(crate) fn enter(
        &self,
        awaited: Awaited,
        (number, compiled): (u64, usize),
        refused: bool,
        now_ms: u64,
    ) -> Held<'_> {
        let waiting = Rc::new(Waiting {
            compiled,
            is_released: Cell::default(),
            waker: RefCell::default(),
        });
        let mut queues = self.queues.borrow_mut();
        let at = queues.iter().position(|queue| queue.awaited == awaited);
        let at = at.unwrap_or_else(|| {
            queues.push(HoldQueue {
                awaited: awaited.clone(),
                pace: HoldPace::default(),
                waiting: BTreeMap::new(),
                probe: Rc::default(),
            });
            queues.len() - 1
        });
        if refused {
            queues[at].pace.refuse(now_ms);
        }
        queues[at].waiting.insert(number, waiting.clone());
        Held {
            queues: self,
            awaited,
            number,
            waiting,
        }
    }

    /// Lets each queue take its next step. `outlook` returns the state of a version, and its compiled service; requests that
    /// another one decided about are released to be routed again. `probe` starts a probe of one of the version's endpoints.
    pub(crate) fn tick(
        &self,
        now_ms: u64,
        mut outlook: impl FnMut(&Awaited) -> (Outlook, usize),
        mut probe: impl FnMut(&Awaited, ProbeReport),
    ) {
        let mut queues = self.queues.borrow_mut();
        for queue in queues.iter_mut() {
            if let Some(passed) = queue.probe.take() {
                queue.pace.probed(passed, now_ms);
            }
            let (outlook, compiled) = outlook(&queue.awaited);
            queue.release_decided_before(compiled);
            match queue.pace.step(outlook, queue.waiting.len(), now_ms) {
                HoldStep::Wait => {}
                HoldStep::Probe => {
                    queue.probe = Rc::default();
                    probe(&queue.awaited, ProbeReport(queue.probe.clone()));
                }
                HoldStep::Release(n) => queue.release(n),
            }
        }
        // A queue whose last requests were just released is kept for a tick: some of them may be refused again, and its pace
        // has to be remembered then.
        queues.retain(|queue| !queue.waiting.is_empty() || queue.pace.batch > PILOTS);
        for queue in queues.iter_mut().filter(|queue| queue.waiting.is_empty()) {
            queue.pace.batch = PILOTS;
        }
    }
}

impl HoldQueue {
    fn release_decided_before(&mut self, compiled: usize) {
        self.waiting.retain(|_, waiting| {
            let is_current = waiting.compiled == compiled;
            if !is_current {
                waiting.release();
            }
            is_current
        });
    }

    fn release(&mut self, n: usize) {
        for _ in 0..n {
            let Some((_, waiting)) = self.waiting.pop_first() else {
                return;
            };
            waiting.release();
        }
    }
}

impl Waiting {
    fn release(&self) {
        self.is_released.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Held<'_> {
    /// Ready when the request is released.
    pub(crate) fn poll_release(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting.is_released.get() {
            return Poll::Ready(());
        }
        self.waiting.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut queues = self.queues.queues.borrow_mut();
        let queue = queues
            .iter_mut()
            .find(|queue| queue.awaited == self.awaited);
        if let Some(queue) = queue {
            queue.waiting.remove(&self.number);
        }
    }
}

#[cfg(test)]
#[path = "hold_queue_tests.rs"]
mod tests;
