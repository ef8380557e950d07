//! Requests that the guard of a rollout judges, while they run.
//!
//! A request counts as slow in the moment when it passes a threshold, not when it ends: a canary that hangs would otherwise look
//! healthy until its timeout. So a worker lists its running requests and looks at them a few times a second.
//!
//! The guard counts the first attempt of a request that the split, its cohort or its session sent to a version. Retries and the
//! shield's attempt on stable would count one event twice. Requests that a rule or a preview host decides are those of testers.
//! Requests that failed over were chosen by the failure of a version.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;
use xxhash_rust::xxh3::xxh3_64;

use crate::telemetry::guard::GuardShard;

/// Number of cells in the table of users whose failure has counted.
const CELLS: usize = 4096;
/// Time for which one failure of a user counts, in seconds.
const ONCE_IN_S: u32 = 60;

/// A running request.
#[derive(Debug)]
pub(super) struct RunningRequest {
    /// The counters for the request.
    pub(super) shard: Arc<GuardShard>,
    started: Instant,
    /// The thresholds that the request has passed, one bit each.
    counted: u8,
    /// Whether its latency has been counted in full.
    is_timed: bool,
}

/// The running requests of one worker that are judged.
#[derive(Debug, Default)]
pub struct JudgedRequests(RefCell<Slab<RunningRequest>>);

impl JudgedRequests {
    /// Adds a request. The key is for the methods below.
    #[inline]
    pub(super) fn add(&self, shard: &Arc<GuardShard>, started: Instant) -> usize {
        self.0.borrow_mut().insert(RunningRequest {
            shard: Arc::clone(shard),
            started,
            counted: 0,
            is_timed: false,
        })
    }

    /// Counts the latency of a request that becomes a stream or tunnel: the time to its head.
    pub(super) fn time_now(&self, key: usize, now: Instant) {
        let request = &mut self.0.borrow_mut()[key];
        request.time(now.saturating_duration_since(request.started));
        request.is_timed = true;
    }

    /// Removes a request that has ended.
    #[inline]
    pub(super) fn remove(&self, key: usize) -> RunningRequest {
        self.0.borrow_mut().remove(key)
    }

    /// Counts requests that have passed a threshold since the last call.
    pub(super) fn sweep(&self, now: Instant) {
        let mut requests = self.0.borrow_mut();
        for (_, request) in requests.iter_mut().filter(|(_, request)| !request.is_timed) {
            let age = nanos(now.saturating_duration_since(request.started));
            request.counted = request.shard.pass(age, request.counted);
        }
    }
}

impl RunningRequest {
    /// Counts the latency of the request, unless it has been counted.
    #[inline]
    pub(super) fn time(&self, age: Duration) {
        if !self.is_timed {
            self.shard.end(nanos(age), self.counted);
        }
    }
}

/// Nanoseconds; those of more than 584 years wrap.
#[inline]
pub(super) fn nanos(time: Duration) -> u64 {
    let seconds = time.as_secs().wrapping_mul(1_000_000_000);
    seconds.wrapping_add(time.subsec_nanos().into())
}

/// The sender of a request, as far as it is known without another look at it.
#[derive(Clone, Copy, Debug)]
pub enum User {
    /// Not known: each failure counts.
    Anyone,
    /// The user at this point of the cohort.
    Cohort(u64),
    /// The holder of a session: [`Session::holder`](crate::routing::sticky::Session::holder).
    Session(u64),
}

/// The users whose failure has counted in the last minute, of one service and worker.
///
/// A user whose requests all fail, or who has failed once and retries, would otherwise count as many failures on whichever side they
/// are. The table is shared by both sides and indexed by user, so that both lose the same part to collisions.
#[derive(Debug, Default)]
pub(super) struct FailedUsers {
    /// By cell: the second of the last failure that counted, plus 1. Allocated with the first failure.
    last: Vec<u32>,
}

impl FailedUsers {
    /// Whether a failure of this user counts at this time, in seconds of a clock that doesn't go back.
    pub(super) fn counts(&mut self, user: User, now_s: u32) -> bool {
        let cell = match user {
            User::Anyone => return true,
            // The upper bits are the point in [0, 1).
            User::Cohort(point) => point >> (u64::BITS - CELLS.trailing_zeros()),
            User::Session(holder) => {
                xxh3_64(&holder.to_le_bytes()) >> (u64::BITS - CELLS.trailing_zeros())
            }
        };
        if self.last.is_empty() {
            self.last = vec![0; CELLS];
        }
        // Below CELLS by the shifts above.
        let last = &mut self.last[cell as usize];
        if *last != 0 && now_s + 1 < *last + ONCE_IN_S {
            return false;
        }
        *last = now_s + 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_counts_once_a_minute() {
        let mut users = FailedUsers::default();
        let (one, other) = (User::Cohort(1 << 63), User::Cohort(1 << 62));
        assert!(users.counts(one, 0));
        assert!(!users.counts(one, 59));
        assert!(users.counts(other, 59));
        assert!(users.counts(one, 60));
        assert!(users.counts(User::Anyone, 60) && users.counts(User::Anyone, 60));
    }
}
