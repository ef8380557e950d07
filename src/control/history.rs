//! Records adopted generations in the history, and stores them from a thread of its own.
//!
//! The control thread never waits for the disk: entries go through a bounded queue to the writer thread. If the state directory
//! can't be written to, the log says so once and the history lasts as long as the process.

mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::oneshot;

use super::audit;
use crate::admin::history::{Attribution, ChangeCause, ChangeLine, History, HistoryEntry};
use crate::config::{self, paths};
use crate::snapshot::Snapshot;
use crate::telemetry::Telemetry;
use crate::upstream::Registry;
use store::HistoryStore;

/// Capacity of the queue of the writer thread. If the disk hangs, further entries are kept in memory only.
const QUEUE: usize = 64;

/// Limit of lines of an entry. Further changes are counted.
const MAX_LINES: usize = 100;

/// Adds entries to the history and passes them to the writer thread.
///
/// The control thread owns it. Entries are in memory first, for the admin API, and on disk a moment later: what the queue doesn't
/// take lasts as long as the process. Before `start`, nothing is recorded, because during a takeover the predecessor still writes
/// the same files.
#[derive(Debug)]
pub(crate) struct HistoryRecorder {
    history: Arc<History>,
    directory: Option<PathBuf>,
    writer: Option<SyncSender<HistoryJob>>,
    started: bool,
}

/// Work of the writer thread.
enum HistoryJob {
    Append(HistoryEntry, Option<Arc<str>>),
    /// Answered once everything before it is written.
    Flush(oneshot::Sender<()>),
}

impl HistoryRecorder {
    /// A recorder for the proxy with this state directory and configuration file. Nothing is read or written yet.
    pub(crate) fn new(state_dir: &Path, config: &Path) -> Self {
        // Fails only if the directory of the configuration file is gone, which was just read.
        let directory = paths::history_dir(state_dir, config).ok();
        Self {
            history: Arc::new(History::new(directory.clone())),
            directory,
            writer: None,
            started: false,
        }
    }

    /// The entries in memory, which the admin API reads.
    pub(crate) fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Reads the entries of earlier processes. Blocks on the file system.
    pub(crate) fn load(&self) {
        let Some(directory) = &self.directory else {
            return;
        };
        match HistoryStore::new(directory.clone()).load() {
            Ok(entries) => self.history.restore(entries),
            Err(error) => tracing::warn!(
                directory = %directory.display(),
                %error,
                "cannot read the history of earlier processes"
            ),
        }
    }

    /// The number of the first generation of a process that has no predecessor. Numbers continue where the history ends, so that
    /// each of them stands for one text. A process that starts with the last text keeps its number.
    pub(crate) fn first_generation(&self, hash: &str) -> u64 {
        match self.history.last() {
            Some(last) if last.hash == hash => last.generation,
            Some(last) => last.generation + 1,
            None => 1,
        }
    }

    /// Records the first generation, unless the history ends with it, and starts the writer thread.
    pub(crate) fn start(&mut self, first: &Snapshot, hash: &str, text: Arc<str>) {
        self.writer = self.spawn();
        self.started = true;
        let last = self.history.last();
        if let Some(last) = &last
            && last.hash == hash
            && last.generation == first.generation
        {
            return;
        }
        let changes = last
            .filter(|last| last.hash != hash)
            .and_then(|last| self.since(&last.hash, first));
        let entry = HistoryEntry::now(
            first.generation,
            ChangeCause::Start.into(),
            hash.to_owned(),
            changes.unwrap_or_default(),
        );
        self.add(entry, Some(text));
    }

    /// The changes since an earlier text; `None` if it is gone or this release can't read it.
    fn since(&self, hash: &str, now: &Snapshot) -> Option<Vec<ChangeLine>> {
        let text = self.history.text(hash)?;
        let spec = config::parse_bundle(&text, "").ok()?;
        // Compiled with a registry of its own, only to be compared.
        let before = Snapshot::build(0, Arc::new(spec), &Registry::new(), &Telemetry::new(1));
        Some(lines(&before, now))
    }

