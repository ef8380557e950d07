//! The state of one worker thread. Nothing here is shared with other threads, so nothing is locked
//! and no counter is atomic.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::access_log::WorkerLog;
use super::admission_queue::AdmissionQueue;
use super::body::TURN;
use super::connect_pacing::ConnectPacing;
use super::drain;
use super::headers::RequestId;
use super::hold_queue::HoldQueues;
use super::judged::{FailedUsers, JudgedRequests, User};
use super::slow_downloads::Downloads;
use super::traces::WorkerTraces;
use crate::config::policy;
use crate::http1::{HeadCache, RequestHead, ResponseHead};
use crate::index::{EndpointIx, VersionIx};
use crate::net::clock::wall_s;
use crate::net::{Buffers, ListenerId, TaskControls, TaskPhase, date};
use crate::prefetch::prefetch_all;
use crate::routing::SplitState;
use crate::snapshot::{NeededMemory, Service, Snapshot};
use crate::telemetry::WorkerId;
use crate::upstream::budget::RetryBudget;
use crate::upstream::limits;
use crate::upstream::outlier::{AttemptVerdict, Suspect, Suspects};
use crate::upstream::{Conns, Endpoint, H2Conns, Pool, PoolView};

/// How long an idle connection stays open after its close was announced, in milliseconds: time for a
/// request that is already on its way.
const IDLE_CLOSE_GRACE_MS: u64 = 1_000;
/// Ticks in which all idle upstream connections are swept once.
const SWEEP_EVERY: u64 = 20;

/// A snapshot of the worker. Its requests count references on this thread; the counter of the `Arc` is shared by all workers.
pub type SharedSnapshot = Rc<Arc<Snapshot>>;

/// The state of one worker thread.
///
/// Every task of the thread holds a reference to it. A `RefCell` here is borrowed only within one call, never across an `await`, so
/// that no two tasks meet in it. If the thread panics all of it is lost and a new worker starts empty, with the same number and
/// metrics.
#[derive(Debug)]
pub struct Worker {
    /// The worker's number, from 0. Also the index of its metric shards.
    pub id: WorkerId,
    /// The buffer pool.
    pub buffers: Buffers,
    /// Idle HTTP/1 connections to endpoints.
    pub conns: Conns,
    /// HTTP/2 connections to endpoints.
    pub h2_conns: H2Conns,
    /// Deadlines and shutdown signals of all tasks.
    pub controls: TaskControls,
    /// The queue of requests that are about to start.
    pub admission: AdmissionQueue,
    /// The pace at which upstream connections are opened.
    pub(crate) connects: ConnectPacing,
    /// Requests that wait for an endpoint.
    pub(crate) holds: HoldQueues,
    /// The registry of slow downloads.
    pub downloads: Downloads,
    /// Running requests that a rollout's guard judges.
    pub judged: JudgedRequests,
    /// The access log.
    pub(crate) log: WorkerLog,
    /// Spans that haven't been passed on yet.
    pub(crate) traces: WorkerTraces,
    /// Request heads that may repeat.
    pub request_cache: RefCell<HeadCache<RequestHead>>,
    /// Response heads of endpoints that may repeat.
    pub response_cache: RefCell<HeadCache<ResponseHead>>,
    /// When the worker started; the clock of [`Self::is_new_failure`].
    started: Instant,
    suspects: Suspects,
    snapshot: RefCell<SharedSnapshot>,
    rng: RefCell<fastrand::Rng>,
    services: RefCell<Vec<WorkerServiceState>>,
    heads: HeadPool<ResponseHead>,
    request_heads: HeadPool<RequestHead>,
    ticks: Cell<u64>,
    /// When slow uploads were last looked for, in milliseconds of `controls`.
    uploads_shed_ms: Cell<u64>,
    wall_s: Cell<u64>,
    /// How long the last request took: the next one is expected to take as long.
    pub(super) last_took: Cell<Duration>,
    removed: RefCell<HashMap<usize, RemovedEndpoint>>,
}

/// Scratch space for heads. Boxed, so that a request moves a pointer in and out.
#[derive(Debug)]
struct HeadPool<T>(RefCell<Vec<Box<T>>>);

