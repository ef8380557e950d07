//! Deadlines that cost a request nothing: a store, no timer.
//!
//! Every task that may wait on a peer has a [`Watch`] in its worker's [`Watches`]. It says by when it wants to be woken;
//! a tick of the worker looks at all of them and wakes those that are due. The precision is one [`TICK`]: a deadline
//! fires never early and at most two ticks late, which is plenty for timeouts that are counted in seconds.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

/// How often a worker looks at its watches.
pub const TICK: Duration = Duration::from_millis(25);

const NEVER: u64 = u64::MAX;

/// What a watched task is doing, as drain and shedding see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Between requests: nothing would be lost.
    Idle,
    /// Reading a request's head.
    Head,
    /// A request is in flight.
    Request,
    /// An upgraded tunnel, or a response that streams without an end in sight.
    Stream,
}

/// One task's deadline and what others want of it.
#[derive(Debug)]
pub struct Watch {
    due: Cell<u64>,
    expired: Cell<bool>,
    phase: Cell<Phase>,
    closing: Cell<bool>,
    shut: Cell<bool>,
    since: Cell<u64>,
    upstream: Cell<Option<usize>>,
    waker: RefCell<Option<Waker>>,
    /// Which listener it came through (its index in the server's own count), for drains of one listener.
    pub listener: usize,
    watches: Watches,
    key: Cell<usize>,
}

impl Watch {
    /// Wants to be woken after `wait` from now; the former deadline is forgotten.
    #[inline]
    pub fn arm(&self, wait: Duration) {
        self.expired.set(false);
        let ms = wait.as_millis() as u64;
        self.due
            .set(self.watches.0.now_ms.get() + ms + TICK.as_millis() as u64);
    }

    /// Wants no wake-up.
    #[inline]
    pub fn disarm(&self) {
        self.expired.set(false);
        self.due.set(NEVER);
    }

    /// Asked where the task would wait: remembers whom to wake, and says whether the deadline has passed.
    #[inline]
    pub fn expired(&self, cx: &Context<'_>) -> bool {
        let mut waker = self.waker.borrow_mut();
        match &*waker {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => *waker = Some(cx.waker().clone()),
        }
        self.expired.get()
    }

    /// What the task is doing now.
    #[inline]
    pub fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.watches.0.now_ms.get());
    }

    /// Which endpoint (its slot) works for the task now.
    #[inline]
    pub fn set_upstream(&self, slot: Option<usize>) {
        self.upstream.set(slot);
    }

    /// Which endpoint (its slot) works for the task now.
    pub fn upstream(&self) -> Option<usize> {
        self.upstream.get()
    }

    /// What the task is doing.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// The connection is to end after the answer that is on its way.
    #[inline]
    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// The connection is to end now, whatever it does.
    #[inline]
    pub fn is_shut(&self) -> bool {
        self.shut.get()
    }

    /// Announces the end on the next answer.
    pub fn announce_close(&self) {
        self.closing.set(true);
        self.wake();
    }

    /// Ends it now.
    pub fn shut(&self) {
        self.closing.set(true);
        self.shut.set(true);
        self.expired.set(true);
        self.wake();
    }

    /// Milliseconds since the phase was entered.
    pub fn age_ms(&self) -> u64 {
        self.watches.0.now_ms.get().saturating_sub(self.since.get())
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// Gives up the place when the task ends.
#[derive(Debug)]
pub struct Watched(Rc<Watch>);

impl std::ops::Deref for Watched {
    type Target = Rc<Watch>;
    fn deref(&self) -> &Rc<Watch> {
        &self.0
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.waker.borrow_mut().take();
        self.0.watches.0.slab.borrow_mut().remove(self.0.key.get());
    }
}

#[derive(Debug)]
struct Shelf {
    epoch: Instant,
    now_ms: Cell<u64>,
    slab: RefCell<Slab<Rc<Watch>>>,
}

/// All watches of one worker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watches(Rc<Shelf>);

impl Watches {
    /// None yet.
    pub fn new() -> Self {
        Self(Rc::new(Shelf {
            epoch: Instant::now(),
            now_ms: Cell::new(0),
            slab: RefCell::new(Slab::new()),
        }))
    }

    /// A watch for a task that came through this listener.
    pub fn watch(&self, listener: usize) -> Watched {
        let watch = Rc::new(Watch {
            due: Cell::new(NEVER),
            expired: Cell::new(false),
            phase: Cell::new(Phase::Idle),
            closing: Cell::new(false),
            shut: Cell::new(false),
            since: Cell::new(self.0.now_ms.get()),
            upstream: Cell::new(None),
            waker: RefCell::new(None),
            listener,
            watches: self.clone(),
            key: Cell::new(0),
        });
        watch
            .key
            .set(self.0.slab.borrow_mut().insert(watch.clone()));
        Watched(watch)
    }

    /// Milliseconds since the worker began, as of the last tick.
    #[inline]
    pub fn now_ms(&self) -> u64 {
        self.0.now_ms.get()
    }

    /// Every [`TICK`]: wakes what is due.
    pub fn tick(&self, now: Instant) {
        let ms = now.saturating_duration_since(self.0.epoch).as_millis() as u64;
        self.0.now_ms.set(ms);
        for (_, watch) in &*self.0.slab.borrow() {
            if watch.due.get() <= ms {
                watch.due.set(NEVER);
                watch.expired.set(true);
                watch.wake();
            }
        }
    }

    /// Calls `see` for each watch. It may wake them, not end them.
    pub fn each(&self, mut see: impl FnMut(&Watch)) {
        for (_, watch) in &*self.0.slab.borrow() {
            see(watch);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.slab.borrow().len()
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for Watches {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_never_fires_early_and_at_most_two_ticks_late() {
        let watches = Watches::new();
        let watch = watches.watch(0);
        let cx = Context::from_waker(Waker::noop());
        let start = watches.0.epoch;
        watch.arm(Duration::from_millis(100));
        watches.tick(start + Duration::from_millis(99));
        assert!(!watch.expired(&cx));
        watches.tick(start + Duration::from_millis(150));
        assert!(watch.expired(&cx));
        watch.arm(Duration::from_millis(100));
        assert!(!watch.expired(&cx), "arming again forgets the old deadline");
    }

    #[test]
    fn a_task_that_ends_gives_up_its_place() {
        let watches = Watches::new();
        let (a, b) = (watches.watch(0), watches.watch(1));
        assert_eq!(watches.len(), 2);
        drop(a);
        assert_eq!(watches.len(), 1);
        watches.each(|w| w.announce_close());
        assert!(b.is_closing() && !b.is_shut());
    }
}
