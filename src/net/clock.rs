//! Deadlines that cost a request nothing: a store, no timer.
//!
//! Every task that may wait on a peer has a [`TaskControl`] in its worker's [`TaskControls`]. It says by when it wants to be woken;
//! a tick of the worker wakes those that are due. The precision is one [`TICK`]: a deadline fires never early and at most
//! two ticks late, which is plenty for timeouts that are counted in seconds.
//!
//! Each watch lies in a [`Wheel`] where it is looked at next, no later than its deadline. A deadline that moves further
//! away leaves it there: it is found too early once, and put further back. So a request pays for a store, and a tick
//! for the few watches whose turn it is, however many connections are idle.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use super::origin::origin_ms;

/// How often a worker looks at its watches.
pub(crate) const TICK: Duration = Duration::from_millis(25);

const NEVER: u64 = u64::MAX;

/// Slots of the wheel, one a tick: what is due later than they reach is looked at once a turn, which is 6.4 s.
const SLOTS: u64 = 256;

/// A slot that has held more keys than this gives its memory back.
const SLOT_KEPT: usize = 1024;

/// What a watched task is doing, as drain and shedding see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskPhase {
    /// In the TLS handshake.
    Handshake,
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
pub struct TaskControl {
    due: Cell<u64>,
    /// The turn (a count of ticks) in which it is looked at; [`NEVER`] while it lies in no slot.
    turn: Cell<u64>,
    expired: Cell<bool>,
    phase: Cell<TaskPhase>,
    closing: Cell<bool>,
    shut: Cell<bool>,
    since: Cell<u64>,
    upstream: Cell<Option<usize>>,
    /// From when on its body is behind.
    behind_at: Cell<u64>,
    waker: RefCell<Option<Waker>>,
    /// Which listener it came through (its index in the server's own count), for drains of one listener.
    pub listener: usize,
    watches: TaskControls,
    key: Cell<usize>,
}

impl TaskControl {
    /// Wants to be woken after `wait` from now; the former deadline is forgotten, unless the task was [shut](Self::shut).
    #[inline]
    pub fn arm(&self, wait: Duration) {
        // A task that arms its deadline with every byte that it moves must not outrun the order to end.
        self.expired.set(self.shut.get());
        let ms = wait.as_millis() as u64;
        let due = self
            .watches
            .0
            .now_ms
            .get()
            .saturating_add(ms)
            .saturating_add(TICK.as_millis() as u64);
        self.due.set(due);
        if turn_of(due) < self.turn.get() {
            self.watches.0.wheel.place(self, due);
        }
    }

