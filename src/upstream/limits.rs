//! The limits of one version, counted over all workers: requests, retries and connections, and the queue for a connection.
//!
//! [`VersionLoad`] belongs to a version by its name and survives reloads. The limits themselves are passed with each call,
//! because a reload may change them at any time; a limit of 0 means unlimited. Whatever is counted is represented by a
//! guard that is uncounted when it is dropped, so that no early return or cancelled future can leak a count.
//!
//! A request that finds a free connection slot pays one atomic exchange. Only one that must wait takes a lock, for as long
//! as a push takes. Slots are handed out in the order of arrival, and newcomers don't overtake those that wait.

use super::transport::TransportCell;
use crate::telemetry::WorkerId;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

pub(crate) use crate::telemetry::record::Limit;

/// The number of requests, of all versions, that wait for a connection.
static WAITING: AtomicU32 = AtomicU32::new(0);

/// Whether any request waits for a connection, to whatever version. In the common case this avoids a look at each version.
pub(crate) fn anybody_waits() -> bool {
    WAITING.load(Ordering::SeqCst) > 0
}

/// Requests in flight, connections and waiters of a version, on all workers.
///
/// The registry hands out the same one to every snapshot for as long as anything refers to the version, so that requests of an
/// older snapshot count against the limits of the latest. Every worker writes it.
#[derive(Debug, Default)]
pub struct VersionLoad {
    /// Requests in flight.
    pub requests: ActiveCount,
    /// Retries in flight.
    pub retries: ActiveCount,
    /// Open connections, including idle ones.
    pub connections: Arc<ConnectionSlots>,
    /// Downloads whose clients have been slow to read at least once.
    pub blocked: AtomicU32,
    /// Open [`RoomRequest`]s: how many of these downloads are to be ended.
    pub wanted: AtomicU32,
    /// The lowest rate among these downloads, for each worker.
    pub slowest: Slowest,
    /// See [`Self::hedge_delay`], in microseconds; 0 = unknown.
    hedge_us: AtomicU64,
    /// Settings for opening connections.
    pub(crate) transport: TransportCell,
}

/// Asks the workers to end one slow download, which frees a slot for the request that holds this. Withdrawn on drop if no
/// worker has granted it.
#[derive(Debug)]
#[must_use = "the request for room is withdrawn when this is dropped"]
pub struct RoomRequest<'a>(&'a VersionLoad);

impl Drop for RoomRequest<'_> {
    fn drop(&mut self) {
        // Requests aren't told apart: if this one has been granted, another one is withdrawn here, or none is left.
        self.0.take_room_request();
    }
}

/// How many workers have a cell of their own in [`Slowest`]. With more workers some share one.
const CELLS: usize = 16;

/// The lowest rate, in bytes per second, of each worker's blocked downloads. The workers compare them to find out which
/// one has the slowest download of the version.
#[derive(Debug, Default)]
pub struct Slowest([AtomicU64; CELLS]);

impl Slowest {
    /// Publishes the lowest rate of worker `worker`; `None` if it has no blocked download.
    pub fn publish(&self, worker: WorkerId, rate: Option<u64>) {
        let cell = rate.map_or(0, |rate| rate.saturating_add(1));
        self.0[worker.0 % CELLS].store(cell, Ordering::Relaxed);
    }

    /// Whether a worker other than `worker` has published a rate below this one.
    pub fn is_lower_elsewhere(&self, worker: WorkerId, rate: u64) -> bool {
        let others = self.0.iter().enumerate();
        let mut others = others.filter(|(at, _)| *at != worker.0 % CELLS);
        others.any(|(_, cell)| {
            let cell = cell.load(Ordering::Relaxed);
            cell > 0 && cell - 1 < rate
        })
    }
}

impl VersionLoad {
    /// The quantile of the version's durations after which a request is hedged. `None` if too few of them are known, or the
    /// service hedges by none.
    pub fn hedge_delay(&self) -> Option<Duration> {
        let us = self.hedge_us.load(Ordering::Relaxed);
        (us > 0).then(|| Duration::from_micros(us))
    }

    /// Publishes [`Self::hedge_delay`], at least 1 ms, for every worker.
    pub fn set_hedge_delay(&self, delay: Option<Duration>) {
        let us = |delay: Duration| u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        let us = delay.map_or(0, |delay| us(delay).max(1000));
        self.hedge_us.store(us, Ordering::Relaxed);
    }

