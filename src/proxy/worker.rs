//! What one worker thread has at hand for its requests. Nothing here is shared with other threads, so nothing is locked.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::admission_queue::AdmissionQueue;
use super::body::TURN;
use super::drain;
use super::headers::RequestId;
use super::slow_downloads::Downloads;
use crate::config::policy;
use crate::http1::{RequestHead, ResponseHead};
use crate::net::clock::wall_s;
use crate::net::{Buffers, TaskControls, TaskPhase, date};
use crate::routing::SplitState;
use crate::snapshot::{Service, Snapshot};
use crate::upstream::budget::RetryBudget;
use crate::upstream::limits;
use crate::upstream::outlier::{AttemptVerdict, Suspect, Suspects};
use crate::upstream::{Conns, Endpoint, H2Conns, Pool, PoolView};

/// How long an idle connection is left open after its end was announced, in milliseconds: time for a request that the client was just sending.
const GRACE_MS: u64 = 1_000;
/// Ticks between two looks at the idle upstream connections.
const TEND_EVERY: u64 = 20;

/// One worker thread's own things.
#[derive(Debug)]
pub struct Worker {
    /// Its number, from 0: the index of its shards.
    pub id: usize,
    /// Spare buffers.
    pub buffers: Buffers,
    /// Idle upstream connections.
    pub conns: Conns,
    /// HTTP/2 connections to endpoints.
    pub h2_conns: H2Conns,
    /// Deadlines of all tasks.
    pub watches: TaskControls,
    /// Where requests begin.
    pub admission: AdmissionQueue,
    /// Downloads whose clients are slow to take them.
    pub downloads: Downloads,
    suspects: Suspects,
    #[expect(
        clippy::redundant_allocation,
        reason = "a request counts its reference on this thread alone; the Arc's counter is shared by all workers"
    )]
    snapshot: RefCell<Rc<Arc<Snapshot>>>,
    rng: RefCell<fastrand::Rng>,
    services: RefCell<Vec<WorkerServiceState>>,
    heads: RefCell<Vec<ResponseHead>>,
    request_heads: RefCell<Vec<RequestHead>>,
    ticks: Cell<u64>,
    /// When it last looked for uploads to spare: milliseconds as the watches count them.
    uploads_shed_ms: Cell<u64>,
    wall_s: Cell<u64>,
    leaving: RefCell<HashMap<usize, Leaving>>,
}

/// An endpoint that left the configuration while work was in flight on it.
#[derive(Debug)]
struct Leaving {
    since: Instant,
    drain: policy::DrainPolicy,
    endpoint: Weak<Endpoint>,
}

#[derive(Debug)]
struct WorkerServiceState {
    split: SplitState,
    budget: RetryBudget,
    views: Vec<PoolView>,
}

impl Worker {
    /// Worker number `id`, which begins with this snapshot and tells suspicions by `suspects`.
    pub fn new(id: usize, snapshot: Arc<Snapshot>, suspects: Suspects) -> Rc<Self> {
        Rc::new(Self {
            id,
            suspects,
            buffers: Buffers::new(),
            conns: Conns::new(id),
            h2_conns: H2Conns::new(id),
            watches: TaskControls::new(),
            admission: AdmissionQueue::default(),
            downloads: Downloads::new(id),
            snapshot: RefCell::new(Rc::new(snapshot)),
            rng: RefCell::new(fastrand::Rng::new()),
            services: RefCell::default(),
            heads: RefCell::default(),
            request_heads: RefCell::default(),
            ticks: Cell::new(0),
            uploads_shed_ms: Cell::new(u64::MAX),
            wall_s: Cell::new(wall_s()),
            leaving: RefCell::default(),
        })
    }

    /// The snapshot that this worker works by: one reference a request, without touching a shared counter.
    #[inline]
    pub fn snapshot(&self) -> Rc<Arc<Snapshot>> {
        self.snapshot.borrow().clone()
    }

