//! One worker's view of one pool.

use std::sync::atomic::Ordering;

use super::super::Pool;
use super::candidates::Candidates;
use super::hash::HashRing;
use super::round_robin::RoundRobin;

/// One worker's view of one pool: the members that may be picked, and the state of the policies that keep some.
///
/// It is rebuilt when the state of any endpoint has changed since, which costs a pick the load of one counter. A pick
/// therefore costs the same with 2 endpoints and with 1,000.
#[derive(Debug, Default)]
pub struct PoolView {
    /// The pool's id and the epoch of the endpoints' states at the last rebuild.
    built_for: Option<(u64, u64)>,
    usable: usize,
    pub(super) candidates: Candidates,
    pub(super) ring: HashRing,
    pub(super) round_robin: RoundRobin,
}

impl PoolView {
    /// A view whose round robin begins at this turn.
    pub fn starting_at(turn: u64) -> Self {
        Self {
            round_robin: RoundRobin::starting_at(turn),
            ..Self::default()
        }
    }

    /// The number of usable endpoints. With 0 the pool is down, and endpoints are picked from it in panic.
    pub fn usable(&self) -> usize {
        self.usable
    }

    /// The number of endpoints that may be picked: the usable ones, or more of them in panic.
    pub fn eligible(&self) -> usize {
        self.candidates.len()
    }

    /// Rebuilds the view if any endpoint has changed, or if it was built for another pool. The latter happens around a
    /// reload: a request in flight picks from the pool that it began with, between others that pick from its successor.
    #[inline]
    pub fn refresh(&mut self, pool: &Pool) {
        let now = (pool.id, pool.epoch.load(Ordering::Acquire));
        if self.built_for != Some(now) {
            self.rebuild(pool);
            self.built_for = Some(now);
        }
    }

    fn rebuild(&mut self, pool: &Pool) {
        let counts = pool.counts();
        let same_pool = self.built_for.is_some_and(|(id, _)| id == pool.id);
        self.usable = counts.usable;
        self.candidates.update(pool, &counts, same_pool);
    }
}
