//! One worker's idle HTTP/1 connections to endpoints. Nothing here is shared between threads.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Waker};

use super::Endpoint;
use super::limits::ConnectionSlot;
use crate::net::Stream;

/// Most idle connections that one worker keeps to one endpoint. As many as are in use at a time should find room: what is
/// closed after one answer is opened for the next. A version's own ceiling counts idle ones, and is lower unless it is lifted.
const KEPT: usize = 8192;
/// Most connections that are closed at a time: each costs some ten microseconds, in which no request moves on.
const PARTED: usize = 64;

#[derive(Debug)]
struct Idle {
    kept: Kept,
    since_ms: u64,
}

#[derive(Debug)]
struct IdleConnections {
    endpoint: Arc<Endpoint>,
    idle: Vec<Idle>,
    idle_ms: u64,
}

/// An open connection at a message boundary.
#[derive(Debug)]
pub struct Kept {
    /// The bytes.
    pub stream: Stream,
    /// Its place among the version's connections.
    pub slot: ConnectionSlot,
    /// Requests that it has carried.
    pub used: u32,
    /// Bytes of the last answer on it that may come at once: for the size of the next read.
    pub bulk: usize,
}

/// One worker's idle connections, by the endpoint's slot.
#[derive(Debug)]
pub struct Conns {
    worker: usize,
    shelves: RefCell<Vec<Option<IdleConnections>>>,
    /// Connections that are only to be closed.
    parting: RefCell<Vec<Kept>>,
}

impl Conns {
    /// None yet.
    pub fn new(worker: usize) -> Self {
        Self {
            worker,
            shelves: RefCell::new(Vec::new()),
            parting: RefCell::default(),
        }
    }

    /// The connection that was used last (it is the warmest and the least likely to be stale). Those that ended meanwhile are dropped.
    pub fn take(&self, endpoint: &Endpoint) -> Option<Kept> {
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.get_mut(endpoint.slot)?.as_mut()?;
        if !std::ptr::eq(&*shelf.endpoint, endpoint) {
            return None;
        }
        while let Some(mut idle) = shelf.idle.pop() {
            if idle.kept.stream.is_quiet() {
                return Some(idle.kept);
            }
            endpoint.metrics.shard(self.worker).connections(-1);
        }
        None
    }

    /// Keeps a connection whose exchange ended cleanly. `idle_ms`: how long it may wait.
    pub fn give(&self, endpoint: &Arc<Endpoint>, kept: Kept, now_ms: u64, idle_ms: u64) {
        let mut shelves = self.shelves.borrow_mut();
        if shelves.len() <= endpoint.slot {
            shelves.resize_with(endpoint.slot + 1, || None);
        }
        let place = &mut shelves[endpoint.slot];
        match place {
            Some(shelf) if Arc::ptr_eq(&shelf.endpoint, endpoint) => {}
            _ => {
                self.clear(place.take());
                *place = Some(IdleConnections {
                    endpoint: endpoint.clone(),
                    idle: Vec::new(),
                    idle_ms,
                });
            }
        }
        let shelf = place.as_mut().expect("just placed");
        shelf.idle_ms = idle_ms;
        if shelf.idle.len() < KEPT {
            shelf.idle.push(Idle {
                kept,
                since_ms: now_ms,
            });
        } else {
            endpoint.metrics.shard(self.worker).connections(-1);
        }
    }

    /// From time to time: lets connections go that ended or waited too long, and everything of endpoints that only this shelf
    /// still holds. Looks at one part of so many of the shelves.
    pub fn tend(&self, now_ms: u64, (part, parts): (u64, u64)) {
        // Whoever used a connection last would be woken when it ends, and kept in memory until then.
        let mut nobody = Context::from_waker(Waker::noop());
        let mut shelves = self.shelves.borrow_mut();
        let at = |part: u64| (shelves.len() as u64 * part / parts) as usize;
        let places = at(part)..at(part + 1);
        for place in &mut shelves[places] {
            let Some(shelf) = place else { continue };
            let before = shelf.idle.len();
            let limit = shelf.idle_ms;
            let is_over = |idle: &mut Idle| {
                let stream = &mut idle.kept.stream;
                now_ms.saturating_sub(idle.since_ms) >= limit
                    || (stream.poll_readable(&mut nobody).is_ready() && !stream.is_quiet())
            };
            let over = shelf.idle.extract_if(.., is_over).map(|idle| idle.kept);
            self.parting.borrow_mut().extend(over);
            let gone = before - shelf.idle.len();
            if gone > 0 {
                shelf
                    .endpoint
                    .metrics
                    .shard(self.worker)
                    .connections(-(gone as i64));
            }
            if Arc::strong_count(&shelf.endpoint) == 1 || shelf.idle.is_empty() {
                self.clear(place.take());
            }
        }
    }