    /// Asks the workers to end one blocked download, for as long as the guard is held. `None` if there is none.
    pub fn ask_for_room(&self) -> Option<RoomRequest<'_>> {
        let asks = self.blocked.load(Ordering::Relaxed) > 0;
        asks.then(|| {
            self.wanted.fetch_add(1, Ordering::Relaxed);
            RoomRequest(self)
        })
    }

    /// Removes one request for room, because it is granted or withdrawn; `false` if there is none left.
    pub fn take_room_request(&self) -> bool {
        let fewer = |n: u32| n.checked_sub(1);
        let taken = self
            .wanted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        taken.is_ok()
    }
}

/// A bounded count of active requests or connections, on a cache line of its own.
///
/// The bound is passed by each caller and never stored: after a reload with a lower one the count may be above it for a while, and
/// nothing enters until it has fallen below.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ActiveCount {
    active: AtomicU32,
    /// Requests that found the limit reached and wait.
    waiting: AtomicU32,
}

/// Counts one waiting request until it is dropped.
#[derive(Debug)]
#[must_use = "the wait is counted only while this is held"]
pub(crate) struct WaitingGuard<'a>(&'a ActiveCount);

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts one active request until it is dropped.
#[derive(Debug)]
#[must_use = "the request is counted only while this is held"]
pub struct ActiveGuard<'a>(&'a ActiveCount);

impl ActiveCount {
    /// Counts one more; `None` if `ceiling` are active already. A ceiling of 0 means unlimited.
    #[inline]
    pub fn try_enter(&self, ceiling: u32) -> Option<ActiveGuard<'_>> {
        self.enter(ceiling).then(|| ActiveGuard(self))
    }

    /// Number of active requests or connections.
    #[inline]
    pub fn now(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Registers a waiting request. Newcomers that heed [`Self::is_awaited`] then wait as well instead of overtaking it.
    pub(crate) fn wait(&self) -> WaitingGuard<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        WaitingGuard(self)
    }

    /// Whether any request waits.
    #[inline]
    pub(crate) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Sequentially consistent, like [`Self::leave`] and [`Self::is_empty`]: see [`ConnectionSlots::wait`].
    #[inline]
    fn enter(&self, ceiling: u32) -> bool {
        if ceiling == 0 {
            self.active.fetch_add(1, Ordering::SeqCst);
            return true;
        }
        let free = |n: u32| (n < ceiling).then(|| n + 1);
        let entered = self
            .active
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, free);
        entered.is_ok()
    }

    #[inline]
    fn leave(&self) {
        self.active.fetch_sub(1, Ordering::SeqCst);
    }

    fn is_empty(&self) -> bool {
        self.active.load(Ordering::SeqCst) == 0
    }
}

impl Drop for ActiveGuard<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// The connection slots of a version, and the requests that wait for one.
///
/// A slot stands for an open connection or for one that is being opened, over HTTP/1 or HTTP/2, on any worker. Freed slots go to
/// the queue first.
#[derive(Debug, Default)]
pub struct ConnectionSlots {
    open: ActiveCount,
    /// Requests that wait for a slot, without those in the queue that have given up.
    waiting: ActiveCount,
    /// Requests under the limit `pending`: those that wait for a connection, for a stream on one, or for a slot among the
    /// version's requests.
    pending: ActiveCount,
    queue: Mutex<WaitQueue>,
}

#[derive(Debug, Default)]
struct WaitQueue {
    /// The limit of connections that the last arrival passed: the latest that is known here.
    ceiling: u32,
    /// Waiting requests, in the order of arrival. Some may have given up.
    waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    sender: oneshot::Sender<ConnectionSlot>,
    /// The waiter counts under `pending`.
    counted: bool,
}

/// Counts one request under the limit `pending` until it is dropped.
#[derive(Debug)]
#[must_use = "the wait is counted only while this is held"]
pub(crate) struct Pending(Arc<ConnectionSlots>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.leave();
    }
}

/// A request's place in the queue. Its counts are released exactly once: by [`ConnectionSlots::serve`] when that sends it
/// a slot, else by dropping this.
struct QueuedRequest<'a> {
    slots: &'a ConnectionSlots,
    receiver: oneshot::Receiver<ConnectionSlot>,
    served: bool,
    counted: bool,
}

