//! `peak_ewma`: of two random members the one with the shorter expected wait, which is its recent latency times its load.
//!
//! The latency is [`Load::latency_ns`](super::super::endpoint::Load::latency_ns). The policy comes from Finagle.

use super::super::Pool;
use super::candidates::Candidates;
use super::least_request::load;

pub(super) fn choose(pool: &Pool, candidates: &Candidates, rng: &mut fastrand::Rng) -> usize {
    candidates.cheaper_of_two(rng, |member| expected_wait(pool, member))
}

/// Without a measured latency the wait is close to 0: a new endpoint is tried soon, but its requests in flight keep the
/// next ones away until the first answer comes.
fn expected_wait(pool: &Pool, member: u32) -> u64 {
    let latency = pool.members[member as usize].endpoint.load.latency_ns();
    load(pool, member).saturating_mul(latency.max(1))
}
