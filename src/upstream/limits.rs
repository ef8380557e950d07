//! Ceilings of one version, all workers together: requests, retries and connections at a time, and who waits for one.
//!
//! [`VersionLoad`] belongs to a version by name and outlives reloads. Ceilings are given with each call, because a
//! reload may change them while the load goes on; 0 is no ceiling. Whoever has come in holds a guard that leaves when it
//! is dropped: no path out of a request can forget it.
//!
//! A request that finds a connection free for it pays one atomic exchange. Only one that must wait takes a lock, for the
//! length of a push; it is served in the order of arrival, and newcomers don't overtake.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::oneshot;

pub(crate) use crate::telemetry::record::Limit;

/// Waiting requests of all versions.
static WAITING: AtomicU32 = AtomicU32::new(0);

/// Whether a request waits for a connection to any version: if not, nobody need be looked for.
pub(crate) fn anybody_waits() -> bool {
    WAITING.load(Ordering::SeqCst) > 0
}

/// What a version is busy with, of all workers.
#[derive(Debug, Default)]
pub struct VersionLoad {
    /// Requests in flight.
    pub requests: ActiveCount,
    /// Retries in flight.
    pub retries: ActiveCount,
    /// Open connections, idle ones included.
    pub connections: Arc<ConnectionSlots>,
    /// Downloads, of all workers, whose clients were slow to take them at least once.
    pub blocked: AtomicU32,
    /// Requests that wait until a worker ends one of these downloads.
    pub wanted: AtomicU32,
    /// The lowest rate among these downloads, for each worker.
    pub slowest: Slowest,
}

/// A request that waits until a download ends. Taken back when it is dropped.
#[derive(Debug)]
#[must_use = "the wish is taken back at once when it is not held"]
pub struct RoomRequest<'a>(&'a VersionLoad);

impl Drop for RoomRequest<'_> {
    fn drop(&mut self) {
        self.0.meet_wish();
    }
}

/// How many workers have a cell of their own in [`Slowest`]; beyond that some share one.
const CELLS: usize = 16;

/// The lowest rate, in bytes a second, of the downloads of each worker that their clients are slow to take. Workers compare
/// it to find out which of them has the slowest download of a version.
#[derive(Debug, Default)]
pub struct Slowest([AtomicU64; CELLS]);

impl Slowest {
    /// Worker `worker` has this lowest rate; `None`: it has no such download.
    pub fn publish(&self, worker: usize, rate: Option<u64>) {
        let cell = rate.map_or(0, |rate| rate.saturating_add(1));
        self.0[worker % CELLS].store(cell, Ordering::Relaxed);
    }

    /// Whether another worker than `worker` has one with a lower rate than this.
    pub fn is_lower_elsewhere(&self, worker: usize, rate: u64) -> bool {
        let others = self.0.iter().enumerate();
        let mut others = others.filter(|(at, _)| *at != worker % CELLS);
        others.any(|(_, cell)| {
            let cell = cell.load(Ordering::Relaxed);
            cell > 0 && cell - 1 < rate
        })
    }
}

impl VersionLoad {
    /// Asks the workers to end one download that its client is slow to take, for as long as the wish is held; `None`:
    /// there is no such download.
    pub fn ask_for_room(&self) -> Option<RoomRequest<'_>> {
        let asks = self.blocked.load(Ordering::Relaxed) > 0;
        asks.then(|| {
            self.wanted.fetch_add(1, Ordering::Relaxed);
            RoomRequest(self)
        })
    }

    /// Meets one wish of [`Self::ask_for_room`], or takes it back; `false`: there is none left.
    pub fn meet_wish(&self) -> bool {
        let fewer = |n: u32| n.checked_sub(1);
        let taken = self
            .wanted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        taken.is_ok()
    }
}

/// How many are inside, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ActiveCount {
    inside: AtomicU32,
    /// Who came when it was full, and waits.
    waiting: AtomicU32,
}

