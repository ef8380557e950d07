//! The tables that the members of a fleet share: `fleet.share`.
//!
//! Their text is stored in etcd under one key, `config`. A member follows the key, checks each new text together with its own file,
//! keeps it in its state directory ([`copy`]) and reloads, which reads the copy [like an included file](crate::config::shared). A
//! text that isn't valid is ignored: the last valid one stays in use, and the file's next change tries it again. A text that is
//! [older](age) than the one in use, as after a restored backup of etcd, is ignored too. Edits are a compare-and-swap of the key, by
//! any member. `shared_adoption` has the steps of the control thread.

mod age;
pub(super) mod copy;
mod document;
mod initial;
mod timeline;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

use super::etcd::{CasOutcome, Entry, Etcd, EtcdError, Revision, WatchEvent, WatchNews};
use crate::admin::fleet::{FleetView, SharedConfigStatus};
use crate::admin::shared_edit::ShareRefused;
use crate::config::fleet::FleetSpec;
use age::TablesAge;
pub(super) use document::SharedDocument;
pub(crate) use initial::{InitError, init};
use timeline::Timeline;

/// The fleet's tables, as this member follows them.
#[derive(Debug)]
pub(super) struct SharedConfig {
    view: Arc<FleetView>,
    pub(super) following: Option<Following>,
}

/// A key that is followed.
///
/// Owned by the control thread. `tables` is the text in use, `revision` the newest that was seen, which may be newer if it was
/// refused: an edit is a change of the newest value, but is based on the text in use.
#[derive(Debug)]
pub(super) struct Following {
    fleet: FleetSpec,
    pub(super) etcd: Etcd,
    /// The newest revision that was seen; 0 before the first, and while the key is absent.
    revision: Revision,
    /// The timeline of the tables with that revision, if they have one.
    timeline: Option<Timeline>,
    /// The tables in use.
    pub(super) tables: Option<String>,
    /// The author of these tables, if known.
    pub(super) by: Option<String>,
    /// Newer tables that aren't valid together with the file.
    pub(super) refused: Option<(Revision, SharedDocument)>,
    /// Why the newest value isn't in use.
    pub(super) error: Option<String>,
    /// The age of the tables in use.
    pub(super) age: TablesAge,
    reports: mpsc::UnboundedSender<ConfigNews>,
    news: mpsc::UnboundedReceiver<ConfigNews>,
    task: JoinHandle<()>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// News about the fleet's tables for a member.
#[derive(Debug)]
pub(super) enum ConfigNews {
    /// The key has this value.
    Found(Revision, Result<SharedDocument, String>),
    /// There is no such key.
    Absent,
    /// An edit of this member was made or refused.
    Written {
        document: SharedDocument,
        result: Result<CasOutcome, EtcdError>,
        answer: oneshot::Sender<Result<u64, ShareRefused>>,
    },
}

impl SharedConfig {
    /// Creates the state, which follows nothing yet. It is shown in `view`.
    pub(super) fn new(view: Arc<FleetView>) -> Self {
        Self {
            view,
            following: None,
        }
    }

    /// Follows the tables of a fleet from now on, or none.
    pub(super) fn follow(&mut self, fleet: Option<&FleetSpec>, etcd: Option<&Etcd>) {
        let shared = fleet.zip(etcd).filter(|(fleet, _)| !fleet.share.is_empty());
        let Some((fleet, etcd)) = shared else {
            self.following = None;
            return;
        };
        let is_known = { self.following.as_ref() }.is_some_and(|f| f.fleet.is_same_member(fleet));
        if !is_known {
            self.following = Some(Following::new(fleet, etcd));
        }
        self.show();
    }

    /// Waits for news. Cancellation safe.
    pub(super) async fn news(&mut self) -> ConfigNews {
        let news = match &mut self.following {
            Some(following) => following.news.recv().await,
            None => None,
        };
        match news {
            Some(news) => news,
            // The task that reports runs as long as there is a key to follow.
            None => std::future::pending().await,
        }
    }

