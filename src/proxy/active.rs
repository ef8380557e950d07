//! What is in flight on an endpoint, of all workers: counted in, and counted out however it ends.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::net::{Phase, Watch};
use crate::upstream::Endpoint;

/// A request in flight on an endpoint; it may become a stream.
#[derive(Debug)]
pub struct Active<'a> {
    /// The endpoint.
    pub endpoint: &'a Arc<Endpoint>,
    watch: &'a Watch,
    streams: Cell<bool>,
}

impl<'a> Active<'a> {
    /// It begins.
    pub fn enter(endpoint: &'a Arc<Endpoint>, watch: &'a Watch) -> Self {
        endpoint.load.active.fetch_add(1, Ordering::Relaxed);
        watch.set_upstream(Some(endpoint.slot));
        Self {
            endpoint,
            watch,
            streams: Cell::new(false),
        }
    }

    /// It is a tunnel, or an answer without an end in sight: drains give it the time of streams from now on.
    pub fn becomes_stream(&self) {
        self.watch.enter(Phase::Stream);
        if !self.streams.replace(true) {
            self.endpoint.load.streams.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        if self.streams.get() {
            self.endpoint.load.streams.fetch_sub(1, Ordering::Relaxed);
        }
        self.endpoint.load.active.fetch_sub(1, Ordering::Relaxed);
        self.watch.set_upstream(None);
    }
}
