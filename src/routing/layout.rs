//! Assigns parts of [0,1), the range of cohort points, to the versions, so that a change of shares moves few users.
//!
//! Every name in `split`, even at 0 %, has an anchor and a direction in which its part grows with its share. Names are
//! numbered in natural order (`v2` before `v10`): the first grows up from 0, the second down from 1, the next two up and
//! down from 1/2, then from 1/4, 3/4, 1/8 and so on (the van der Corput sequence). Stable gets what is left.
//!
//! The anchors depend only on the names in `split`, so that changing one share moves users between that canary and stable
//! only. This is always true of one and two names. With more names it is true while every canary fits between its
//! neighbours' anchors, together with the canary that grows towards it. A part that doesn't fit continues behind the neighbour,
//! and moves when the neighbour grows. Adding a name that is last in the order moves no other canary's users as long as
//! all fit; adding or removing any other name renumbers those after it, whose users then move.

use std::cmp::Ordering;

use crate::config::spec::Share;
use crate::index::VersionIx;

/// A part of [0,1) that belongs to one version, in steps of 0.001 %. It begins where the previous tile ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) end: u32,
    pub(super) version: VersionIx,
}

/// Lays out `canaries`, pairs of version and share in the [`natural`] order of the names, with at most 100 % together.
/// The returned tiles cover [0,1).
pub(super) fn tiles(canaries: &[(VersionIx, Share)], stable: VersionIx) -> Box<[Tile]> {
    let anchors: Vec<Anchor> = (0..canaries.len()).map(Anchor::of).collect();
    let mut taken = Taken::default();
    let mut rests = Vec::with_capacity(canaries.len());
    for (&(version, share), anchor) in canaries.iter().zip(&anchors) {
        let rest = taken.claim(anchor.reach(&anchors), anchor.up, share.0, version);
        rests.push(rest);
    }
    // Parts that didn't fit continue in their direction and wrap around at the end of [0,1).
    for ((&(version, _), anchor), mut rest) in canaries.iter().zip(&anchors).zip(rests) {
        let (below, above) = ((0, anchor.at), (anchor.at, Share::WHOLE));
        let order = if anchor.up {
            [above, below]
        } else {
            [below, above]
        };
        for range in order {
            rest = taken.claim(range, anchor.up, rest, version);
        }
    }
    taken.with_stable(stable)
}

#[derive(Clone, Copy)]
struct Anchor {
    at: u32,
    up: bool,
}

impl Anchor {
    /// The anchor of the name with this number.
    fn of(number: usize) -> Self {
        let up = number.is_multiple_of(2);
        let at = match number {
            0 => 0,
            1 => Share::WHOLE,
            // The van der Corput sequence in base 2: the bits of the pair's number, mirrored at the binary point.
            _ => {
                let mirrored = ((number / 2) as u64).reverse_bits();
                ((u128::from(mirrored) * u128::from(Share::WHOLE)) >> 64) as u32
            }
        };
        Self { at, up }
    }

    /// The range from this anchor to the nearest other one in its direction.
    fn reach(self, all: &[Self]) -> (u32, u32) {
        let others = all.iter().map(|other| other.at);
        if self.up {
            let next = others.filter(|at| *at > self.at).min();
            (self.at, next.unwrap_or(Share::WHOLE))
        } else {
            let next = others.filter(|at| *at < self.at).max();
            (next.unwrap_or(0), self.at)
        }
    }
}

/// Claimed parts of [0,1), sorted: from, to, version.
#[derive(Default)]
struct Taken(Vec<(u32, u32, VersionIx)>);

impl Taken {
    /// Claims up to `wanted` free steps of the range, starting at its lower end (`up`) or its upper end. Returns how many
    /// could not be claimed.
    fn claim(
        &mut self,
        (low, high): (u32, u32),
        up: bool,
        mut wanted: u32,
        version: VersionIx,
    ) -> u32 {
        let mut free = self.free(low, high);
        if !up {
            free.reverse();
        }
        for (from, to) in free {
            let size = wanted.min(to - from);
            if size > 0 {
                let part = match up {
                    true => (from, from + size, version),
                    false => (to - size, to, version),
                };
                self.0.push(part);
            }
            wanted -= size;
        }
        self.0.sort_unstable();
        wanted
    }