    /// Before a start: waits for the newest tables, for at most this time, and keeps them as the copy that the start reads.
    pub(super) async fn begin(&mut self, main: &Path, wait: Duration) {
        if let Some(following) = &mut self.following {
            // No traffic is served yet that reading could delay.
            following.age = TablesAge::read(main, &following.fleet);
            following.tables = copy::read(main);
        }
        let Ok(news) = timeout(wait, self.news()).await else {
            tracing::warn!(
                "fleet: etcd has not answered in time, starting with the copy of the fleet's tables"
            );
            return;
        };
        let Some(following) = &mut self.following else {
            return;
        };
        match news {
            ConfigNews::Found(revision, Ok(document)) => {
                following.record_seen(revision, Some(&document));
                let age = following.age.clone();
                if !following.keeps_newer(revision, &document) {
                    // No traffic is served yet that this could delay.
                    match copy::replace_by(main, &document.text, true) {
                        Ok(_) => {
                            following.by = Some(document.by);
                            following.age.adopted(revision, document.timeline);
                        }
                        Err(why) => following.refuse(Some((revision, document)), why),
                    }
                }
                if following.age != age {
                    log_unstored(following.age.store(main));
                }
            }
            ConfigNews::Found(revision, Err(why)) => {
                following.record_seen(revision, None);
                following.refuse(None, why);
            }
            ConfigNews::Absent => following.record_absence(),
            // There are no edits before the start.
            ConfigNews::Written { .. } => {}
        }
    }

    /// Records the tables that a start has read.
    pub(super) fn begun(&mut self, main: &Path) {
        if let Some(following) = &mut self.following {
            following.tables = copy::read(main);
        }
        self.show();
    }

    /// Shows the state in the status.
    pub(super) fn show(&self) {
        let status = self.following.as_ref().map(|following| SharedConfigStatus {
            key: following.fleet.config_key(),
            revision: following.revision,
            by: following.by.clone(),
            error: following.error.clone(),
        });
        self.view.update(|state| state.config = status);
    }
}

impl Following {
    fn new(fleet: &FleetSpec, etcd: &Etcd) -> Self {
        let (reports, news) = mpsc::unbounded_channel();
        let task = spawn_local(follow(etcd.clone(), fleet.config_key(), reports.clone()));
        Self {
            fleet: fleet.clone(),
            etcd: etcd.clone(),
            revision: 0,
            timeline: None,
            tables: None,
            by: None,
            refused: None,
            error: None,
            age: TablesAge::unknown(fleet),
            reports,
            news,
            task,
        }
    }

    /// Records the newest value that was seen; `None` if it can't be read.
    pub(super) fn record_seen(&mut self, revision: Revision, document: Option<&SharedDocument>) {
        self.revision = revision;
        self.timeline = document.and_then(|document| document.timeline);
    }

    /// Records that the key doesn't exist.
    pub(super) fn record_absence(&mut self) {
        (self.revision, self.timeline) = (0, None);
        self.age.found_none();
        self.warn_of_absence();
    }

    /// Records the reason why the newest value isn't used.
    pub(super) fn refuse(&mut self, refused: Option<(Revision, SharedDocument)>, why: String) {
        let key = self.fleet.config_key();
        if self.error.as_ref() != Some(&why) {
            tracing::error!(
                key,
                detail = why,
                "fleet: the shared tables are refused, keeping those in use"
            );
        }
        (self.refused, self.error) = (refused, Some(why));
    }

    /// Whether tables that were found are older than those in use, which are kept. Others than these are refused, and an edit or
    /// `cutover fleet init` decides.
    pub(super) fn keeps_newer(&mut self, revision: Revision, document: &SharedDocument) -> bool {
        let Some(tables) = &self.tables else {
            return false;
        };
        if !self.age.is_older(revision, document.timeline) {
            return false;
        }
        if *tables == document.text {
            self.age.found_restored(revision);
            (self.refused, self.error) = (None, None);
            self.by = Some(document.by.clone());
            return true;
        }
        self.age.found_older(revision);
        let by = &document.by;
        // These tables aren't tried again when the file changes.
        self.refuse(
            None,
            format!(
                "they are older than the tables in use, as after a restored backup: revision {revision}, by {by:?}. An edit on any member replaces them, as does `cutover fleet init --force`"
            ),
        );
        true
    }

