//! Reports of the tasks that follow a fleet, and how keys and values are turned into them.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::control::etcd::{Entry, Revision};
use crate::rollout::fleet::document::{DocumentError, FleetDocument};
use crate::rollout::fleet::evidence::StepCounts;

/// Longest name of a process.
const LONGEST_SOURCE: usize = 128;
/// The process that has the driver's role by a value that no member has written.
const UNKNOWN: &str = "unknown";

/// A report about the fleet's store.
#[derive(Debug)]
pub(in crate::control) enum FleetNews {
    /// All documents and drivers, by a read that was begun at `sent`. Any other service has none.
    Read {
        sent: Instant,
        documents: BTreeMap<String, Found>,
        drivers: BTreeMap<String, Driver>,
    },
    /// A document was changed.
    Document(String, Found),
    /// A driver came, changed its term, or has gone.
    Driver(String, Option<Driver>),
    /// The store's history is another one: a backup was restored.
    Restored,
    /// A change of a document was made or refused; it was sent at this time.
    Written(String, Instant, Written),
    /// The counts of other processes in this attempt and step.
    Evidence(String, (u64, usize), FoundCounts),
    /// The guard's state that the previous driver has kept. `None`: it could not be read.
    Guard(String, Option<Vec<u8>>),
}

/// The values that the store has under the keys of counts.
#[derive(Debug, Default)]
pub(in crate::control) struct FoundCounts {
    /// The counts of each process, by its name.
    pub counts: Vec<(String, StepCounts)>,
    /// A key with any other value, which is ignored.
    pub unreadable: Option<String>,
}

/// The value that the store has under a document's key.
#[derive(Debug)]
pub(in crate::control) enum Found {
    /// A document, and its revision.
    Document(i64, Box<FleetDocument>),
    /// Any other value, which is ignored.
    Unreadable(i64, DocumentError),
}

/// The driver of a rollout according to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct Driver {
    /// The process.
    pub source: String,
    /// The term that it has taken over in; 0 before.
    pub term: u64,
    /// The revision of a value that no member has written: anybody may replace it.
    pub replaceable: Option<Revision>,
}

/// The result of a change of a document.
#[derive(Debug)]
pub(in crate::control) enum Written {
    /// The store has the document, with this revision.
    Done(i64, Box<FleetDocument>),
    /// The store has another document, or none.
    Conflict(Option<(i64, Box<FleetDocument>)>),
    /// The call has failed. It isn't known whether the store has the document.
    Failed(String),
}

impl Found {
    /// Reads the entry of a document.
    pub(super) fn read(entry: &Entry) -> Self {
        match FleetDocument::read(&entry.value) {
            Ok(document) => Self::Document(entry.mod_revision, Box::new(document)),
            Err(error) => Self::Unreadable(entry.mod_revision, error),
        }
    }
}

impl Driver {
    /// The value of the driver's key.
    pub(super) fn to_value(&self) -> Vec<u8> {
        format!("{} {}", self.source, self.term).into_bytes()
    }

    /// Reads the value of a driver's key. Members write it under their lease, so that one without a lease, which would never expire,
    /// is nobody's. Neither is one that isn't of the form that all members use.
    pub(super) fn read(entry: &Entry) -> Self {
        let text = std::str::from_utf8(&entry.value).unwrap_or_default();
        let fits = |source: &&str| {
            let graphic = source.bytes().all(|b| b.is_ascii_graphic());
            graphic && (1..=LONGEST_SOURCE).contains(&source.len())
        };
        let (source, term) = text.split_once(' ').unwrap_or(("", ""));
        let known = Some(source).filter(|source| fits(source) && entry.lease.is_some());
        Self {
            source: known.unwrap_or(UNKNOWN).to_owned(),
            term: term.parse().unwrap_or(0),
            replaceable: known.is_none().then_some(entry.mod_revision),
        }
    }
}

/// The counts of other processes in a listing.
pub(super) fn counts(entries: &[Entry], prefix: &str) -> FoundCounts {
    let mut found = FoundCounts::default();
    for entry in entries {
        let Some(source) = entry.key.strip_prefix(prefix) else {
            continue;
        };
        match StepCounts::read(&entry.value) {
            Some(counts) => found.counts.push((source.to_owned(), counts)),
            None => found.unreadable = Some(entry.key.clone()),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::etcd::LeaseId;

    fn entry(value: &str) -> Entry {
        Entry {
            key: "/cutover/front/driver/shop".to_owned(),
            value: value.as_bytes().to_vec().into(),
            mod_revision: 1,
            lease: Some(LeaseId(7)),
        }
    }

    #[test]
    fn a_driver_is_read_as_it_was_written_and_hostile_ones_are_nobody() {
        let driver = Driver {
            source: "edge-1.00ff".to_owned(),
            term: 7,
            replaceable: None,
        };
        let value = String::from_utf8(driver.to_value()).unwrap();
        assert_eq!(Driver::read(&entry(&value)), driver);
        // Written by the first program that shared rollouts (commit a924f2a).
        let first = include_str!("../../../tests/fleet_values/driver.txt");
        let read = Driver::read(&entry(first));
        assert_eq!((read.term, read.to_value()), (1, first.as_bytes().to_vec()));
        for hostile in ["\u{1b}[2J 7", &"x".repeat(200), "ü", "", "{}", " 7"] {
            let read = Driver::read(&entry(hostile));
            assert_eq!((&*read.source, read.replaceable), (UNKNOWN, Some(1)));
        }
        let for_ever = Entry {
            lease: None,
            ..entry(&value)
        };
        let read = Driver::read(&for_ever);
        assert_eq!((&*read.source, read.replaceable), (UNKNOWN, Some(1)));
        assert_eq!(Driver::read(&entry("a -1")).term, 0);
    }

    #[test]
    fn counts_that_no_member_has_written_are_ignored_and_named() {
        let prefix = "/cutover/front/driver/";
        let found = counts(&[entry("{\"errors\":[5,1,9,0]}"), entry("7")], prefix);
        assert_eq!(found.counts.len(), 1);
        assert_eq!(found.counts[0].0, "shop");
        assert_eq!(found.unreadable, Some(format!("{prefix}shop")));
    }
}
