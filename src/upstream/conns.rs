//! The idle HTTP/1 connections that one worker keeps to endpoints.
//!
//! A connection is given back after an exchange that ended cleanly and taken for the next one. [`Conns::sweep`] removes
//! those that have ended or been idle for too long. Closing a socket costs some ten microseconds, so a removed connection
//! is only queued, and [`Conns::close_parting`] closes a few at each tick. Nothing here is shared between threads.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Waker};

use super::Endpoint;
use super::connect::OpenedConnection;
use super::limits::ConnectionSlot;
use super::transport::TransportId;
use crate::net::Stream;
use crate::prefetch::{PrefetchPlace, prefetch, prefetch_all};
use crate::telemetry::WorkerId;

/// Most idle connections that one worker keeps to one endpoint. It exceeds the number that is normally in use at a time:
/// with less room, connections of a busy endpoint would be closed after one response and opened for the next. The
/// version's own ceiling counts idle connections as well, and is lower unless the operator has lifted it.
const MAX_IDLE: usize = 8192;
/// Most connections that one call of [`Conns::close_parting`] closes, unless requests wait for them: it delays all
/// requests of the worker.
const CLOSED_AT_ONCE: usize = 64;

#[derive(Debug)]
struct Idle {
    kept: Kept,
    since_ms: u64,
}

/// The idle connections to one endpoint, the longest idle first.
#[derive(Debug)]
struct IdleConnections {
    endpoint: Arc<Endpoint>,
    idle: Vec<Idle>,
    /// Where the state of the last one's socket is, so that it can be prefetched without reading `idle`. Only a hint: after a
    /// sweep it may be the place of a closed connection.
    next_socket: PrefetchPlace,
    idle_ms: u64,
}

/// An open connection between two exchanges.
#[derive(Debug)]
pub struct Kept {
    /// The byte stream. Nothing of the last response is left in it.
    pub stream: Stream,
    /// The permit that counts the connection among those of its version.
    pub slot: ConnectionSlot,
    /// Number of requests that it has carried.
    pub used: u32,
    /// Number of the transport that it was opened by.
    pub transport: TransportId,
    /// Number of bytes of the last response that arrived at once: a hint for the size of the next read.
    pub bulk: usize,
}

impl Kept {
    /// A new connection, before its first exchange.
    pub(crate) fn new(opened: OpenedConnection, slot: ConnectionSlot) -> Self {
        Self {
            stream: opened.stream,
            slot,
            used: 0,
            transport: opened.transport,
            bulk: 0,
        }
    }
}

/// The idle connections of one worker.
///
/// A connection is here only between two exchanges; during one the request owns it. Each holds a [`ConnectionSlot`] of its version
/// and counts in the gauge `cutover_upstream_connections`: whatever takes a connection out for good subtracts it there.
#[derive(Debug)]
pub struct Conns {
    worker: WorkerId,
    /// Indexed by [`Endpoint::slot`], which is reused: an entry may still belong to a former endpoint of the slot.
    by_endpoint: RefCell<Vec<Option<IdleConnections>>>,
    /// Connections that wait to be closed. They aren't counted in the metrics any more, but still hold their slots.
    parting: RefCell<Vec<Kept>>,
}

impl Conns {
    /// An empty set for worker `worker`.
    pub fn new(worker: WorkerId) -> Self {
        Self {
            worker,
            by_endpoint: RefCell::new(Vec::new()),
            parting: RefCell::default(),
        }
    }

    /// Asks the CPU for the entry of the endpoint with this slot.
    pub(crate) fn prefetch(&self, slot: usize) {
        if let Some(entry) = self.by_endpoint.borrow().get(slot) {
            prefetch(entry);
        }
    }

    /// Asks the CPU for the connection that the endpoint with this slot gets next.
    pub(crate) fn prefetch_next(&self, slot: usize) {
        if let Some(Some(entry)) = self.by_endpoint.borrow().get(slot)
            && let Some(idle) = entry.idle.last()
        {
            prefetch_all(idle);
            entry.next_socket.prefetch();
        }
    }

