//! The context of a request: everything that doesn't change between its head and its end.

use std::time::{Duration, Instant};

use super::Worker;
use super::edit::Rewritten;
use super::headers::Request;
use crate::net::TaskControl;
use crate::snapshot::{Service, Snapshot};

/// Longest pause of a response after `timeouts.total` has passed. The total never cuts a response
/// that still makes progress.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// Longest pause of an exchange whose client has closed its write side. Most such clients have
/// left; one that still reads gets a response that is prompt.
pub(crate) const HALF_CLOSED: Duration = Duration::from_millis(500);

/// A request, and everything that is needed to serve it.
///
/// Built once a request has been routed. A request that waits for an endpoint and is routed again gets another one, with the
/// snapshot of that time.
#[derive(Debug)]
pub(crate) struct RequestContext<'a, F> {
    /// The worker that serves the request.
    pub worker: &'a Worker,
    /// Deadline and shutdown signal of the task.
    pub watch: &'a TaskControl,
    /// The configuration snapshot, the same for all tries.
    pub snapshot: &'a Snapshot,
    /// The time at which the head had been read.
    pub started: Instant,
    /// The request.
    pub request: &'a Request<'a, F>,
    /// The request's target after `rewrite`, if the service or a rule has one.
    pub rewritten: Option<Box<Rewritten<'a>>>,
    /// The service that the request was routed to.
    pub service: &'a Service,
}

impl<F> RequestContext<'_, F> {
    /// Longest silence of the client while its body is awaited: `limits.body_timeout`.
    pub(crate) fn body_timeout(&self) -> Duration {
        self.snapshot.spec.limits.body_timeout
    }

    /// The rest of `timeouts.total`; `None` if it isn't set.
    pub(super) fn total_left(&self) -> Option<Duration> {
        let total = self.service.timeouts.total?;
        Some(total.saturating_sub(self.started.elapsed()))
    }

    /// Arms the deadline for a silence of `limit`, or until `timeouts.total` passes, but not less
    /// than [`PAUSE`].
    pub(super) fn arm_silence(&self, limit: Duration) {
        let wait = self
            .total_left()
            .map_or(limit, |left| limit.min(left.max(PAUSE)));
        self.watch.arm(wait);
    }
}
