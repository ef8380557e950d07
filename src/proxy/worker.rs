//! What one worker thread has at hand for its requests. Nothing here is shared with other threads, so nothing is locked.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::headers::RequestId;
use crate::http1::ResponseHead;
use crate::net::{Buffers, Phase, Watches};
use crate::routing::{self, Decision, SplitState};
use crate::snapshot::{Service, Snapshot};
use crate::upstream::{Conns, H2Conns, Pool, View};

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
    pub watches: Watches,
    snapshot: RefCell<Rc<Arc<Snapshot>>>,
    rng: RefCell<fastrand::Rng>,
    services: RefCell<Vec<ServiceState>>,
    heads: RefCell<Vec<ResponseHead>>,
    ticks: std::cell::Cell<u64>,
}

#[derive(Debug, Default)]
struct ServiceState {
    split: SplitState,
    views: Vec<View>,
}

impl Worker {
    /// Worker number `id`, which begins with this snapshot.
    pub fn new(id: usize, snapshot: Arc<Snapshot>) -> Rc<Self> {
        Rc::new(Self {
            id,
            buffers: Buffers::new(),
            conns: Conns::new(id),
            h2_conns: H2Conns::new(id),
            watches: Watches::new(),
            snapshot: RefCell::new(Rc::new(snapshot)),
            rng: RefCell::new(fastrand::Rng::new()),
            services: RefCell::default(),
            heads: RefCell::default(),
            ticks: std::cell::Cell::new(0),
        })
    }

    /// The snapshot that this worker works by: one reference a request, without touching a shared counter.
    #[inline]
    pub fn snapshot(&self) -> Rc<Arc<Snapshot>> {
        self.snapshot.borrow().clone()
    }

    /// Works by `next` from the next request on. Idle connections to endpoints that are gone are closed.
    pub fn adopt(&self, next: Arc<Snapshot>) {
        self.snapshot.replace(Rc::new(next));
        for state in self.services.borrow_mut().iter_mut() {
            state.views.iter_mut().for_each(View::forget);
        }
        let snapshot = self.snapshot();
        let wanted: std::collections::HashSet<usize> = snapshot
            .services
            .iter()
            .flat_map(|s| &s.versions)
            .flat_map(|v| &v.pool.members)
            .map(|m| m.endpoint.slot)
            .collect();
        self.conns
            .retain(|endpoint| wanted.contains(&endpoint.slot));
        self.h2_conns
            .retain(|endpoint| wanted.contains(&endpoint.slot));
    }

    /// The version for a request to this service, and why.
    pub fn decide(&self, service: &Service, request: &impl routing::Request) -> Decision {
        self.with_state(service, |state, _| {
            routing::decide(&service.routing, request, &mut state.split)
        })
    }

    /// The index of the endpoint that gets the next request to this version.
    pub fn pick(&self, service: &Service, version: usize, avoid: &[usize]) -> Option<usize> {
        self.with_view(service, version, |pool, view, rng| {
            pool.pick(rng, view, avoid, None)
        })
    }

    fn with_view<T>(
        &self,
        service: &Service,
        version: usize,
        run: impl FnOnce(&Pool, &mut View, &mut fastrand::Rng) -> T,
    ) -> T {
        self.with_state(service, |state, rng| {
            while state.views.len() <= version {
                state.views.push(View::starting_at(rng.u64(..)));
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
        run: impl FnOnce(&mut ServiceState, &mut fastrand::Rng) -> T,
    ) -> T {
        let mut states = self.services.borrow_mut();
        if states.len() <= service.slot {
            states.resize_with(service.slot + 1, ServiceState::default);
        }
        run(&mut states[service.slot], &mut self.rng.borrow_mut())
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
        if heads.len() < 256 {
            heads.push(head);
        }
    }

    /// To be called every [`crate::net::clock::TICK`]: wakes what is due, and now and then tends the idle upstream connections.
    pub fn tick(&self, now: Instant) {
        self.watches.tick(now);
        let n = self.ticks.get();
        self.ticks.set(n + 1);
        if n % TEND_EVERY == 0 {
            self.conns.tend(self.watches.now_ms());
            self.h2_conns.tend(self.watches.now_ms());
        }
        self.watches.each(|watch| {
            if watch.is_closing() && watch.phase() == Phase::Idle && watch.age_ms() >= GRACE_MS {
                watch.shut();
            }
        });
    }

    /// Connections that `wanted` (by listener) end after their next answer; those that stay idle end after a grace.
    pub fn announce_close(&self, wanted: impl Fn(usize) -> bool) {
        self.watches.each(|watch| {
            if wanted(watch.listener) && !watch.is_closing() {
                if watch.phase() == Phase::Idle {
                    watch.enter(Phase::Idle);
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
