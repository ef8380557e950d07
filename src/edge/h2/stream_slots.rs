//! The streams of one connection, worked on in the connection's own task.
//!
//! A stream takes a seat: a future that serves one stream after the other, so that neither its memory nor a task is made anew for
//! each. Wakers only ring: they say which seats have something to do. The task is woken once for however many rings, and rings
//! from inside of it cost no wake-up at all: the connection is polled after its streams, and all their answers leave together.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// So many seats keep their memory while nobody needs it; a connection without streams soon gives up that as well.
const SPARE: usize = 64;

/// Who has something to do. Rung from whatever thread.
#[derive(Debug)]
struct WakeSet {
    /// One bit a seat.
    seats: Box<[AtomicU64]>,
    connection: AtomicBool,
    /// The task runs, or was woken: ringing is enough.
    awake: AtomicBool,
    task: Mutex<Waker>,
}

impl WakeSet {
    fn ring(&self) {
        // Either this sees that the task has lain down, or the task, before it lies down, sees what was rung.
        if !self.awake.load(SeqCst) && !self.awake.swap(true, SeqCst) {
            let task = self.task.lock();
            task.unwrap_or_else(PoisonError::into_inner).wake_by_ref();
        }
    }

    fn any_rung(&self) -> bool {
        self.connection.load(SeqCst) || self.seats.iter().any(|word| word.load(SeqCst) != 0)
    }
}

/// The connection's own bell.
impl Wake for WakeSet {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.connection.store(true, SeqCst);
        self.ring();
    }
}

/// The bell of one seat.
struct SeatBell {
    bells: Arc<WakeSet>,
    seat: usize,
}

impl Wake for SeatBell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.bells.seats[self.seat / 64].fetch_or(1 << (self.seat % 64), SeqCst);
        self.bells.ring();
    }
}

/// Where a seat finds its next piece of work.
pub(super) struct JobSlot<J> {
    job: Cell<Option<J>>,
    busy: Cell<bool>,
}

impl<J> JobSlot<J> {
    /// Waits for the next piece of work.
    pub(super) async fn next(&self) -> J {
        self.busy.set(false);
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

type Work = Pin<Box<dyn Future<Output = ()>>>;

struct Seat<J> {
    desk: Rc<JobSlot<J>>,
    /// None while it is vacant.
    work: Option<Work>,
    waker: Waker,
}

/// All seats of one connection.
pub(super) struct StreamSlots<J> {
    seats: Vec<Seat<J>>,
    /// Those without a piece of work; the one left last is warmest.
    free: Vec<usize>,
    vacant: Vec<usize>,
    bells: Arc<WakeSet>,
    /// Rings the connection's bell.
    pub waker: Waker,
    begin: fn(Rc<JobSlot<J>>) -> Work,
}

impl<J> StreamSlots<J> {
    /// At most `most`; none of them is made before it is needed. `begin` makes the work of one, which ends never.
    pub(super) fn new(most: usize, begin: fn(Rc<JobSlot<J>>) -> Work) -> Self {
        let bells = Arc::new(WakeSet {
            seats: (0..most.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            connection: AtomicBool::new(true),
            awake: AtomicBool::new(true),
            task: Mutex::new(Waker::noop().clone()),
        });
        Self {
            seats: Vec::new(),
            free: Vec::new(),
            vacant: Vec::new(),
            waker: bells.clone().into(),
            bells,
            begin,
        }
    }

    /// The task runs.
    pub(super) fn wake_up(&self, task: &Waker) {
        let mut known = self
            .bells
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !known.will_wake(task) {
            known.clone_from(task);
        }
        self.bells.awake.store(true, SeqCst);
    }

    /// Whether the task may wait: nobody has rung.
    pub(super) fn try_park(&self) -> bool {
        self.bells.awake.store(false, SeqCst);
        if self.bells.any_rung() {
            self.bells.awake.store(true, SeqCst);
            return false;
        }
        true
    }

    /// Whether the connection's bell was rung since the last call.
    pub(super) fn take_wake(&self) -> bool {
        self.bells.connection.load(SeqCst) && self.bells.connection.swap(false, SeqCst)
    }

    /// A piece of work begins, at once. No more than [`Self::new`] allowed may be under way.
    pub(super) fn take(&mut self, job: J) {
        let index = self.free.pop().or_else(|| self.vacant.pop());
        let index = index.unwrap_or_else(|| self.add());
        let desk = &self.seats[index].desk;
        desk.job.set(Some(job));
        desk.busy.set(true);
        self.poll_seat(index);
    }

    fn add(&mut self) -> usize {
        let index = self.seats.len();
        debug_assert!(index < self.bells.seats.len() * 64);
        self.seats.push(self.seat(index));
        index
    }

    fn seat(&self, index: usize) -> Seat<J> {
        let desk = Rc::new(JobSlot {
            job: Cell::new(None),
            busy: Cell::new(false),
        });
        let bell = SeatBell {
            bells: self.bells.clone(),
            seat: index,
        };
        Seat {
            work: None,
            desk,
            waker: Arc::new(bell).into(),
        }
    }

    /// Moves those on that were rung for.
    pub(super) fn poll(&mut self) {
        for word in 0..self.bells.seats.len() {
            let rung = &self.bells.seats[word];
            if rung.load(SeqCst) == 0 {
                continue;
            }
            let mut rung = rung.swap(0, SeqCst);
            while rung != 0 {
                self.poll_seat(word * 64 + rung.trailing_zeros() as usize);
                rung &= rung - 1;
            }
        }
    }

    fn poll_seat(&mut self, index: usize) {
        let Some(seat) = self.seats.get_mut(index).filter(|s| s.desk.busy.get()) else {
            return;
        };
        let begin = self.begin;
        let work = seat.work.get_or_insert_with(|| begin(seat.desk.clone()));
        let mut cx = Context::from_waker(&seat.waker);
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut cx))) {
            Ok(Poll::Pending) if seat.desk.busy.get() => {}
            Ok(Poll::Pending) if self.free.len() < SPARE => self.free.push(index),
            Ok(Poll::Pending) => {
                seat.work = None;
                self.vacant.push(index);
            }
            // A fault of ours costs one stream, not the others.
            Ok(Poll::Ready(())) | Err(_) => {
                self.seats[index] = self.seat(index);
                self.vacant.push(index);
            }
        }
    }

