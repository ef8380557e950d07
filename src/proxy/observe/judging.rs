//! What the guard of a rollout learns from a request.

use std::time::Instant;

use super::Recording;
use crate::config::rollout::GoalSpec;
use crate::telemetry::guard::GuardCounters;
use crate::telemetry::record::{Chosen, Origin, Reason, RequestRecord};
use crate::telemetry::windows::is_server_failure;

impl<'a> Recording<'a> {
    /// Lists the first try of the request among those that a guard judges, if it is one of them.
    #[inline]
    pub(super) fn begin_judged(&mut self, guard: &GuardCounters) {
        let by_share = Some(Chosen::Split) == self.record.chosen
            || Some(Chosen::Cohort) == self.record.chosen
            || Some(Chosen::Session) == self.record.chosen;
        if by_share {
            let shard = guard.shard(self.worker.id);
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
    pub(super) fn end_judged(&mut self, key: usize) {
        let judged = &self.worker.judged;
        let (Some(service), Some(attempt)) = (self.service, self.record.last_try()) else {
            judged.forget(key);
            return;
        };
        if attempt.failure.is_some_and(|f| f.reason == Reason::Hedged) {
            // Without the second try, the version would have needed at least as long. Leaving such requests out would make a
            // slow version look quick.
            judged
                .end(key, self.try_began + attempt.took)
                .request(false);
            return;
        }
        let elsewhere = attempt
            .failure
            .is_some_and(|f| f.origin != Origin::Upstream);
        let Some(status) = attempt.status.filter(|_| !elsewhere) else {
            judged.forget(key);
            return;
        };
        let failed = status >= 500 || attempt.grpc_status.is_some_and(is_server_failure);
        // A failure says nothing about latency: a broken version that answers at once would look quick.
        let shard = match failed {
            true => judged.forget(key),
            false => judged.end(key, self.try_began + attempt.took),
        };
        let failed = failed && self.worker.is_new_failure(service, self.user);
        shard.request(failed);
        for (at, goal) in service.goals.iter().enumerate() {
            if is_reached(goal, &self.record, status) {
                shard.goal(at);
            }
        }
        if let Some((_, member)) = attempt.endpoint {
            let pool = &service.versions[attempt.version.1].pool;
            pool.members[member].endpoint.shards[self.worker.id.0].note_judged(failed);
        }
    }

    /// Counts the outcome of stable's try in place of a canary's, for the guard of the canary.
    pub(super) fn judge_shield(&self) {
        let (Some(service), Some(attempt)) = (self.service, self.record.last_try()) else {
            return;
        };
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
