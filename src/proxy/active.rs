//! Counts a request as in flight on its endpoint. Dropping the guard ends it, however the exchange
//! ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::net::{TaskControl, TaskPhase};
use crate::upstream::Endpoint;
use crate::upstream::limits::ActiveGuard;

/// A request in flight on an endpoint. It may become a stream.
#[derive(Debug)]
pub(crate) struct Active<'a> {
    /// The endpoint.
    pub endpoint: &'a Arc<Endpoint>,
    watch: &'a TaskControl,
    streams: bool,
    /// The slot under `limits.requests`.
    _slot: ActiveGuard<'a>,
}

impl<'a> Active<'a> {
    /// Counts a request, which has a slot under `limits.requests`.
    pub(crate) fn enter(
        endpoint: &'a Arc<Endpoint>,
        watch: &'a TaskControl,
        slot: ActiveGuard<'a>,
    ) -> Self {
        endpoint.load.active.fetch_add(1, Ordering::Relaxed);
        watch.set_upstream(Some(endpoint.slot));
        Self {
            endpoint,
            watch,
            streams: false,
            _slot: slot,
        }
    }

    /// Marks a tunnel or a response of unknown length, which a drain gives the grace period of
    /// streams instead of requests.
    pub(crate) fn becomes_stream(&mut self) {
        self.watch.enter(TaskPhase::Stream);
        if !std::mem::replace(&mut self.streams, true) {
            self.endpoint.load.streams.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        if self.streams {
            self.endpoint.load.streams.fetch_sub(1, Ordering::Relaxed);
        }
        self.endpoint.load.active.fetch_sub(1, Ordering::Relaxed);
        self.watch.set_upstream(None);
    }
}