    fn warn_of_absence(&self) {
        let key = self.fleet.config_key();
        tracing::warn!(
            key,
            "fleet: etcd has no shared tables; `cutover fleet init` writes them"
        );
    }

    /// The timeline of an edit: that of the value that it replaces, if this has the tables in use.
    ///
    /// An edit that replaces other ones, or restored ones, is a decision for the tables in use, and begins a timeline: members that
    /// were cut off take it, although its revision may be lower than that of their own.
    fn timeline_of_edit(&self) -> Timeline {
        let is_decision = self.revision == 0 || self.error.is_some() || self.age.has_found_older();
        match self.timeline {
            Some(timeline) if !is_decision => timeline,
            timeline => Timeline::begin(timeline.max(self.age.timeline()), SystemTime::now()),
        }
    }

    /// Changes the key to these tables, if it still has the revision that this member has seen last.
    pub(super) fn write(
        &self,
        text: String,
        by: String,
        answer: oneshot::Sender<Result<u64, ShareRefused>>,
    ) {
        let document = SharedDocument {
            text,
            by,
            timeline: Some(self.timeline_of_edit()),
        };
        let value = match document.to_value() {
            Ok(value) => value,
            Err(large) => {
                // Fails if the client has disconnected, which doesn't matter here.
                let _ = answer.send(Err(ShareRefused::Refused(large)));
                return;
            }
        };
        let (etcd, key, reports) = (
            self.etcd.clone(),
            self.fleet.config_key(),
            self.reports.clone(),
        );
        let expected = (self.revision > 0).then_some(self.revision);
        spawn_local(async move {
            let result = etcd.cas(&key, expected, value, None).await;
            // Fails only if this member has left the fleet.
            let _ = reports.send(ConfigNews::Written {
                document,
                result,
                answer,
            });
        });
    }

