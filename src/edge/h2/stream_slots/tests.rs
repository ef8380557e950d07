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
    async fn work(jobs: Rc<Jobs<TestJob>>) {
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
    async fn work(jobs: Rc<Jobs<TestJob>>) {
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
fn what_a_panicking_job_has_left_is_no_other_jobs() {
    async fn work(jobs: Rc<Jobs<TestJob>>) {
        loop {
            let job = jobs.next().await;
            let done = job.done.clone();
            if job.panics {
                jobs.leave(Box::pin(async move { done.set(9) }));
                panic!("on purpose");
            }
            done.set(1);
        }
    }
    let mut slots = StreamSlots::new(1, |jobs| Box::pin(work(jobs)));
    slots.unpark(&Arc::new(Task::default()).into());
    let bad = TestJob {
        panics: true,
        ..job(1)
    };
    slots.start(bad.clone());
    let next = job(1);
    slots.start(next.clone());
    slots.poll();
    assert_eq!((bad.done.get(), next.done.get()), (0, 1));
    assert!(slots.are_idle());
}

#[test]
fn a_slot_is_small() {
    assert!(size_of::<Slot>() <= 40, "{}", size_of::<Slot>());
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