    /// Takes the connection that was used last: its congestion window is the most likely to be open still, and the peer
    /// the least likely to have closed it. Connections found closed on the way are dropped, as are those of a former transport.
    pub fn take(&self, endpoint: &Endpoint) -> Option<Kept> {
        let mut by_endpoint = self.by_endpoint.borrow_mut();
        let entry = by_endpoint.get_mut(endpoint.slot)?.as_mut()?;
        // The entry belongs to a former endpoint, whose slot was reused. `give` or `sweep` removes it.
        if !std::ptr::eq(&*entry.endpoint, endpoint) {
            return None;
        }
        while let Some(mut idle) = entry.idle.pop() {
            let next = entry.idle.last().map(|next| next.kept.stream.place());
            entry.next_socket = next.unwrap_or_default();
            let is_current = idle.kept.transport == endpoint.version.transport.id();
            if is_current && idle.kept.stream.is_quiet() {
                return Some(idle.kept);
            }
            endpoint.metrics.shard(self.worker).connections(-1);
        }
        None
    }

    /// Keeps a connection whose exchange ended cleanly, for at most `idle_ms` milliseconds. It is closed at once if
    /// `MAX_IDLE` are kept already, or if the version's transport has changed since it was opened.
    pub fn give(&self, endpoint: &Arc<Endpoint>, kept: Kept, now_ms: u64, idle_ms: u64) {
        let mut by_endpoint = self.by_endpoint.borrow_mut();
        if by_endpoint.len() <= endpoint.slot {
            by_endpoint.resize_with(endpoint.slot + 1, || None);
        }
        let entry = &mut by_endpoint[endpoint.slot];
        if let Some(former) = entry.take_if(|e| !Arc::ptr_eq(&e.endpoint, endpoint)) {
            self.part_with(former);
        }
        let entry = entry.get_or_insert_with(|| IdleConnections {
            endpoint: endpoint.clone(),
            idle: Vec::new(),
            next_socket: PrefetchPlace::default(),
            idle_ms,
        });
        // A reload may have changed the limit.
        entry.idle_ms = idle_ms;
        let is_current = kept.transport == endpoint.version.transport.id();
        if is_current && entry.idle.len() < MAX_IDLE {
            entry.next_socket = kept.stream.place();
            entry.idle.push(Idle {
                kept,
                since_ms: now_ms,
            });
        } else {
            endpoint.metrics.shard(self.worker).connections(-1);
        }
    }

    /// Removes connections that the peer has closed or that have been idle for too long, and the entries of endpoints that
    /// nothing else refers to. To be called regularly. It looks at the `part`-th of `parts` equal parts of the endpoints.
    pub fn sweep(&self, now_ms: u64, (part, parts): (u64, u64)) {
        // The last task to poll a connection left its waker in it, which would keep the task in memory and wake it when
        // the connection ends. Polling with a waker that does nothing replaces it.
        let mut no_wake = Context::from_waker(Waker::noop());
        let mut by_endpoint = self.by_endpoint.borrow_mut();
        let at = |part: u64| (by_endpoint.len() as u64 * part / parts) as usize;
        let range = at(part)..at(part + 1);
        for slot in &mut by_endpoint[range] {
            let Some(entry) = slot else { continue };
            let before = entry.idle.len();
            let limit = entry.idle_ms;
            let transport = entry.endpoint.version.transport.id();
            let is_over = |idle: &mut Idle| {
                let stream = &mut idle.kept.stream;
                idle.kept.transport != transport
                    || now_ms.saturating_sub(idle.since_ms) >= limit
                    || (stream.poll_readable(&mut no_wake).is_ready() && !stream.is_quiet())
            };
            let over = entry.idle.extract_if(.., is_over).map(|idle| idle.kept);
            self.parting.borrow_mut().extend(over);
            self.uncount(entry, before - entry.idle.len());
            if (Arc::strong_count(&entry.endpoint) == 1 || entry.idle.is_empty())
                && let Some(entry) = slot.take()
            {
                self.part_with(entry);
            }
        }
    }

    /// Closes up to `CLOSED_AT_ONCE` of the removed connections, and all of those whose version has requests that wait
    /// for a connection.
    pub fn close_parting(&self) {
        let mut parting = self.parting.borrow_mut();
        if parting.is_empty() {
            return;
        }
        let rest = parting.len().saturating_sub(CLOSED_AT_ONCE);
        parting.truncate(rest);
        if super::limits::anybody_waits() {
            parting.retain(|kept| !kept.slot.is_wanted());
        }
        if parting.is_empty() {
            // After a burst the capacity would otherwise stay allocated.
            *parting = Vec::new();
        }
    }

    /// Closes idle connections, the longest idle first, of versions that have requests waiting for a connection to another
    /// endpoint. Without this they would wait until the idle timeout.
    pub fn make_room(&self) {
        for entry in self.by_endpoint.borrow_mut().iter_mut().flatten() {
            // A dropped slot goes to a waiting request at once, so that the next entry sees one fewer.
            let waiting = entry.endpoint.version.connections.waiting() as usize;
            self.close_first(entry, waiting);
        }
    }

