//! What stays the same for a request from its head to its end.

use std::time::{Duration, Instant};

use super::Worker;
use super::headers::Request;
use crate::net::TaskControl;
use crate::snapshot::{Service, Snapshot};

/// A response may pause for so long after `timeouts.total` before it counts as no longer moving.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// A client that sends nothing any more has mostly left. One that half-closed its connection and waits gets an answer
/// that comes, and goes on, without a pause longer than this.
pub(crate) const HALF_CLOSED: Duration = Duration::from_millis(500);

/// A request with all that serving it needs.
#[derive(Debug)]
pub(crate) struct RequestContext<'a, F> {
    /// The worker that serves it.
    pub worker: &'a Worker,
    /// Its task's deadline.
    pub watch: &'a TaskControl,
    /// The snapshot that it is served by, further tries included.
    pub snapshot: &'a Snapshot,
    /// When its head had been read.
    pub started: Instant,
    /// The request.
    pub request: &'a Request<'a, F>,
    /// Its service.
    pub service: &'a Service,
}

impl<F> RequestContext<'_, F> {
    /// Longest silence of the client inside its body.
    pub(crate) fn body_timeout(&self) -> Duration {
        self.snapshot.spec.limits.body_timeout
    }

    /// What is left of `timeouts.total`, where there is one.
    pub(super) fn total_left(&self) -> Option<Duration> {
        let total = self.service.timeouts.total?;
        Some(total.saturating_sub(self.started.elapsed()))
    }

    /// Arms the watch for a silence of at most `limit`, or less where `timeouts.total` ends before.
    pub(super) fn arm_silence(&self, limit: Duration) {
        let wait = self
            .total_left()
            .map_or(limit, |left| limit.min(left.max(PAUSE)));
        self.watch.arm(wait);
    }
}
