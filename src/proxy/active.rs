//! A request in flight on an endpoint, counted in and, however it ends, counted out.

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
    /// The room that it takes under `limits.requests`.
    _room: ActiveGuard<'a>,
}

impl<'a> Active<'a> {
    /// It begins, with room under `limits.requests`.
    pub(crate) fn enter(
        endpoint: &'a Arc<Endpoint>,
        watch: &'a TaskControl,
        room: ActiveGuard<'a>,
    ) -> Self {
        endpoint.load.active.fetch_add(1, Ordering::Relaxed);
        watch.set_upstream(Some(endpoint.slot));
        Self {
            endpoint,
            watch,
            streams: false,
            _room: room,
        }
    }

    /// It is a tunnel, or an answer without an end in sight: drains give it the time of streams from now on.
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
