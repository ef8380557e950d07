//! The counts that a guard reads once a second.

use serde::{Deserialize, Serialize};

/// Requests, and how many of them had the event that a rule counts: a failure, slowness, or a conversion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventTally {
    /// Requests whose outcome became known.
    pub requests: u64,
    /// Requests that had the event.
    pub events: u64,
}

impl EventTally {
    /// Returns a tally of `requests`, `events` of which had the event.
    pub const fn new(requests: u64, events: u64) -> Self {
        Self { requests, events }
    }

    /// Returns events per request; 0 without requests.
    pub fn rate(self) -> f64 {
        if self.requests == 0 {
            return 0.0;
        }
        self.events as f64 / self.requests as f64
    }

    pub(super) fn add(&mut self, other: Self) {
        // Counts that were stored may be anything.
        self.requests = self.requests.saturating_add(other.requests);
        self.events = self.events.saturating_add(other.events);
    }
}

/// One second of one event, on both sides.
#[derive(Clone, Copy, Debug, Default)]
pub struct SideCounts<'a> {
    /// The tally of the canary.
    pub canary: EventTally,
    /// The tally of stable.
    pub stable: EventTally,
    /// Stable's tallies by endpoint, in a constant order. If empty, burstiness is learnt from stable's total over time. That is
    /// safe as long as the errors are given by endpoint, but slower: anything that slows or fails all endpoints counts as a burst
    /// of one.
    pub stable_endpoints: &'a [EventTally],
}

/// Failures that the shield hid by trying the request on stable as well, in one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairs {
    /// Requests that failed on the canary and were tried on stable.
    pub tried: u64,
    /// Requests that failed on stable too.
    pub failed: u64,
}

/// One closed second of the clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SecondCounts<'a> {
    /// Failed requests.
    pub errors: SideCounts<'a>,
    /// Slow requests, by the slots of [`Thresholds`](super::Thresholds). Missing slots count as empty.
    pub latency: &'a [SideCounts<'a>],
    /// Conversions, in the order of the guard's goals. Missing goals count as empty.
    pub goals: &'a [SideCounts<'a>],
    /// The canary's requests a second, averaged over about 10 s.
    pub canary_rate: f64,
    /// Endpoints that share the canary's requests, at least 1.
    pub canary_endpoints: usize,
    /// Hidden failures.
    pub pairs: Pairs,
    /// Whether the canary has all the traffic of this step, so that no stable is there to compare with. Errors are then
    /// compared with stable's past, and nothing else is judged.
    pub alone: bool,
}
