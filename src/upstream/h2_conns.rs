//! One worker's HTTP/2 connections to endpoints: few, shared by many requests, each driven by a task of its own.
//!
//! The h2 crate queues streams beyond the peer's limit silently, so streams are counted here: a request that finds every connection
//! full has another one opened, up to [`MOST`], or waits its turn.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};

use super::{ConnectError, Endpoint, connect};
use crate::net::Stream;

/// Most connections that one worker opens to one endpoint on its own account.
const MOST: usize = 4;
/// Most streams on one connection, whatever the peer allows.
const STREAMS: usize = 1_000;
/// What may be on its way for one stream: what a stalled client makes us hold.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same for all streams together: so much that streams that stand still don't stop the others.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Most bytes of one request that wait inside the connection.
const SEND_BUFFER: usize = 64 * 1024;
/// Largest head of a response, as for HTTP/1.
const HEAD_BYTES: u32 = 256 * 1024;
/// Streams that we took back and of which the peer may not know yet.
const TAKEN_BACK: usize = 512;

/// What is known of a connection.
#[derive(Debug, Default)]
struct State {
    streams: Cell<usize>,
    /// It has carried a request before.
    used: Cell<bool>,
    idle_since_ms: Cell<u64>,
    /// It takes no more requests.
    retired: Cell<bool>,
}

#[derive(Debug)]
struct Conn {
    sender: SendRequest<Bytes>,
    state: Rc<State>,
}

#[derive(Debug)]
struct Shelf {
    endpoint: Arc<Endpoint>,
    conns: Vec<Conn>,
    opening: bool,
    /// HTTP/2 was agreed on when a connection was opened last.
    speaks_h2: bool,
    /// How often opening failed, and why it did the last time.
    failures: u64,
    failure: Option<io::ErrorKind>,
    waiting: BTreeMap<u64, Waker>,
    idle_ms: u64,
}

#[derive(Debug)]
struct Inner {
    worker: usize,
    shelves: RefCell<Vec<Option<Shelf>>>,
    tickets: Cell<u64>,
    now_ms: Cell<u64>,
}

/// One worker's HTTP/2 connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct H2Conns(Rc<Inner>);

/// A place for one stream; given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    /// To send one request with.
    pub sender: SendRequest<Bytes>,
    /// Whether the connection has carried a request before.
    pub used: bool,
    state: Rc<State>,
    slot: usize,
    inner: Rc<Inner>,
}

