//! The HTTP/2 connections of one worker to endpoints. Many requests share a connection, which a task of its own drives.
//!
//! A request takes a [`Lease`], which is the permission to open one stream. Streams are counted here, under the peer's
//! SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113 section 5.1.2): if all connections are full,
//! another one is opened, up to [`MAX_CONNECTIONS`], or the request waits in the order of arrival.

mod leasing;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::connect::OpenedConnection;
use super::h2_open::{OpenFailure, OpenLimits, OpenedH2, begin};
use super::limits::ConnectionSlot;
use super::transport::TransportId;
use super::{Endpoint, h2_open};
use crate::http2::Sender;
pub(crate) use leasing::Leasing;

use crate::net::Buffers;
use crate::telemetry::WorkerId;

/// Most connections that one worker opens to one endpoint. A connection that was opened elsewhere is adopted even beyond
/// this.
const MAX_CONNECTIONS: usize = 4;
/// Most streams on one connection, even if the peer allows more.
const MAX_STREAMS: usize = 1_000;

/// How long an idle connection keeps the memory of its streams: more requests often follow at once.
const KEEP_MEMORY_MS: u64 = 1_000;

/// The state of a connection, shared by its leases and its task.
#[derive(Debug, Default)]
struct H2ConnectionState {
    streams: Cell<usize>,
    /// Whether it has carried a request before.
    used: Cell<bool>,
    idle_since_ms: Cell<u64>,
    /// Whether it accepts no more requests: it has ended, or the peer has sent GOAWAY.
    retired: Cell<bool>,
    /// Number of the transport that it was opened by.
    transport: TransportId,
}

/// A connection that requests can use. Its task owns the transport; dropping the last sender lets it end after its streams.
#[derive(Debug)]
struct H2Connection {
    sender: Sender,
    state: Rc<H2ConnectionState>,
}

/// The progress of opening another connection. At most one is opened at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpeningState {
    /// No connection is being opened.
    Nothing,
    /// The version is at its limit of connections; the task waits for a slot.
    AwaitsSlot,
    /// The connection is being established.
    Connecting,
}

/// The connections of one worker to one endpoint, and the requests that wait for one.
///
/// A waiting request is woken when a stream becomes free, a connection is there or one has failed, and then looks again: being
/// woken promises nothing.
#[derive(Debug)]
struct EndpointConnections {
    endpoint: Arc<Endpoint>,
    conns: Vec<H2Connection>,
    opening: OpeningState,
    /// Whether the last opened connection negotiated HTTP/2.
    speaks_h2: bool,
    /// Number of failures to open a connection, and the last one. A waiting request compares the number with the one that it saw.
    failures: u64,
    failure: Option<OpenFailure>,
    /// Waiting requests by ticket, in the order of arrival.
    waiting: BTreeMap<u64, Waker>,
    idle_ms: u64,
}

#[derive(Debug)]
struct ConnectionsState {
    worker: WorkerId,
    buffers: Buffers,
    by_endpoint: RefCell<Vec<Option<EndpointConnections>>>,
    tickets: Cell<u64>,
    now_ms: Cell<u64>,
}

/// The HTTP/2 connections of one worker. A clone refers to the same connections.
///
/// A connection stays here until it has ended, is retired or idle for too long, or its endpoint is removed. Removing it drops its
/// sender: no more streams are opened on it, and its task ends after the last open one.
#[derive(Clone, Debug)]
pub struct H2Conns(Rc<ConnectionsState>);

/// The permission to open one stream on a connection. It is given back when this is dropped.
#[derive(Debug)]
pub struct Lease {
    /// Sends the request.
    pub(crate) sender: Sender,
    /// Whether the connection has carried a request before.
    pub used: bool,
    state: Rc<H2ConnectionState>,
    slot: usize,
    inner: Rc<ConnectionsState>,
}

impl H2Conns {
    /// An empty set for worker `worker`, with its pool of buffers.
    pub fn new(worker: WorkerId, buffers: Buffers) -> Self {
        Self(Rc::new(ConnectionsState {
            worker,
            buffers,
            by_endpoint: RefCell::default(),
            tickets: Cell::new(0),
            now_ms: Cell::new(0),
        }))
    }

    /// Whether the endpoint speaks HTTP/2, as far as is known: by configuration, or because the last connection negotiated it.
    pub fn speaks_h2(&self, endpoint: &Endpoint) -> bool {
        endpoint.is_h2c()
            || self
                .0
                .by_endpoint
                .borrow()
                .get(endpoint.slot)
                .and_then(Option::as_ref)
                .is_some_and(|entry| entry.speaks_h2 && std::ptr::eq(&*entry.endpoint, endpoint))
    }

    /// Starts the wait for a lease. `opening` has the limits for another connection, should one be needed.
    pub fn lease(&self, endpoint: &Arc<Endpoint>, opening: OpenLimits) -> Leasing {
        Leasing::new(self.0.clone(), endpoint.clone(), opening)
    }

