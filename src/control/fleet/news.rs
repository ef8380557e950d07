//! What a fleet's tasks report, and how keys and values become that.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::control::etcd::Entry;
use crate::rollout::fleet::document::{DocumentError, FleetDocument};
use crate::rollout::fleet::evidence::StepCounts;

/// Longest name of a process.
const LONGEST_SOURCE: usize = 128;

/// A report.
#[derive(Debug)]
pub(in crate::control) enum FleetNews {
    /// All documents and drivers, by a read that was begun at `sent`. What is missing isn't there.
    Read {
        sent: Instant,
        documents: BTreeMap<String, Found>,
        drivers: BTreeMap<String, Driver>,
    },
    /// A document was changed.
    Document(String, Found),
    /// A driver came, changed its term, or has gone.
    Driver(String, Option<Driver>),
    /// The store's history is another one.
    Restored,
    /// A change of a document was made or refused; it was sent at this time.
    Written(String, Instant, Written),
    /// What other processes have counted in this attempt and step.
    Evidence(String, (u64, usize), Vec<(String, StepCounts)>),
    /// What the driver before has learnt. `None`: it could not be read.
    Guard(String, Option<Vec<u8>>),
}

/// What the store has under a document's key.
#[derive(Debug)]
pub(in crate::control) enum Found {
    /// A document, and its revision.
    Document(i64, Box<FleetDocument>),
    /// Something else, which is ignored.
    Unreadable(i64, DocumentError),
}

/// Who drives a rollout according to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct Driver {
    /// The process.
    pub source: String,
    /// The term that it has taken over in; 0 before.
    pub term: u64,
}

/// The result of a change of a document.
#[derive(Debug)]
pub(in crate::control) enum Written {
    /// The store has it, with this revision.
    Done(i64, Box<FleetDocument>),
    /// The store has another one, or none.
    Conflict(Option<(i64, Box<FleetDocument>)>),
    /// It isn't known whether the store has it.
    Failed(String),
}

impl Found {
    /// Reads an entry.
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

    /// Reads the value of a driver's key. One that nobody can have written counts as that of an unknown process, which has the role
    /// until its key expires.
    pub(super) fn read(entry: &Entry) -> Self {
        let text = std::str::from_utf8(&entry.value).unwrap_or_default();
        let fits = |source: &&str| {
            let graphic = source.bytes().all(|b| b.is_ascii_graphic());
            graphic && source.len() <= LONGEST_SOURCE
        };
        let (source, term) = text.split_once(' ').unwrap_or((text, ""));
        Self {
            source: Some(source).filter(fits).unwrap_or("unknown").to_owned(),
            term: term.parse().unwrap_or(0),
        }
    }
}

/// The counts of other processes in a listing, by process.
pub(super) fn counts(entries: &[Entry], prefix: &str) -> Vec<(String, StepCounts)> {
    let read = |entry: &Entry| {
        let source = entry.key.strip_prefix(prefix)?;
        let counts = StepCounts::read(&entry.value);
        if counts.is_none() {
            tracing::debug!(key = ?entry.key, "fleet: ignoring the counts of a member");
        }
        Some((source.to_owned(), counts?))
    };
    entries.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: &str) -> Entry {
        Entry {
            key: "/cutover/front/driver/shop".to_owned(),
            value: value.as_bytes().to_vec().into(),
            mod_revision: 1,
            lease: None,
        }
    }

    #[test]
    fn a_driver_is_read_as_it_was_written_and_hostile_ones_are_nobody() {
        let driver = Driver {
            source: "edge-1.00ff".to_owned(),
            term: 7,
        };
        let value = String::from_utf8(driver.to_value()).unwrap();
        assert_eq!(Driver::read(&entry(&value)), driver);
        for hostile in ["\u{1b}[2J 7", &"x".repeat(200), "ü"] {
            assert_eq!(Driver::read(&entry(hostile)).source, "unknown");
        }
        assert_eq!(Driver::read(&entry("a -1")).term, 0);
    }
}