impl<T> Default for HeadPool<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T: Default> HeadPool<T> {
    fn take(&self) -> Box<T> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    fn give(&self, head: Box<T>, most: usize) {
        let mut heads = self.0.borrow_mut();
        if heads.len() < most {
            heads.push(head);
        }
    }
}

/// An endpoint that was removed from the configuration while requests were in flight on it.
#[derive(Debug)]
struct RemovedEndpoint {
    since: Instant,
    drain: policy::DrainPolicy,
    endpoint: Weak<Endpoint>,
}

/// This worker's state of a service. It survives reloads.
#[derive(Debug)]
struct WorkerServiceState {
    split: SplitState,
    budget: RetryBudget,
    /// By index of the version. After a reload an index may stand for another version, which a view notices by the id of the pool.
    views: Vec<PoolView>,
    failed_users: FailedUsers,
}

impl Worker {
    /// Creates worker number `id` with its first snapshot. Suspected outliers are sent to `suspects`.
    pub fn new(id: WorkerId, snapshot: Arc<Snapshot>, suspects: Suspects) -> Rc<Self> {
        let buffers = Buffers::new();
        Rc::new(Self {
            id,
            suspects,
            conns: Conns::new(id),
            h2_conns: H2Conns::new(id, buffers.clone()),
            buffers,
            controls: TaskControls::new(),
            admission: AdmissionQueue::default(),
            connects: ConnectPacing::default(),
            holds: HoldQueues::default(),
            downloads: Downloads::new(id),
            judged: JudgedRequests::default(),
            log: WorkerLog::new(snapshot.followers.clone()),
            traces: WorkerTraces::default(),
            request_cache: RefCell::default(),
            response_cache: RefCell::default(),
            started: Instant::now(),
            snapshot: RefCell::new(Rc::new(snapshot)),
            rng: RefCell::new(fastrand::Rng::new()),
            services: RefCell::default(),
            heads: HeadPool::default(),
            request_heads: HeadPool::default(),
            ticks: Cell::new(0),
            uploads_shed_ms: Cell::new(u64::MAX),
            wall_s: Cell::new(wall_s()),
            last_took: Cell::default(),
            removed: RefCell::default(),
        })
    }

    /// The current snapshot. Cloning it doesn't touch a counter that is shared with other threads.
    #[inline]
    pub fn snapshot(&self) -> SharedSnapshot {
        self.snapshot.borrow().clone()
    }

    /// Switches to a new snapshot, from the next request on. Idle connections to removed endpoints are
    /// closed; requests in flight on them get the grace period of their service's `drain`.
    pub fn adopt(&self, next: Arc<Snapshot>) {
        let former = self.snapshot.replace(Rc::new(next));
        let next = self.snapshot();
        let mut removed = self.removed.borrow_mut();
        removed.retain(|slot, _| !next.has_slot(*slot));
        let since = Instant::now();
        let mut any = false;
        for (service, endpoint) in former.gone_in(&next) {
            any = true;
            removed
                .entry(endpoint.slot)
                .or_insert_with(|| RemovedEndpoint {
                    since,
                    drain: service.policies.drain.clone(),
                    endpoint: Arc::downgrade(endpoint),
                });
        }
        if any {
            self.conns.retain(|endpoint| next.has_slot(endpoint.slot));
            self.h2_conns
                .retain(|endpoint| next.has_slot(endpoint.slot));
        }
    }

    /// Ends tasks on removed endpoints whose grace period has passed.
    fn cut_overdue(&self, now: Instant) {
        let mut removed = self.removed.borrow_mut();
        if removed.is_empty() {
            return;
        }
        self.controls.each(|watch| {
            let Some(left) = watch.upstream().and_then(|slot| removed.get(&slot)) else {
                return;
            };
            let age = now.saturating_duration_since(left.since);
            if drain::is_over(&left.drain, watch.phase(), age) {
                watch.shut();
            }
        });
        removed.retain(|_, left| left.endpoint.strong_count() > 0);
    }

    /// The version of the next request to this service, by the exact split.
    pub fn next_by_split(&self, service: &Service) -> VersionIx {
        self.with_state(service, |state, _| {
            service.routing.split.next(&mut state.split)
        })
    }

    /// Seconds since the Unix epoch, as of the last tick. Precise enough for sessions.
    pub fn now_s(&self) -> u64 {
        self.wall_s.get()
    }

