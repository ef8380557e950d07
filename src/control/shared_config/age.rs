//! The age of the tables in use. It tells a member whether etcd has older ones.
//!
//! After a backup was restored, etcd has the tables of that time, under a lower revision than the member has seen. They are not
//! adopted, because no operator has decided to go back, and the members would change silently. Later revisions are adopted, because
//! they were written after the restoration.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::copy::{tables_of, write};
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
    pub(in crate::control) fn is_older(&self, revision: Revision) -> bool {
        revision < self.adopted || revision <= self.older
    }

    /// Records that tables with this revision are in use.
    pub(in crate::control) fn adopted(&mut self, revision: Revision) {
        (self.adopted, self.older) = (revision, 0);
    }

    /// Records that etcd has tables with this revision, which are older. Later revisions are newer.
    pub(super) fn found_older(&mut self, revision: Revision) {
        (self.adopted, self.older) = (0, revision);
    }

    /// Records that etcd has no tables, so that those that come are newer.
    pub(in crate::control) fn found_none(&mut self) {
        (self.adopted, self.older) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::shared_config::tests::{fleet, main_file};

    #[test]
    fn a_lower_revision_is_older_until_another_one_is_written() {
        let mut age = TablesAge::default();
        assert!(!age.is_older(5), "nothing is known");
        age.adopted(57);
        assert!(age.is_older(12) && !age.is_older(57) && !age.is_older(58));
        age.found_older(12);
        assert!(age.is_older(12), "reading it again changes nothing");
        assert!(age.is_older(9), "an even older backup");
        assert!(!age.is_older(13), "somebody has written it since");
        age.adopted(13);
        assert!(age.is_older(12) && !age.is_older(14));
        age.found_none();
        assert!(!age.is_older(2), "`fleet init` in an empty etcd");
    }

    #[test]
    fn it_is_remembered_for_the_same_etcd_and_garbage_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let main = main_file(dir.path());
        let here = fleet("http://127.0.0.1:1");
        assert_eq!(TablesAge::read(&main, &here), TablesAge::unknown(&here));
        let mut age = TablesAge::unknown(&here);
        age.adopted(57);
        age.store(&main).unwrap();
        assert_eq!(TablesAge::read(&main, &here), age);
        let elsewhere = fleet("http://127.0.0.1:2");
        assert!(!TablesAge::read(&main, &elsewhere).is_older(12));
        let path = dir.path().join("state/fleet/front.age");
        for garbage in ["", "[]", "{\"adopted\":\"x\"}", &"9".repeat(20_000)] {
            fs::write(&path, garbage).unwrap();
            assert!(!TablesAge::read(&main, &here).is_older(12), "{garbage}");
        }
    }
}
