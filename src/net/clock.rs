//! Deadlines and remote control of the tasks of a worker.
//!
//! Every task that waits for a peer has a [`TaskControl`], registered with its worker's [`TaskControls`]. The task stores its
//! deadline and its phase there, and checks for expiry wherever it waits. Others use it to list tasks, to ask one to close its
//! connection and to end one. Each worker ticks every [`TICK`] and wakes the tasks whose deadline has passed. A deadline never
//! fires early, and at most two ticks late, which is precise enough for timeouts of seconds.
//!
//! The deadlines are kept in a timing wheel (Varghese and Lauck, 1987) that is maintained lazily. A control lies in the slot in
//! which it is visited next, which is never later than its deadline. Moving the deadline further away, as requests do all the time,
//! is a mere store: the control is visited too early once, and is then moved. So a request pays no timer operation, and a tick
//! costs only the visits that are due, however many connections are idle.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use super::listener_id::ListenerId;
use super::time_origin::origin_ms;

/// Interval of a worker's ticks.
pub(crate) const TICK: Duration = Duration::from_millis(25);

const NEVER: u64 = u64::MAX;

const NO_SLOT: u32 = u32::MAX;

/// Slots of the wheel, one per tick. A deadline beyond them is visited once per revolution, which takes 6.4 s.
const SLOTS: u64 = 256;

/// A slot keeps its memory for the next revolution unless its capacity is larger than this.
const SLOT_KEPT: usize = 1024;

/// The current activity of a connection's task, on which draining and shedding depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskPhase {
    /// The TLS handshake isn't complete yet.
    Handshake,
    /// Between requests: closing the connection loses nothing.
    Idle,
    /// Reading the head of a request.
    Head,
    /// A request is in flight.
    Request,
    /// An upgraded tunnel, or a response that is streamed for an unlimited time.
    Stream,
}

/// One task's deadline and phase, and the requests of others to close its connection.
///
/// The task itself sets the deadline and the phase, and polls [`Self::expired`] wherever it waits. Everything else comes from other
/// code of the same worker: drains, shedding and ticks set flags here and wake the task, which acts on them itself. None of them
/// ever touches its connection.
///
/// `closing` and `shut` are never taken back. `expired` is: the next [`Self::arm`] clears it unless the task is shut.
#[derive(Debug)]
pub struct TaskControl {
    /// The deadline, in milliseconds of the worker's clock.
    due: Cell<u64>,
    /// The tick in which the control is visited next; [`NEVER`] while it lies in no slot.
    turn: Cell<u64>,
    expired: Cell<bool>,
    phase: Cell<TaskPhase>,
    closing: Cell<bool>,
    shut: Cell<bool>,
    since: Cell<u64>,
    /// Slots and keys are below 2^32: there are never that many endpoints or tasks. [`NO_SLOT`] while there is none.
    upstream: Cell<u32>,
    /// Time from which on the client's body is late; see [`Self::set_behind`].
    behind_at: Cell<u64>,
    waker: RefCell<Option<Waker>>,
    /// Id of the listener that accepted the connection, for drains of one listener.
    pub listener: ListenerId,
    controls: TaskControls,
    key: Cell<u32>,
}

impl TaskControl {
    /// Sets the deadline to `wait` from now and replaces the former one. A task that was [shut](Self::shut) stays expired.
    #[inline]
    pub fn arm(&self, wait: Duration) {
        // Otherwise a task that renews its deadline with every byte that it moves would never notice `shut`.
        self.expired.set(self.shut.get());
        // The clock is that of the last tick, up to one tick old: one more is added so that the deadline never fires early.
        let ms = wait.as_millis() as u64;
        let due = self
            .controls
            .0
            .now_ms
            .get()
            .saturating_add(ms)
            .saturating_add(TICK.as_millis() as u64);
        self.due.set(due);
        // Only a deadline that is earlier than the next visit needs the wheel.
        if turn_of(due) < self.turn.get() {
            self.controls.0.wheel.insert(self, due);
        }
    }

    /// Removes the deadline. A task that was [shut](Self::shut) stays expired.
    #[inline]
    pub fn disarm(&self) {
        self.expired.set(self.shut.get());
        self.due.set(NEVER);
    }

    /// Whether the deadline has passed. Otherwise the task is woken when it does, or on a request to close. To be polled by the
    /// task wherever it returns `Pending`.
    #[inline]
    pub fn expired(&self, cx: &Context<'_>) -> bool {
        let mut waker = self.waker.borrow_mut();
        match &*waker {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => *waker = Some(cx.waker().clone()),
        }
        self.expired.get()
    }

