//! `hash`: consistent hashing on a ring (Karger et al., 1997). Each member owns points in proportion to its weight, and a
//! key belongs to the first point at or after it, so that only a member's own keys move when it comes or goes.
//!
//! A member in slow start accepts a growing part of the keys that fall to it. The other keys stay with the members that
//! would own them without it.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::super::Pool;
use super::candidates::Candidates;
use crate::index::EndpointIx;

/// Points for each unit of weight. The shares of 128 points have a standard deviation of about 9 %; more points make them
/// more even and the ring larger.
const POINTS: u64 = 128;

/// Most points of a ring, unless [`POINTS`] for each member are more. Building a ring of this size takes some ten
/// milliseconds, in which the worker does nothing else.
const MAX_RING: u64 = 1 << 17;

/// Number of points that are passed over because their members, in slow start, don't accept the key. After these, the first owner
/// gets the key nevertheless.
const MAX_REFUSALS: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct HashRing {
    /// Point and member, sorted.
    pub(super) points: Vec<(u64, u32)>,
    /// The [`Candidates::membership`] that the points are for.
    membership: u64,
}

impl HashRing {
    /// The owner of the first point at or after `key` that accepts it; `None` if all members are to `avoid`.
    pub(super) fn pick(
        &mut self,
        pool: &Pool,
        candidates: &Candidates,
        key: u64,
        avoid: &[EndpointIx],
    ) -> Option<EndpointIx> {
        // Every endpoint's change refreshes every view. The expensive rebuild is only for changes of these candidates.
        if self.membership != candidates.membership() {
            self.membership = candidates.membership();
            self.rebuild(pool, candidates);
        }
        let start = self.points.partition_point(|(point, _)| *point < key);
        let n = self.points.len();
        let mut owners = (0..n)
            .map(|step| EndpointIx(self.points[(start + step) % n].1 as usize))
            .filter(|member| !avoid.contains(member));
        let first = owners.next()?;
        let top_ramp = candidates.top_ramp();
        if accepts(pool, first, key, top_ramp) {
            return Some(first);
        }
        let mut rest = owners.take(MAX_REFUSALS);
        let accepting = rest.find(|member| accepts(pool, *member, key, top_ramp));
        Some(accepting.unwrap_or(first))
    }

    fn rebuild(&mut self, pool: &Pool, candidates: &Candidates) {
        self.points.clear();
        let scale = scale(pool);
        for &index in candidates.members() {
            let member = &pool.members[index as usize];
            let seed = xxh3_64(member.endpoint.name.as_bytes());
            // The n-th point doesn't depend on the weight, so that a new weight moves as few keys as possible.
            for n in 0..points(member.weight, scale) {
                let point = xxh3_64_with_seed(&n.to_le_bytes(), seed);
                self.points.push((point, index));
            }
        }
        self.points.sort_unstable();
    }
}

/// Whether a member accepts this key at the present stage of its slow start. A key that is accepted once is also accepted
/// at all later stages. The members with the largest ramp accept every key, so that a pool whose members are all new
/// behaves as without slow start.
fn accepts(pool: &Pool, member: EndpointIx, key: u64, top_ramp: u32) -> bool {
    let endpoint = &pool.members[member].endpoint;
    let ramp = endpoint.state.ramp();
    if ramp >= top_ramp {
        return true;
    }
    // The draw must be independent of the key's position on the ring, hence the second hash.
    let seed = xxh3_64(endpoint.name.as_bytes());
    let draw = xxh3_64_with_seed(&key.to_le_bytes(), !seed);
    let draw = (u128::from(draw) * u128::from(top_ramp)) >> 64;
    draw < u128::from(ramp)
}

/// The power of two by which the points of every member are divided to fit [`MAX_RING`]. It is computed from all members,
/// usable or not: a member that goes down must not change the points of the others.
fn scale(pool: &Pool) -> u32 {
    let most = MAX_RING.max(POINTS * pool.members.len() as u64);
    let all = |scale| -> u64 {
        let members = pool.members.iter();
        members.map(|m| points(m.weight, scale)).sum()
    };
    let mut scale = 0;
    // Terminates before the shift reaches 64: a weight has less than 16 bits, and `most` has room for POINTS of each member.
    while all(scale) > most {
        scale += 1;
    }
    scale
}

fn points(weight: u32, scale: u32) -> u64 {
    ((POINTS * u64::from(weight)) >> scale).max(1)
}