    /// Records a generation and its changes, unless the history has not started yet.
    ///
    /// `text` is the text of the file, if it changed; an attribution of `None` asks for
    /// the one that was announced.
    pub(crate) fn record(
        &self,
        generation: u64,
        changes: Vec<ChangeLine>,
        (hash, text): (&str, Option<Arc<str>>),
        by: Option<Attribution>,
    ) {
        if !self.started {
            return;
        }
        let by = by.unwrap_or_else(|| self.history.author(hash));
        self.add(
            HistoryEntry::now(generation, by, hash.to_owned(), changes),
            text,
        );
    }

    fn add(&self, entry: HistoryEntry, text: Option<Arc<str>>) {
        self.history.add(entry.clone(), text.clone());
        let Some(writer) = &self.writer else {
            return;
        };
        let generation = entry.generation;
        match writer.try_send(HistoryJob::Append(entry, text)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => tracing::warn!(
                generation,
                "the disk is too slow for the history: the generation is kept in memory only"
            ),
            Err(TrySendError::Disconnected(_)) => self.history.note_stored(false),
        }
    }

    /// Waits until everything recorded so far is written, at most `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        let (done, written) = oneshot::channel();
        let Some(writer) = &self.writer else {
            return;
        };
        if writer.try_send(HistoryJob::Flush(done)).is_ok() {
            // On a disk that hangs the rest is lost, which must not keep the process from exiting.
            let _ = tokio::time::timeout(limit, written).await;
        }
    }

    fn spawn(&self) -> Option<SyncSender<HistoryJob>> {
        let store = HistoryStore::new(self.directory.clone()?);
        let history = self.history.clone();
        let (sender, jobs) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("history".into())
            .spawn(move || write(store, &history, &jobs));
        match thread {
            Ok(_) => Some(sender),
            Err(error) => {
                tracing::warn!(%error, "cannot start the thread that stores the history");
                self.history.note_stored(false);
                None
            }
        }
    }
}

/// The writer thread. Ends when the recorder is dropped.
fn write(mut store: HistoryStore, history: &History, jobs: &Receiver<HistoryJob>) {
    let mut failing = false;
    for job in jobs {
        match job {
            HistoryJob::Flush(done) => drop(done.send(())),
            HistoryJob::Append(entry, text) => {
                // An entry that follows a failed one needs its text too, which was not stored then.
                let text = text.or_else(|| history.text(&entry.hash));
                let written = store.append(&entry, text.as_deref());
                history.note_stored(written.is_ok());
                match written {
                    Ok(()) => failing = false,
                    Err(error) if !std::mem::replace(&mut failing, true) => tracing::warn!(
                        directory = %store.directory().display(),
                        %error,
                        "cannot store the history: until this is repaired it lasts as long as the process"
                    ),
                    Err(_) => {}
                }
            }
        }
    }
}

/// The changes from `old` to `new` in words.
pub(super) fn lines(old: &Snapshot, new: &Snapshot) -> Vec<ChangeLine> {
    lines_of(&audit::changes(old, new), (old, new))
}

/// The changes in words, for changes that have been found already.
pub(super) fn lines_of(
    changes: &[audit::Change],
    (old, new): (&Snapshot, &Snapshot),
) -> Vec<ChangeLine> {
    let mut lines: Vec<ChangeLine> = changes.iter().take(MAX_LINES).map(line).collect();
    if changes.len() > MAX_LINES {
        lines.push(ChangeLine {
            service: None,
            text: format!("and {} more", changes.len() - MAX_LINES),
        });
    }
    if lines.is_empty() && !Arc::ptr_eq(&old.spec, &new.spec) && old.spec != new.spec {
        lines.push(ChangeLine {
            service: None,
            text: "other keys changed".to_owned(),
        });
    }
    lines
}

fn line(change: &audit::Change) -> ChangeLine {
    ChangeLine {
        service: change.service().map(str::to_owned),
        text: change.words(),
    }
}

#[cfg(test)]
mod tests;