    /// Picks an endpoint of a version, by its index in the pool, and none of `avoid`. `key` is the
    /// request's hash, for `balance = "hash"`.
    pub fn pick(
        &self,
        service: &Service,
        version: VersionIx,
        avoid: &[EndpointIx],
        key: Option<u64>,
    ) -> Option<EndpointIx> {
        self.with_view(service, version, |pool, view, rng| {
            pool.pick(rng, view, avoid, key)
        })
    }

    /// Whether a version has a healthy endpoint.
    pub fn has_healthy_endpoint(&self, service: &Service, version: VersionIx) -> bool {
        self.with_view(service, version, |pool, view, _| {
            view.refresh(pool);
            view.usable() > 0
        })
    }

    /// Adds a request's share to the retry budget of the service.
    pub fn earn_retry(&self, service: &Service) {
        self.with_state(service, |state, _| {
            state.budget.earn(service.policies.retry.budget)
        });
    }

    /// Whether a failure of this user counts against the version: one a minute does.
    pub(crate) fn is_new_failure(&self, service: &Service, user: User) -> bool {
        // A process doesn't run for the 136 years after which this wraps.
        let now_s = self.started.elapsed().as_secs() as u32;
        self.with_state(service, |state, _| state.failed_users.counts(user, now_s))
    }

    /// Takes a retry from the budget of the service; `false` if it is used up.
    pub fn spend_retry(&self, service: &Service) -> bool {
        self.with_state(service, |state, _| state.budget.spend())
    }

    /// Reports a verdict about an endpoint to outlier detection. If the endpoint may have to be
    /// ejected, the control thread is notified.
    #[inline]
    pub fn note(
        &self,
        endpoint: &Arc<Endpoint>,
        outcome: AttemptVerdict,
        policy: &policy::Outlier,
    ) {
        if let Some(reason) = endpoint.note_outcome(self.id, outcome, policy) {
            let suspect = Suspect {
                endpoint: endpoint.clone(),
                reason,
            };
            // Fails only during shutdown, when the control thread no longer receives.
            let _ = self.suspects.send(suspect);
        }
    }

    /// Runs a closure with the worker's random number generator, which isn't cryptographic.
    pub fn with_rng<T>(&self, run: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        run(&mut self.rng.borrow_mut())
    }

    /// Asks the CPU for what a request to a service needs, and for this worker's part of it.
    pub(super) fn prefetch(&self, needed: &NeededMemory) {
        needed.prefetch(self.id);
        if let Some(state) = self.services.borrow().get(needed.slot) {
            prefetch_all(state);
            state.views.iter().take(2).for_each(prefetch_all);
        }
        for endpoint in needed.endpoints {
            self.conns.prefetch(endpoint);
        }
    }

    fn with_view<T>(
        &self,
        service: &Service,
        version: VersionIx,
        run: impl FnOnce(&Pool, &mut PoolView, &mut fastrand::Rng) -> T,
    ) -> T {
        self.with_state(service, |state, rng| {
            while state.views.len() <= version.0 {
                state.views.push(PoolView::starting_at(rng.u64(..)));
            }
            run(
                &service.versions[version].pool,
                &mut state.views[version.0],
                rng,
            )
        })
    }

    fn with_state<T>(
        &self,
        service: &Service,
        run: impl FnOnce(&mut WorkerServiceState, &mut fastrand::Rng) -> T,
    ) -> T {
        let mut states = self.services.borrow_mut();
        if states.len() <= service.slot {
            // Only requests that a version gets come here, so the service has one.
            let workers = service.versions[0].metrics.workers();
            states.resize_with(service.slot + 1, || WorkerServiceState {
                split: SplitState::default(),
                budget: RetryBudget::new(workers),
                views: Vec::new(),
                failed_users: FailedUsers::default(),
            });
        }
        run(&mut states[service.slot], &mut self.rng.borrow_mut())
    }

    /// Bytes that a body may move before its task yields. Shrinks with the number of requests in
    /// flight, so that a round of all of them stays short.
    pub fn turn_bytes(&self) -> u64 {
        /// The minimum: what fits into a pipe of the default size.
        const LEAST: u64 = 64 * 1024;
        /// Bytes of one round of all requests in flight, about 4 ms of copying.
        const ROUND: u64 = 16 << 20;
        (ROUND / self.admission.in_flight().max(1) as u64).clamp(LEAST, TURN)
    }

