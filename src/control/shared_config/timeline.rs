//! Timelines of the fleet's tables, which tell a decision that was made after etcd was restored from what the backup had.
//!
//! Revisions order the tables as long as etcd isn't restored. After that, revisions that were used already are used once more, and
//! a member that was cut off meanwhile can't tell a new one from an old one. So the tables carry a number beside their revision, as
//! in PostgreSQL, where each recovery begins a timeline: an edit keeps it, and a write that replaces restored tables raises it.
//! Tables of a higher timeline are newer, within one the revision counts.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// A timeline. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::control) struct Timeline(u64);

impl Timeline {
    /// Begins a timeline at `now`, which is later than all that are `known`.
    ///
    /// Counting alone would not do: a backup that is restored a second time has the same count as the first time. The clock makes up
    /// for what the backup doesn't know. If it is behind by more than the time since the former decision, members that remember that
    /// one refuse the tables, and name the reason.
    pub(super) fn begin(known: Option<Self>, now: SystemTime) -> Self {
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let millis = since.unwrap_or_default().as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        let next = known.map_or(1, |known| known.0.saturating_add(1));
        Self(millis.max(next))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_timeline_is_later_than_those_that_are_known_whatever_the_clock_says() {
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let first = Timeline::begin(None, at(1_000));
        assert_eq!(first, Timeline(1_000));
        // A restored backup that doesn't know the first one.
        assert!(Timeline::begin(None, at(1_001)) > first);
        for behind in [0, 999, 1_000] {
            assert_eq!(Timeline::begin(Some(first), at(behind)), Timeline(1_001));
        }
        let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert!(Timeline::begin(Some(first), before_1970) > first);
        let last = Timeline(u64::MAX);
        assert_eq!(Timeline::begin(Some(last), at(1)), last, "revisions count");
    }
}
