//! Picks the endpoint of a pool that gets the next request.
//!
//! A [`PoolView`] keeps the members that may be picked and their weights; each policy is a file that chooses one of them.
//! A new policy needs its word in [`Balance`], its file, its `mod` line and its arm in [`Pool::pick`], and a field in
//! [`PoolView`] if it has state.

mod candidates;
mod hash;
mod least_request;
mod peak_ewma;
mod random;
mod round_robin;
mod view;

use super::Pool;
use crate::config::spec::Balance;
use crate::index::EndpointIx;

pub use view::PoolView;

impl Pool {
    /// The index of the member that gets the next request; `None` if every candidate is to `avoid`.
    /// `key` is the request's hash for `balance = "hash"`; a request without one is placed at random.
    ///
    /// Budget: 170 instructions (`just instructions`: pick).
    /// Budget: 170 instructions (`just instructions`: pick_many).
    pub fn pick(
        &self,
        rng: &mut fastrand::Rng,
        view: &mut PoolView,
        avoid: &[EndpointIx],
        key: Option<u64>,
    ) -> Option<EndpointIx> {
        view.refresh(self);
        let candidates = &view.candidates;
        let n = candidates.len();
        if n == 0 {
            return None;
        }
        let first = match (self.balance, key) {
            // The policies need not care for a single candidate; two choices can't be drawn from it.
            _ if n == 1 => 0,
            (Balance::Hash, Some(key)) => return view.ring.pick(self, candidates, key, avoid),
            (Balance::Hash, None) => random::choose(candidates, rng),
            (Balance::LeastRequest, _) => least_request::choose(self, candidates, rng),
            (Balance::PeakEwma, _) => peak_ewma::choose(self, candidates, rng),
            (Balance::Random, _) => random::choose(candidates, rng),
            (Balance::RoundRobin, _) => view.round_robin.choose(candidates),
        };
        (0..n)
            .map(|step| EndpointIx(candidates.member((first + step) % n) as usize))
            .find(|i| !avoid.contains(i))
    }
}

#[cfg(test)]
mod tests;