impl Drop for QueuedRequest<'_> {
    fn drop(&mut self) {
        // Once the receiver is closed no slot can be sent. One that was sent before is received and dropped here, which
        // passes it on to the next waiter.
        self.receiver.close();
        if !self.served && self.receiver.try_recv().is_err() {
            self.slots.leave_queue(self.counted);
        }
        WAITING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The permit for one open connection. The connection holds it for its whole life, idle or not; dropping it gives the slot
/// to the first request in the queue.
#[derive(Debug)]
#[must_use = "the connection is counted only while this is held"]
pub struct ConnectionSlot(Arc<ConnectionSlots>);

impl ConnectionSlots {
    /// Takes a slot, after a wait if none is free. `ceiling` limits the open connections, `pending` the waiting requests.
    /// Dropping the future leaves the queue; a slot that was handed to it goes to the next waiter.
    ///
    /// # Errors
    /// [`Limit::Pending`] at once if too many requests wait already, [`Limit::Connections`] if no slot was free before
    /// `deadline`.
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

    /// As [`Self::acquire`], for a new HTTP/2 connection. The requests that wait for its streams have been counted by
    /// [`Self::pend`].
    ///
    /// # Errors
    /// [`Limit::Connections`] if no slot was free before `deadline`.
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

    /// Counts a request that waits for a stream, or for a slot among the version's requests. `None` if `ceiling` requests
    /// wait already.
    pub(crate) fn pend(self: &Arc<Self>, ceiling: u32) -> Option<Pending> {
        self.pending.enter(ceiling).then(|| Pending(self.clone()))
    }

    /// Takes a slot if one is free and no request waits for it.
    #[inline]
    pub fn try_acquire(self: &Arc<Self>, ceiling: u32) -> Option<ConnectionSlot> {
        if self.waiting.is_empty() {
            self.take(ceiling)
        } else {
            None
        }
    }

    /// The number of requests that wait. While it isn't 0 a connection should be closed rather than kept idle.
    #[inline]
    pub fn waiting(&self) -> u32 {
        self.waiting.now()
    }

    /// The number of slots that are held.
    pub fn open(&self) -> u32 {
        self.open.now()
    }

    fn take(self: &Arc<Self>, ceiling: u32) -> Option<ConnectionSlot> {
        self.open
            .enter(ceiling)
            .then(|| ConnectionSlot(self.clone()))
    }

    /// Queues up and waits for a slot until `deadline`.
    ///
    /// No wake-up is lost: this side counts itself as waiting and then looks for a free slot, whoever drops a slot frees it
    /// and then looks whether anybody waits. Both do so in sequentially consistent order, so that at least one of them sees
    /// the other.
    async fn wait(
        self: &Arc<Self>,
        ceiling: u32,
        counted: bool,
        deadline: Instant,
    ) -> Result<ConnectionSlot, Limit> {
        let mut queued = self.enqueue(ceiling, counted);
        self.serve();
        match tokio::time::timeout_at(deadline.into(), &mut queued.receiver).await {
            Ok(Ok(slot)) => {
                queued.served = true;
                Ok(slot)
            }
            _ => Err(Limit::Connections),
        }
    }

    fn enqueue(&self, ceiling: u32, counted: bool) -> QueuedRequest<'_> {
        self.waiting.enter(0);
        WAITING.fetch_add(1, Ordering::SeqCst);
        let (sender, receiver) = oneshot::channel();
        let queued = QueuedRequest {
            slots: self,
            receiver,
            served: false,
            counted,
        };
        let mut queue = self.queue();
        queue.ceiling = ceiling;
        // Requests that gave up stay in the queue until their turn comes. They are removed before that only when they may be
        // the larger part of it, so that the cost of an arrival stays constant on average.
        if queue.waiters.len() > 2 * self.waiting.now() as usize + 16 {
            queue.waiters.retain(|w| !w.sender.is_closed());
        }
        queue.waiters.push_back(Waiter { sender, counted });
        queued
    }

    /// Hands free slots to waiting requests in the order of their arrival.
    fn serve(self: &Arc<Self>) {
        let mut unsent = None;
        let mut queue = self.queue();
        while let Some(waiter) = queue.waiters.pop_front() {
            let Some(slot) = unsent.take().or_else(|| self.take(queue.ceiling)) else {
                queue.waiters.push_front(waiter);
                break;
            };
            match waiter.sender.send(slot) {
                Ok(()) => self.leave_queue(waiter.counted),
                // The request gave up and has counted itself out: the next one gets the slot.
                Err(slot) => unsent = Some(slot),
            }
        }
        // Dropping a slot locks the queue, which would deadlock while it is locked here.
        drop(queue);
        drop(unsent);
    }

    fn leave_queue(&self, counted: bool) {
        self.waiting.leave();
        if counted {
            self.pending.leave();
        }
    }

    fn queue(&self) -> MutexGuard<'_, WaitQueue> {
        // Nothing that runs under the lock panics.
        self.queue.lock().expect("queue lock is not poisoned")
    }
}

impl ConnectionSlot {
    /// Whether a request waits for a connection to this version.
    pub fn is_wanted(&self) -> bool {
        self.0.waiting() > 0
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        // In this order: see `ConnectionSlots::wait`.
        self.0.open.leave();
        if !self.0.waiting.is_empty() {
            self.0.serve();
        }
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