    /// Wants no wake-up. A task that was [shut](Self::shut) stays so.
    #[inline]
    pub fn disarm(&self) {
        self.expired.set(self.shut.get());
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
    pub fn enter(&self, phase: TaskPhase) {
        self.phase.set(phase);
        self.since.set(self.watches.0.now_ms.get());
    }

    /// Enters the phase unless the task is in it already: the time that it has been in it goes on.
    pub(crate) fn ensure(&self, phase: TaskPhase) {
        if self.phase.get() != phase {
            self.enter(phase);
        }
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

    /// From which millisecond on the client is behind with its body, if it goes on sending nothing; `None`: it isn't asked for one.
    #[inline]
    pub fn set_behind(&self, at: Option<u64>) {
        self.behind_at.set(at.unwrap_or(NEVER));
    }

    /// Whether the client is behind with its body.
    pub fn is_behind(&self) -> bool {
        self.behind_at.get() <= self.now_ms()
    }

    /// Its time is over now, whatever it was armed with: the task is woken and finds the deadline passed.
    pub fn hurry(&self) {
        self.behind_at.set(NEVER);
        self.expired.set(true);
        self.wake();
    }

    /// The watch itself, for code that has to end the task later.
    pub fn handle(&self) -> Rc<Self> {
        self.watches.0.slab.borrow()[self.key.get()].clone()
    }

    /// What the task is doing.
    pub fn phase(&self) -> TaskPhase {
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
        self.set_closing();
        self.wake();
    }

    /// Ends it now, for good: from here on every wait of the task finds its deadline passed.
    pub fn shut(&self) {
        self.set_closing();
        self.shut.set(true);
        self.expired.set(true);
        self.wake();
    }

    fn set_closing(&self) {
        if !self.closing.replace(true) {
            let closing = &self.watches.0.closing;
            closing.set(closing.get() + 1);
        }
    }

    /// Milliseconds since the worker began, as of the last tick.
    #[inline]
    pub fn now_ms(&self) -> u64 {
        self.watches.now_ms()
    }

    /// Milliseconds since the phase was entered.
    pub fn age_ms(&self) -> u64 {
        self.watches.0.now_ms.get().saturating_sub(self.since.get())
    }

    /// Its turn has come, if it lies in the slot for good.
    fn look(&self, turn: u64, now_ms: u64) {
        // A halt may have put off this turn, and a key may lie in several slots.
        if self.turn.get() > turn {
            return;
        }
        self.turn.set(NEVER);
        let due = self.due.get();
        if due <= now_ms {
            self.due.set(NEVER);
            self.expired.set(true);
            self.wake();
        } else if due < NEVER {
            self.watches.0.wheel.place(self, due);
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// Gives up the place when the task ends.
#[derive(Debug)]
pub struct OwnedTaskControl(Rc<TaskControl>);

impl std::ops::Deref for OwnedTaskControl {
    type Target = Rc<TaskControl>;
    fn deref(&self) -> &Rc<TaskControl> {
        &self.0
    }
}

impl Drop for OwnedTaskControl {
    fn drop(&mut self) {
        self.0.waker.borrow_mut().take();
        let shelf = &self.0.watches.0;
        if self.0.closing.get() {
            shelf.closing.set(shelf.closing.get() - 1);
        }
        shelf.slab.borrow_mut().remove(self.0.key.get());
    }
}

fn turn_of(ms: u64) -> u64 {
    ms / TICK.as_millis() as u64
}

/// When which watch (by its key) is looked at. A slot may hold keys of watches that have moved to an earlier turn, or that are gone.
#[derive(Debug)]
struct Wheel {
    /// The last turn that was made.
    made: Cell<u64>,
    slots: Vec<RefCell<Vec<usize>>>,
}

impl Wheel {
    fn new() -> Self {
        Self {
            made: Cell::new(0),
            slots: (0..SLOTS).map(|_| RefCell::default()).collect(),
        }
    }

    /// Puts a watch where it is looked at in time for `due` (milliseconds).
    fn place(&self, watch: &TaskControl, due: u64) {
        let next = self.made.get() + 1;
        let turn = turn_of(due).clamp(next, next + SLOTS - 2);
        if turn < watch.turn.get() {
            watch.turn.set(turn);
            let slot = &self.slots[(turn % SLOTS) as usize];
            slot.borrow_mut().push(watch.key.get());
        }
    }
}

#[derive(Debug)]
struct TaskTable {
    epoch: Instant,
    /// From the origin of the process to `epoch`.
    origin_ms: u64,
    now_ms: Cell<u64>,
    wheel: Wheel,
    /// Tasks that are to end.
    closing: Cell<usize>,
    slab: RefCell<Slab<Rc<TaskControl>>>,
}

/// All watches of one worker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TaskControls(Rc<TaskTable>);

impl TaskControls {
    /// None yet.
    pub fn new() -> Self {
        Self::since(Instant::now())
    }

    /// Those of a worker that begins at `epoch`.
    pub(super) fn since(epoch: Instant) -> Self {
        Self(Rc::new(TaskTable {
            epoch,
            origin_ms: origin_ms(epoch),
            now_ms: Cell::new(0),
            wheel: Wheel::new(),
            closing: Cell::new(0),
            slab: RefCell::new(Slab::new()),
        }))
    }

    /// A watch for a task that came through this listener.
    pub fn watch(&self, listener: usize) -> OwnedTaskControl {
        let watch = Rc::new(TaskControl {
            due: Cell::new(NEVER),
            turn: Cell::new(NEVER),
            expired: Cell::new(false),
            phase: Cell::new(TaskPhase::Idle),
            closing: Cell::new(false),
            shut: Cell::new(false),
            since: Cell::new(self.0.now_ms.get()),
            upstream: Cell::new(None),
            behind_at: Cell::new(NEVER),
            waker: RefCell::new(None),
            listener,
            watches: self.clone(),
            key: Cell::new(0),
        });
        watch
            .key
            .set(self.0.slab.borrow_mut().insert(watch.clone()));
        OwnedTaskControl(watch)
    }

    /// Milliseconds as of the last tick, since an origin that all workers share: what one worker stores, another may compare
    /// with its own, whenever each of them began.
    #[inline]
    pub fn now_ms(&self) -> u64 {
        self.0.origin_ms + self.0.now_ms.get()
    }

    /// Every [`TICK`]: wakes what is due.
    pub fn tick(&self, now: Instant) {
        let ms = now.saturating_duration_since(self.0.epoch).as_millis() as u64;
        self.0.now_ms.set(ms);
        let wheel = &self.0.wheel;
        // After a long halt every slot is looked at once, none twice.
        let first = wheel.made.get().max(turn_of(ms).saturating_sub(SLOTS)) + 1;
        for turn in first..=turn_of(ms) {
            wheel.made.set(turn);
            let slot = &wheel.slots[(turn % SLOTS) as usize];
            let mut keys = slot.take();
            for key in keys.drain(..) {
                if let Some(watch) = self.0.slab.borrow().get(key) {
                    watch.look(turn, ms);
                }
            }
            // Nothing was put into this slot meanwhile: the memory serves its next turn.
            if keys.capacity() <= SLOT_KEPT {
                slot.replace(keys);
            }
        }
    }

    /// Whether any of them is to end.
    pub fn any_closing(&self) -> bool {
        self.0.closing.get() > 0
    }

    /// Calls `see` for each watch. It may wake them, not end them.
    pub fn each(&self, mut see: impl FnMut(&TaskControl)) {
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

impl Default for TaskControls {
    fn default() -> Self {
        Self::new()
    }
}

/// Seconds since the epoch, by the system's clock: what sessions are dated by.
pub(crate) fn wall_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

#[cfg(test)]
#[path = "clock_tests.rs"]
mod tests;