impl H2Conns {
    /// None yet.
    pub fn new(worker: usize) -> Self {
        Self(Rc::new(Inner {
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

    /// A place on a connection, to be polled for. `limit` is for opening one, `idle` for keeping it.
    pub fn lease(&self, endpoint: &Arc<Endpoint>, limit: Duration, idle: Duration) -> Leasing {
        Leasing {
            inner: self.0.clone(),
            endpoint: endpoint.clone(),
            limit,
            idle,
            ticket: None,
            failures: 0,
        }
    }

    /// Takes a connection on that was opened by somebody else, and leases a place on it.
    ///
    /// # Errors
    /// It broke at once.
    pub async fn adopt(
        &self,
        endpoint: &Arc<Endpoint>,
        stream: Stream,
        idle: Duration,
    ) -> io::Result<Lease> {
        let (sender, connection) = handshake(stream).await?;
        let conn = self.0.place(endpoint, sender, connection, idle);
        Ok(self.0.lend(endpoint.slot, &conn.0, conn.1))
    }

    /// From time to time: closes connections that waited too long, and forgets endpoints that only their shelf still holds.
    pub fn tend(&self, now_ms: u64) {
        self.0.now_ms.set(now_ms);
        let mut dropped = Vec::new();
        for place in self.0.shelves.borrow_mut().iter_mut() {
            let Some(shelf) = place else { continue };
            let limit = shelf.idle_ms;
            let rests = |conn: &mut Conn| {
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

/// Both ends agree to speak HTTP/2 on `stream`.
async fn handshake(stream: Stream) -> io::Result<(SendRequest<Bytes>, Connection<Stream, Bytes>)> {
    Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(HEAD_BYTES)
        .max_concurrent_reset_streams(TAKEN_BACK)
        .handshake(stream)
        .await
        .map_err(|e| {
            e.into_io()
                .unwrap_or_else(|| io::ErrorKind::InvalidData.into())
        })
}

impl Inner {
    /// Runs `with` on the shelf of an endpoint, which is made where it isn't there.
    fn shelf<T>(&self, endpoint: &Arc<Endpoint>, with: impl FnOnce(&mut Shelf) -> T) -> T {
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
        with(place.get_or_insert_with(|| Shelf {
            endpoint: endpoint.clone(),
            conns: Vec::new(),
            opening: false,
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
            let mut ready = |conn: &mut Conn| {
                !conn.state.retired.get()
                    && !matches!(conn.sender.poll_ready(&mut cx), Poll::Ready(Err(_)))
            };
            shelf.conns.retain_mut(|conn| ready(conn));
            let free = |conn: &&Conn| {
                conn.state.streams.get() < conn.sender.current_max_send_streams().min(STREAMS)
            };
            let conn = shelf.conns.iter().find(free)?;
            Some((conn.sender.clone(), conn.state.clone()))
        })?;
        Some(self.lend(endpoint.slot, &sender, state))
    }

    fn lend(self: &Rc<Self>, slot: usize, sender: &SendRequest<Bytes>, state: Rc<State>) -> Lease {
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
        sender: SendRequest<Bytes>,
        connection: Connection<Stream, Bytes>,
        idle: Duration,
    ) -> (SendRequest<Bytes>, Rc<State>) {
        let state = Rc::new(State::default());
        state.idle_since_ms.set(self.now_ms.get());
        self.shelf(endpoint, |shelf| {
            shelf.idle_ms = idle.as_millis() as u64;
            shelf.speaks_h2 = true;
            shelf.conns.push(Conn {
                sender: sender.clone(),
                state: state.clone(),
            });
        });
        let open = Counted::enter(endpoint, self.worker);
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

    /// Opens a connection, in a task of its own: it is of use also if whoever asked for it is gone by then.
    fn open(self: &Rc<Self>, endpoint: &Arc<Endpoint>, limit: Duration, idle: Duration) {
        self.shelf(endpoint, |shelf| shelf.opening = true);
        let (inner, endpoint) = (self.clone(), endpoint.clone());
        tokio::task::spawn_local(async move {
            let opened = match connect::open(&endpoint, limit).await {
                Ok(opened) if opened.h2 => handshake(opened.stream).await.map_err(|e| e.kind()),
                // It spoke HTTP/2 before and doesn't any more: the next request begins anew.
                Ok(_) => Err(io::ErrorKind::Unsupported),
                Err(ConnectError::Timeout) => Err(io::ErrorKind::TimedOut),
                Err(ConnectError::Unresolved) => Err(io::ErrorKind::NotFound),
                Err(ConnectError::Io(e)) => Err(e.kind()),
            };
            match opened {
                Ok((sender, connection)) => {
                    inner.place(&endpoint, sender, connection, idle);
                    inner.shelf(&endpoint, |shelf| shelf.opening = false);
                }
                Err(kind) => inner.shelf(&endpoint, |shelf| {
                    shelf.opening = false;
                    shelf.failures += 1;
                    shelf.failure = Some(kind);
                    shelf.speaks_h2 &= kind != io::ErrorKind::Unsupported;
                }),
            }
            inner.wake_all(endpoint.slot);
        });
    }

    fn wake_all(&self, slot: usize) {
        let waiting = match self.shelves.borrow_mut().get_mut(slot) {
            Some(Some(shelf)) => std::mem::take(&mut shelf.waiting),
            _ => return,
        };
        waiting.into_values().for_each(Waker::wake);
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

/// A wait for a place.
#[derive(Debug)]
pub struct Leasing {
    inner: Rc<Inner>,
    endpoint: Arc<Endpoint>,
    limit: Duration,
    idle: Duration,
    ticket: Option<u64>,
    failures: u64,
}

impl Leasing {
    /// Ready with a place, or when no connection can be opened.
    ///
    /// # Errors
    /// Why not.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Lease, ConnectError>> {
        let inner = &self.inner;
        if let Some(lease) = inner.take(&self.endpoint) {
            self.ticket = None;
            return Poll::Ready(Ok(lease));
        }
        let (failures, failure, may_open) = inner.shelf(&self.endpoint, |shelf| {
            let may_open = !shelf.opening && shelf.conns.len() < MOST;
            (shelf.failures, shelf.failure, may_open)
        });
        if self.ticket.is_some() && failures > self.failures {
            self.ticket = None;
            return Poll::Ready(Err(match failure {
                Some(io::ErrorKind::TimedOut) | None => ConnectError::Timeout,
                Some(io::ErrorKind::NotFound) => ConnectError::Unresolved,
                Some(kind) => ConnectError::Io(kind.into()),
            }));
        }
        let ticket = *self.ticket.get_or_insert_with(|| {
            inner.tickets.set(inner.tickets.get() + 1);
            inner.tickets.get()
        });
        self.failures = failures;
        let waker = cx.waker().clone();
        inner.shelf(&self.endpoint, |shelf| shelf.waiting.insert(ticket, waker));
        if may_open {
            inner.open(&self.endpoint, self.limit, self.idle);
        }
        Poll::Pending
    }
}

impl Drop for Leasing {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let slot = self.endpoint.slot;
        let waited = match self.inner.shelves.borrow_mut().get_mut(slot) {
            Some(Some(shelf)) => shelf.waiting.remove(&ticket).is_some(),
            _ => true,
        };
        if !waited {
            // It was woken for a place that it doesn't take: the next in line gets it.
            self.inner.wake_one(slot);
        }
    }
}

impl Lease {
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
    }
}

/// A connection that counts in `cutover_upstream_connections`.
struct Counted(Arc<Endpoint>, usize);

impl Counted {
    fn enter(endpoint: &Arc<Endpoint>, worker: usize) -> Self {
        endpoint.metrics.shard(worker).connections(1);
        Self(endpoint.clone(), worker)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.shard(self.1).connections(-1);
    }
}