    /// Closes up to `most` idle connections, the longest idle of each endpoint first. For when the process has run out of
    /// descriptors or local ports.
    pub(crate) fn close_oldest(&self, most: usize) {
        let mut left = most;
        for entry in self.by_endpoint.borrow_mut().iter_mut().flatten() {
            left -= self.close_first(entry, left);
        }
    }

    /// Removes the idle connections to endpoints for which `is_needed` is false.
    pub fn retain(&self, is_needed: impl Fn(&Endpoint) -> bool) {
        for slot in self.by_endpoint.borrow_mut().iter_mut() {
            if let Some(entry) = slot.take_if(|entry| !is_needed(&entry.endpoint)) {
                self.part_with(entry);
            }
        }
    }

    /// Closes at most `most` connections of an entry and returns how many.
    fn close_first(&self, entry: &mut IdleConnections, most: usize) -> usize {
        let closed = most.min(entry.idle.len());
        entry.idle.drain(..closed);
        self.uncount(entry, closed);
        closed
    }

    /// Queues all connections of an entry to be closed.
    fn part_with(&self, entry: IdleConnections) {
        self.uncount(&entry, entry.idle.len());
        let idle = entry.idle.into_iter();
        self.parting.borrow_mut().extend(idle.map(|idle| idle.kept));
    }

    /// Takes connections out of the version's gauge of open ones.
    fn uncount(&self, entry: &IdleConnections, gone: usize) {
        if gone > 0 {
            let shard = entry.endpoint.metrics.shard(self.worker);
            shard.connections(-(gone as i64));
        }
    }
}

/// A worker that panics is replaced by one that continues with the same metrics shard, so that its connections must be
/// subtracted from the gauge.
impl Drop for Conns {
    fn drop(&mut self) {
        for entry in std::mem::take(self.by_endpoint.get_mut())
            .into_iter()
            .flatten()
        {
            self.part_with(entry);
        }
    }
}

