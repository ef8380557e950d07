//! Reports a request to the guard of a rollout.

use std::time::{Duration, Instant};

use super::Recording;
use crate::config::rollout::GoalSpec;
use crate::proxy::judged::RunningRequest;
use crate::snapshot::{RollingFlag, Service};
use crate::telemetry::guard::GuardCounters;
use crate::telemetry::outcomes::is_server_failure;
use crate::telemetry::record::{Chosen, FlagState, Origin, Reason, RequestRecord, TryRecord};

impl<'a> Recording<'a> {
    /// Lists the first try of the request among those that a guard judges, if it is one of them.
    #[inline]
    pub(super) fn begin_judged(&mut self, service: &Service, guard: &GuardCounters) {
        let by_share = Some(Chosen::Split) == self.record.chosen
            || Some(Chosen::Cohort) == self.record.chosen
            || Some(Chosen::Session) == self.record.chosen;
        let side = match (&service.rolling_flag, self.flag_drawn) {
            (None, _) => Some(guard),
            // Users with and without the flag are compared, whatever their versions.
            (Some(rolling), Some(state)) => Some(rolling.guard.side(state)),
            (Some(_), None) => None,
        };
        if let Some(side) = side.filter(|_| by_share) {
            let shard = side.shard(self.worker.id);
            self.judged = Some(self.worker.judged.add(shard, self.started));
        }
    }

    /// Records that the response is a stream or tunnel: its latency is the time to its head.
    pub fn became_stream(&self) {
        if let Some(key) = self.judged {
            self.worker.judged.time_now(key, Instant::now());
        }
    }

    /// Counts the end of a judged try.
    // Not part of its caller, which ends every try.
    #[inline(never)]
    pub(super) fn end_judged(&mut self, key: usize) {
        let running = self.worker.judged.remove(key);
        let (Some(service), Some(attempt)) = (self.service, self.record.last_try()) else {
            return;
        };
        let is_ordinary = attempt.failure.is_none()
            && attempt.grpc_status.is_none()
            && attempt.status.is_some_and(|status| status < 500)
            && service.rolling_flag.is_none()
            && service.goals.is_empty();
        if is_ordinary {
            // The outcome of `end_judged_otherwise` for nearly every request, without its checks.
            running.time(self.age_after(attempt.took));
            running.shard.request(false);
            self.note_judged(service, attempt, false);
        } else {
            self.end_judged_otherwise(service, attempt, &running);
        }
    }

    /// Counts the end of a judged try that may have failed, or on which something else depends.
    #[cold]
    fn end_judged_otherwise(
        &self,
        service: &Service,
        attempt: &TryRecord<'_>,
        running: &RunningRequest,
    ) {
        if attempt.failure.is_some_and(|f| f.reason == Reason::Hedged) {
            // Without the second try, the version would have needed at least as long. Leaving such requests out would make a
            // slow version look quick.
            running.time(self.age_after(attempt.took));
            running.shard.request(false);
            return;
        }
        let elsewhere = attempt
            .failure
            .is_some_and(|f| f.origin != Origin::Upstream);
        let Some(status) = attempt.status.filter(|_| !elsewhere) else {
            return;
        };
        let failed = status >= 500 || attempt.grpc_status.is_some_and(is_server_failure);
        let without_flag = self.without_flag();
        // A failure says nothing about latency: a broken version that answers at once would look quick.
        if !failed {
            let age = self.age_after(attempt.took);
            if let Some(rolling) = without_flag {
                rolling.guard.took_without(self.worker.id, age);
            }
            running.time(age);
        }
        let failed = failed && self.worker.is_new_failure(service, self.user);
        running.shard.request(failed);
        for (at, goal) in service.goals.iter().enumerate() {
            if is_reached(goal, &self.record, status) {
                running.shard.goal(at);
            }
        }
        // The endpoints show how failures cluster on the side that others are compared with.
        let is_baseline = service.rolling_flag.is_none() || without_flag.is_some();
        if is_baseline {
            self.note_judged(service, attempt, failed);
        }
    }

    /// Counts a judged try of an endpoint.
    #[inline]
    fn note_judged(&self, service: &Service, attempt: &TryRecord<'_>, failed: bool) {
        if let Some((_, member)) = attempt.endpoint {
            let pool = &service.versions[attempt.version.1].pool;
            pool.members[member].endpoint.shards[self.worker.id.0].note_judged(failed);
        }
    }

    /// The age of the request when its current try has taken this long. A first try begins with the request.
    #[inline]
    fn age_after(&self, took: Duration) -> Duration {
        match self.try_began == self.started {
            true => took,
            false => (self.try_began + took).saturating_duration_since(self.started),
        }
    }

    /// The flag that follows a rollout, if the user doesn't have it and is compared with those who do.
    fn without_flag(&self) -> Option<&'a RollingFlag> {
        let rolling = self.service?.rolling_flag.as_ref()?;
        (self.flag_drawn == Some(FlagState::Off)).then_some(rolling)
    }

    /// Counts the outcome of stable's try in place of a canary's, for the guard of the canary.
    pub(super) fn judge_shield(&self) {
        let (Some(service), Some(attempt)) = (self.service, self.record.last_try()) else {
            return;
        };
        if service.rolling_flag.is_some() {
            // Stable gets the same flags, so that its response says nothing about them.
            return;
        }
        let canary = self.record.tries().next().map(|first| first.version.1);
        let guard = canary.and_then(|canary| service.versions[canary].guard.as_ref());
        if let (Some(guard), Some(status)) = (guard, attempt.status) {
            guard.shard(self.worker.id).shielded(status >= 500);
        }
    }
}

/// Whether a request has reached a goal with a response of this status.
pub(super) fn is_reached(goal: &GoalSpec, record: &RequestRecord<'_>, status: u16) -> bool {
    (goal.status.0..=goal.status.1).contains(&status)
        && goal.method.as_bytes() == record.method_text
        && goal.matches(record.path)
}
