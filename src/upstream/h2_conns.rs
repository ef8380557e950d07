//! One worker's HTTP/2 connections to endpoints: few, shared by many requests, each driven by a task of its own.
//!
//! The h2 crate queues streams beyond the peer's limit silently, so streams are counted here: a request that finds every connection
//! full has another one opened, up to [`MOST`], or waits its turn.

mod leasing;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use h2::client::SendRequest;

use super::h2_open::{OpenFailure, OpenLimits, OpenedH2, handshake};
use super::limits::ConnectionSlot;
use super::{Endpoint, h2_open};
use crate::http2::Flaws;
pub(crate) use leasing::Leasing;

use crate::net::{Outbox, OutgoingPiece, Stream};

/// Most connections that one worker opens to one endpoint on its own account.
const MOST: usize = 4;
/// Most streams on one connection, whatever the peer allows.
const STREAMS: usize = 1_000;
/// What is known of a connection.
#[derive(Debug, Default)]
struct H2ConnectionState {
    streams: Cell<usize>,
    /// It has carried a request before.
    used: Cell<bool>,
    idle_since_ms: Cell<u64>,
    /// It takes no more requests.
    retired: Cell<bool>,
    outbox: Outbox,
    flaws: Flaws,
}

#[derive(Debug)]
struct H2Connection {
    sender: SendRequest<OutgoingPiece>,
    state: Rc<H2ConnectionState>,
}

/// How far the opening of another connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpeningState {
    /// None is opened.
    Nothing,
    /// The version has as many connections as it may have.
    AwaitsSlot,
    /// It is being opened: it will have streams in a moment.
    Dials,
}

#[derive(Debug)]
struct EndpointConnections {
    endpoint: Arc<Endpoint>,
    conns: Vec<H2Connection>,
    opening: OpeningState,
    /// HTTP/2 was agreed on when a connection was opened last.
    speaks_h2: bool,
    /// How often opening failed, and why it did the last time.
    failures: u64,
    failure: Option<OpenFailure>,
    waiting: BTreeMap<u64, Waker>,
    idle_ms: u64,
}

#[derive(Debug)]
struct ConnectionsState {
    worker: usize,
    shelves: RefCell<Vec<Option<EndpointConnections>>>,
    tickets: Cell<u64>,
    now_ms: Cell<u64>,
}

/// One worker's HTTP/2 connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct H2Conns(Rc<ConnectionsState>);

/// A place for one stream; given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    /// To send one request with.
    pub sender: SendRequest<OutgoingPiece>,
    /// Whether the connection has carried a request before.
    pub used: bool,
    state: Rc<H2ConnectionState>,
    slot: usize,
    inner: Rc<ConnectionsState>,
}

impl H2Conns {
    /// None yet.
    pub fn new(worker: usize) -> Self {
        Self(Rc::new(ConnectionsState {
            worker,
            shelves: RefCell::default(),
            tickets: Cell::new(0),
            now_ms: Cell::new(0),
        }))
    }

    /// Whether requests to this endpoint go by HTTP/2, as far as is known.
    pub fn speaks_h2(&self, endpoint: &Endpoint) -> bool {
        endpoint.is_h2c()
            || self
                .0
                .shelves
                .borrow()
                .get(endpoint.slot)
                .and_then(Option::as_ref)
                .is_some_and(|shelf| shelf.speaks_h2 && std::ptr::eq(&*shelf.endpoint, endpoint))
    }

    /// A place on a connection, to be polled for. `opening` is for another one.
    pub fn lease(&self, endpoint: &Arc<Endpoint>, opening: OpenLimits) -> Leasing {
        Leasing::new(self.0.clone(), endpoint.clone(), opening)
    }

    /// Takes a connection on that was opened by somebody else, and leases a place on it.
    ///
    /// # Errors
    /// It broke at once.
    pub async fn adopt(
        &self,
        endpoint: &Arc<Endpoint>,
        stream: Stream,
        slot: ConnectionSlot,
        idle: Duration,
    ) -> io::Result<Lease> {
        let opened = handshake(stream).await?;
        let conn = self.0.place(endpoint, opened, slot, idle);
        Ok(self.0.lend(endpoint.slot, &conn.0, conn.1))
    }

    /// From time to time: closes connections that waited too long, and forgets endpoints that only their shelf still holds.
    pub fn sweep(&self, now_ms: u64) {
        self.0.now_ms.set(now_ms);
        let mut dropped = Vec::new();
        for place in self.0.shelves.borrow_mut().iter_mut() {
            let Some(shelf) = place else { continue };
            let limit = shelf.idle_ms;
            let rests = |conn: &mut H2Connection| {
                let state = &conn.state;
                state.retired.get()
                    || state.streams.get() == 0
                        && now_ms.saturating_sub(state.idle_since_ms.get()) >= limit
            };
            dropped.extend(shelf.conns.extract_if(.., rests));
            if Arc::strong_count(&shelf.endpoint) == 1 && shelf.conns.is_empty() {
                *place = None;
            }
        }
    }