    /// Works by `next` from the next request on. Idle connections to endpoints that are gone are closed; what is in flight on them
    /// gets as long as `drain` says.
    pub fn adopt(&self, next: Arc<Snapshot>) {
        let former = self.snapshot.replace(Rc::new(next));
        let next = self.snapshot();
        let mut leaving = self.leaving.borrow_mut();
        leaving.retain(|slot, _| !next.has_slot(*slot));
        let since = Instant::now();
        let mut any = false;
        for (service, endpoint) in former.gone_in(&next) {
            any = true;
            leaving.entry(endpoint.slot).or_insert_with(|| Leaving {
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

    /// Cuts what is still in flight on endpoints that left, after its time.
    fn cut_overdue(&self, now: Instant) {
        let mut leaving = self.leaving.borrow_mut();
        if leaving.is_empty() {
            return;
        }
        self.watches.each(|watch| {
            let Some(left) = watch.upstream().and_then(|slot| leaving.get(&slot)) else {
                return;
            };
            let age = now.saturating_duration_since(left.since);
            if drain::is_over(&left.drain, watch.phase(), age) {
                watch.shut();
            }
        });
        leaving.retain(|_, left| left.endpoint.strong_count() > 0);
    }

    /// The version of the next request to this service by its exact split.
    pub fn next_by_split(&self, service: &Service) -> usize {
        self.with_state(service, |state, _| {
            service.routing.split.next(&mut state.split)
        })
    }

    /// Seconds since the epoch, as of the last tick: sessions need no more.
    pub fn now_s(&self) -> u64 {
        self.wall_s.get()
    }

    /// The index of the endpoint that gets the next request to this version.
    pub fn pick(
        &self,
        service: &Service,
        version: usize,
        avoid: &[usize],
        key: Option<u64>,
    ) -> Option<usize> {
        self.with_view(service, version, |pool, view, rng| {
            pool.pick(rng, view, avoid, key)
        })
    }

    /// Whether a version has an endpoint that is well.
    pub fn has_healthy_endpoint(&self, service: &Service, version: usize) -> bool {
        self.with_view(service, version, |pool, view, _| {
            view.refresh(pool);
            view.well() > 0
        })
    }

    /// A request to this service came: it earns its share of a retry.
    pub fn earn(&self, service: &Service) {
        self.with_state(service, |state, _| {
            state.budget.earn(service.policies.retry.budget)
        });
    }

    /// Pays for a retry; `false`: the budget is used up.
    pub fn spend(&self, service: &Service) -> bool {
        self.with_state(service, |state, _| state.budget.spend())
    }

    /// Tells outlier detection what became of an attempt; the control thread is told when that may eject the endpoint.
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
            // Nobody listens when the control thread is ending: then nobody needs to.
            let _ = self.suspects.send(suspect);
        }
    }

    /// Chance, for what may differ from worker to worker.
    pub fn with_rng<T>(&self, run: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        run(&mut self.rng.borrow_mut())
    }

    fn with_view<T>(
        &self,
        service: &Service,
        version: usize,
        run: impl FnOnce(&Pool, &mut PoolView, &mut fastrand::Rng) -> T,
    ) -> T {
        self.with_state(service, |state, rng| {
            while state.views.len() <= version {
                state.views.push(PoolView::starting_at(rng.u64(..)));
            }
            run(
                &service.versions[version].pool,
                &mut state.views[version],
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
            let workers = service.versions[0].metrics.workers();
            states.resize_with(service.slot + 1, || WorkerServiceState {
                split: SplitState::default(),
                budget: RetryBudget::new(workers),
                views: Vec::new(),
            });
        }
        run(&mut states[service.slot], &mut self.rng.borrow_mut())
    }

    /// Bytes that one body may move before others get their turn: with many requests in flight, less each.
    pub fn turn_bytes(&self) -> u64 {
        /// Each body moves at least what fits into a pipe, however many there are.
        const LEAST: u64 = 64 * 1024;
        /// What all requests in flight together may move before each has had a turn, about 4 ms of copying.
        const ROUND: u64 = 16 << 20;
        (ROUND / self.admission.in_flight().max(1) as u64).clamp(LEAST, TURN)
    }

    /// An id for a request.
    pub fn request_id(&self, theirs: Option<&[u8]>) -> RequestId {
        RequestId::of(theirs, &mut self.rng.borrow_mut())
    }

    /// Scratch for a response's head.
    pub fn take_head(&self) -> ResponseHead {
        self.heads.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes the scratch back.
    pub fn give_head(&self, head: ResponseHead) {
        let mut heads = self.heads.borrow_mut();
        if heads.len() < 1024 {
            heads.push(head);
        }
    }

    /// Scratch for a request's head.
    pub fn take_request_head(&self) -> RequestHead {
        self.request_heads.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes the scratch back.
    pub fn give_request_head(&self, head: RequestHead) {
        let mut heads = self.request_heads.borrow_mut();
        if heads.len() < 256 {
            heads.push(head);
        }
    }

    /// To be called every [`crate::net::clock::TICK`]: wakes what is due, and now and then tends the idle upstream connections.
    pub fn tick(&self, now: Instant) {
        self.watches.tick(now);
        self.admission.tick();
        self.cut_overdue(now);
        self.downloads.tick(self.watches.now_ms());
        if limits::anybody_waits() {
            self.conns.make_room();
            self.h2_conns.make_room();
        }
        self.conns.part();
        self.wall_s.set(wall_s());
        date::set(self.wall_s.get());
        let n = self.ticks.get();
        self.ticks.set(n + 1);
        // A part of the shelves with each tick: all of thousands at once would be a halt.
        let part = (n % TEND_EVERY, TEND_EVERY);
        self.conns.tend(self.watches.now_ms(), part);
        if n.is_multiple_of(TEND_EVERY) {
            self.h2_conns.tend(self.watches.now_ms());
            self.buffers.tend();
        }
        if !self.watches.any_closing() {
            return;
        }
        self.watches.each(|watch| {
            if watch.is_closing() && watch.phase() == TaskPhase::Idle && watch.age_ms() >= GRACE_MS
            {
                watch.shut();
            }
        });
    }

    /// A pool's places are taken: uploads to it that are behind give theirs up (408), `most` at a time. Whether there were any: their
    /// tasks give the places back before a task that yields goes on. Looks once a tick, since looking costs a step for each connection.
    pub fn shed_slow_uploads(&self, pool: &Pool, most: usize) -> bool {
        let now = self.watches.now_ms();
        if self.uploads_shed_ms.replace(now) == now {
            return false;
        }
        let slots: HashSet<usize> = pool.members.iter().map(|m| m.endpoint.slot).collect();
        let mut spared = 0;
        self.watches.each(|watch| {
            let theirs = || watch.upstream().is_some_and(|slot| slots.contains(&slot));
            if spared < most && watch.is_behind() && theirs() {
                spared += 1;
                watch.hurry();
            }
        });
        spared > 0
    }

    /// Connections that `wanted` (by listener) end after their next answer; those that stay idle end after a grace.
    pub fn announce_close(&self, wanted: impl Fn(usize) -> bool) {
        self.watches.each(|watch| {
            if wanted(watch.listener) && !watch.is_closing() {
                if watch.phase() == TaskPhase::Idle {
                    watch.enter(TaskPhase::Idle);
                }
                watch.announce_close();
            }
        });
    }

    /// Ends the connections that `wanted` (by listener) now, whatever they do.
    pub fn shut(&self, wanted: impl Fn(usize) -> bool) {
        self.watches.each(|watch| {
            if wanted(watch.listener) {
                watch.shut();
            }
        });
    }

    /// Connections and streams that are open.
    pub fn connections(&self) -> usize {
        self.watches.len()
    }
}
