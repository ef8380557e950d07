//! `least_request`: of two random members the one with fewer requests in flight for its weight.

use super::super::Pool;
use super::candidates::Candidates;

pub(super) fn choose(pool: &Pool, candidates: &Candidates, rng: &mut fastrand::Rng) -> usize {
    candidates.cheaper_of_two(rng, |member| load(pool, member))
}

/// Requests in flight per weight if the member got one more, in thousandths.
pub(super) fn load(pool: &Pool, member: u32) -> u64 {
    let member = &pool.members[member as usize];
    (u64::from(member.endpoint.load.active()) + 1) * 1000 / u64::from(member.weight)
}