    /// Takes back an edit that this member itself can't use.
    pub(super) fn write_back(&self, tables: String, revision: Revision) {
        let (etcd, key) = (self.etcd.clone(), self.fleet.config_key());
        let document = SharedDocument {
            text: tables,
            by: self.by.clone().unwrap_or_default(),
            // That of the edit.
            timeline: self.timeline,
        };
        // Fails only if an older program has filled the key to its last bytes, with no room for a timeline.
        let Ok(value) = document.to_value() else {
            return;
        };
        spawn_local(async move {
            let written = etcd.cas(&key, Some(revision), value, None).await;
            if let Err(error) = written {
                tracing::warn!(key, %error, "fleet: an edit that was refused stays in etcd");
            }
        });
    }
}

/// Logs that the age of the tables can't be stored: a member that starts then may take older ones.
pub(super) fn log_unstored(stored: std::io::Result<()>) {
    if let Err(error) = stored {
        tracing::warn!(%error, "fleet: the revision of the shared tables can't be stored");
    }
}

/// Reports the value of a key, now and whenever it changes.
async fn follow(etcd: Etcd, key: String, reports: mpsc::UnboundedSender<ConfigNews>) {
    let mut watch = etcd.watch(&key);
    loop {
        let news = match watch.next().await {
            WatchNews::Listed { listing, .. } => {
                let entry = listing.entries.iter().find(|entry| entry.key == key);
                entry.map_or(ConfigNews::Absent, ConfigNews::read)
            }
            WatchNews::Changed { events, .. } => {
                let of_key = events.iter().rev().find_map(|event| match event {
                    WatchEvent::Put(entry) if entry.key == key => Some(ConfigNews::read(entry)),
                    WatchEvent::Deleted { key: gone, .. } if *gone == key => {
                        Some(ConfigNews::Absent)
                    }
                    WatchEvent::Put(_) | WatchEvent::Deleted { .. } => None,
                });
                match of_key {
                    Some(news) => news,
                    None => continue,
                }
            }
            WatchNews::Lost(_) | WatchNews::Resumed { .. } => continue,
        };
        if reports.send(news).is_err() {
            return;
        }
    }
}

impl ConfigNews {
    fn read(entry: &Entry) -> Self {
        Self::Found(entry.mod_revision, SharedDocument::read(&entry.value))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::runtime::{Builder, LocalOptions};

    use super::*;

    /// A file whose fleet shares services.
    pub(super) fn main_file(dir: &Path) -> PathBuf {
        let main = dir.join("cutover.toml");
        let text = format!(
            "listen = '127.0.0.1:0'\nstate_dir = '{}'\n[fleet]\netcd = 'http://127.0.0.1:1'\nname = 'front'\nshare = 'service'\n",
            dir.join("state").display()
        );
        std::fs::write(&main, text).unwrap();
        main
    }

    /// The fleet of a file with this etcd.
    pub(super) fn fleet(etcd: &str) -> FleetSpec {
        let text = format!(
            "listen = ':8080'\n[fleet]\netcd = '{etcd}'\nname = 'front'\n[service.app]\nversions = {{ v1 = ['127.0.0.1:1'] }}\n"
        );
        let spec = crate::config::parse(&text, "test.toml").expect("a valid file");
        spec.fleet.expect("a fleet")
    }

    /// Runs a test on a runtime such as the control thread's.
    fn run(test: impl FnOnce()) {
        let mut runtime = Builder::new_current_thread();
        let runtime = runtime.enable_all().build_local(LocalOptions::default());
        runtime.expect("a runtime").block_on(async { test() });
    }

    /// A member that has found these tables in etcd and uses them.
    fn member(revision: Revision, tables: &SharedDocument) -> Following {
        let fleet = fleet("http://127.0.0.1:1");
        let mut member = Following::new(&fleet, &Etcd::new(&fleet));
        uses(&mut member, revision, tables);
        member
    }

    fn uses(member: &mut Following, revision: Revision, document: &SharedDocument) {
        assert!(!finds_older(member, revision, document));
        member.tables = Some(document.text.clone());
        member.error = None;
        member.age.adopted(revision, document.timeline);
    }

    fn finds_older(member: &mut Following, revision: Revision, document: &SharedDocument) -> bool {
        member.record_seen(revision, Some(document));
        member.keeps_newer(revision, document)
    }

    fn document(text: &str, timeline: Option<Timeline>) -> SharedDocument {
        SharedDocument {
            text: text.to_owned(),
            by: "alice".to_owned(),
            timeline,
        }
    }

    #[test]
    fn an_edit_that_replaces_restored_tables_is_taken_by_members_that_were_cut_off() {
        let first = Some(Timeline::begin(None, SystemTime::UNIX_EPOCH));
        let (old, new) = (document("old", first), document("new", first));
        run(|| {
            let [mut connected, mut cut_off] = [(); 2].map(|()| member(57, &new));
            assert_eq!(Some(connected.timeline_of_edit()), first, "a usual edit");
            assert!(finds_older(&mut connected, 12, &old));
            let error = connected.error.clone().expect("refused");
            assert!(error.contains("An edit on any member"), "{error}");
            let edit = document("newer", Some(connected.timeline_of_edit()));
            assert!(edit.timeline > first);
            uses(&mut cut_off, 13, &edit);
            // What follows is a usual edit. What was before the decision stays old, also if it has a higher revision.
            assert_eq!(Some(cut_off.timeline_of_edit()), edit.timeline);
            assert!(finds_older(&mut cut_off, 57, &new));
        });
    }

    #[test]
    fn an_edit_begins_a_timeline_unless_the_tables_in_use_have_one() {
        let first = Some(Timeline::begin(None, SystemTime::UNIX_EPOCH));
        let tables = document("tables", first);
        run(|| {
            let mut member = member(57, &tables);
            let is_decision = |member: &Following| Some(member.timeline_of_edit()) > first;
            assert!(!is_decision(&member));
            // The backup has the same tables.
            assert!(finds_older(&mut member, 12, &tables));
            assert!(member.error.is_none() && is_decision(&member));
            // Another member goes on with them.
            uses(&mut member, 13, &tables);
            assert!(!is_decision(&member));
            member.record_absence();
            assert!(is_decision(&member), "the key is gone");
            uses(&mut member, 14, &tables);
            member.record_seen(15, None);
            member.refuse(None, "it is empty".to_owned());
            assert!(is_decision(&member), "it replaces what can't be read");
            uses(&mut member, 16, &document("of an older program", None));
            assert!(is_decision(&member));
        });
    }
}
