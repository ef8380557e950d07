//! Listeners that a worker has closed, as long as connections are left that came in by them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::config::policy;
use crate::net::TaskControl;
use crate::proxy::drain::is_over;
use crate::snapshot::Snapshot;

/// One of them.
#[derive(Debug)]
pub(super) struct Closed {
    listener: usize,
    since: Instant,
    drain: Option<DrainTimes>,
}

/// How long what is in flight may take.
#[derive(Debug)]
struct DrainTimes {
    /// By the slot of the endpoint that works for it.
    by_endpoint: HashMap<usize, policy::DrainPolicy>,
    /// Where none does: the longest of all services.
    longest: policy::DrainPolicy,
    /// Before that nothing is overdue.
    shortest: Duration,
}

impl Closed {
    /// Closed with everything else, because the process ends: that has a clock of its own.
    pub(super) fn at_the_end(listener: usize, now: Instant) -> Self {
        Self {
            listener,
            since: now,
            drain: None,
        }
    }

    /// It is no longer in the file: what is in flight has as long as its service's `drain` says in `snapshot`.
    pub(super) fn removed(listener: usize, now: Instant, snapshot: &Snapshot) -> Self {
        let mut drain = DrainTimes {
            by_endpoint: HashMap::new(),
            longest: policy::DrainPolicy {
                requests: Duration::ZERO,
                streams: Duration::ZERO,
            },
            shortest: Duration::MAX,
        };
        for (service, endpoint) in snapshot.endpoints() {
            let theirs = &service.policies.drain;
            drain.by_endpoint.insert(endpoint.slot, theirs.clone());
            let longest = &mut drain.longest;
            longest.requests = longest.requests.max(theirs.requests);
            longest.streams = longest.streams.max(theirs.streams);
            drain.shortest = drain.shortest.min(theirs.requests).min(theirs.streams);
        }
        Self {
            listener,
            since: now,
            drain: Some(drain),
        }
    }

    /// By which listener.
    pub(super) fn listener(&self) -> usize {
        self.listener
    }

    /// For how long.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Whether this connection or stream, which came in by it, has had its time.
    pub(super) fn is_overdue(&self, watch: &TaskControl, now: Instant) -> bool {
        let age = self.age(now);
        let Some(drain) = self.drain.as_ref().filter(|d| age >= d.shortest) else {
            return false;
        };
        let theirs = watch.upstream().and_then(|s| drain.by_endpoint.get(&s));
        let theirs = theirs.unwrap_or(&drain.longest);
        is_over(theirs, watch.phase(), age)
    }
}