    /// Closes some of those that are to be closed, and all for whose place somebody waits.
    pub fn part(&self) {
        let mut parting = self.parting.borrow_mut();
        if parting.is_empty() {
            return;
        }
        let stay = parting.len().saturating_sub(PARTED);
        parting.truncate(stay);
        if super::limits::anybody_waits() {
            parting.retain(|kept| !kept.slot.is_wanted());
        }
        if parting.is_empty() {
            *parting = Vec::new();
        }
    }

    /// Closes idle connections, the longest idle first, while requests wait for one to another endpoint of the same version:
    /// without that they would wait until these have been idle for too long.
    pub fn make_room(&self) {
        for shelf in self.shelves.borrow_mut().iter_mut().flatten() {
            let waiting = shelf.endpoint.version.connections.waiting() as usize;
            let gone = waiting.min(shelf.idle.len());
            if gone > 0 {
                // Each one that is closed goes to somebody who waits.
                shelf.idle.drain(..gone);
                let shard = shelf.endpoint.metrics.shard(self.worker);
                shard.connections(-(gone as i64));
            }
        }
    }

    /// Closes up to `most` idle connections, the longest idle of each endpoint first: descriptors or local ports have run out.
    pub(crate) fn spare(&self, most: usize) {
        let mut left = most;
        for shelf in self.shelves.borrow_mut().iter_mut().flatten() {
            let gone = left.min(shelf.idle.len());
            if gone > 0 {
                shelf.idle.drain(..gone);
                let shard = shelf.endpoint.metrics.shard(self.worker);
                shard.connections(-(gone as i64));
                left -= gone;
            }
        }
    }

    /// Lets the idle connections go to endpoints that `stays` doesn't want.
    pub fn retain(&self, stays: impl Fn(&Endpoint) -> bool) {
        for place in self.shelves.borrow_mut().iter_mut() {
            if place.as_ref().is_some_and(|shelf| !stays(&shelf.endpoint)) {
                self.clear(place.take());
            }
        }
    }

    fn clear(&self, shelf: Option<IdleConnections>) {
        if let Some(shelf) = shelf
            && !shelf.idle.is_empty()
        {
            shelf
                .endpoint
                .metrics
                .shard(self.worker)
                .connections(-(shelf.idle.len() as i64));
            let idle = shelf.idle.into_iter();
            self.parting.borrow_mut().extend(idle.map(|idle| idle.kept));
        }
    }
}

/// A worker that dies keeps none of them: another one takes its place, and counts on.
impl Drop for Conns {
    fn drop(&mut self) {
        for place in std::mem::take(self.shelves.get_mut()) {
            self.clear(place);
        }
    }
}

/// Nothing has arrived as far as the kernel knows at this instant. One syscall; for requests that can't be sent twice.
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
    use std::time::{Duration, Instant};

    use tokio::net::UnixStream;

    use super::*;
    use crate::config::spec::{self, EndpointAddress, Scheme};
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
                conns: Conns::new(0),
                peers: Vec::new(),
            }
        }

        async fn keep(&mut self, used: u32, ceiling: u32) {
            let (ours, theirs) = UnixStream::pair().unwrap();
            self.peers.push(theirs);
            let slots = &self.endpoint.version.connections;
            let kept = Kept {
                slot: slots.acquire(ceiling, 0, soon()).await.unwrap(),
                stream: Stream::Unix(ours),
                used,
                bulk: 0,
            };
            self.metrics.shard(0).connections(1);
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
    async fn what_is_idle_for_too_long_goes_by_and_by() {
        let mut stage = TestConnections::new();
        let most = PARTED as u32;
        for _ in 0..most + 10 {
            stage.keep(0, 0).await;
        }
        let conns = &stage.conns;
        (0..20).for_each(|part| conns.tend(59_999, (part, 20)));
        conns.part();
        assert_eq!(stage.open(), most + 10, "not yet");
        (0..20).for_each(|part| conns.tend(60_000, (part, 20)));
        assert!(conns.take(&stage.endpoint).is_none());
        assert_eq!(stage.metrics.totals().connections, 0);
        conns.part();
        assert_eq!(stage.open(), 10);
        conns.part();
        assert_eq!(stage.open(), 0);
    }

    #[tokio::test]
    async fn what_is_to_be_closed_is_closed_at_once_for_those_that_wait() {
        let mut stage = TestConnections::new();
        let all = PARTED as u32 + 40;
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
        conns.part();
        // Held: a slot that is dropped would be the next one's.
        let served: Vec<_> = waiters
            .iter_mut()
            .map(|waiter| waiter.as_mut().poll(&mut cx))
            .collect();
        assert!(served.iter().all(std::task::Poll::is_ready));
    }
}
