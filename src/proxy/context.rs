//! The context of a request: everything that doesn't change between its head and its end.

use std::time::{Duration, Instant};

use super::Worker;
use super::edit::Rewritten;
use super::headers::Request;
use super::silence::Silence;
use crate::net::TaskControl;
use crate::snapshot::{Service, Snapshot};

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
        self.silence().total_left()
    }

    /// Arms the deadline for a silence of `limit`; see [`Silence::arm`].
    pub(super) fn arm_silence(&self, limit: Duration) {
        self.silence().arm(limit);
    }

    /// The deadline of the request's next progress.
    #[inline]
    pub(super) fn silence(&self) -> Silence<'_> {
        Silence {
            watch: self.watch,
            timeouts: &self.service.timeouts,
            started: self.started,
        }
    }
}