    /// Whether no work is under way.
    pub(super) fn are_free(&self) -> bool {
        self.free.len() + self.vacant.len() == self.seats.len()
    }

    /// Gives up the memory of all seats, where no work is under way.
    pub(super) fn clear(&mut self) {
        if self.are_free() {
            self.seats = Vec::new();
            self.free = Vec::new();
            self.vacant = Vec::new();
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

    /// Work that takes some polls, or panics; it tells how many pieces are done and whom to wake.
    #[derive(Clone, Default)]
    struct Piece {
        polls: u32,
        panics: bool,
        done: Rc<Cell<u32>>,
        waker: Rc<Cell<Option<Waker>>>,
    }

    fn seats(most: usize) -> (StreamSlots<Piece>, Arc<Task>) {
        async fn work(desk: Rc<JobSlot<Piece>>) {
            loop {
                let mut piece = desk.next().await;
                std::future::poll_fn(|cx| {
                    assert!(!piece.panics, "on purpose");
                    piece.waker.set(Some(cx.waker().clone()));
                    piece.polls -= 1;
                    match piece.polls {
                        0 => Poll::Ready(()),
                        _ => Poll::Pending,
                    }
                })
                .await;
                piece.done.set(piece.done.get() + 1);
            }
        }
        let seats = StreamSlots::new(most, |desk| Box::pin(work(desk)));
        let task = Arc::new(Task::default());
        seats.wake_up(&task.clone().into());
        assert!(seats.take_wake(), "a new connection is to be polled");
        (seats, task)
    }

    fn piece(polls: u32) -> Piece {
        Piece {
            polls,
            ..Piece::default()
        }
    }

    #[test]
    fn work_that_ends_at_once_needs_one_seat_however_much_it_is() {
        let (mut seats, _) = seats(100);
        let piece = piece(1);
        (0..10).for_each(|_| seats.take(piece.clone()));
        assert_eq!((piece.done.get(), seats.seats.len()), (10, 1));
        assert!(seats.are_free());
        seats.clear();
        assert_eq!(seats.seats.len(), 0);
        seats.take(piece.clone());
        assert_eq!(piece.done.get(), 11);
    }

    #[test]
    fn no_more_memory_is_kept_for_later_than_for_so_many() {
        let (mut seats, _) = seats(100);
        let pieces: Vec<_> = (0..100).map(|_| piece(2)).collect();
        for again in 1..=2 {
            pieces.iter().for_each(|p| seats.take(p.clone()));
            assert!(!seats.are_free());
            pieces
                .iter()
                .for_each(|p| p.waker.take().expect("waits").wake());
            seats.poll();
            assert!(seats.are_free());
            assert!(pieces.iter().all(|p| p.done.get() == again));
            let kept = seats.seats.iter().filter(|s| s.work.is_some()).count();
            assert_eq!((kept, seats.seats.len()), (SPARE, 100));
        }
    }

    #[test]
    fn only_those_that_rang_are_polled() {
        let (mut seats, _) = seats(100);
        let pieces: Vec<_> = (0..100).map(|_| piece(2)).collect();
        pieces.iter().for_each(|p| seats.take(p.clone()));
        for i in [3, 64, 99] {
            pieces[i].waker.take().expect("waits").wake();
        }
        seats.poll();
        let done: Vec<_> = (0..100).filter(|i| pieces[*i].done.get() == 1).collect();
        assert_eq!(done, [3, 64, 99]);
        assert!(!seats.are_free() && !seats.take_wake());
        seats.clear();
        assert_eq!(seats.seats.len(), 100, "what is under way stays");
    }

    #[test]
    fn a_sleeping_task_is_woken_once_and_one_that_runs_not_at_all() {
        let (mut seats, task) = seats(1);
        let piece = piece(9);
        seats.take(piece.clone());
        let waker = piece.waker.take().expect("waits");
        waker.wake_by_ref();
        assert!(!seats.try_park(), "a bell was rung meanwhile");
        seats.poll();
        seats.waker.wake_by_ref();
        assert!(!seats.try_park() && seats.take_wake());
        assert!(seats.try_park());
        assert_eq!(task.0.load(SeqCst), 0);
        (0..3).for_each(|_| waker.wake_by_ref());
        seats.waker.wake_by_ref();
        assert_eq!(task.0.load(SeqCst), 1);
    }

    #[test]
    fn a_panic_costs_one_piece_of_work() {
        let (mut seats, _) = seats(2);
        let fine = piece(2);
        seats.take(fine.clone());
        let bad = Piece {
            panics: true,
            ..piece(1)
        };
        seats.take(bad);
        let next = piece(1);
        seats.take(next.clone());
        fine.waker.take().expect("waits").wake();
        seats.poll();
        assert_eq!((fine.done.get(), next.done.get()), (1, 1));
        assert!(seats.are_free() && seats.seats.len() == 2);
    }
}
