//! The split of a service's traffic by version, exact within one request.
//!
//! Random choice would need thousands of requests before a 1 % canary has close to 1 %. [`Split::next`] follows the
//! solution of the chairman assignment problem instead (R. Tijdeman, "The chairman assignment problem", Discrete
//! Mathematics 32, 1980): with k versions that have a share, the number of requests that a version got among the first N
//! on a worker differs from N·share by at most 1 − 1/(2k−2). With two versions this is one half, so that in *any* window
//! of requests each version has its share within 1.
//!
//! Services with a cohort split by user instead: see [`Split::at`] and [`super::layout`].

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::cohort::CohortPoint;
use super::layout::{Tile, natural, tiles};
use crate::config::spec::Share;
use crate::index::VersionIx;
use crate::prefetch::PrefetchList;

/// The shares of one service.
#[derive(Debug)]
pub struct Split {
    stable: VersionIx,
    /// Shares by version, stable included.
    shares: Box<[Share]>,
    /// The versions whose share is above 0, in the order of versions.
    lanes: Box<[Lane]>,
    /// The versions named in `split`, also at 0 %, in the natural order of their names.
    canaries: Box<[VersionIx]>,
    /// The part of [0,1) that each version has, for cohorts.
    tiles: Box<[Tile]>,
    /// A hash of the shares, never 0.
    fingerprint: u64,
}

/// A version that takes part in the exact split.
#[derive(Clone, Copy, Debug)]
struct Lane {
    version: VersionIx,
    share: i64,
}

/// One worker's position in the exact split of one service. The default is the start of any split.
#[derive(Clone, Debug, Default)]
pub struct SplitState {
    /// [`Split::fingerprint`] of the split that `owed` belongs to; 0 for none.
    fingerprint: u64,
    /// By lane: the requests that it was due minus those that it got, in units of 1 / (WHOLE · (2k−2)).
    owed: Vec<i64>,
}

const WHOLE: i64 = Share::WHOLE as i64;

impl Split {
    /// Adds what most requests need, besides the value itself.
    pub(super) fn add_to(&self, list: &mut PrefetchList) {
        list.add_start(&*self.lanes, 64);
    }

