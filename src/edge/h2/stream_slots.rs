//! The streams of one connection, polled in the connection's own task.
//!
//! Each open stream runs in a slot: a boxed future that serves one stream after another, so that neither its memory nor a task
//! is allocated per stream. Each slot has a waker of its own, which sets the slot's bit in the [`WakeSet`] and wakes the task
//! only if that is parked. Any number of wake-ups thus wakes the task at most once, and those that happen while it runs cost
//! no wake-up at all. The task polls its slots first and the connection after them, so that all responses leave together.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Idle slots beyond this number drop their future. A connection that has had no stream for a while drops all of them.
const WARM_SLOTS: usize = 64;

/// The wake-ups that the task has not handled yet. Wakers add to it from any thread.
#[derive(Debug)]
struct WakeSet {
    /// One bit per slot.
    slots: Box<[AtomicU64]>,
    connection: AtomicBool,
    /// The task runs, or was woken and is about to: setting a bit is enough.
    awake: AtomicBool,
    task: Mutex<Waker>,
}

impl WakeSet {
    /// Wakes the task if it is parked. The caller has set its bit before.
    fn wake_task(&self) {
        // No wake-up may be lost between here and `StreamSlots::try_park`. Each side stores first and loads second: a waker
        // sets its bit and reads `awake`; the task clears `awake` and reads the bits. In the single order of all SeqCst
        // operations at least one of them sees the other's store, so that either the waker finds the task parked or the task
        // finds the bit. Acquire and release would let both miss it. The swap makes one of several wakers wake the task.
        if !self.awake.load(SeqCst) && !self.awake.swap(true, SeqCst) {
            let task = self.task.lock();
            task.unwrap_or_else(PoisonError::into_inner).wake_by_ref();
        }
    }

    fn has_any(&self) -> bool {
        self.connection.load(SeqCst) || self.slots.iter().any(|word| word.load(SeqCst) != 0)
    }
}

/// The waker of the connection itself.
impl Wake for WakeSet {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.connection.store(true, SeqCst);
        self.wake_task();
    }
}

/// The waker of one slot.
struct SlotWaker {
    wakes: Arc<WakeSet>,
    slot: usize,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.wakes.slots[self.slot / 64].fetch_or(1 << (self.slot % 64), SeqCst);
        self.wakes.wake_task();
    }
}

/// The future of a slot.
pub(super) type Work = Pin<Box<dyn Future<Output = ()>>>;

/// What the slots and the future that is being polled hand each other. All futures of a connection share it, since one of them is
/// polled at a time.
pub(super) struct Jobs<J> {
    /// The next job, for the slot that is polled next.
    job: Cell<Option<J>>,
    /// The future that was polled waits for its next job.
    is_idle: Cell<bool>,
    /// What the future that was polled has left of its job.
    rest: Cell<Option<Work>>,
}

impl<J> Jobs<J> {
    /// Leaves the rest of the job to another future, which is usually much smaller. The slot's own one is dropped once it waits
    /// for the next job, and the slot stays busy until the rest has completed.
    pub(super) fn leave(&self, rest: Work) {
        self.rest.set(Some(rest));
    }

    /// Waits for the next job. The slot counts as idle until then.
    pub(super) async fn next(&self) -> J {
        // No waker is kept: `StreamSlots::start` polls the slot itself, right after it has stored a job.
        std::future::poll_fn(|_| match self.job.take() {
            Some(job) => Poll::Ready(job),
            None => {
                self.is_idle.set(true);
                Poll::Pending
            }
        })
        .await
    }
}

/// A connection may have many that wait for their clients, so it is small.
struct Slot {
    /// `None` until the slot's first job, and again after its memory was released.
    work: Option<Work>,
    busy: bool,
    /// [`Self::work`] is what is left of a job.
    is_rest: bool,
    waker: Waker,
}

impl Slot {
    /// Continues with what is left of the job, if there is something.
    #[inline]
    fn continues_with(&mut self, rest: Option<Work>) -> bool {
        if let Some(rest) = rest {
            self.work = Some(rest);
            self.is_rest = true;
            return true;
        }
        false
    }
}

/// All stream slots of one connection.
///
/// Only the connection's task uses them; other threads reach the `WakeSet` through the wakers. Each slot is busy, or in exactly one
/// of `warm` and `cold`. A slot keeps its index for good, since wakers know it by that.
pub(super) struct StreamSlots<J> {
    slots: Vec<Slot>,
    jobs: Rc<Jobs<J>>,
    /// Idle slots that have kept their future; the last one was used most recently.
    warm: Vec<usize>,
    /// Idle slots without a future.
    cold: Vec<usize>,
    wakes: Arc<WakeSet>,
    /// Wakes the connection itself: [`Self::take_wake`].
    pub waker: Waker,
    begin: fn(Rc<Jobs<J>>) -> Work,
}