/// One that waits outside until it is dropped.
#[derive(Debug)]
#[must_use = "it doesn't count as waiting when it is not held"]
pub(crate) struct Outside<'a>(&'a ActiveCount);

impl Drop for Outside<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One that is inside; leaves when dropped.
#[derive(Debug)]
#[must_use = "it leaves at once when it is not held"]
pub struct ActiveGuard<'a>(&'a ActiveCount);

impl ActiveCount {
    /// Comes in; `None`: so many are inside already. A `ceiling` of 0 lets everybody in.
    #[inline]
    pub fn try_enter(&self, ceiling: u32) -> Option<ActiveGuard<'_>> {
        self.enter(ceiling).then(|| ActiveGuard(self))
    }

    /// How many are inside.
    #[inline]
    pub fn now(&self) -> u32 {
        self.inside.load(Ordering::Relaxed)
    }

    /// Waits outside, so that newcomers wait as well instead of taking the room that is made for it.
    pub(crate) fn wait(&self) -> Outside<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Outside(self)
    }

    /// Whether somebody waits.
    #[inline]
    pub(crate) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Sequentially consistent, as is [`Self::leave`]: whoever frees a connection must see who waits for it.
    #[inline]
    fn enter(&self, ceiling: u32) -> bool {
        if ceiling == 0 {
            self.inside.fetch_add(1, Ordering::SeqCst);
            return true;
        }
        let free = |n: u32| (n < ceiling).then(|| n + 1);
        let came = self
            .inside
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, free);
        came.is_ok()
    }

    #[inline]
    fn leave(&self) {
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }

    fn is_empty(&self) -> bool {
        self.inside.load(Ordering::SeqCst) == 0
    }
}

impl Drop for ActiveGuard<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// The connections that a version may have, and the requests that wait for one.
#[derive(Debug, Default)]
pub struct ConnectionSlots {
    open: ActiveCount,
    waiting: ActiveCount,
    /// Requests under the ceiling `pending`: those that wait for a slot, for a stream, or for room among
    /// the version's requests.
    pending: ActiveCount,
    queue: Mutex<WaitQueue>,
}

#[derive(Debug, Default)]
struct WaitQueue {
    /// Of the one that came last, because it knows the configuration best.
    ceiling: u32,
    /// In the order of arrival. Some may have given up meanwhile.
    waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    sender: oneshot::Sender<ConnectionSlot>,
    /// It counts under `pending`.
    counted: bool,
}

/// A request that waits for a stream or for room, counted under the ceiling `pending`.
#[derive(Debug)]
#[must_use = "the wait is not counted when it is not held"]
pub(crate) struct Pending(Arc<ConnectionSlots>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.leave();
    }
}

/// A place in the queue. Whoever sends a slot counts it out; who gives up before that counts itself out.
struct WaitTurn<'a> {
    slots: &'a ConnectionSlots,
    receiver: oneshot::Receiver<ConnectionSlot>,
    served: bool,
    counted: bool,
}

impl Drop for WaitTurn<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        if !self.served && self.receiver.try_recv().is_err() {
            self.slots.leave_queue(self.counted);
        }
        WAITING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The right to have one connection open, for as long as it is held: by the connection, idle or not.
#[derive(Debug)]
#[must_use = "the connection is not counted when it is not held"]
pub struct ConnectionSlot(Arc<ConnectionSlots>);

impl ConnectionSlots {
    /// A slot, after a wait if need be. `ceiling`: of open connections; `pending`: of requests that wait.
    ///
    /// # Errors
    /// [`Limit::Pending`]: too many wait, told at once. [`Limit::Connections`]: none was free until `deadline`.
    pub async fn acquire(
        self: &Arc<Self>,
        ceiling: u32,
        pending: u32,
        deadline: Instant,
    ) -> Result<ConnectionSlot, Limit> {
        match self.try_acquire(ceiling) {
            Some(slot) => Ok(slot),
            None if self.pending.enter(pending) => self.wait(ceiling, true, deadline).await,
            None => Err(Limit::Pending),
        }
    }

