//! Decides which flags of a service are on for a request.
//!
//! A flag is on for the requests that its conditions match, and for a share of the users: those whose point lies below the
//! share. The point is XXH3-64 of the user's cohort point (eight bytes, little-endian), seeded with XXH3-64 (seed 0) of the
//! flag's name. So a user keeps a flag while its share rises and users leave it in the reverse order when the share falls;
//! whether a user has a flag says nothing about the versions and the other flags that the user gets; and the points are the
//! same on every machine and in every release, which they must stay, otherwise an upgrade would move users.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{CohortPoint, Matcher, RequestView, ServiceRouting};
use crate::config::flag::FlagSpec;
use crate::config::spec::{RuleSpec, Share};
use crate::index::FlagIx;
pub use crate::telemetry::record::FlagSet;
use crate::telemetry::record::FlagState;

/// A compiled flag.
#[derive(Debug)]
pub struct Flag {
    /// Share of the users for whom it is on.
    pub share: Share,
    /// Requests for which it is on whatever the share.
    targets: Option<Matcher>,
    seed: u64,
}

/// Why a flag is on or off for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagReason {
    /// A condition of the flag matches: it is on.
    Targeted,
    /// The share of the flag is 0 % or 100 %, so that all users are alike.
    Everyone,
    /// The user's point for this flag, which is below its share or not.
    User(CohortPoint),
    /// The request has none of the cohort's keys: it is off.
    Unknown,
}

/// The state of a flag for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlagDecision {
    /// Whether the flag is on.
    pub on: bool,
    /// Why the flag is on or off.
    pub reason: FlagReason,
}

impl Flag {
    /// Compiles a flag.
    pub fn new(flag: &FlagSpec) -> Self {
        let targets = (!flag.when.is_empty()).then(|| {
            Matcher::new(&[RuleSpec {
                when: flag.when.clone(),
                ..RuleSpec::default()
            }])
        });
        Self {
            share: flag.share,
            targets,
            seed: xxh3_64(flag.name.as_bytes()),
        }
    }

    /// Decides whether the flag is on. `place` returns the user's cohort point, and is called only if that matters.
    #[inline]
    pub fn decide(
        &self,
        request: &impl RequestView,
        place: impl FnOnce() -> Option<CohortPoint>,
    ) -> FlagDecision {
        let targets = self.targets.as_ref();
        if targets.is_some_and(|targets| targets.find(request).is_some()) {
            return FlagDecision {
                on: true,
                reason: FlagReason::Targeted,
            };
        }
        if matches!(self.share.0, 0 | Share::WHOLE) {
            return FlagDecision {
                on: self.share.0 == Share::WHOLE,
                reason: FlagReason::Everyone,
            };
        }
        match place() {
            Some(place) => {
                let own = self.point(place);
                FlagDecision {
                    on: is_below(own, self.share),
                    reason: FlagReason::User(own),
                }
            }
            None => FlagDecision {
                on: false,
                reason: FlagReason::Unknown,
            },
        }
    }

    /// Whether the flag is on, for users whose state depends only on the share: the guard compares these. `None` if a
    /// condition switches the flag on, or if the request has no cohort key, because such users were not assigned at random.
    pub fn drawn(
        &self,
        request: &impl RequestView,
        place: impl FnOnce() -> Option<CohortPoint>,
    ) -> Option<FlagState> {
        let targets = self.targets.as_ref();
        if targets.is_some_and(|targets| targets.find(request).is_some()) {
            return None;
        }
        Some(match is_below(self.point(place()?), self.share) {
            true => FlagState::On,
            false => FlagState::Off,
        })
    }

    /// The point of a user for this flag.
    fn point(&self, user: CohortPoint) -> CohortPoint {
        CohortPoint(xxh3_64_with_seed(&user.0.to_le_bytes(), self.seed))
    }
}

/// Whether a point lies below a share, exactly.
fn is_below(point: CohortPoint, share: Share) -> bool {
    u128::from(point.0) * u128::from(Share::WHOLE) < u128::from(share.0) << 64
}

impl ServiceRouting {
    /// The flags that are on for a request. `place` is the user's cohort point, if it is known already.
    #[inline]
    pub fn flags_on(&self, request: &impl RequestView, place: Option<CohortPoint>) -> FlagSet {
        let mut on = FlagSet::default();
        let mut known = place.map(Some);
        for (index, flag) in FlagIx::enumerate(&self.flags) {
            let place = || *known.get_or_insert_with(|| self.user(request));
            if flag.decide(request, place).on {
                on.add(index);
            }
        }
        on
    }

    /// The user's cohort point; `None` if the request has none of the cohort's keys.
    pub fn user(&self, request: &impl RequestView) -> Option<CohortPoint> {
        let cohort = self.cohort.as_ref()?;
        cohort.place(request).map(|(_, place)| place)
    }
}

#[cfg(test)]
#[path = "flags_tests.rs"]
mod tests;
