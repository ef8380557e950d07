//! The order of rounds.

use std::time::{SystemTime, UNIX_EPOCH};

/// Calls `each` with every index below `count` once a round, in random order.
pub fn shuffled(rounds: usize, count: usize, mut each: impl FnMut(usize)) {
    let mut random = Random::from_clock();
    let mut order: Vec<usize> = (0..count).collect();
    for _ in 0..rounds {
        random.shuffle(&mut order);
        order.iter().for_each(|&at| each(at));
    }
}

/// Enough randomness to shuffle with (xorshift).
pub struct Random(u64);

impl Random {
    /// Other numbers every time.
    pub fn from_clock() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(since.map_or(1, |d| u64::from(d.subsec_nanos()) << 16 | 1))
    }

    /// In any order.
    pub fn shuffle(&mut self, items: &mut [usize]) {
        for at in (1..items.len()).rev() {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            items.swap(at, usize::try_from(self.0 % (at as u64 + 1)).unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffling_loses_nothing() {
        let mut items: Vec<usize> = (0..10).collect();
        Random(42).shuffle(&mut items);
        assert_ne!(items, (0..10).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..10).collect::<Vec<_>>());
    }
}
