//! The store of a single proxy: files in the state directory, written by a thread of their own.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use tokio::sync::mpsc as events;

use super::journal::{self, Journal};
use super::paths::{options, path, remove_leftovers, replace, sync_directory};
use super::queue::{Queue, Request};
use super::{Evidence, JournalEntry, RolloutStore, StoreError, StoreEvent, Stored};

/// A journal of this size is compacted.
const COMPACT: u64 = 1 << 20;
/// Most entries that a compacted journal keeps.
const KEPT: usize = 200;
/// Largest size of a compacted journal in bytes, unless its last entry is larger.
const KEPT_BYTES: usize = 1 << 19;
/// Number of bytes by which a journal that could not be compacted grows before the next attempt.
const COMPACT_AGAIN: u64 = 1 << 17;

/// A store in a directory.
///
/// The control thread owns it and never waits for the disk, except to read. Its thread writes until it is dropped and the queue is
/// empty. Another process may write the same files during a takeover: each change names the revision that it is based on, and the
/// journal's lock decides.
#[derive(Debug)]
pub struct FileStore {
    directory: PathBuf,
    queue: Arc<Queue>,
    events: events::UnboundedReceiver<StoreEvent>,
}

/// A store that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: FileStore,
    /// Whether the store has the journal of any service. If not, no earlier rollout is known.
    pub known: bool,
}

impl FileStore {
    /// Opens the store in the state directory, and creates its directory if it isn't there.
    ///
    /// # Errors
    /// The directory can't be created or written, or the thread can't be started.
    pub fn open(state_dir: &Path) -> io::Result<Opened> {
        let directory = state_dir.join("rollouts");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)?;
        remove_leftovers(&directory)?;
        let known = has_journals(&directory)?;
        // Fails now rather than in the middle of a rollout.
        let probe = directory.join(format!(".probe-{}", std::process::id()));
        options().create(true).truncate(true).open(&probe)?;
        fs::remove_file(&probe)?;
        sync_directory(&directory)?;
        let queue = Arc::new(Queue::default());
        let (report, events) = events::unbounded_channel();
        let writer = Writer {
            directory: directory.clone(),
            journals: HashMap::new(),
            report,
        };
        let requests = queue.clone();
        std::thread::Builder::new()
            .name("rollout-store".to_owned())
            .spawn(move || writer.run(&requests))?;
        Ok(Opened {
            store: Self {
                directory,
                queue,
                events,
            },
            known,
        })
    }
}

impl RolloutStore for FileStore {
    fn load(&self, service: &str) -> Result<Stored, StoreError> {
        let journal = read(&path(&self.directory, service, "journal"))?;
        let revision = journal.revision();
        let state = journal.entries.into_iter().next_back();
        Ok(Stored {
            revision,
            state: state.map(|(_, entry)| entry.state).unwrap_or_default(),
        })
    }

    fn cas(&self, service: &str, expected: u64, entry: JournalEntry) {
        self.queue.change(service, expected, entry);
    }

    async fn watch(&mut self) -> Option<StoreEvent> {
        self.events.recv().await
    }

    fn push_evidence(&self, service: &str, evidence: Evidence) {
        self.queue.evidence(service, evidence);
    }