    /// Closes connections without streams while requests wait for one to another endpoint of the same version, or by another worker.
    pub fn make_room(&self) {
        let mut dropped = Vec::new();
        for shelf in self.0.shelves.borrow_mut().iter_mut().flatten() {
            let mut wanted = shelf.endpoint.version.connections.waiting();
            if wanted > 0 {
                let gives_way = |conn: &mut H2Connection| {
                    let idle = wanted > 0 && conn.state.streams.get() == 0;
                    wanted -= u32::from(idle);
                    idle
                };
                dropped.extend(shelf.conns.extract_if(.., gives_way));
            }
        }
    }

    /// Drops the connections to endpoints that `stays` doesn't want; streams on them go on to their end.
    pub fn retain(&self, stays: impl Fn(&Endpoint) -> bool) {
        let mut dropped = Vec::new();
        for place in self.0.shelves.borrow_mut().iter_mut() {
            if place.as_ref().is_some_and(|shelf| !stays(&shelf.endpoint)) {
                dropped.push(place.take());
            }
        }
        for waker in dropped
            .into_iter()
            .flatten()
            .flat_map(|s| s.waiting.into_values())
        {
            waker.wake();
        }
    }
}

impl ConnectionsState {
    /// Runs `with` on the shelf of an endpoint, which is made where it isn't there.
    fn shelf<T>(
        &self,
        endpoint: &Arc<Endpoint>,
        with: impl FnOnce(&mut EndpointConnections) -> T,
    ) -> T {
        let mut shelves = self.shelves.borrow_mut();
        if shelves.len() <= endpoint.slot {
            shelves.resize_with(endpoint.slot + 1, || None);
        }
        let place = &mut shelves[endpoint.slot];
        if place
            .as_ref()
            .is_some_and(|s| !Arc::ptr_eq(&s.endpoint, endpoint))
        {
            *place = None;
        }
        with(place.get_or_insert_with(|| EndpointConnections {
            endpoint: endpoint.clone(),
            conns: Vec::new(),
            opening: OpeningState::Nothing,
            speaks_h2: endpoint.is_h2c(),
            failures: 0,
            failure: None,
            waiting: BTreeMap::new(),
            idle_ms: 0,
        }))
    }

    /// A place on a connection that is there and has one.
    fn take(self: &Rc<Self>, endpoint: &Arc<Endpoint>) -> Option<Lease> {
        let mut cx = Context::from_waker(Waker::noop());
        let (sender, state) = self.shelf(endpoint, |shelf| {
            // A peer that says GOAWAY takes no more: known here although its streams go on.
            let mut ready = |conn: &mut H2Connection| {
                !conn.state.retired.get()
                    && !matches!(conn.sender.poll_ready(&mut cx), Poll::Ready(Err(_)))
            };
            shelf.conns.retain_mut(|conn| ready(conn));
            let free = |conn: &&H2Connection| {
                conn.state.streams.get() < conn.sender.current_max_send_streams().min(STREAMS)
            };
            let conn = shelf.conns.iter().find(free)?;
            Some((conn.sender.clone(), conn.state.clone()))
        })?;
        Some(self.lend(endpoint.slot, &sender, state))
    }

    fn lend(
        self: &Rc<Self>,
        slot: usize,
        sender: &SendRequest<OutgoingPiece>,
        state: Rc<H2ConnectionState>,
    ) -> Lease {
        state.streams.set(state.streams.get() + 1);
        Lease {
            sender: sender.clone(),
            used: state.used.replace(true),
            state,
            slot,
            inner: self.clone(),
        }
    }

    /// Takes a connection on and drives it.
    fn place(
        self: &Rc<Self>,
        endpoint: &Arc<Endpoint>,
        (sender, connection, flaws): OpenedH2,
        slot: ConnectionSlot,
        idle: Duration,
    ) -> (SendRequest<OutgoingPiece>, Rc<H2ConnectionState>) {
        let state = Rc::new(H2ConnectionState {
            flaws,
            ..H2ConnectionState::default()
        });
        state.idle_since_ms.set(self.now_ms.get());
        self.shelf(endpoint, |shelf| {
            shelf.idle_ms = idle.as_millis() as u64;
            shelf.speaks_h2 = true;
            shelf.conns.push(H2Connection {
                sender: sender.clone(),
                state: state.clone(),
            });
        });
        let open = CountedUpstream::enter(endpoint, self.worker, slot);
        let (inner, driven) = (self.clone(), state.clone());
        tokio::task::spawn_local(async move {
            let ended = connection.await;
            driven.retired.set(true);
            if let Err(error) = ended {
                tracing::debug!(endpoint = %open.0.name, %error, "an HTTP/2 connection broke");
            }
            inner.wake_all(open.0.slot);
        });
        (sender, state)
    }