    /// A slot, after a wait if need be, for requests that wait for a stream meanwhile: [`Self::pend`] has counted them.
    ///
    /// # Errors
    /// [`Limit::Connections`]: none was free until `deadline`.
    pub(super) async fn acquire_for_streams(
        self: &Arc<Self>,
        ceiling: u32,
        deadline: Instant,
    ) -> Result<ConnectionSlot, Limit> {
        match self.try_acquire(ceiling) {
            Some(slot) => Ok(slot),
            None => self.wait(ceiling, false, deadline).await,
        }
    }

    /// Counts a request that waits for a stream, or for room among the version's requests; `None`: `ceiling` requests wait already.
    pub(crate) fn pend(self: &Arc<Self>, ceiling: u32) -> Option<Pending> {
        self.pending.enter(ceiling).then(|| Pending(self.clone()))
    }

    /// A slot, if one is free and nobody waits for it.
    #[inline]
    pub fn try_acquire(self: &Arc<Self>, ceiling: u32) -> Option<ConnectionSlot> {
        if self.waiting.is_empty() {
            self.take(ceiling)
        } else {
            None
        }
    }

    /// Requests that wait. While there are any, a worker does best to close a connection instead of keeping it idle.
    #[inline]
    pub fn waiting(&self) -> u32 {
        self.waiting.now()
    }

    /// Slots that are held.
    pub fn open(&self) -> u32 {
        self.open.now()
    }

    fn take(self: &Arc<Self>, ceiling: u32) -> Option<ConnectionSlot> {
        self.open
            .enter(ceiling)
            .then(|| ConnectionSlot(self.clone()))
    }

    async fn wait(
        self: &Arc<Self>,
        ceiling: u32,
        counted: bool,
        deadline: Instant,
    ) -> Result<ConnectionSlot, Limit> {
        self.waiting.enter(0);
        let (sender, receiver) = oneshot::channel();
        WAITING.fetch_add(1, Ordering::SeqCst);
        let mut turn = WaitTurn {
            slots: self,
            receiver,
            served: false,
            counted,
        };
        {
            let mut queue = self.queue();
            queue.ceiling = ceiling;
            // Those that gave up stay in the queue until their turn, but not in large numbers.
            if queue.waiters.len() > 2 * self.waiting.now() as usize + 16 {
                queue.waiters.retain(|w| !w.sender.is_closed());
            }
            queue.waiters.push_back(Waiter { sender, counted });
        }
        // A slot may have come free before it was seen that somebody waits.
        self.serve();
        match tokio::time::timeout_at(deadline.into(), &mut turn.receiver).await {
            Ok(Ok(slot)) => {
                turn.served = true;
                Ok(slot)
            }
            _ => Err(Limit::Connections),
        }
    }

    /// Gives what is free to those that wait.
    fn serve(self: &Arc<Self>) {
        let mut spare = None;
        let mut queue = self.queue();
        while let Some(waiter) = queue.waiters.pop_front() {
            let Some(slot) = spare.take().or_else(|| self.take(queue.ceiling)) else {
                queue.waiters.push_front(waiter);
                break;
            };
            // Whoever gave up doesn't take it: it is the next one's.
            match waiter.sender.send(slot) {
                Ok(()) => self.leave_queue(waiter.counted),
                Err(slot) => spare = Some(slot),
            }
        }
        // A slot that is dropped wants the queue.
        drop(queue);
        drop(spare);
    }

    fn leave_queue(&self, counted: bool) {
        self.waiting.leave();
        if counted {
            self.pending.leave();
        }
    }

    fn queue(&self) -> MutexGuard<'_, WaitQueue> {
        self.queue.lock().expect("no holder of this lock panics")
    }
}

impl ConnectionSlot {
    /// Whether somebody waits for one of this version.
    pub fn is_wanted(&self) -> bool {
        self.0.waiting() > 0
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.open.leave();
        if !self.0.waiting.is_empty() {
            self.0.serve();
        }
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
