//! The addresses of one endpoint, and the order in which a connection tries them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The addresses of one endpoint: usually one, or both of `localhost`.
///
/// Successive connections start with successive addresses, so that each address gets an equal part of them. An address that
/// failed is tried last until a connection to it succeeds.
#[derive(Default)]
pub struct Addresses {
    all: Vec<SocketAddr>,
    next: AtomicUsize,
    /// One bit for each of the first 64 addresses; failures of others are not remembered.
    failed: AtomicU64,
}

impl Addresses {
    /// The given addresses, none of which has failed.
    pub(crate) fn new(all: Vec<SocketAddr>) -> Self {
        Self {
            all,
            ..Self::default()
        }
    }

    /// All addresses, in the order in which they were given.
    pub fn all(&self) -> &[SocketAddr] {
        &self.all
    }

    /// Each address once, with its index, in the order in which the next connection should try them. Advances the start.
    pub(crate) fn order(&self) -> impl Iterator<Item = (usize, SocketAddr)> {
        let count = self.all.len();
        let first = match count {
            0 | 1 => 0,
            _ => self.next.fetch_add(1, Ordering::Relaxed) % count,
        };
        // Loaded once for both halves: if a bit changed in between, its address would be in both or in neither.
        let failed = self.failed.load(Ordering::Relaxed);
        let rotated = move || (first..count).chain(0..first);
        let untroubled = rotated().filter(move |index| bit(*index) & failed == 0);
        let troubled = rotated().filter(move |index| bit(*index) & failed != 0);
        untroubled
            .chain(troubled)
            .map(|index| (index, self.all[index]))
    }

    /// Records whether a connection to the address with this index could be opened.
    pub(crate) fn note(&self, index: usize, opened: bool) {
        let (bit, failed) = (bit(index), self.failed.load(Ordering::Relaxed));
        // A write takes the cache line away from the other workers, and nearly always nothing changes.
        match opened {
            true if failed & bit != 0 => self.failed.fetch_and(!bit, Ordering::Relaxed),
            false if failed & bit == 0 => self.failed.fetch_or(bit, Ordering::Relaxed),
            _ => failed,
        };
    }
}

/// The bit of an address in `failed`; 0 beyond the first 64.
fn bit(index: usize) -> u64 {
    u32::try_from(index).map_or(0, |index| 1u64.checked_shl(index).unwrap_or(0))
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.all.fmt(f)
    }
}

/// The time limit for the next of `untried` addresses: an equal part of the time `left`. Time that one address leaves unused is
/// divided among the others.
pub(crate) fn part(left: Duration, untried: usize) -> Duration {
    left / u32::try_from(untried.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(count: u8) -> Addresses {
        Addresses::new((1..=count).map(|n| ([127, 0, 0, n], 80).into()).collect())
    }

    fn order(addresses: &Addresses) -> Vec<usize> {
        addresses.order().map(|(index, _)| index).collect()
    }

    #[test]
    fn each_is_the_first_in_its_turn_and_all_are_tried() {
        let three = some(3);
        let orders: Vec<_> = (0..4).map(|_| order(&three)).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
        assert_eq!(order(&some(1)), [0]);
        assert!(order(&some(0)).is_empty());
    }

    #[test]
    fn one_that_failed_comes_last_until_it_works() {
        let three = some(3);
        three.note(1, false);
        let orders: Vec<_> = (0..3).map(|_| order(&three)).collect();
        assert_eq!(orders, [[0, 2, 1], [2, 0, 1], [2, 0, 1]]);
        three.note(1, true);
        assert_eq!(order(&three), [0, 1, 2]);
        for index in 0..3 {
            three.note(index, false);
        }
        assert_eq!(order(&three), [1, 2, 0], "all have failed: as if none had");
        three.note(0, true);
    }

    #[test]
    fn more_than_64_are_only_rotated() {
        let many = some(200);
        many.note(150, false);
        assert_eq!(order(&many), (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn what_one_leaves_of_its_part_goes_to_the_others() {
        let ms = Duration::from_millis;
        assert_eq!(part(ms(900), 3), ms(300));
        assert_eq!(part(ms(900), 1), ms(900));
        assert_eq!(part(ms(900), 0), ms(900));
    }
}