/// Whether nothing has arrived yet: no bytes, no end, no error. Asks the kernel by one system call, because the runtime
/// may not have polled its events yet. Used for requests that can't be sent a second time.
pub(crate) fn is_quiet_now(stream: &Stream) -> bool {
    use rustix::net::{RecvFlags, recv};
    let mut byte = [0; 1];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(
        recv(stream.descriptor(), &mut byte, flags),
        Err(rustix::io::Errno::AGAIN)
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::config::spec::{self, EndpointAddress, Scheme};
    use crate::net::StreamSocket;
    use crate::telemetry::Telemetry;
    use crate::upstream::Registry;

    /// Connections of one version, each with its other end, and a way to make more of them.
    struct TestConnections {
        metrics: Arc<crate::telemetry::VersionMetrics>,
        endpoint: Arc<Endpoint>,
        conns: Conns,
        peers: Vec<UnixStream>,
    }

    impl TestConnections {
        fn new() -> Self {
            let metrics = Telemetry::new(1).version("shop", "v1");
            let spec = spec::EndpointSpec {
                scheme: Scheme::Http,
                address: EndpointAddress::Ip(([127, 0, 0, 1], 9).into()),
                weight: 1,
            };
            Self {
                endpoint: Registry::new().endpoint("shop", "v1", &spec, &metrics),
                metrics,
                conns: Conns::new(WorkerId(0)),
                peers: Vec::new(),
            }
        }

        async fn keep(&mut self, used: u32, ceiling: u32) {
            let (ours, theirs) = UnixStream::pair().unwrap();
            self.peers.push(theirs);
            let slots = &self.endpoint.version.connections;
            let kept = Kept {
                slot: slots.acquire(ceiling, 0, soon()).await.unwrap(),
                stream: Stream::Clear(StreamSocket::new(ours).unwrap()),
                used,
                transport: TransportId::default(),
                bulk: 0,
            };
            self.metrics.shard(WorkerId(0)).connections(1);
            self.conns.give(&self.endpoint, kept, 0, 60_000);
        }

        fn open(&self) -> u32 {
            self.endpoint.version.connections.open()
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[tokio::test]
    async fn the_socket_that_is_asked_for_is_that_of_the_next_connection() {
        let mut stage = TestConnections::new();
        for used in 0..2 {
            stage.keep(used, 0).await;
        }
        let next = |conns: &Conns| {
            let by_endpoint = conns.by_endpoint.borrow();
            let entry = by_endpoint[stage.endpoint.slot].as_ref().unwrap();
            let last = entry.idle.last().map(|idle| idle.kept.stream.place());
            assert_eq!(entry.next_socket, last.unwrap_or_default());
            entry.next_socket
        };
        let conns = &stage.conns;
        while let Some(taken) = {
            let place = next(conns);
            conns.prefetch_next(stage.endpoint.slot);
            conns.take(&stage.endpoint).map(|kept| (place, kept))
        } {
            assert_eq!(taken.0, taken.1.stream.place());
            assert_ne!(taken.0, PrefetchPlace::default());
        }
        assert_eq!(next(conns), PrefetchPlace::default());
    }

    #[tokio::test]
    async fn idle_connections_make_room_for_those_that_wait_the_oldest_first() {
        let mut stage = TestConnections::new();
        for used in 0..3 {
            stage.keep(used, 3).await;
        }
        let conns = &stage.conns;
        conns.make_room();
        assert_eq!(stage.open(), 3, "nobody waits");
        let slots = &stage.endpoint.version.connections;
        let mut cx = Context::from_waker(Waker::noop());
        let mut waiters = [(); 2].map(|()| Box::pin(slots.acquire(3, 0, soon())));
        for waiter in &mut waiters {
            assert!(waiter.as_mut().poll(&mut cx).is_pending());
        }
        conns.make_room();
        for waiter in &mut waiters {
            assert!(waiter.as_mut().poll(&mut cx).is_ready());
        }
        assert_eq!(conns.take(&stage.endpoint).map(|kept| kept.used), Some(2));
        assert!(conns.take(&stage.endpoint).is_none());
        assert_eq!(stage.metrics.totals().connections, 1);
    }

    #[tokio::test]
    async fn a_changed_transport_leaves_no_connection_of_the_former_one_in_use() {
        let identity = || Arc::new(crate::upstream::tls::TlsClient::for_tests());
        let mut stage = TestConnections::new();
        stage.keep(1, 0).await;
        stage
            .endpoint
            .version
            .transport
            .set(Some(&identity()), None);
        assert!(stage.conns.take(&stage.endpoint).is_none());
        // In use while the transport changed, and given back after that.
        stage.keep(2, 0).await;
        assert!(stage.conns.take(&stage.endpoint).is_none());
        assert_eq!(stage.metrics.totals().connections, 0);
        assert_eq!(stage.open(), 0);
        let mut kept_by_sweep = TestConnections::new();
        kept_by_sweep.keep(1, 0).await;
        kept_by_sweep
            .endpoint
            .version
            .transport
            .set(Some(&identity()), None);
        kept_by_sweep.conns.sweep(0, (0, 1));
        assert_eq!(kept_by_sweep.metrics.totals().connections, 0);
    }

    #[tokio::test]
    async fn what_is_idle_for_too_long_goes_by_and_by() {
        let mut stage = TestConnections::new();
        let most = CLOSED_AT_ONCE as u32;
        for _ in 0..most + 10 {
            stage.keep(0, 0).await;
        }
        let conns = &stage.conns;
        (0..20).for_each(|part| conns.sweep(59_999, (part, 20)));
        conns.close_parting();
        assert_eq!(stage.open(), most + 10, "not yet");
        (0..20).for_each(|part| conns.sweep(60_000, (part, 20)));
        assert!(conns.take(&stage.endpoint).is_none());
        assert_eq!(stage.metrics.totals().connections, 0);
        conns.close_parting();
        assert_eq!(stage.open(), 10);
        conns.close_parting();
        assert_eq!(stage.open(), 0);
    }

    #[tokio::test]
    async fn what_is_to_be_closed_is_closed_at_once_for_those_that_wait() {
        let mut stage = TestConnections::new();
        let all = CLOSED_AT_ONCE as u32 + 40;
        for _ in 0..all {
            stage.keep(0, all).await;
        }
        let conns = &stage.conns;
        conns.retain(|_| false);
        assert_eq!(stage.open(), all);
        let slots = &stage.endpoint.version.connections;
        let mut cx = Context::from_waker(Waker::noop());
        let mut waiters: Vec<_> = (0..all - 1)
            .map(|_| Box::pin(slots.acquire(all, 0, soon())))
            .collect();
        for waiter in &mut waiters {
            assert!(waiter.as_mut().poll(&mut cx).is_pending());
        }
        conns.close_parting();
        // Held: a slot that is dropped would be the next one's.
        let served: Vec<_> = waiters
            .iter_mut()
            .map(|waiter| waiter.as_mut().poll(&mut cx))
            .collect();
        assert!(served.iter().all(std::task::Poll::is_ready));
    }
}