    /// Enters a phase and restarts [`Self::age_ms`].
    #[inline]
    pub fn enter(&self, phase: TaskPhase) {
        self.phase.set(phase);
        self.since.set(self.controls.0.now_ms.get());
    }

    /// Enters a phase unless the task is in it already, so that its age keeps counting.
    pub(crate) fn ensure(&self, phase: TaskPhase) {
        if self.phase.get() != phase {
            self.enter(phase);
        }
    }

    /// Sets the endpoint, by its slot, that serves the task's request.
    #[inline]
    pub fn set_upstream(&self, slot: Option<usize>) {
        self.upstream.set(slot.map_or(NO_SLOT, |slot| slot as u32));
    }

    /// The endpoint, by its slot, that serves the task's request.
    pub fn upstream(&self) -> Option<usize> {
        let slot = self.upstream.get();
        (slot != NO_SLOT).then_some(slot as usize)
    }

    /// Sets the time, as of [`Self::now_ms`], from which on the client counts as too slow with its request body, unless it sends
    /// more before. `None` while no body is expected.
    #[inline]
    pub fn set_behind(&self, at: Option<u64>) {
        self.behind_at.set(at.unwrap_or(NEVER));
    }

    /// Whether the client is too slow with its request body.
    pub fn is_behind(&self) -> bool {
        self.behind_at.get() <= self.now_ms()
    }

    /// Makes the current deadline expire at once and wakes the task. Unlike after [`Self::shut`], the next one counts again.
    pub fn hurry(&self) {
        self.behind_at.set(NEVER);
        self.expired.set(true);
        self.wake();
    }

    /// A shared reference, for code that may have to end the task later.
    pub fn handle(&self) -> Rc<Self> {
        // The slab holds the control from its registration until `OwnedTaskControl` is dropped, which the task does last.
        self.controls.0.slab.borrow()[self.key()].clone()
    }

    /// What the task is doing.
    pub fn phase(&self) -> TaskPhase {
        self.phase.get()
    }

    /// Whether the connection is to be closed after the current response.
    #[inline]
    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Whether the connection is to be closed at once.
    #[inline]
    pub fn is_shut(&self) -> bool {
        self.shut.get()
    }

    /// Asks the task to close its connection after the current response, and wakes it.
    pub fn announce_close(&self) {
        self.set_closing();
        self.wake();
    }

    /// Asks the task to close its connection at once, and wakes it. From now on its deadline always counts as passed.
    pub fn shut(&self) {
        self.set_closing();
        self.shut.set(true);
        self.expired.set(true);
        self.wake();
    }

    fn key(&self) -> usize {
        self.key.get() as usize
    }

    fn set_closing(&self) {
        if !self.closing.replace(true) {
            let closing = &self.controls.0.closing;
            closing.set(closing.get() + 1);
        }
    }

    /// Milliseconds since the time origin of the process, as of the last tick.
    #[inline]
    pub fn now_ms(&self) -> u64 {
        self.controls.now_ms()
    }

    /// Milliseconds since the current phase was entered.
    pub fn age_ms(&self) -> u64 {
        self.controls
            .0
            .now_ms
            .get()
            .saturating_sub(self.since.get())
    }

    /// Called with each key found in the slot of `turn`.
    fn visit(&self, turn: u64, now_ms: u64) {
        // An outdated key: the control has moved to another slot since, or the key belonged to an earlier task.
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
            self.controls.0.wheel.insert(self, due);
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// The registration of a task. Dropping it removes the task's control from the worker's.
///
/// The task owns it for its whole life, so that the control is found in the table for exactly as long as the task exists.
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
        // A handle may outlive the task. The waker would keep the memory of the ended task allocated.
        self.0.waker.borrow_mut().take();
        let table = &self.0.controls.0;
        if self.0.closing.get() {
            table.closing.set(table.closing.get() - 1);
        }
        table.slab.borrow_mut().remove(self.0.key());
    }
}

fn turn_of(ms: u64) -> u64 {
    ms / TICK.as_millis() as u64
}

/// The timing wheel: the keys to visit in each tick. Keys are not removed when a control moves to an earlier slot or when its task
/// ends; [`TaskControl::visit`] ignores them.
#[derive(Debug)]
struct Wheel {
    /// The last tick that was processed.
    last_turn: Cell<u64>,
    slots: Vec<RefCell<Vec<u32>>>,
}

impl Wheel {
    fn new() -> Self {
        Self {
            last_turn: Cell::new(0),
            slots: (0..SLOTS).map(|_| RefCell::default()).collect(),
        }
    }