impl<J> StreamSlots<J> {
    /// At most `most` slots, created on demand. `begin` creates the future of one, which must not complete.
    pub(super) fn new(most: usize, begin: fn(Rc<Jobs<J>>) -> Work) -> Self {
        let wakes = Arc::new(WakeSet {
            slots: (0..most.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            connection: AtomicBool::new(true),
            awake: AtomicBool::new(true),
            task: Mutex::new(Waker::noop().clone()),
        });
        Self {
            slots: Vec::new(),
            jobs: Rc::new(Jobs {
                job: Cell::new(None),
                is_idle: Cell::new(false),
                rest: Cell::new(None),
            }),
            warm: Vec::new(),
            cold: Vec::new(),
            waker: wakes.clone().into(),
            wakes,
            begin,
        }
    }

    /// The task is running. To be called at the beginning of each of its polls.
    pub(super) fn unpark(&self, task: &Waker) {
        let mut known = self
            .wakes
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !known.will_wake(task) {
            known.clone_from(task);
        }
        self.wakes.awake.store(true, SeqCst);
    }

    /// Marks the task as parked, unless there are wake-ups that it has not handled. It may return `Pending` only after `true`.
    pub(super) fn try_park(&self) -> bool {
        // Store, then load: see `WakeSet::wake_task`.
        self.wakes.awake.store(false, SeqCst);
        if self.wakes.has_any() {
            self.wakes.awake.store(true, SeqCst);
            return false;
        }
        true
    }

    /// Whether the connection itself was woken since the last call.
    pub(super) fn take_wake(&self) -> bool {
        self.wakes.connection.load(SeqCst) && self.wakes.connection.swap(false, SeqCst)
    }

    /// Starts a job and polls it once. The caller keeps the number of jobs within the limit given to [`Self::new`].
    pub(super) fn start(&mut self, job: J) {
        let index = self.warm.pop().or_else(|| self.cold.pop());
        let index = index.unwrap_or_else(|| self.add());
        self.jobs.job.set(Some(job));
        self.slots[index].busy = true;
        self.poll_slot(index);
    }

    fn add(&mut self) -> usize {
        let index = self.slots.len();
        debug_assert!(index < self.wakes.slots.len() * 64);
        self.slots.push(self.new_slot(index));
        index
    }

    fn new_slot(&self, index: usize) -> Slot {
        let waker = SlotWaker {
            wakes: self.wakes.clone(),
            slot: index,
        };
        Slot {
            work: None,
            busy: false,
            is_rest: false,
            waker: Arc::new(waker).into(),
        }
    }

    /// Polls every slot that was woken.
    pub(super) fn poll(&mut self) {
        for word in 0..self.wakes.slots.len() {
            let woken = &self.wakes.slots[word];
            if woken.load(SeqCst) == 0 {
                continue;
            }
            // The bits are taken before the slots are polled. A wake-up during a poll sets its bit again, and that bit keeps
            // the task from parking.
            let mut woken = woken.swap(0, SeqCst);
            while woken != 0 {
                self.poll_slot(word * 64 + woken.trailing_zeros() as usize);
                woken &= woken - 1;
            }
        }
    }

    fn poll_slot(&mut self, index: usize) {
        // A waker may outlive the job it was made for, and even the slot: what it wakes is idle or gone.
        let Some(slot) = self.slots.get_mut(index).filter(|s| s.busy) else {
            return;
        };
        let (begin, jobs) = (self.begin, &self.jobs);
        let work = slot.work.get_or_insert_with(|| begin(jobs.clone()));
        jobs.is_idle.set(false);
        let mut cx = Context::from_waker(&slot.waker);
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut cx))) {
            Ok(Poll::Pending) if !jobs.is_idle.get() => return,
            Ok(Poll::Pending) if slot.continues_with(jobs.rest.take()) => {
                // Not polled here: what it sends would come before what other streams have waited for.
                self.wakes.slots[index / 64].fetch_or(1 << (index % 64), SeqCst);
                return;
            }
            Ok(Poll::Pending) if self.warm.len() < WARM_SLOTS => {
                slot.busy = false;
                return self.warm.push(index);
            }
            Ok(Poll::Pending) => slot.work = None,
            Ok(Poll::Ready(())) if slot.is_rest => {
                slot.work = None;
                slot.is_rest = false;
            }
            // A panic costs one stream, not the others. The future that panicked is dropped and never polled again.
            Ok(Poll::Ready(())) | Err(_) => {
                jobs.rest.take();
                self.slots[index] = self.new_slot(index);
            }
        }
        self.slots[index].busy = false;
        self.cold.push(index);
    }

    /// Whether no job is under way.
    pub(super) fn are_idle(&self) -> bool {
        self.warm.len() + self.cold.len() == self.slots.len()
    }

    /// Releases the memory of all slots, unless a job is under way.
    pub(super) fn clear(&mut self) {
        if self.are_idle() {
            self.slots = Vec::new();
            self.warm = Vec::new();
            self.cold = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests;
