//! `random`: at random by weight.

use super::candidates::Candidates;

pub(super) fn choose(candidates: &Candidates, rng: &mut fastrand::Rng) -> usize {
    candidates.random(rng)
}
