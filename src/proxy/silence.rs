//! The deadline of a request's next progress.

use std::time::{Duration, Instant};

use crate::config::spec::Timeouts;
use crate::net::TaskControl;

/// Longest pause of a response after `timeouts.total` has passed. The total never cuts a response
/// that still makes progress.
const PAUSE: Duration = Duration::from_secs(1);

/// The deadline by which a request has to make progress again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence<'a> {
    /// Deadline and shutdown signal of the task.
    pub watch: &'a TaskControl,
    /// The timeouts of the service.
    pub timeouts: &'a Timeouts,
    /// When the head of the request had been read.
    pub started: Instant,
}

impl Silence<'_> {
    /// What is left of `timeouts.total`; `None` if it isn't set.
    pub(super) fn total_left(&self) -> Option<Duration> {
        let total = self.timeouts.total?;
        Some(total.saturating_sub(self.started.elapsed()))
    }

    /// Arms the deadline for a silence of `limit`, or until `timeouts.total` passes, but not less
    /// than [`PAUSE`].
    pub(super) fn arm(&self, limit: Duration) {
        let wait = self
            .total_left()
            .map_or(limit, |left| limit.min(left.max(PAUSE)));
        self.watch.arm(wait);
    }
}