    /// Puts a control into a slot that is visited no later than `due` (milliseconds), unless it lies in one already.
    fn insert(&self, control: &TaskControl, due: u64) {
        // Never the slot of the tick in progress, whose keys `tick` has taken. That excludes this turn, and the one that comes a
        // whole revolution later.
        let next = self.last_turn.get() + 1;
        let turn = turn_of(due).clamp(next, next + SLOTS - 2);
        if turn < control.turn.get() {
            control.turn.set(turn);
            let slot = &self.slots[(turn % SLOTS) as usize];
            slot.borrow_mut().push(control.key.get());
        }
    }
}

#[derive(Debug)]
struct TaskTable {
    /// Start of the worker, at which the clock of deadlines begins.
    epoch: Instant,
    /// Milliseconds from the time origin of the process to `epoch`.
    origin_ms: u64,
    now_ms: Cell<u64>,
    wheel: Wheel,
    /// Number of tasks that were asked to close.
    closing: Cell<usize>,
    slab: RefCell<Slab<Rc<TaskControl>>>,
}

/// The controls of all tasks of one worker. Clones share them.
///
/// The worker's thread calls [`Self::tick`]; nothing here is shared with other threads. The clock stands still between two ticks,
/// so that reading it costs no system call.
#[derive(Clone, Debug)]
pub struct TaskControls(Rc<TaskTable>);

impl TaskControls {
    /// No tasks yet; time is counted from now.
    pub fn new() -> Self {
        Self::since(Instant::now())
    }

    /// The controls of a worker that begins at `epoch`.
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

    /// Registers a task whose connection was accepted by `listener`.
    pub fn register(&self, listener: ListenerId) -> OwnedTaskControl {
        let control = Rc::new(TaskControl {
            due: Cell::new(NEVER),
            turn: Cell::new(NEVER),
            expired: Cell::new(false),
            phase: Cell::new(TaskPhase::Idle),
            closing: Cell::new(false),
            shut: Cell::new(false),
            since: Cell::new(self.0.now_ms.get()),
            upstream: Cell::new(NO_SLOT),
            behind_at: Cell::new(NEVER),
            waker: RefCell::new(None),
            listener,
            controls: self.clone(),
            key: Cell::new(0),
        });
        control
            .key
            .set(self.0.slab.borrow_mut().insert(control.clone()) as u32);
        OwnedTaskControl(control)
    }

    /// Milliseconds since the time origin of the process, as of the last tick. The origin is the same for all workers, so that one
    /// can compare its time with what another has stored.
    #[inline]
    pub fn now_ms(&self) -> u64 {
        self.0.origin_ms + self.0.now_ms.get()
    }

    /// Advances the clock and wakes tasks whose deadline has passed. To be called every [`TICK`].
    pub fn tick(&self, now: Instant) {
        let ms = now.saturating_duration_since(self.0.epoch).as_millis() as u64;
        self.0.now_ms.set(ms);
        let wheel = &self.0.wheel;
        // If ticks were missed for longer than a revolution, each slot is visited once.
        let first = wheel.last_turn.get().max(turn_of(ms).saturating_sub(SLOTS)) + 1;
        for turn in first..=turn_of(ms) {
            wheel.last_turn.set(turn);
            let slot = &wheel.slots[(turn % SLOTS) as usize];
            let mut keys = slot.take();
            for key in keys.drain(..) {
                if let Some(control) = self.0.slab.borrow().get(key as usize) {
                    control.visit(turn, ms);
                }
            }
            // `insert` puts nothing into the slot of the tick in progress, so that it is still empty.
            if keys.capacity() <= SLOT_KEPT {
                slot.replace(keys);
            }
        }
    }

    /// Whether any task was asked to close.
    pub fn any_closing(&self) -> bool {
        self.0.closing.get() > 0
    }

    /// Calls `f` for each control. `f` may wake tasks and ask them to close, but must not register or drop any.
    ///
    /// # Panics
    /// `f` registers a task or drops a registration.
    pub fn each(&self, mut f: impl FnMut(&TaskControl)) {
        for (_, control) in &*self.0.slab.borrow() {
            f(control);
        }
    }

    /// Number of registered tasks.
    pub fn len(&self) -> usize {
        self.0.slab.borrow().len()
    }

    /// Whether no task is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for TaskControls {
    fn default() -> Self {
        Self::new()
    }
}

/// Seconds since the Unix epoch, by the system's clock. Unlike deadlines it follows adjustments of the clock.
pub fn wall_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

#[cfg(test)]
#[path = "clock_tests.rs"]
mod tests;
