//! Which endpoint of a pool is next.

use std::cell::Cell;

use super::Pool;
use crate::config::spec::Balance;

/// One worker's place in one pool's turn. Any value is a good beginning.
#[derive(Debug, Default)]
pub struct Turn(Cell<u64>);

impl From<u64> for Turn {
    fn from(place: u64) -> Self {
        Self(Cell::new(place))
    }
}

impl Pool {
    /// The index of the endpoint that gets the next request; `None` when there is no other than those to `avoid`.
    ///
    /// `least_request`: of two chosen at random by weight the one with fewer requests in flight for its weight
    /// (power of two choices: Mitzenmacher 2001; good balance without looking at every endpoint).
    /// `round_robin`: in turn, an endpoint of weight n taking n turns of each round, spread over it.
    pub fn pick(&self, rng: &mut fastrand::Rng, turn: &Turn, avoid: &[usize]) -> Option<usize> {
        match self.members.len() {
            0 => None,
            1 => (!avoid.contains(&0)).then_some(0),
            _ => {
                let first = match self.balance {
                    Balance::RoundRobin => self.in_turn(turn),
                    Balance::LeastRequest => self.of_two(rng),
                };
                if avoid.contains(&first) {
                    self.other(first, avoid)
                } else {
                    Some(first)
                }
            }
        }
    }

    /// The next in the circle from `from` that isn't to be avoided.
    fn other(&self, from: usize, avoid: &[usize]) -> Option<usize> {
        let n = self.members.len();
        (1..n)
            .map(|step| (from + step) % n)
            .find(|i| !avoid.contains(i))
    }

    fn in_turn(&self, turn: &Turn) -> usize {
        let n = turn.0.get();
        turn.0.set(n.wrapping_add(1));
        let total = self.total_weight();
        if total == self.members.len() as u64 {
            return (n % total) as usize;
        }
        // A stride that is coprime to the round spreads the turns of heavy endpoints over it.
        self.at_weight(n.wrapping_mul(self.stride) % total)
    }

    fn of_two(&self, rng: &mut fastrand::Rng) -> usize {
        let total = self.total_weight();
        let (a, b) = if total == self.members.len() as u64 {
            let a = rng.usize(..self.members.len());
            let b = rng.usize(..self.members.len() - 1);
            (a, if b >= a { b + 1 } else { b })
        } else {
            (
                self.at_weight(rng.u64(..total)),
                self.at_weight(rng.u64(..total)),
            )
        };
        if self.load(b) < self.load(a) { b } else { a }
    }

    /// Requests in flight per weight, as it would be with one more, in thousandths.
    fn load(&self, member: usize) -> u64 {
        let member = &self.members[member];
        (u64::from(member.endpoint.load.active()) + 1) * 1000 / u64::from(member.weight)
    }

    /// The member that owns this place on the line of all weights laid end to end.
    fn at_weight(&self, place: u64) -> usize {
        self.ends.partition_point(|end| *end <= place)
    }

    fn total_weight(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::config::spec::{self, Address, Scheme};
    use crate::telemetry::Telemetry;
    use crate::upstream::pool::Member;
    use crate::upstream::{Endpoint, Registry};

    fn pool(balance: Balance, weights: &[u32]) -> Pool {
        let metrics = Telemetry::new(1).version("s", "v");
        let registry = Registry::new();
        let member = |(i, weight): (usize, &u32)| {
            let address = Address::Ip(([127, 0, 0, 1], 1000 + i as u16).into());
            let spec = spec::Endpoint {
                scheme: Scheme::Http,
                address,
                weight: *weight,
            };
            let endpoint: Arc<Endpoint> = registry.endpoint("s", "v", &spec, &metrics);
            Member {
                endpoint,
                weight: *weight,
            }
        };
        Pool::of(weights.iter().enumerate().map(member).collect(), balance)
    }

    fn counts(pool: &Pool, n: usize) -> Vec<usize> {
        let (mut rng, turn) = (fastrand::Rng::with_seed(7), Turn::default());
        let mut counts = vec![0; pool.members.len()];
        for _ in 0..n {
            counts[pool.pick(&mut rng, &turn, &[]).expect("not empty")] += 1;
        }
        counts
    }

    #[test]
    fn round_robin_is_exact_by_weight() {
        assert_eq!(
            counts(&pool(Balance::RoundRobin, &[1, 1, 1]), 300),
            [100, 100, 100]
        );
        assert_eq!(
            counts(&pool(Balance::RoundRobin, &[1, 2, 5]), 800),
            [100, 200, 500]
        );
    }

    #[test]
    fn round_robin_spreads_a_heavy_endpoint_over_the_round() {
        let pool = pool(Balance::RoundRobin, &[1, 3]);
        let (mut rng, turn) = (fastrand::Rng::with_seed(7), Turn::default());
        let picks: Vec<_> = (0..8)
            .map(|_| pool.pick(&mut rng, &turn, &[]).expect("picked"))
            .collect();
        let gaps = picks
            .iter()
            .enumerate()
            .filter(|(_, p)| **p == 0)
            .map(|(i, _)| i)
            .collect::<Vec<_>>();
        assert_eq!(gaps.len(), 2);
        assert_eq!(gaps[1] - gaps[0], 4);
    }

    #[test]
    fn least_request_goes_by_weight_when_all_are_idle_and_away_from_the_busy() {
        let pool = pool(Balance::LeastRequest, &[1, 1, 1, 1]);
        for count in counts(&pool, 4000) {
            assert!((800..1200).contains(&count), "{count}");
        }
        pool.members[2]
            .endpoint
            .load
            .active
            .store(50, Ordering::Relaxed);
        assert_eq!(counts(&pool, 1000)[2], 0, "any other choice is less busy");
    }

    #[test]
    fn what_is_to_be_avoided_is_not_picked() {
        let pool = pool(Balance::LeastRequest, &[1, 1, 1]);
        let (mut rng, turn) = (fastrand::Rng::with_seed(7), Turn::default());
        for _ in 0..100 {
            assert_eq!(pool.pick(&mut rng, &turn, &[0, 2]), Some(1));
        }
        assert_eq!(pool.pick(&mut rng, &turn, &[0, 1, 2]), None);
    }

    #[test]
    fn a_stride_visits_every_place() {
        for total in 1..500 {
            let step = stride(total);
            let mut seen = vec![false; total as usize];
            (0..total).for_each(|n| seen[(n * step % total) as usize] = true);
            assert!(seen.iter().all(|s| *s), "{total}");
        }
    }
}
