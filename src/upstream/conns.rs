//! One worker's idle HTTP/1 connections to endpoints. Nothing here is shared between threads.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::Endpoint;
use super::limits::Slot;
use crate::net::Stream;

/// Most idle connections that one worker keeps to one endpoint.
const KEPT: usize = 512;

#[derive(Debug)]
struct Idle {
    kept: Kept,
    since_ms: u64,
}

#[derive(Debug)]
struct Shelf {
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
    pub slot: Slot,
    /// Requests that it has carried.
    pub used: u32,
    /// Bytes of the last answer on it that may come at once: for the size of the next read.
    pub bulk: usize,
}

/// One worker's idle connections, by the endpoint's slot.
#[derive(Debug)]
pub struct Conns {
    worker: usize,
    shelves: RefCell<Vec<Option<Shelf>>>,
}

impl Conns {
    /// None yet.
    pub fn new(worker: usize) -> Self {
        Self {
            worker,
            shelves: RefCell::new(Vec::new()),
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
            if is_quiet(&mut idle.kept.stream) {
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
                self.count_out(place.take());
                *place = Some(Shelf {
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

    /// From time to time: drops connections that ended or waited too long, and everything of endpoints that only this shelf still holds.
    pub fn tend(&self, now_ms: u64) {
        for place in self.shelves.borrow_mut().iter_mut() {
            let Some(shelf) = place else { continue };
            let before = shelf.idle.len();
            let limit = shelf.idle_ms;
            shelf.idle.retain_mut(|idle| {
                now_ms.saturating_sub(idle.since_ms) < limit && is_quiet(&mut idle.kept.stream)
            });
            let gone = before - shelf.idle.len();
            if gone > 0 {
                shelf
                    .endpoint
                    .metrics
                    .shard(self.worker)
                    .connections(-(gone as i64));
            }
            if Arc::strong_count(&shelf.endpoint) == 1 || shelf.idle.is_empty() {
                self.count_out(place.take());
            }
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

    /// Drops the idle connections to endpoints that `stays` doesn't want.
    pub fn retain(&self, stays: impl Fn(&Endpoint) -> bool) {
        for place in self.shelves.borrow_mut().iter_mut() {
            if place.as_ref().is_some_and(|shelf| !stays(&shelf.endpoint)) {
                self.count_out(place.take());
            }
        }
    }

    fn count_out(&self, shelf: Option<Shelf>) {
        if let Some(shelf) = shelf
            && !shelf.idle.is_empty()
        {
            shelf
                .endpoint
                .metrics
                .shard(self.worker)
                .connections(-(shelf.idle.len() as i64));
        }
    }
}

/// A worker that dies keeps none of them: another one takes its place, and counts on.
impl Drop for Conns {
    fn drop(&mut self) {
        for place in std::mem::take(self.shelves.get_mut()) {
            self.count_out(place);
        }
    }
}

/// Nothing has arrived on it: no end, and no bytes that nobody asked for. Costs no syscall unless the reactor has seen something.
pub fn is_quiet(stream: &mut Stream) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    let mut byte = [0; 1];
    matches!(stream.poll_read_into(&mut cx, &mut byte), Poll::Pending)
}

/// Nothing has arrived as far as the kernel knows at this instant. One syscall; for requests that can't be sent twice.
pub fn is_quiet_now(stream: &Stream) -> bool {
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
    use crate::config::spec::{self, Address, Scheme};
    use crate::telemetry::Telemetry;
    use crate::upstream::Registry;

    #[tokio::test]
    async fn idle_connections_make_room_for_those_that_wait_the_oldest_first() {
        let telemetry = Telemetry::new(1);
        let metrics = telemetry.version("shop", "v1");
        let spec = spec::Endpoint {
            scheme: Scheme::Http,
            address: Address::Ip(([127, 0, 0, 1], 9).into()),
            weight: 1,
        };
        let endpoint = Registry::new().endpoint("shop", "v1", &spec, &metrics);
        let slots = &endpoint.version.connections;
        let soon = || Instant::now() + Duration::from_secs(30);
        let conns = Conns::new(0);
        let mut peers = Vec::new();
        for used in 0..3 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            peers.push(theirs);
            let slot = slots.acquire(3, 0, soon()).await.unwrap();
            let stream = Stream::Unix(ours);
            metrics.shard(0).connections(1);
            let kept = Kept {
                stream,
                slot,
                used,
                bulk: 0,
            };
            conns.give(&endpoint, kept, 0, 60_000);
        }
        conns.make_room();
        assert_eq!(slots.open(), 3, "nobody waits");
        let mut cx = Context::from_waker(Waker::noop());
        let mut waiters = [(); 2].map(|()| Box::pin(slots.acquire(3, 0, soon())));
        for waiter in &mut waiters {
            assert!(waiter.as_mut().poll(&mut cx).is_pending());
        }
        conns.make_room();
        for waiter in &mut waiters {
            assert!(waiter.as_mut().poll(&mut cx).is_ready());
        }
        assert_eq!(conns.take(&endpoint).map(|kept| kept.used), Some(2));
        assert!(conns.take(&endpoint).is_none());
        assert_eq!(metrics.totals().connections, 1);
    }
}
