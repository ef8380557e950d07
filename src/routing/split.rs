//! Exact shares: of any N requests in a row on one worker a version gets N·share within 1.
//!
//! The order is Tijdeman's chairman assignment: with k versions that have a share, a version's count since the start
//! never differs from N·share by more than 1 − 1/(2k−2). For two that is one half, so that of *any* window of requests
//! each gets its share within 1.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::cohort::CohortPoint;
use super::layout::{Tile, natural, tiles};
use crate::config::spec::Share;

/// The shares of one service.
#[derive(Debug)]
pub struct Split {
    stable: usize,
    /// By version.
    shares: Box<[Share]>,
    /// Versions that have a share, in the order of versions.
    lanes: Box<[Lane]>,
    /// The versions that are named in `split`, in the natural order of their names.
    canaries: Box<[usize]>,
    /// Where the users of each version lie.
    tiles: Box<[Tile]>,
    fingerprint: u64,
}

#[derive(Clone, Copy, Debug)]
struct Lane {
    version: usize,
    share: i64,
}

/// One worker's place in one service's exact split. Starts empty.
#[derive(Clone, Debug, Default)]
pub struct SplitState {
    /// Which shares it was made for.
    fingerprint: u64,
    /// By lane: how many requests it is owed, in units of 1 / (WHOLE · (2k−2)).
    owed: Vec<i64>,
}

const WHOLE: i64 = Share::WHOLE as i64;

impl Split {
    /// `names`: of the versions. `canaries`: index and share of each version that is named in `split`, in any order; also
    /// those at 0 %, since cohorts are laid out by them. Stable gets the rest.
    pub fn new(names: &[&str], stable: usize, canaries: &[(usize, Share)]) -> Self {
        let mut canaries: Vec<_> = canaries
            .iter()
            .copied()
            .filter(|(v, _)| *v != stable)
            .collect();
        canaries.sort_by(|(a, _), (b, _)| natural(names[*a], names[*b]));
        let mut shares = vec![Share(0); names.len()];
        for (version, share) in &canaries {
            shares[*version] = *share;
        }
        let taken: u32 = shares.iter().map(|s| s.0).sum();
        shares[stable] = Share(Share::WHOLE.saturating_sub(taken));
        let lanes = shares.iter().enumerate().filter(|(_, s)| s.0 > 0);
        Self {
            stable,
            lanes: lanes
                .map(|(version, s)| Lane {
                    version,
                    share: i64::from(s.0),
                })
                .collect(),
            tiles: tiles(&canaries, stable),
            canaries: canaries.iter().map(|(version, _)| *version).collect(),
            // Never 0, which is an empty state's.
            fingerprint: shares
                .iter()
                .fold(1, |seed, s| xxh3_64_with_seed(&s.0.to_le_bytes(), seed))
                .max(1),
            shares: shares.into(),
        }
    }

    /// The version that gets what the split leaves.
    pub fn stable(&self) -> usize {
        self.stable
    }

    /// How many versions the service has.
    pub fn versions(&self) -> usize {
        self.shares.len()
    }

    /// Stable has everything.
    #[inline]
    pub fn is_whole(&self) -> bool {
        self.shares[self.stable].0 == Share::WHOLE
    }

    /// The share of a version, stable included.
    pub fn share(&self, version: usize) -> Share {
        self.shares[version]
    }

    /// Whether `split` names the version, at whatever share.
    pub fn is_named(&self, version: usize) -> bool {
        self.canaries.contains(&version)
    }

    /// The next request's version, by the exact split. A state made for other shares starts again.
    ///
    /// Budget: 105 instructions (`just instructions`: split).
    #[inline]
    pub fn next(&self, state: &mut SplitState) -> usize {
        if let [only] = &*self.lanes {
            return only.version;
        }
        if state.fingerprint != self.fingerprint {
            state.fingerprint = self.fingerprint;
            state.owed.clear();
            state.owed.resize(self.lanes.len(), 0);
        }
        self.chair(&mut state.owed)
    }

    /// Everybody is owed their share of one more request; of those that are owed enough, the one that must be served
    /// soonest (before it is owed more than the bound) is served.
    fn chair(&self, owed: &mut [i64]) -> usize {
        let parts = 2 * self.lanes.len() as i64 - 2;
        let limit = WHOLE * (parts - 1);
        let mut best: Option<(usize, i64, i64)> = None;
        for (at, (lane, owed)) in self.lanes.iter().zip(owed.iter_mut()).enumerate() {
            *owed += lane.share * parts;
            // Time left is room / share; products stay below 2^53 for a thousand versions.
            let room = limit - *owed;
            let sooner = |(_, r, s): (usize, i64, i64)| room * s < r * lane.share;
            if *owed >= WHOLE && best.is_none_or(sooner) {
                best = Some((at, room, lane.share));
            }
        }
        // Together they are owed a whole request, so that one of them is always owed enough.
        let at = best.map_or(0, |(at, ..)| at);
        owed[at] -= WHOLE * parts;
        self.lanes[at].version
    }

    /// The version of a user at this place. See [`super::layout`] for who moves when shares change.
    #[inline]
    pub fn at(&self, place: CohortPoint) -> usize {
        let step = ((u128::from(place.0) * u128::from(Share::WHOLE)) >> 64) as u32;
        // The tiles cover every step.
        let tile = self.tiles.partition_point(|tile| tile.end <= step);
        self.tiles[tile].version
    }
}

/// Users of a cohort that move when one split replaces another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CohortMove {
    /// Index of the version that they leave, in the split before.
    pub from: usize,
    /// Index of the version that they join, in the split after.
    pub to: usize,
    /// How many: a share of all users.
    pub users: Share,
}

/// The users of a cohort that move when `after` replaces `before`, by the versions that they leave and join. `same` finds
/// a version of `before` in `after` (`None`: it is gone).
pub fn moves(
    before: &Split,
    after: &Split,
    same: impl Fn(usize) -> Option<usize>,
) -> Vec<CohortMove> {
    let mut moves: Vec<CohortMove> = Vec::new();
    let (mut old, mut new) = (
        before.tiles.iter().peekable(),
        after.tiles.iter().peekable(),
    );
    let mut at = 0;
    while let (Some(left), Some(joined)) = (old.peek(), new.peek()) {
        let (from, to) = (left.version, joined.version);
        let end = left.end.min(joined.end);
        if same(from) != Some(to) {
            let known = moves.iter_mut().find(|m| (m.from, m.to) == (from, to));
            match known {
                Some(known) => known.users.0 += end - at,
                None => moves.push(CohortMove {
                    from,
                    to,
                    users: Share(end - at),
                }),
            }
        }
        at = end;
        old.next_if(|tile| tile.end == end);
        new.next_if(|tile| tile.end == end);
    }
    moves
}

/// How many users of a cohort move when `after` replaces `before`: the sum of [`moves`].
pub fn users_moved(before: &Split, after: &Split, same: impl Fn(usize) -> Option<usize>) -> Share {
    let moves = moves(before, after, same);
    Share(moves.iter().map(|m| m.users.0).sum())
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
