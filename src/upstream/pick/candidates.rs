//! The members of a pool that may be picked now, and random or positional choice among them by weight.

use super::super::Pool;
use super::super::pool::PoolCounts;

/// The members that may be picked, with their weights. Policies choose a *candidate*, an index into these.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Indices into [`Pool::members`].
    members: Vec<u32>,
    /// The candidates before the last update; kept for its memory and for the comparison.
    previous: Vec<u32>,
    /// Running sums of the weights, which are multiplied by 1000 while any candidate is in slow start.
    ends: Vec<u64>,
    /// Whether every weight is 1.
    even: bool,
    /// The largest slow-start ramp among the candidates, in thousandths.
    top_ramp: u32,
    /// Changes when the candidates do, or the pool that they belong to; the weights may change without it.
    membership: u64,
}

impl Candidates {
    /// Takes the members that `counts` allows. `same_pool`: the last update was for this pool as well.
    pub(super) fn update(&mut self, pool: &Pool, counts: &PoolCounts, same_pool: bool) {
        std::mem::swap(&mut self.members, &mut self.previous);
        self.members.clear();
        let may_pick = |i: &u32| counts.may_pick(&pool.members[*i as usize]);
        let all = 0..pool.members.len() as u32;
        self.members.extend(all.filter(may_pick));
        if !same_pool || self.members != self.previous {
            self.membership += 1;
        }
        self.update_weights(pool);
    }

    fn update_weights(&mut self, pool: &Pool) {
        let member = |i: &u32| &pool.members[*i as usize];
        let ramps = self.members.iter().map(|i| member(i).endpoint.state.ramp());
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
        for i in &self.members {
            sum += weight(i);
            self.ends.push(sum);
        }
        self.even = sum == self.members.len() as u64;
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// The index in the pool of this candidate.
    pub(super) fn member(&self, candidate: usize) -> u32 {
        self.members[candidate]
    }

    /// All candidates, as indices in the pool, in increasing order.
    pub(super) fn members(&self) -> &[u32] {
        &self.members
    }

    pub(super) fn is_even(&self) -> bool {
        self.even
    }

    pub(super) fn top_ramp(&self) -> u32 {
        self.top_ramp
    }

    pub(super) fn membership(&self) -> u64 {
        self.membership
    }

    /// The sum of the weights, at least 1.
    pub(super) fn total_weight(&self) -> u64 {
        self.ends.last().copied().unwrap_or(1)
    }

    /// The candidate at a position below [`Self::total_weight`], with the weights laid end to end.
    pub(super) fn at_weight(&self, position: u64) -> usize {
        self.ends.partition_point(|end| *end <= position)
    }

    /// A random candidate, by weight.
    pub(super) fn random(&self, rng: &mut fastrand::Rng) -> usize {
        self.at_weight(rng.u64(..self.total_weight()))
    }

    /// The cheaper of two candidates that are drawn by weight; of equals the first drawn. With equal weights they are two
    /// different ones. There must be at least two candidates.
    ///
    /// "The power of two choices in randomized load balancing", M. Mitzenmacher, 2001: the balance is close to that of the
    /// cheapest of all candidates, and the cost doesn't grow with their number. Comparing all of them would also send
    /// every worker to the same endpoint at once.
    pub(super) fn cheaper_of_two(
        &self,
        rng: &mut fastrand::Rng,
        cost: impl Fn(u32) -> u64,
    ) -> usize {
        let n = self.members.len();
        let (a, b) = if self.even {
            // The second draw skips the first one's place.
            let a = rng.usize(..n);
            let b = rng.usize(..n - 1);
            (a, if b >= a { b + 1 } else { b })
        } else {
            (self.random(rng), self.random(rng))
        };
        if cost(self.members[b]) < cost(self.members[a]) {
            b
        } else {
            a
        }
    }
}
