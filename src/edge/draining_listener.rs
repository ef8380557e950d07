//! A listener that a worker has closed while connections accepted on it are still open.
//!
//! Its connections are asked to close, and those that exceed their service's drain times are cut. The times depend on the endpoint
//! that a connection currently uses, and are taken from the snapshot at the time the listener was closed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::config::policy;
use crate::net::{ListenerId, TaskControl};
use crate::proxy::drain::is_over;
use crate::snapshot::Snapshot;

#[derive(Debug)]
pub(super) struct DrainingListener {
    listener: ListenerId,
    since: Instant,
    drain: Option<DrainTimes>,
}

/// Grace periods for requests and streams in flight.
#[derive(Debug)]
struct DrainTimes {
    /// Grace periods by the slot of the endpoint that serves the request or stream.
    by_endpoint: HashMap<usize, policy::DrainPolicy>,
    /// Applies while no endpoint is involved: the longest times of all services.
    longest: policy::DrainPolicy,
    /// The shortest time of all services, before which nothing is overdue.
    shortest: Duration,
}

impl DrainingListener {
    /// A listener that was closed by a shutdown or a handover. Nothing becomes overdue: the shutdown has its own deadline.
    pub(super) fn shutting_down(listener: ListenerId, now: Instant) -> Self {
        Self {
            listener,
            since: now,
            drain: None,
        }
    }

    /// A listener that was removed from the configuration. The `drain` times of the services in `snapshot` apply.
    pub(super) fn removed(listener: ListenerId, now: Instant, snapshot: &Snapshot) -> Self {
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

    /// The listener's id.
    pub(super) fn listener(&self) -> ListenerId {
        self.listener
    }

    /// Time since the listener was closed.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Whether a connection or stream that was accepted on it has exceeded its drain time.
    pub(super) fn is_overdue(&self, control: &TaskControl, now: Instant) -> bool {
        let age = self.age(now);
        let Some(drain) = self.drain.as_ref().filter(|d| age >= d.shortest) else {
            return false;
        };
        let theirs = control.upstream().and_then(|s| drain.by_endpoint.get(&s));
        let theirs = theirs.unwrap_or(&drain.longest);
        is_over(theirs, control.phase(), age)
    }
}
