//! Exact shares: of any N requests in a row on one worker a version gets N·share within 1.
//!
//! The order is Tijdeman's chairman assignment: with k versions that have a share, a version's count since the start
//! never differs from N·share by more than 1 − 1/(2k−2). For two that is one half, so that of *any* window of requests
//! each gets its share within 1.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::cohort::Place;
use crate::config::spec::Share;

/// The shares of one service.
#[derive(Debug)]
pub struct Split {
    stable: usize,
    /// By version.
    shares: Box<[Share]>,
    /// Versions that have a share, in the order of versions.
    lanes: Box<[Lane]>,
    /// Where canaries stand in [0,1); what is left is stable's.
    stretches: Box<[Stretch]>,
    fingerprint: u64,
}

#[derive(Clone, Copy, Debug)]
struct Lane {
    version: usize,
    share: i64,
}

/// `from..to` in steps of 0.001 %.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    version: usize,
    from: u32,
    to: u32,
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
    /// `canaries`: version index and share, stable gets the rest.
    pub fn new(versions: usize, stable: usize, canaries: &[(usize, Share)]) -> Self {
        let mut shares = vec![Share(0); versions];
        for (version, share) in canaries {
            shares[*version] = *share;
        }
        shares[stable] = Share(0);
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
            stretches: stretches(stable, &shares),
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
        self.stretches.is_empty()
    }

    /// The share of a version, stable included.
    pub fn share(&self, version: usize) -> Share {
        self.shares[version]
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

    /// The version of a user at this place; monotone for up to two canaries.
    ///
    /// Canaries grow from opposite ends of [0,1), stable keeps the middle. A canary's end is fixed by its rank among
    /// the versions other than stable (even: the bottom), not by the split, so that it doesn't depend on which other
    /// canary comes or goes. Should just two have a share and the same end, the later takes the other one. With more
    /// than two, those of one end stand behind each other by rank, and only the first of each end is monotone.
    #[inline]
    pub fn at(&self, place: Place) -> usize {
        let step = ((u128::from(place.0) * u128::from(Share::WHOLE)) >> 64) as u32;
        let mut stretches = self.stretches.iter();
        stretches
            .find(|s| (s.from..s.to).contains(&step))
            .map_or(self.stable, |s| s.version)
    }
}

fn stretches(stable: usize, shares: &[Share]) -> Box<[Stretch]> {
    let ranked = (0..shares.len()).filter(|v| *v != stable).enumerate();
    let mut canaries: Vec<(bool, usize)> = ranked
        .filter(|(_, version)| shares[*version].0 > 0)
        .map(|(rank, version)| (rank % 2 == 1, version))
        .collect();
    if let [(first, _), (second, _)] = &mut canaries[..] {
        *second = !*first;
    }
    let (mut bottom, mut top) = (0, Share::WHOLE);
    let stretch = |(from_top, version): (bool, usize)| {
        let share = shares[version].0;
        let (from, to) = if from_top {
            top -= share;
            (top, top + share)
        } else {
            bottom += share;
            (bottom - share, bottom)
        };
        Stretch { version, from, to }
    };
    canaries.into_iter().map(stretch).collect()
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
