//! Outcomes of mirrored requests, and how the responses to copies differed from those that users got.
//!
//! Outcomes are counted by the thread that ends a copy. Differences are written by the thread that sends copies and read by
//! the admin API; both take a lock that no request ever waits for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use super::words::MirrorOutcome;

/// Number of differences that are kept.
pub const KEPT_DIFFERENCES: usize = 100;

/// Number of kinds of difference that are counted apart. Kinds hold paths that applications choose, so they have to be bounded.
const MAX_KINDS: usize = 200;

/// The kind that stands for all further ones.
pub(crate) const OTHER_KINDS: &str = "other";

/// The mirror of one service: its counters and its latest differences.
#[derive(Debug, Default)]
pub struct MirrorLog {
    outcomes: [AtomicU64; MirrorOutcome::COUNT],
    in_flight: AtomicUsize,
    differences: Mutex<Differences>,
}

#[derive(Debug, Default)]
struct Differences {
    kinds: BTreeMap<String, u64>,
    /// The last differences, the oldest first.
    last: VecDeque<Arc<MirrorDifference>>,
}

/// A copy whose response differed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorDifference {
    /// `x-request-id` of the request and its copy.
    pub id: String,
    /// When the copy's response was complete.
    pub at: SystemTime,
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The version that served the user.
    pub version: String,
    /// The endpoint that served the copy.
    pub endpoint: String,
    /// The differences between the responses; never empty.
    pub findings: Vec<MirrorFinding>,
    /// The bodies of both responses, if they are kept: that to the user, then that to the copy.
    pub bodies: Option<(String, String)>,
}

/// One difference between two responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorFinding {
    /// `status`, `header:content-type`, `json:$.items[].price`.
    pub kind: String,
    /// Value in the response to the user.
    pub live: String,
    /// Value in the response to the copy.
    pub copy: String,
}

impl MirrorLog {
    /// Counts an outcome.
    pub(crate) fn count(&self, outcome: MirrorOutcome) {
        self.outcomes[outcome.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of copies with each outcome.
    pub fn outcomes(&self) -> impl Iterator<Item = (MirrorOutcome, u64)> {
        let count =
            |outcome: &MirrorOutcome| self.outcomes[outcome.index()].load(Ordering::Relaxed);
        MirrorOutcome::ALL.iter().map(move |o| (*o, count(o)))
    }

    /// Takes a slot for a copy, if fewer than `most` are in flight. [`MirrorPermit`] returns it.
    pub(crate) fn admit(self: &Arc<Self>, most: usize) -> Option<MirrorPermit> {
        let more = |n: usize| (n < most).then_some(n + 1);
        let admitted = (self.in_flight).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        if admitted.is_err() {
            self.count(MirrorOutcome::Overflow);
            return None;
        }
        Some(MirrorPermit {
            log: Arc::clone(self),
            outcome: MirrorOutcome::Abandoned,
        })
    }

    /// Records a copy whose response differed.
    pub(crate) fn record(&self, difference: MirrorDifference) {
        let mut differences = self.differences();
        for finding in &difference.findings {
            let is_full = differences.kinds.len() >= MAX_KINDS;
            let kind = match is_full && !differences.kinds.contains_key(&finding.kind) {
                true => OTHER_KINDS,
                false => &finding.kind,
            };
            *differences.kinds.entry(kind.to_owned()).or_default() += 1;
        }
        if differences.last.len() == KEPT_DIFFERENCES {
            differences.last.pop_front();
        }
        differences.last.push_back(Arc::new(difference));
    }

    /// Returns the kinds of difference with their counts, the most frequent first.
    pub fn kinds(&self) -> Vec<(String, u64)> {
        let kinds = self.differences().kinds.clone();
        let mut kinds: Vec<_> = kinds.into_iter().collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        kinds
    }

    /// Returns the latest differences, the newest first.
    pub fn latest(&self, most: usize) -> Vec<Arc<MirrorDifference>> {
        let differences = self.differences();
        differences.last.iter().rev().take(most).cloned().collect()
    }

    fn differences(&self) -> MutexGuard<'_, Differences> {
        // The holders of this lock only insert into and copy collections.
        self.differences
            .lock()
            .expect("no holder of this lock panics")
    }
}

/// A slot among the copies in flight. When it is dropped, the slot is returned and the outcome counted, so that every
/// selected request has exactly one.
#[derive(Debug)]
pub(crate) struct MirrorPermit {
    log: Arc<MirrorLog>,
    /// The outcome so far.
    pub outcome: MirrorOutcome,
}

impl Drop for MirrorPermit {
    fn drop(&mut self) {
        self.log.count(self.outcome);
        self.log.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(id: usize, kind: &str) -> MirrorDifference {
        MirrorDifference {
            id: id.to_string(),
            at: SystemTime::UNIX_EPOCH,
            method: "GET".to_owned(),
            path: "/".to_owned(),
            version: "v1".to_owned(),
            endpoint: "127.0.0.1:1".to_owned(),
            findings: vec![MirrorFinding {
                kind: kind.to_owned(),
                live: "200".to_owned(),
                copy: "500".to_owned(),
            }],
            bodies: None,
        }
    }

    fn count(log: &MirrorLog, outcome: MirrorOutcome) -> u64 {
        let mut outcomes = log.outcomes();
        outcomes.find(|(o, _)| *o == outcome).map_or(0, |(_, n)| n)
    }

    #[test]
    fn every_admitted_copy_has_one_outcome_and_returns_its_place() {
        let log = Arc::new(MirrorLog::default());
        let mut first = log.admit(1).expect("a place");
        assert!(log.admit(1).is_none());
        assert_eq!(count(&log, MirrorOutcome::Overflow), 1);
        first.outcome = MirrorOutcome::Same;
        assert_eq!(count(&log, MirrorOutcome::Same), 0);
        drop(first);
        assert_eq!(count(&log, MirrorOutcome::Same), 1);
        drop(log.admit(1).expect("the place is free again"));
        assert_eq!(count(&log, MirrorOutcome::Abandoned), 1);
    }

    #[test]
    fn the_latest_differences_are_kept() {
        let log = MirrorLog::default();
        for id in 0..=KEPT_DIFFERENCES {
            log.record(difference(id, "status"));
        }
        let latest = log.latest(usize::MAX);
        assert_eq!(latest.len(), KEPT_DIFFERENCES);
        assert_eq!((&*latest[0].id, &*latest[99].id), ("100", "1"));
        assert_eq!(log.kinds(), [("status".to_owned(), 101)]);
    }

    #[test]
    fn kinds_are_bounded() {
        let log = MirrorLog::default();
        for id in 0..1000 {
            log.record(difference(id, &format!("json:$.k{id}")));
        }
        log.record(difference(0, "json:$.k0"));
        let kinds = log.kinds();
        assert_eq!(kinds.len(), MAX_KINDS + 1);
        assert_eq!(kinds[0], (OTHER_KINDS.to_owned(), 800));
        assert_eq!(kinds[1], ("json:$.k0".to_owned(), 2));
    }
}
