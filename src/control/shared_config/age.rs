//! The age of the tables in use. It tells a member whether etcd has older ones.
//!
//! After a backup was restored, etcd has the tables of that time, under a lower revision than the member has seen. They are not
//! adopted, because no operator has decided to go back, and the members would change silently. A decision that was made after the
//! restoration has a later [timeline](Timeline), and is adopted whatever its revision.
//!
//! Tables that were written by hand, or by a program that doesn't know timelines, have only their revision: those that are later
//! than the restored ones are adopted by the members that have seen these. A member that was cut off refuses them.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::copy::{tables_of, write};
use super::timeline::Timeline;
use crate::config::fleet::FleetSpec;
use crate::control::etcd::Revision;

/// Largest file, in bytes.
const MOST_BYTES: u64 = 16 * 1024;

/// The age of the tables in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::control) struct TablesAge {
    /// The members of etcd. Revisions of another etcd can't be compared.
    etcd: Vec<String>,
    /// The revision of the tables in use; 0 if it isn't known.
    adopted: Revision,
    /// The last revision that was found to be older; 0 if none was found since.
    older: Revision,
    /// The latest timeline of tables that were in use, if any had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline: Option<Timeline>,
}

impl TablesAge {
    /// Tables of this fleet's etcd, whose revision isn't known.
    pub(super) fn unknown(fleet: &FleetSpec) -> Self {
        let mut etcd: Vec<_> = fleet.etcd.iter().map(ToString::to_string).collect();
        etcd.sort_unstable();
        Self {
            etcd,
            ..Self::default()
        }
    }

    /// Reads the age stored beside the copy of the file at `main`. Blocks.
    pub(super) fn read(main: &Path, fleet: &FleetSpec) -> Self {
        let unknown = Self::unknown(fleet);
        let stored = tables_of(main).and_then(|found| {
            let path = found.copy.with_extension("age");
            let is_small = fs::metadata(&path).is_ok_and(|meta| meta.len() <= MOST_BYTES);
            is_small.then(|| fs::read(path).ok()).flatten()
        });
        let stored = stored.and_then(|stored| serde_json::from_slice::<Self>(&stored).ok());
        { stored.filter(|stored| stored.etcd == unknown.etcd) }.unwrap_or(unknown)
    }

    /// Stores the age beside the copy of the file at `main`. Blocks.
    ///
    /// # Errors
    /// The file can't be written.
    pub(in crate::control) fn store(&self, main: &Path) -> io::Result<()> {
        let Some(found) = tables_of(main) else {
            return Ok(());
        };
        // Texts and numbers can always be written.
        let text = serde_json::to_string(self).unwrap_or_default();
        write(&found.copy.with_extension("age"), &text)
    }

    /// Whether tables with this revision are older than those in use.
    pub(super) fn is_older(&self, revision: Revision, timeline: Option<Timeline>) -> bool {
        match (timeline, self.timeline) {
            (Some(found), Some(known)) => (found, revision) < (known, self.adopted),
            // Without a timeline, a revision that is later than the restored ones was written since.
            _ if self.older > 0 => revision <= self.older,
            _ => revision < self.adopted,
        }
    }

    /// Whether etcd was restored, and has had no newer tables since.
    pub(super) fn has_found_older(&self) -> bool {
        self.older > 0
    }

    /// The latest timeline that is known.
    pub(super) fn timeline(&self) -> Option<Timeline> {
        self.timeline
    }

    /// Records that tables with this revision are in use.
    pub(in crate::control) fn adopted(&mut self, revision: Revision, timeline: Option<Timeline>) {
        (self.adopted, self.older) = (revision, 0);
        // Restored tables are known by the timeline also after others without one were in use.
        self.timeline = timeline.or(self.timeline);
    }

    /// Records that etcd has tables with this revision, which are older.
    pub(super) fn found_older(&mut self, revision: Revision) {
        self.older = revision;
    }

    /// Records that etcd was restored, and has the tables in use with this revision.
    pub(super) fn found_restored(&mut self, revision: Revision) {
        (self.adopted, self.older) = (revision, revision);
    }

