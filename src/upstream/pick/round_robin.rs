//! `round_robin`: in turn. A member of weight n has n turns in each round, spread over it.

use super::candidates::Candidates;

#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    turn: u64,
    /// The [`stride`] for this total weight; 0 before the first use.
    stride: u64,
    stride_for: u64,
}

impl RoundRobin {
    /// Workers start at different turns, so that they don't all begin with the same endpoint.
    pub(super) fn starting_at(turn: u64) -> Self {
        Self {
            turn,
            ..Self::default()
        }
    }

    pub(super) fn choose(&mut self, candidates: &Candidates) -> usize {
        let turn = self.turn;
        self.turn = turn.wrapping_add(1);
        let total = candidates.total_weight();
        if candidates.is_even() {
            return (turn % total) as usize;
        }
        if self.stride_for != total {
            self.stride_for = total;
            self.stride = stride(total);
        }
        candidates.at_weight(turn.wrapping_mul(self.stride) % total)
    }
}

/// A step near the golden ratio of `total` and coprime to it: its multiples modulo `total` visit every position once and
/// spread any run of them evenly, so that the turns of a heavy member don't come in a burst. `total` is at least 1.
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