    /// Opens a connection, in a task of its own: it is of use also if the request that asked for it is gone by then. `slot`: its place
    /// among the version's, which the task waits for if there is none yet.
    fn open(
        self: &Rc<Self>,
        endpoint: &Arc<Endpoint>,
        opening: OpenLimits,
        slot: Option<ConnectionSlot>,
    ) {
        let progress = match slot {
            Some(_) => OpeningState::Dials,
            None => OpeningState::AwaitsSlot,
        };
        self.shelf(endpoint, |shelf| shelf.opening = progress);
        let (inner, endpoint) = (self.clone(), endpoint.clone());
        tokio::task::spawn_local(async move {
            let tell = match inner.opened(&endpoint, opening, slot).await {
                Ok((slot, opened)) => {
                    inner.place(&endpoint, opened, slot, opening.idle);
                    inner.shelf(&endpoint, |shelf| shelf.opening = OpeningState::Nothing);
                    true
                }
                Err(failure) => inner.shelf(&endpoint, |shelf| shelf.fail(failure)),
            };
            if tell {
                inner.wake_all(endpoint.slot);
            }
        });
    }

    async fn opened(
        &self,
        endpoint: &Arc<Endpoint>,
        opening: OpenLimits,
        slot: Option<ConnectionSlot>,
    ) -> Result<(ConnectionSlot, OpenedH2), OpenFailure> {
        let slot = match slot {
            Some(slot) => slot,
            None => {
                let slots = &endpoint.version.connections;
                let deadline = Instant::now() + opening.wait;
                let slot = slots.acquire_for_streams(opening.connections, deadline);
                let slot = slot.await.map_err(OpenFailure::Limit)?;
                self.shelf(endpoint, |shelf| shelf.opening = OpeningState::Dials);
                slot
            }
        };
        h2_open::open(endpoint, slot, opening.connect).await
    }

    fn wake_all(&self, slot: usize) {
        let waiting = match self.shelves.borrow_mut().get_mut(slot) {
            Some(Some(shelf)) => std::mem::take(&mut shelf.waiting),
            _ => return,
        };
        waiting.into_values().for_each(Waker::wake);
    }

    /// Closes a connection that has just become idle, if somebody else waits for one and nobody for a place on it.
    fn give_way(&self, slot: usize, state: &Rc<H2ConnectionState>) {
        let mut shelves = self.shelves.borrow_mut();
        let Some(Some(shelf)) = shelves.get_mut(slot) else {
            return;
        };
        if shelf.waiting.is_empty() && shelf.endpoint.version.connections.waiting() > 0 {
            let is_it = |conn: &mut H2Connection| Rc::ptr_eq(&conn.state, state);
            let gone: Vec<_> = shelf.conns.extract_if(.., is_it).collect();
            drop(shelves);
            drop(gone);
        }
    }

    fn wake_one(&self, slot: usize) {
        let first = match self.shelves.borrow_mut().get_mut(slot) {
            Some(Some(shelf)) => shelf.waiting.pop_first(),
            _ => None,
        };
        if let Some((_, waker)) = first {
            waker.wake();
        }
    }
}

impl EndpointConnections {
    /// No connection was opened; whether those that wait have to know.
    fn fail(&mut self, failure: OpenFailure) -> bool {
        self.opening = OpeningState::Nothing;
        match failure {
            // They are as well off with a place on a connection that is there, and whoever gives one back tells them.
            OpenFailure::Limit(_) if !self.conns.is_empty() => return false,
            OpenFailure::NotHttp2 => self.speaks_h2 = false,
            _ => {}
        }
        self.failures += 1;
        self.failure = Some(failure);
        true
    }
}

impl Lease {
    /// What waits on the connection to be written.
    pub fn outbox(&self) -> Outbox {
        self.state.outbox.clone()
    }

    /// What is found wrong with the connection's streams.
    pub fn flaws(&self) -> Flaws {
        self.state.flaws.clone()
    }

    /// The connection gets no more requests: the peer has said so.
    pub fn retire(&self) {
        self.state.retired.set(true);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let state = &self.state;
        state.streams.set(state.streams.get() - 1);
        state.idle_since_ms.set(self.inner.now_ms.get());
        self.inner.wake_one(self.slot);
        if state.streams.get() == 0 {
            self.inner.give_way(self.slot, state);
        }
    }
}

/// A connection that counts in `cutover_upstream_connections`, and among those of its version.
struct CountedUpstream(
    Arc<Endpoint>,
    usize,
    #[expect(dead_code, reason = "held")] ConnectionSlot,
);

impl CountedUpstream {
    fn enter(endpoint: &Arc<Endpoint>, worker: usize, slot: ConnectionSlot) -> Self {
        endpoint.metrics.shard(worker).connections(1);
        Self(endpoint.clone(), worker, slot)
    }
}

impl Drop for CountedUpstream {
    fn drop(&mut self) {
        self.0.metrics.shard(self.1).connections(-1);
    }
}