    fn read_evidence(&self, service: &str) -> Option<Evidence> {
        let bytes = fs::read(path(&self.directory, service, "evidence")).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// The end of a journal as this process knows it. It counts only while the file has the same inode and length.
#[derive(Clone, Copy, Debug)]
struct Tail {
    revision: u64,
    /// Length of the readable part, in bytes.
    length: u64,
    /// The inode of the file that was read: a compaction by another process replaces the file.
    inode: u64,
    /// Length from which on the journal is compacted.
    compact_at: u64,
}

/// The thread that writes.
struct Writer {
    directory: PathBuf,
    journals: HashMap<String, Tail>,
    report: events::UnboundedSender<StoreEvent>,
}

impl Writer {
    fn run(mut self, requests: &Queue) {
        while let Some(request) = requests.next() {
            match request {
                Request::Change(service, expected, entry) => {
                    let result = self.append(&service, expected, &entry);
                    if result.is_err() {
                        // The state on disk is read again before the next change.
                        self.journals.remove(&service);
                    }
                    let result = result.map(|revision| Stored {
                        revision,
                        state: entry.state,
                    });
                    // The receiver is gone when the process ends.
                    let _ = self.report.send(StoreEvent { service, result });
                }
                Request::Evidence(service, evidence) => {
                    if let Err(error) = self.replace_evidence(&service, &evidence) {
                        tracing::debug!(service, %error, "the evidence of a rollout can't be stored");
                    }
                }
            }
        }
    }

    fn append(
        &mut self,
        service: &str,
        expected: u64,
        entry: &JournalEntry,
    ) -> Result<u64, StoreError> {
        let path = path(&self.directory, service, "journal");
        let revision = expected + 1;
        let line = journal::line(revision, entry).map_err(|e| StoreError::Io(e.to_string()))?;
        // The lock is released when the file is closed.
        let (mut file, inode, length) = self.lock(&path, expected)?;
        let tail = match self.journals.get(service) {
            Some(tail) if (tail.inode, tail.length) == (inode, length) => *tail,
            _ => tail(&mut file, inode).map_err(|e| located(&path, e))?,
        };
        if tail.revision > expected {
            return Err(StoreError::Conflict);
        }
        if tail.revision < expected {
            // The store has had that revision, and revisions only grow.
            let what = format!("entries {} to {expected} are gone", tail.revision + 1);
            return Err(located(&path, StoreError::Corrupt(what)));
        }
        if let Err(error) = write_at(&mut file, tail.length, line.as_bytes()) {
            // The entry doesn't count, so it should not be found later. If this fails too, it may be found: then the change, made
            // again, conflicts with itself.
            let _ = file.set_len(tail.length);
            return Err(failed(&path, &error));
        }
        let mut tail = Tail {
            revision,
            length: tail.length + line.len() as u64,
            ..tail
        };
        if tail.length >= tail.compact_at {
            tail = compacted(&path, tail);
        }
        self.journals.insert(service.to_owned(), tail);
        Ok(revision)
    }

    /// Opens and locks a journal: a predecessor may still write during a takeover. Returns its inode and length as well. It is
    /// created only for the first entry.
    fn lock(&self, path: &Path, expected: u64) -> Result<(File, u64, u64), StoreError> {
        loop {
            let is_new = expected == 0 && !path.exists();
            let file = match options().create(is_new).open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound && expected > 0 => {
                    let what = format!("entries 1 to {expected} are gone");
                    return Err(located(path, StoreError::Corrupt(what)));
                }
                // The file was removed a moment ago: it is created now.
                Err(error) if error.kind() == ErrorKind::NotFound && !is_new => continue,
                Err(error) => return Err(failed(path, &error)),
            };
            if is_new {
                sync_directory(&self.directory).map_err(|e| failed(path, &e))?;
            }
            flock(&file, FlockOperation::LockExclusive).map_err(|e| failed(path, &e.into()))?;
            let own = file.metadata().map_err(|e| failed(path, &e))?;
            // While this thread waited for the lock, its owner may have replaced the file by a compacted one.
            let current = fs::metadata(path).map_or(0, |current| current.ino());
            if own.ino() == current {
                return Ok((file, own.ino(), own.len()));
            }
        }
    }

    fn replace_evidence(&self, service: &str, evidence: &Evidence) -> io::Result<()> {
        let json = serde_json::to_vec(evidence)?;
        replace(&path(&self.directory, service, "evidence"), &json)
    }
}

/// Rewrites a journal with its last entries. If that fails, as on a full disk, the journal stays as it is and remains valid.
fn compacted(path: &Path, tail: Tail) -> Tail {
    match compact(path) {
        Ok((length, inode)) => Tail {
            length,
            inode,
            compact_at: COMPACT,
            ..tail
        },
        Err(error) => {
            tracing::debug!(%error, "the journal of a rollout can't be compacted");
            Tail {
                compact_at: tail.length + COMPACT_AGAIN,
                ..tail
            }
        }
    }
}

/// Rewrites a journal with its last entries, and returns its length and inode. The caller holds the lock.
fn compact(path: &Path) -> Result<(u64, u64), StoreError> {
    let journal = read(path)?;
    let mut lines = Vec::new();
    let mut bytes = 0;
    for (seq, entry) in journal.entries.iter().rev().take(KEPT) {
        let line = journal::line(*seq, entry).map_err(|e| StoreError::Io(e.to_string()))?;
        bytes += line.len();
        if bytes > KEPT_BYTES && !lines.is_empty() {
            break;
        }
        lines.push(line);
    }
    lines.reverse();
    let text = lines.concat();
    replace(path, text.as_bytes()).map_err(|e| failed(path, &e))?;
    let inode = fs::metadata(path).map_err(|e| failed(path, &e))?.ino();
    Ok((text.len() as u64, inode))
}

/// Reads the end of an open journal.
fn tail(file: &mut File, inode: u64) -> Result<Tail, StoreError> {
    let mut bytes = Vec::new();
    let read = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes));
    read.map_err(|e| StoreError::Io(e.to_string()))?;
    let journal = journal::read(&bytes)?;
    Ok(Tail {
        revision: journal.revision(),
        length: journal.length as u64,
        inode,
        compact_at: COMPACT,
    })
}

/// Writes a line after the readable part, in place of an incomplete one, and flushes it to disk.
fn write_at(file: &mut File, length: u64, line: &[u8]) -> io::Result<()> {
    file.set_len(length)?;
    file.seek(SeekFrom::Start(length))?;
    file.write_all(line)?;
    file.sync_data()
}

fn read(path: &Path) -> Result<Journal, StoreError> {
    match fs::read(path) {
        Ok(bytes) => journal::read(&bytes).map_err(|e| located(path, e)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Journal::default()),
        Err(error) => Err(failed(path, &error)),
    }
}

fn has_journals(directory: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        // An empty journal was about to get its first entry when the process was killed.
        if path.extension().is_some_and(|kind| kind == "journal") && entry.metadata()?.len() > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

fn failed(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Io(format!("{}: {error}", path.display()))
}

fn located(path: &Path, error: StoreError) -> StoreError {
    match error {
        StoreError::Corrupt(what) => StoreError::Corrupt(format!("{}, {what}", path.display())),
        other => other,
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