    fn free(&self, low: u32, high: u32) -> Vec<(u32, u32)> {
        let mut free = Vec::new();
        let mut from = low;
        for &(start, end, _) in self
            .0
            .iter()
            .filter(|(start, end, _)| *end > low && *start < high)
        {
            if start > from {
                free.push((from, start));
            }
            from = from.max(end);
        }
        if from < high {
            free.push((from, high));
        }
        free
    }

    /// The tiles: the claimed parts, and stable between them.
    fn with_stable(self, stable: VersionIx) -> Box<[Tile]> {
        let mut tiles: Vec<Tile> = Vec::new();
        let mut add = |end, version| match tiles.last_mut() {
            Some(last) if last.version == version => last.end = end,
            _ => tiles.push(Tile { end, version }),
        };
        let mut at = 0;
        for (from, to, version) in self.0 {
            if from > at {
                add(from, stable);
            }
            add(to, version);
            at = to;
        }
        if at < Share::WHOLE {
            add(Share::WHOLE, stable);
        }
        tiles.into()
    }
}

/// Natural order: runs of digits are compared by value, everything else byte by byte.
pub(super) fn natural(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a.as_bytes(), b.as_bytes());
    loop {
        let (digits_x, digits_y) = (digits(x), digits(y));
        let (first, len_x, len_y) = if digits_x > 0 && digits_y > 0 {
            let (n, m) = (value(&x[..digits_x]), value(&y[..digits_y]));
            let by_value = n.len().cmp(&m.len()).then_with(|| n.cmp(m));
            (by_value, digits_x, digits_y)
        } else {
            match (x.first(), y.first()) {
                // The names differ at most in leading zeros: the order must still be total.
                (None, None) => return a.cmp(b),
                (p, q) => (p.cmp(&q), 1, 1),
            }
        };
        if first != Ordering::Equal {
            return first;
        }
        (x, y) = (&x[len_x..], &y[len_y..]);
    }
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|b| b.is_ascii_digit()).count()
}

/// The digits without leading zeros, so that the longer of two numbers is the greater.
fn value(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|b| **b == b'0').count();
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_natural_order() {
        let sorted = [
            "", "1.9", "1.10", "2", "V", "v", "v02", "v2", "v2-a", "v10", "w1",
        ];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(natural(a, b), i.cmp(&j), "{a} and {b}");
            }
        }
    }

    /// (end, version) of the tiles of canaries 1, 2, 3, ... with these percentages.
    fn laid(percents: &[u32]) -> Vec<(u32, usize)> {
        let canaries: Vec<_> = percents
            .iter()
            .enumerate()
            .map(|(i, percent)| (VersionIx(i + 1), Share(percent * 1000)))
            .collect();
        let tiles = tiles(&canaries, VersionIx(0));
        tiles.iter().map(|t| (t.end / 1000, t.version.0)).collect()
    }

    #[test]
    fn one_grows_from_the_bottom_and_a_second_from_the_top() {
        assert_eq!(laid(&[]), [(100, 0)]);
        assert_eq!(laid(&[0]), [(100, 0)]);
        assert_eq!(laid(&[30]), [(30, 1), (100, 0)]);
        assert_eq!(laid(&[100]), [(100, 1)]);
        assert_eq!(laid(&[30, 20]), [(30, 1), (80, 0), (100, 2)]);
        assert_eq!(laid(&[0, 20]), [(80, 0), (100, 2)]);
        assert_eq!(laid(&[70, 30]), [(70, 1), (100, 2)]);
    }

    #[test]
    fn further_ones_grow_from_the_middle() {
        let four = [(10, 1), (40, 0), (50, 4), (60, 3), (80, 0), (100, 2)];
        assert_eq!(laid(&[10, 20, 10, 10]), four);
        let fifth = [
            (10, 1),
            (25, 0),
            (30, 5),
            (50, 0),
            (60, 3),
            (80, 0),
            (100, 2),
        ];
        assert_eq!(laid(&[10, 20, 10, 0, 5]), fifth);
    }

    #[test]
    fn what_does_not_fit_continues_behind_the_neighbour() {
        assert_eq!(laid(&[60, 0, 10]), [(50, 1), (60, 3), (70, 1), (100, 0)]);
        assert_eq!(laid(&[0, 60, 0]), [(40, 0), (100, 2)]);
        assert_eq!(laid(&[0, 45, 20]), [(15, 3), (50, 0), (55, 3), (100, 2)]);
    }
}
