//! One worker's view of one pool: which endpoints may be picked now, and with what weight.
//!
//! Made anew when the state of any endpoint has changed since (one load of a counter a pick), so that a pick costs the same
//! with 2 endpoints as with 1,000.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use super::Pool;
use crate::config::spec::Balance;

/// Points on the hash ring for each unit of weight. More points, more even shares: 128 give about 9 % standard deviation.
const POINTS: u64 = 128;

/// Most points of a ring, unless a point for each [`POINTS`] and endpoint are more: laying them takes some ten milliseconds.
const RING_POINTS: u64 = 1 << 17;

/// One worker's view of one pool.
#[derive(Debug, Default)]
pub struct PoolView {
    /// The pool that it is of, and the epoch of its endpoints' states.
    of: Option<(u64, u64)>,
    /// Indices of the members that may be picked.
    pub(super) usable: Vec<u32>,
    /// Those of the last look.
    former: Vec<u32>,
    /// Running sums of their weights, in thousandths where one is in slow start.
    pub(super) ends: Vec<u64>,
    pub(super) stride: u64,
    pub(super) even: bool,
    /// Places on the hash ring, sorted; only for `hash`.
    pub(super) ring: Vec<(u64, u32)>,
    /// The largest [`State::ramp`](super::endpoint::EndpointState::ramp) of those that may be picked.
    pub(super) top_ramp: u32,
    pub(super) turn: Cell<u64>,
    well: usize,
}

impl PoolView {
    /// A view that begins its turns at this place.
    pub fn starting_at(place: u64) -> Self {
        Self {
            turn: Cell::new(place),
            ..Self::default()
        }
    }

    /// Endpoints that are well, or 0: the pool is down, and what is picked from it is picked in panic.
    pub fn well(&self) -> usize {
        self.well
    }

    /// Endpoints that may be picked: those that are well, or more of them in panic.
    pub fn tried(&self) -> usize {
        self.usable.len()
    }

    /// Looks again where anything has changed. After a reload a request that is still in flight picks from the pool that it
    /// began with, between others that pick from its successor.
    #[inline]
    pub fn refresh(&mut self, pool: &Pool) {
        let now = (pool.id, pool.epoch.load(Ordering::Acquire));
        if self.of != Some(now) {
            self.look(pool);
            self.of = Some(now);
        }
    }

    fn look(&mut self, pool: &Pool) {
        std::mem::swap(&mut self.usable, &mut self.former);
        let census = pool.census();
        self.usable.clear();
        let free = |i: &u32| census.may_pick(&pool.members[*i as usize].endpoint);
        let all = 0..pool.members.len() as u32;
        self.usable.extend(all.filter(free));
        self.well = census.well;
        self.weigh(pool);
        // With 1,000 endpoints a ring takes ten milliseconds to lay: not for a change in some other pool.
        let same_pool = self.of.is_some_and(|(id, _)| id == pool.id);
        if !same_pool || self.usable != self.former {
            self.ring.clear();
            if pool.balance == Balance::Hash {
                self.lay_ring(pool);
            }
        }
    }

    fn weigh(&mut self, pool: &Pool) {
        let member = |i: &u32| &pool.members[*i as usize];
        let ramps = self.usable.iter().map(|i| member(i).endpoint.state.ramp());
        let (least, most) = ramps.fold((1000, 1), |(a, b), ramp| (ramp.min(a), ramp.max(b)));
        let ramping = least < 1000;
        self.top_ramp = most;
        let weight = |i: &u32| {
            let weight = u64::from(member(i).weight);
            if ramping {
                weight * u64::from(member(i).endpoint.state.ramp())
            } else {
                weight
            }
        };
        self.ends.clear();
        let mut sum = 0;
        for i in &self.usable {
            sum += weight(i);
            self.ends.push(sum);
        }
        self.even = sum == self.usable.len() as u64;
        self.stride = stride(sum.max(1));
    }

    fn lay_ring(&mut self, pool: &Pool) {
        let scale = ring_scale(pool);
        for &i in &self.usable {
            let member = &pool.members[i as usize];
            let seed = xxhash_rust::xxh3::xxh3_64(member.endpoint.name.as_bytes());
            // The first points are the same whatever the weight, so that a new weight moves only what it has to.
            for n in 0..points(member.weight, scale) {
                self.ring.push((
                    xxhash_rust::xxh3::xxh3_64_with_seed(&n.to_le_bytes(), seed),
                    i,
                ));
            }
        }
        self.ring.sort_unstable();
    }
}

/// The power of two that divides the points of every endpoint. It counts all members, usable or not: an endpoint
/// that goes down must not change the points of the others.
fn ring_scale(pool: &Pool) -> u32 {
    let most = RING_POINTS.max(POINTS * pool.members.len() as u64);
    let all = |scale| -> u64 {
        let members = pool.members.iter();
        members.map(|m| points(m.weight, scale)).sum()
    };
    let mut scale = 0;
    // A weight has less than 16 bits and `most` has room for `POINTS` of each endpoint.
    while all(scale) > most {
        scale += 1;
    }
    scale
}

fn points(weight: u32, scale: u32) -> u64 {
    ((POINTS * u64::from(weight)) >> scale).max(1)
}

/// A step near the golden ratio of the round, coprime to it, so that multiples of it visit each place once, evenly spread.
pub(super) fn stride(total: u64) -> u64 {
    let mut step = ((total as f64) * 0.618_033_988_75) as u64;
    step = step.max(1);
    while gcd(step, total) != 1 {
        step += 1;
    }
    step
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
