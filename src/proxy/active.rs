//! Guards that count what is in flight: a request on its endpoint and on its version, and an open connection. Dropping a guard
//! ends the count, however the exchange ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::net::{TaskControl, TaskPhase};
use crate::telemetry::VersionShard;
use crate::upstream::Endpoint;
use crate::upstream::limits::ActiveGuard;

/// A request in flight on an endpoint. It may become a stream.
///
/// Held from before the connection is taken until the endpoint's part is done, not until the client has read the response: it frees
/// the slot under `limits.requests` and the endpoint's count then.
#[derive(Debug)]
pub(crate) struct Active<'a> {
    /// The endpoint that serves the request.
    pub endpoint: &'a Arc<Endpoint>,
    watch: &'a TaskControl,
    streams: bool,
    /// Whether the endpoint is set as that of the task.
    is_shown: bool,
    /// The slot under `limits.requests`.
    _slot: ActiveGuard<'a>,
}

impl<'a> Active<'a> {
    /// Counts a request that has a slot under `limits.requests`.
    pub(crate) fn enter(
        endpoint: &'a Arc<Endpoint>,
        watch: &'a TaskControl,
        slot: ActiveGuard<'a>,
    ) -> Self {
        let mut active = Self::beside(endpoint, watch, slot);
        active.show();
        active
    }

    /// Counts a request that runs beside another one of the same task.
    pub(crate) fn beside(
        endpoint: &'a Arc<Endpoint>,
        watch: &'a TaskControl,
        slot: ActiveGuard<'a>,
    ) -> Self {
        endpoint.load.active.fetch_add(1, Ordering::Relaxed);
        Self {
            endpoint,
            watch,
            streams: false,
            is_shown: false,
            _slot: slot,
        }
    }

    /// Sets the endpoint as that of the task.
    pub(crate) fn show(&mut self) {
        self.watch.set_upstream(Some(self.endpoint.slot));
        self.is_shown = true;
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
        if self.is_shown {
            self.watch.set_upstream(None);
        }
    }
}

/// Counts a request in `http_requests_in_flight` until it is dropped.
pub(super) struct InFlight<'a>(&'a VersionShard);

impl<'a> InFlight<'a> {
    pub(super) fn enter(shard: &'a VersionShard) -> Self {
        shard.in_flight(1);
        Self(shard)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight(-1);
    }
}

/// Counts an open connection down when it is closed, unless it is kept.
pub(super) struct OpenConnection<'a> {
    shard: &'a VersionShard,
    pub(super) is_kept: bool,
}

impl<'a> OpenConnection<'a> {
    /// A connection that has been counted.
    #[inline]
    pub(super) fn of(shard: &'a VersionShard) -> Self {
        Self {
            shard,
            is_kept: false,
        }
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.shard.connections(-1);
        }
    }
}