    /// A lease on an open connection to an endpoint that has announced extended CONNECT.
    pub(crate) fn take_for_tunnel(&self, endpoint: &Arc<Endpoint>) -> Option<Lease> {
        self.0.take(endpoint, Sender::allows_connect)
    }

    /// Adds a connection that was opened elsewhere and has negotiated HTTP/2, and takes a lease on it.
    pub(crate) fn adopt(
        &self,
        endpoint: &Arc<Endpoint>,
        opened: OpenedConnection,
        slot: ConnectionSlot,
        idle: Duration,
    ) -> Lease {
        let opened = begin(opened, self.0.buffers.clone());
        let conn = self.0.add(endpoint, opened, slot, idle);
        self.0.new_lease(endpoint.slot, &conn.0, conn.1)
    }

    /// Closes retired connections and those that have been idle for too long, and removes endpoints that nothing else refers
    /// to. To be called regularly. Sets the time from which idleness is counted.
    pub fn sweep(&self, now_ms: u64) {
        self.0.now_ms.set(now_ms);
        let mut dropped = Vec::new();
        for slot in self.0.by_endpoint.borrow_mut().iter_mut() {
            let Some(entry) = slot else { continue };
            let limit = entry.idle_ms;
            let transport = entry.endpoint.version.transport.id();
            let is_over = |conn: &mut H2Connection| {
                let state = &conn.state;
                let idle_ms = match state.streams.get() {
                    0 => now_ms.saturating_sub(state.idle_since_ms.get()),
                    _ => 0,
                };
                if idle_ms >= KEEP_MEMORY_MS {
                    conn.sender.release_memory();
                }
                state.retired.get()
                    || state.transport != transport
                    || (state.streams.get() == 0 && idle_ms >= limit)
            };
            dropped.extend(entry.conns.extract_if(.., is_over));
            if Arc::strong_count(&entry.endpoint) == 1 && entry.conns.is_empty() {
                *slot = None;
            }
        }
    }

    /// Closes connections without streams, of versions that have requests waiting for a connection to another endpoint or on
    /// another worker.
    pub fn make_room(&self) {
        let mut dropped = Vec::new();
        for entry in self.0.by_endpoint.borrow_mut().iter_mut().flatten() {
            let mut wanted = entry.endpoint.version.connections.waiting();
            if wanted > 0 {
                let yields = |conn: &mut H2Connection| {
                    let idle = wanted > 0 && conn.state.streams.get() == 0;
                    wanted -= u32::from(idle);
                    idle
                };
                dropped.extend(entry.conns.extract_if(.., yields));
            }
        }
    }