    /// Compiles a split. `names` are those of the versions; `canaries` has the index and share of each version named in
    /// `split`, in any order, including those at 0 %, which have an effect on the layout of cohorts. Stable gets the rest.
    pub fn new(names: &[&str], stable: VersionIx, canaries: &[(VersionIx, Share)]) -> Self {
        let mut canaries: Vec<_> = canaries
            .iter()
            .copied()
            .filter(|(v, _)| *v != stable)
            .collect();
        canaries.sort_by(|(a, _), (b, _)| natural(names[a.0], names[b.0]));
        let mut shares = vec![Share(0); names.len()];
        for (version, share) in &canaries {
            shares[version.0] = *share;
        }
        let taken: u32 = shares.iter().map(|s| s.0).sum();
        // A service without versions has no stable one either.
        if let Some(stable) = shares.get_mut(stable.0) {
            *stable = Share(Share::WHOLE.saturating_sub(taken));
        }
        let lanes = VersionIx::enumerate(&shares).filter(|(_, s)| s.0 > 0);
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
            // 0 stands for a state without a split.
            fingerprint: shares
                .iter()
                .fold(1, |seed, s| xxh3_64_with_seed(&s.0.to_le_bytes(), seed))
                .max(1),
            shares: shares.into(),
        }
    }

    /// The version that gets what the split leaves; index 0 if the service has no versions.
    pub fn stable(&self) -> VersionIx {
        self.stable
    }

    /// The versions of the service.
    pub fn versions(&self) -> impl DoubleEndedIterator<Item = VersionIx> + ExactSizeIterator {
        VersionIx::all(self.shares.len())
    }

    /// Whether stable gets all traffic.
    #[inline]
    pub fn is_whole(&self) -> bool {
        self.shares[self.stable].0 == Share::WHOLE
    }

    /// The share of a version, stable included.
    pub fn share(&self, version: VersionIx) -> Share {
        self.shares[version]
    }

    /// Whether `split` names the version, even at 0 %.
    pub fn is_named(&self, version: VersionIx) -> bool {
        self.canaries.contains(&version)
    }

    /// The version of the next request. A state that belongs to other shares is reset first.
    ///
    /// Budget: 48 instructions (`just instructions`: split).
    #[inline]
    pub fn next(&self, state: &mut SplitState) -> VersionIx {
        if let [only] = &*self.lanes {
            return only.version;
        }
        if state.fingerprint != self.fingerprint {
            state.fingerprint = self.fingerprint;
            state.owed.clear();
            state.owed.resize(self.lanes.len(), 0);
        }
        match (&*self.lanes, &mut *state.owed) {
            ([first, second], [owed, _]) => next_of_two(first, second, owed),
            (_, owed) => self.next_lane(owed),
        }
    }

    /// Adds the share of one more request to what each lane is owed, and serves one lane.
    ///
    /// Tijdeman's rule: of the lanes that are owed enough, serve the one with the earliest deadline, the time at which it
    /// would be owed more than the bound of 1 − 1/(2k−2).
    fn next_lane(&self, owed: &mut [i64]) -> VersionIx {
        // In units of 1 / (WHOLE · parts) a request is WHOLE · parts, and the bound is WHOLE · (parts − 1). A lane may be
        // served if it is then overserved by no more than the bound: if it is owed at least WHOLE.
        let parts = 2 * self.lanes.len() as i64 - 2;
        let limit = WHOLE * (parts - 1);
        let mut best: Option<(usize, i64, i64)> = None;
        for (at, (lane, owed)) in self.lanes.iter().zip(owed.iter_mut()).enumerate() {
            *owed += lane.share * parts;
            // The time left is room / share. It is compared by cross-multiplication, whose products stay below 2^53 for a
            // thousand versions.
            let room = limit - *owed;
            let sooner = |(_, r, s): (usize, i64, i64)| room * s < r * lane.share;
            if *owed >= WHOLE && best.is_none_or(sooner) {
                best = Some((at, room, lane.share));
            }
        }
        // Together the lanes are owed one request, so that at least one of them is owed enough.
        let at = best.map_or(0, |(at, ..)| at);
        owed[at] -= WHOLE * parts;
        self.lanes[at].version
    }

    /// The version of a user with this point. [`super::layout`] explains which users move when shares change.
    #[inline]
    pub fn at(&self, point: CohortPoint) -> VersionIx {
        let step = ((u128::from(point.0) * u128::from(Share::WHOLE)) >> 64) as u32;
        // The tiles cover [0,1), so that the index is in bounds.
        let tile = self.tiles.partition_point(|tile| tile.end <= step);
        self.tiles[tile].version
    }
}

/// The result of [`Split::next_lane`] with two lanes, as in most splits: the bound is a half. After the share of a request has been
/// added, the lanes are owed one request together, `2 · WHOLE` in their units. So one of them is owed at least `WHOLE`, and
/// if both are, their deadlines are the same and the first is served. What the second is owed follows from the first.
#[inline]
fn next_of_two(first: &Lane, second: &Lane, owed: &mut i64) -> VersionIx {
    let due = *owed + 2 * first.share;
    if due >= WHOLE {
        *owed = due - 2 * WHOLE;
        first.version
    } else {
        *owed = due;
        second.version
    }
}

/// Users of a cohort that move from one version to another when the split changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CohortMove {
    /// Index in the former split of the version that the users leave.
    pub from: VersionIx,
    /// Index in the new split of the version that they join.
    pub to: VersionIx,
    /// Share of all users that move.
    pub users: Share,
}

/// The users of a cohort that move when `after` replaces `before`, one entry for each pair of versions. `same` maps a version
/// of `before` to its index in `after`; `None` if it was removed.
pub fn moves(
    before: &Split,
    after: &Split,
    same: impl Fn(VersionIx) -> Option<VersionIx>,
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

/// The share of a cohort's users that move when `after` replaces `before`: the sum of [`moves`].
pub fn users_moved(
    before: &Split,
    after: &Split,
    same: impl Fn(VersionIx) -> Option<VersionIx>,
) -> Share {
    let moves = moves(before, after, same);
    Share(moves.iter().map(|m| m.users.0).sum())
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