    /// The id of a request whose `x-request-id` is `theirs`.
    pub fn request_id(&self, theirs: Option<&[u8]>) -> RequestId {
        RequestId::of(theirs, &mut self.rng.borrow_mut())
    }

    /// Takes scratch space for a response head.
    pub fn take_head(&self) -> Box<ResponseHead> {
        self.heads.take()
    }

    /// Returns scratch space for a response head.
    pub fn give_head(&self, head: Box<ResponseHead>) {
        self.heads.give(head, 1024);
    }

    /// Takes scratch space for a request head.
    pub fn take_request_head(&self) -> Box<RequestHead> {
        self.request_heads.take()
    }

    /// Returns scratch space for a request head.
    pub fn give_request_head(&self, head: Box<RequestHead>) {
        self.request_heads.give(head, 256);
    }

    /// To be called every [`crate::net::clock::TICK`]: wakes tasks whose deadline has passed, ends
    /// overdue ones, and sweeps idle upstream connections and buffers.
    pub fn tick(&self, now: Instant) {
        // First, because it sets the clock that everything below reads.
        self.controls.tick(now);
        self.admission.tick();
        self.cut_overdue(now);
        self.downloads.tick(self.controls.now_ms());
        self.judged.sweep(now);
        self.log.tick(&self.snapshot(), now);
        self.traces.tick();
        if limits::anybody_waits() {
            self.conns.make_room();
            self.h2_conns.make_room();
        }
        self.conns.close_parting();
        self.wall_s.set(wall_s());
        date::set(self.wall_s.get());
        let n = self.ticks.get();
        self.ticks.set(n + 1);
        // Some endpoints in each tick. Sweeping thousands of them at once would stall the worker.
        let part = (n % SWEEP_EVERY, SWEEP_EVERY);
        self.conns.sweep(self.controls.now_ms(), part);
        if n.is_multiple_of(SWEEP_EVERY) {
            self.h2_conns.sweep(self.controls.now_ms());
            self.buffers.sweep();
        }
        if !self.controls.any_closing() {
            return;
        }
        self.controls.each(|watch| {
            if watch.is_closing()
                && watch.phase() == TaskPhase::Idle
                && watch.age_ms() >= IDLE_CLOSE_GRACE_MS
            {
                watch.shut();
            }
        });
    }

    /// Ends up to `most` uploads to a pool that are behind the minimum rate (408), and returns whether
    /// there were any. The woken tasks free their slots before a caller that yields runs again.
    ///
    /// Visits every connection of the worker, so it does so only once a tick.
    pub fn shed_slow_uploads(&self, pool: &Pool, most: usize) -> bool {
        let now = self.controls.now_ms();
        if self.uploads_shed_ms.replace(now) == now {
            return false;
        }
        let slots: HashSet<usize> = pool.members.iter().map(|m| m.endpoint.slot).collect();
        let mut shed = 0;
        self.controls.each(|watch| {
            let theirs = || watch.upstream().is_some_and(|slot| slots.contains(&slot));
            if shed < most && watch.is_behind() && theirs() {
                shed += 1;
                watch.hurry();
            }
        });
        shed > 0
    }

    /// Announces the close of all connections of the listeners that `wanted` selects: they end after
    /// their next response, or after a grace period if they are idle.
    pub fn announce_close(&self, wanted: impl Fn(ListenerId) -> bool) {
        self.controls.each(|watch| {
            if wanted(watch.listener) && !watch.is_closing() {
                if watch.phase() == TaskPhase::Idle {
                    // Restarts the time in the phase, from which the grace period counts.
                    watch.enter(TaskPhase::Idle);
                }
                watch.announce_close();
            }
        });
    }

    /// Ends all connections of the listeners that `wanted` selects at once.
    pub fn shut(&self, wanted: impl Fn(ListenerId) -> bool) {
        self.controls.each(|watch| {
            if wanted(watch.listener) {
                watch.shut();
            }
        });
    }

    /// Number of open connections and streams.
    pub fn connections(&self) -> usize {
        self.controls.len()
    }
}
