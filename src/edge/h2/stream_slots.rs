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

/// Hands a slot's future its next job.
pub(super) struct JobSlot<J> {
    job: Cell<Option<J>>,
    busy: Cell<bool>,
    /// What is left of the last job.
    rest: Cell<Option<Work>>,
}

impl<J> JobSlot<J> {
    /// Leaves the rest of the job to another future, which is usually much smaller. The slot's own one is dropped once it waits
    /// for the next job, and the slot stays busy until the rest has completed.
    pub(super) fn leave(&self, rest: Work) {
        self.rest.set(Some(rest));
    }

    /// Waits for the next job. The slot counts as idle until then.
    pub(super) async fn next(&self) -> J {
        self.busy.set(false);
        // No waker is kept: `StreamSlots::start` polls the slot itself, right after it has stored a job.
        std::future::poll_fn(|_| match self.job.take() {
            Some(job) => {
                self.busy.set(true);
                Poll::Ready(job)
            }
            None => Poll::Pending,
        })
        .await
    }
}

struct Slot<J> {
    jobs: Rc<JobSlot<J>>,
    /// `None` until the slot's first job, and again after its memory was released.
    work: Option<Work>,
    /// [`Self::work`] is what is left of a job.
    is_rest: bool,
    waker: Waker,
}

impl<J> Slot<J> {
    /// Continues with what is left of the job, if there is something.
    #[inline]
    fn leaves_rest(&mut self) -> bool {
        let Some(rest) = self.jobs.rest.take() else {
            return false;
        };
        self.work = Some(rest);
        self.is_rest = true;
        self.jobs.busy.set(true);
        true
    }
}

/// All stream slots of one connection.
///
/// Only the connection's task uses them; other threads reach the `WakeSet` through the wakers. Each slot is busy, or in exactly one
/// of `warm` and `cold`. A slot keeps its index for good, since wakers know it by that.
pub(super) struct StreamSlots<J> {
    slots: Vec<Slot<J>>,
    /// Idle slots that have kept their future; the last one was used most recently.
    warm: Vec<usize>,
    /// Idle slots without a future.
    cold: Vec<usize>,
    wakes: Arc<WakeSet>,
    /// Wakes the connection itself: [`Self::take_wake`].
    pub waker: Waker,
    begin: fn(Rc<JobSlot<J>>) -> Work,
}