    /// Records that etcd has no tables, so that those that come are newer.
    pub(in crate::control) fn found_none(&mut self) {
        (self.adopted, self.older) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::control::shared_config::tests::{fleet, main_file};

    /// Timelines that began one after the other.
    fn timelines() -> [Option<Timeline>; 3] {
        let mut latest = None;
        [(); 3].map(|()| {
            latest = Some(Timeline::begin(latest, SystemTime::UNIX_EPOCH));
            latest
        })
    }

    #[test]
    fn a_lower_revision_is_older_until_another_one_is_written() {
        let mut age = TablesAge::default();
        let is_older = |age: &TablesAge, revision| age.is_older(revision, None);
        assert!(!is_older(&age, 5), "nothing is known");
        age.adopted(57, None);
        assert!(is_older(&age, 12) && !is_older(&age, 57) && !is_older(&age, 58));
        age.found_older(12);
        assert!(is_older(&age, 12), "reading it again changes nothing");
        assert!(is_older(&age, 9), "an even older backup");
        assert!(!is_older(&age, 13), "somebody has written it since");
        age.adopted(13, None);
        assert!(is_older(&age, 12) && !is_older(&age, 14));
        age.found_none();
        assert!(!is_older(&age, 2), "`fleet init` in an empty etcd");
    }

    #[test]
    fn a_decision_after_a_restoration_is_newer_and_a_restored_one_is_not() {
        let [first, second, third] = timelines();
        let mut age = TablesAge::default();
        assert!(!age.is_older(57, second), "nothing is known");
        age.adopted(57, first);
        assert!(age.is_older(12, first), "a restored backup");
        assert!(!age.is_older(58, first), "an edit");
        assert!(!age.is_older(13, second), "forced while it was cut off");
        age.found_older(12);
        assert!(age.is_older(12, first) && !age.is_older(13, second));
        assert!(age.is_older(55, first), "another backup of the same time");
        assert!(!age.is_older(13, None), "written by hand since");
        age.adopted(13, second);
        assert!(age.is_older(55, first), "a backup of before the decision");
        assert!(!age.is_older(14, second), "an edit");
        assert!(!age.is_older(13, second), "reading it again");
        age.found_older(55);
        assert!(!age.is_older(14, second), "the backup was undone");
        assert!(!age.is_older(13, third), "forced a second time");
    }

    #[test]
    fn tables_without_a_timeline_are_compared_by_revision_and_do_not_end_one() {
        let [first, second, _] = timelines();
        let mut age = TablesAge::default();
        age.adopted(57, first);
        assert!(age.is_older(13, None), "nothing tells what it is");
        assert!(!age.is_older(58, None), "an edit by an older program");
        age.adopted(58, None);
        assert!(age.is_older(57, first), "a restored backup");
        assert!(!age.is_older(13, second), "forced after that");
        // The tables in use may be edits of those that are found, by an older program.
        let mut unknown = TablesAge::default();
        unknown.adopted(57, None);
        assert!(unknown.is_older(13, second));
        unknown.adopted(58, second);
        assert!(!unknown.is_older(59, second) && unknown.is_older(57, second));
    }

    #[test]
    fn a_backup_that_has_the_tables_in_use_is_followed_on() {
        let [first, ..] = timelines();
        let mut age = TablesAge::default();
        age.adopted(57, first);
        age.found_restored(12);
        assert!(!age.is_older(13, first) && age.is_older(11, first));
        assert!(age.has_found_older(), "the next edit is a decision");
        age.adopted(13, first);
        assert!(!age.has_found_older());
    }

    #[test]
    fn it_is_remembered_for_the_same_etcd_and_garbage_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let main = main_file(dir.path());
        let here = fleet("http://127.0.0.1:1");
        assert_eq!(TablesAge::read(&main, &here), TablesAge::unknown(&here));
        let mut age = TablesAge::unknown(&here);
        let [first, second, _] = timelines();
        age.adopted(57, first);
        age.store(&main).unwrap();
        assert_eq!(TablesAge::read(&main, &here), age);
        assert!(TablesAge::read(&main, &here).is_older(12, first));
        assert!(!TablesAge::read(&main, &here).is_older(12, second));
        let elsewhere = fleet("http://127.0.0.1:2");
        assert!(!TablesAge::read(&main, &elsewhere).is_older(12, first));
        let path = dir.path().join("state/fleet/front.age");
        // An older program has written this one.
        let servers = &here.etcd[0];
        let stored = format!(r#"{{"etcd":["{servers}"],"adopted":0,"older":12}}"#);
        fs::write(&path, stored).unwrap();
        let age = TablesAge::read(&main, &here);
        assert!(age.is_older(12, first) && !age.is_older(13, first));
        for garbage in ["", "[]", "{\"adopted\":\"x\"}", &"9".repeat(20_000)] {
            fs::write(&path, garbage).unwrap();
            assert!(
                !TablesAge::read(&main, &here).is_older(12, first),
                "{garbage}"
            );
        }
    }
}