    /// Removes the connections to endpoints for which `is_needed` is false. Open streams on them continue to their end.
    pub fn retain(&self, is_needed: impl Fn(&Endpoint) -> bool) {
        let mut dropped = Vec::new();
        for slot in self.0.by_endpoint.borrow_mut().iter_mut() {
            if slot
                .as_ref()
                .is_some_and(|entry| !is_needed(&entry.endpoint))
            {
                dropped.push(slot.take());
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
    /// Runs `with` on the entry of an endpoint, which is created if necessary. An entry of a former endpoint with the same slot
    /// is replaced.
    fn entry<T>(
        &self,
        endpoint: &Arc<Endpoint>,
        with: impl FnOnce(&mut EndpointConnections) -> T,
    ) -> T {
        let mut by_endpoint = self.by_endpoint.borrow_mut();
        if by_endpoint.len() <= endpoint.slot {
            by_endpoint.resize_with(endpoint.slot + 1, || None);
        }
        let slot = &mut by_endpoint[endpoint.slot];
        if slot
            .as_ref()
            .is_some_and(|s| !Arc::ptr_eq(&s.endpoint, endpoint))
        {
            *slot = None;
        }
        with(slot.get_or_insert_with(|| EndpointConnections {
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

    /// A lease on an existing connection with a free stream that `suits`.
    fn take(
        self: &Rc<Self>,
        endpoint: &Arc<Endpoint>,
        suits: impl Fn(&Sender) -> bool,
    ) -> Option<Lease> {
        let (sender, state) = self.entry(endpoint, |entry| {
            // After GOAWAY no stream can be opened, although the connection's task still runs for the open streams.
            let transport = endpoint.version.transport.id();
            entry.conns.retain(|conn| {
                !conn.state.retired.get()
                    && conn.state.transport == transport
                    && conn.sender.can_open()
            });
            let free = |conn: &&H2Connection| {
                conn.state.streams.get() < conn.sender.most_streams().min(MAX_STREAMS)
                    && suits(&conn.sender)
            };
            let conn = entry.conns.iter().find(free)?;
            Some((conn.sender.clone(), conn.state.clone()))
        })?;
        Some(self.new_lease(endpoint.slot, &sender, state))
    }

    fn new_lease(
        self: &Rc<Self>,
        slot: usize,
        sender: &Sender,
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

    /// Adds a connection and spawns the task that drives it.
    fn add(
        self: &Rc<Self>,
        endpoint: &Arc<Endpoint>,
        OpenedH2 {
            sender,
            mut driver,
            transport,
        }: OpenedH2,
        slot: ConnectionSlot,
        idle: Duration,
    ) -> (Sender, Rc<H2ConnectionState>) {
        let state = Rc::new(H2ConnectionState {
            transport,
            ..H2ConnectionState::default()
        });
        state.idle_since_ms.set(self.now_ms.get());
        self.entry(endpoint, |entry| {
            entry.idle_ms = idle.as_millis() as u64;
            entry.speaks_h2 = true;
            entry.conns.push(H2Connection {
                sender: sender.clone(),
                state: state.clone(),
            });
        });
        let open = CountedUpstream::enter(endpoint, self.worker, slot);
        let (inner, task_state) = (self.clone(), state.clone());
        tokio::task::spawn_local(async move {
            let mut most = driver.most_streams();
            let ended = poll_fn(|cx| {
                let polled = Pin::new(&mut driver).poll(cx);
                let allowed = driver.most_streams();
                // Requests may wait for a stream because the endpoint hadn't said how many it allows.
                if std::mem::replace(&mut most, allowed) < allowed {
                    inner.wake_all(open.0.slot);
                }
                polled
            })
            .await;
            task_state.retired.set(true);
            if let Err(error) = ended {
                tracing::debug!(endpoint = %open.0.name, ?error, "HTTP/2 connection to endpoint failed");
            }
            inner.wake_all(open.0.slot);
        });
        (sender, state)
    }

    /// Opens a connection in a task of its own, because it is useful to others even if the request that caused it is
    /// cancelled. Without a `slot` the task waits for one first.
    fn open(
        self: &Rc<Self>,
        endpoint: &Arc<Endpoint>,
        opening: OpenLimits,
        slot: Option<ConnectionSlot>,
    ) {
        let opening_state = match slot {
            Some(_) => OpeningState::Connecting,
            None => OpeningState::AwaitsSlot,
        };
        self.entry(endpoint, |entry| entry.opening = opening_state);
        let (inner, endpoint) = (self.clone(), endpoint.clone());
        tokio::task::spawn_local(async move {
            let wakes = match inner.opened(&endpoint, opening, slot).await {
                Ok((slot, opened)) => {
                    inner.add(&endpoint, opened, slot, opening.idle);
                    inner.entry(&endpoint, |entry| entry.opening = OpeningState::Nothing);
                    true
                }
                Err(failure) => inner.entry(&endpoint, |entry| entry.fail(failure)),
            };
            if wakes {
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
                self.entry(endpoint, |entry| entry.opening = OpeningState::Connecting);
                slot
            }
        };
        h2_open::open(endpoint, slot, opening.connect, self.buffers.clone()).await
    }

    fn wake_all(&self, slot: usize) {
        let waiting = match self.by_endpoint.borrow_mut().get_mut(slot) {
            Some(Some(entry)) => std::mem::take(&mut entry.waiting),
            _ => return,
        };
        waiting.into_values().for_each(Waker::wake);
    }

    /// Closes a connection that has just become idle, if other requests of the version wait for a connection and none waits for
    /// a stream on this one.
    fn close_if_wanted(&self, slot: usize, state: &Rc<H2ConnectionState>) {
        let mut by_endpoint = self.by_endpoint.borrow_mut();
        let Some(Some(entry)) = by_endpoint.get_mut(slot) else {
            return;
        };
        if entry.waiting.is_empty() && entry.endpoint.version.connections.waiting() > 0 {
            let is_it = |conn: &mut H2Connection| Rc::ptr_eq(&conn.state, state);
            let gone: Vec<_> = entry.conns.extract_if(.., is_it).collect();
            drop(by_endpoint);
            drop(gone);
        }
    }

    fn wake_one(&self, slot: usize) {
        let first = match self.by_endpoint.borrow_mut().get_mut(slot) {
            Some(Some(entry)) => entry.waiting.pop_first(),
            _ => None,
        };
        if let Some((_, waker)) = first {
            waker.wake();
        }
    }
}

impl EndpointConnections {
    /// Records that opening failed. Returns whether the waiting requests must be woken.
    fn fail(&mut self, failure: OpenFailure) -> bool {
        self.opening = OpeningState::Nothing;
        match failure {
            // They can still get a stream on an existing connection; a lease that is dropped wakes them.
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
    /// Excludes the connection from further requests, because the peer asked for it.
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
            self.inner.close_if_wanted(self.slot, state);
        }
    }
}

/// Counts an open connection in `cutover_upstream_connections`, and holds its slot among those of its version.
struct CountedUpstream(
    Arc<Endpoint>,
    WorkerId,
    #[expect(dead_code, reason = "held")] ConnectionSlot,
);

impl CountedUpstream {
    fn enter(endpoint: &Arc<Endpoint>, worker: WorkerId, slot: ConnectionSlot) -> Self {
        endpoint.metrics.shard(worker).connections(1);
        Self(endpoint.clone(), worker, slot)
    }
}

impl Drop for CountedUpstream {
    fn drop(&mut self) {
        self.0.metrics.shard(self.1).connections(-1);
    }
}