impl<J> StreamSlots<J> {
    /// At most `most` slots, created on demand. `begin` creates the future of one, which must not complete.
    pub(super) fn new(most: usize, begin: fn(Rc<JobSlot<J>>) -> Work) -> Self {
        let wakes = Arc::new(WakeSet {
            slots: (0..most.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            connection: AtomicBool::new(true),
            awake: AtomicBool::new(true),
            task: Mutex::new(Waker::noop().clone()),
        });
        Self {
            slots: Vec::new(),
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
        let jobs = &self.slots[index].jobs;
        jobs.job.set(Some(job));
        jobs.busy.set(true);
        self.poll_slot(index);
    }

    fn add(&mut self) -> usize {
        let index = self.slots.len();
        debug_assert!(index < self.wakes.slots.len() * 64);
        self.slots.push(self.new_slot(index));
        index
    }

    fn new_slot(&self, index: usize) -> Slot<J> {
        let jobs = Rc::new(JobSlot {
            job: Cell::new(None),
            busy: Cell::new(false),
            rest: Cell::new(None),
        });
        let waker = SlotWaker {
            wakes: self.wakes.clone(),
            slot: index,
        };
        Slot {
            work: None,
            is_rest: false,
            jobs,
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
        let Some(slot) = self.slots.get_mut(index).filter(|s| s.jobs.busy.get()) else {
            return;
        };
        let begin = self.begin;
        let work = slot.work.get_or_insert_with(|| begin(slot.jobs.clone()));
        let mut cx = Context::from_waker(&slot.waker);
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut cx))) {
            Ok(Poll::Pending) if slot.jobs.busy.get() => {}
            Ok(Poll::Pending) if slot.leaves_rest() => {
                // Not polled here: what it sends would come before what other streams have waited for.
                self.wakes.slots[index / 64].fetch_or(1 << (index % 64), SeqCst);
            }
            Ok(Poll::Pending) if self.warm.len() < WARM_SLOTS => self.warm.push(index),
            Ok(Poll::Pending) => {
                slot.work = None;
                self.cold.push(index);
            }
            Ok(Poll::Ready(())) if slot.is_rest => {
                slot.work = None;
                slot.is_rest = false;
                slot.jobs.busy.set(false);
                self.cold.push(index);
            }
            // A panic costs one stream, not the others. The future that panicked is dropped and never polled again.
            Ok(Poll::Ready(())) | Err(_) => {
                self.slots[index] = self.new_slot(index);
                self.cold.push(index);
            }
        }
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
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Counts how often the task is woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    /// A job that takes some polls, or panics. It counts the completed ones and exposes its waker.
    #[derive(Clone, Default)]
    struct TestJob {
        polls: u32,
        panics: bool,
        done: Rc<Cell<u32>>,
        waker: Rc<Cell<Option<Waker>>>,
    }

    fn slots(most: usize) -> (StreamSlots<TestJob>, Arc<Task>) {
        async fn work(jobs: Rc<JobSlot<TestJob>>) {
            loop {
                let mut job = jobs.next().await;
                std::future::poll_fn(|cx| {
                    assert!(!job.panics, "on purpose");
                    job.waker.set(Some(cx.waker().clone()));
                    job.polls -= 1;
                    match job.polls {
                        0 => Poll::Ready(()),
                        _ => Poll::Pending,
                    }
                })
                .await;
                job.done.set(job.done.get() + 1);
            }
        }
        let slots = StreamSlots::new(most, |jobs| Box::pin(work(jobs)));
        let task = Arc::new(Task::default());
        slots.unpark(&task.clone().into());
        assert!(slots.take_wake(), "a new connection is to be polled");
        (slots, task)
    }

    fn job(polls: u32) -> TestJob {
        TestJob {
            polls,
            ..TestJob::default()
        }
    }

    #[test]
    fn jobs_that_end_at_once_share_one_slot() {
        let (mut slots, _) = slots(100);
        let job = job(1);
        (0..10).for_each(|_| slots.start(job.clone()));
        assert_eq!((job.done.get(), slots.slots.len()), (10, 1));
        assert!(slots.are_idle());
        slots.clear();
        assert_eq!(slots.slots.len(), 0);
        slots.start(job.clone());
        assert_eq!(job.done.get(), 11);
    }

    #[test]
    fn idle_slots_beyond_the_limit_release_their_memory() {
        let (mut slots, _) = slots(100);
        let pending: Vec<_> = (0..100).map(|_| job(2)).collect();
        for again in 1..=2 {
            pending.iter().for_each(|p| slots.start(p.clone()));
            assert!(!slots.are_idle());
            pending
                .iter()
                .for_each(|p| p.waker.take().expect("waits").wake());
            slots.poll();
            assert!(slots.are_idle());
            assert!(pending.iter().all(|p| p.done.get() == again));
            let kept = slots.slots.iter().filter(|s| s.work.is_some()).count();
            assert_eq!((kept, slots.slots.len()), (WARM_SLOTS, 100));
        }
    }

    #[test]
    fn only_woken_slots_are_polled() {
        let (mut slots, _) = slots(100);
        let pending: Vec<_> = (0..100).map(|_| job(2)).collect();
        pending.iter().for_each(|p| slots.start(p.clone()));
        for i in [3, 64, 99] {
            pending[i].waker.take().expect("waits").wake();
        }
        slots.poll();
        let done: Vec<_> = (0..100).filter(|i| pending[*i].done.get() == 1).collect();
        assert_eq!(done, [3, 64, 99]);
        assert!(!slots.are_idle() && !slots.take_wake());
        slots.clear();
        assert_eq!(slots.slots.len(), 100, "jobs under way are kept");
    }

    #[test]
    fn a_parked_task_is_woken_once_and_a_running_one_never() {
        let (mut slots, task) = slots(1);
        let job = job(9);
        slots.start(job.clone());
        let waker = job.waker.take().expect("waits");
        waker.wake_by_ref();
        assert!(!slots.try_park(), "woken in the meantime");
        slots.poll();
        slots.waker.wake_by_ref();
        assert!(!slots.try_park() && slots.take_wake());
        assert!(slots.try_park());
        assert_eq!(task.0.load(SeqCst), 0);
        (0..3).for_each(|_| waker.wake_by_ref());
        slots.waker.wake_by_ref();
        assert_eq!(task.0.load(SeqCst), 1);
    }

    /// A job of which a future of its own is left once it was polled.
    fn slots_that_leave(most: usize) -> StreamSlots<TestJob> {
        async fn work(jobs: Rc<JobSlot<TestJob>>) {
            loop {
                let mut job = jobs.next().await;
                jobs.leave(Box::pin(std::future::poll_fn(move |cx| {
                    assert!(!job.panics, "on purpose");
                    job.waker.set(Some(cx.waker().clone()));
                    job.polls -= 1;
                    match job.polls {
                        0 => {
                            job.done.set(job.done.get() + 1);
                            Poll::Ready(())
                        }
                        _ => Poll::Pending,
                    }
                })));
            }
        }
        let slots = StreamSlots::new(most, |jobs| Box::pin(work(jobs)));
        slots.unpark(&Arc::new(Task::default()).into());
        slots
    }

    #[test]
    fn a_slot_is_busy_until_the_rest_of_its_job_has_ended() {
        let mut slots = slots_that_leave(2);
        let first = job(2);
        slots.start(first.clone());
        assert!(!slots.are_idle() && first.waker.take().is_none());
        slots.poll();
        slots.poll();
        let waker = first.waker.take().expect("waits");
        assert_eq!((first.done.get(), slots.are_idle()), (0, false));
        let second = job(1);
        slots.start(second.clone());
        slots.poll();
        assert_eq!((second.done.get(), slots.slots.len()), (1, 2));
        waker.wake();
        slots.poll();
        assert_eq!((first.done.get(), slots.are_idle()), (1, true));
        assert!(slots.slots.iter().all(|slot| slot.work.is_none()));
        // The slots take other jobs.
        slots.start(job(1));
        slots.start(job(1));
        slots.poll();
        assert!(slots.are_idle() && slots.slots.len() == 2);
    }

    #[test]
    fn a_panic_in_the_rest_of_a_job_costs_that_job() {
        let mut slots = slots_that_leave(2);
        let bad = TestJob {
            panics: true,
            ..job(1)
        };
        slots.start(bad);
        slots.poll();
        let next = job(1);
        slots.start(next.clone());
        slots.poll();
        assert_eq!((next.done.get(), slots.slots.len()), (1, 1));
        assert!(slots.are_idle());
    }

    #[test]
    fn a_panic_costs_one_job() {
        let (mut slots, _) = slots(2);
        let fine = job(2);
        slots.start(fine.clone());
        let bad = TestJob {
            panics: true,
            ..job(1)
        };
        slots.start(bad);
        let next = job(1);
        slots.start(next.clone());
        fine.waker.take().expect("waits").wake();
        slots.poll();
        assert_eq!((fine.done.get(), next.done.get()), (1, 1));
        assert!(slots.are_idle() && slots.slots.len() == 2);
    }
}
