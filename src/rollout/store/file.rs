//! The store of a single proxy: files in the state directory, written by a thread of their own.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use rustix::fs::{FlockOperation, flock};
use tokio::sync::mpsc as events;

use super::journal::{self, Journal};
use super::{Evidence, JournalEntry, RolloutStore, StoreError, StoreEvent, Stored};

/// A journal of this size is compacted.
const COMPACT: u64 = 1 << 20;
/// Entries that a compacted journal keeps.
const KEPT: usize = 200;
/// Longest name of a service that is written out in a file name, in bytes.
const LONGEST_NAME: usize = 100;

/// A store in a directory.
#[derive(Debug)]
pub struct FileStore {
    directory: PathBuf,
    requests: mpsc::Sender<Request>,
    events: events::UnboundedReceiver<StoreEvent>,
}

/// A store that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: FileStore,
    /// Whether the directory was there before. If not, nothing is known of earlier rollouts.
    pub known: bool,
}

#[derive(Debug)]
enum Request {
    Cas(String, u64, Box<JournalEntry>),
    Evidence(String, Evidence),
}

impl FileStore {
    /// Opens the store in the state directory, and creates its directory if it isn't there.
    ///
    /// # Errors
    /// The directory can't be created or written, or the thread can't be started.
    pub fn open(state_dir: &Path) -> io::Result<Opened> {
        let directory = state_dir.join("rollouts");
        let known = directory.is_dir();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)?;
        // Fails now rather than in the middle of a rollout.
        let probe = directory.join(".probe");
        options().create(true).truncate(true).open(&probe)?;
        fs::remove_file(&probe)?;
        sync_directory(&directory)?;
        let (requests, received) = mpsc::channel();
        let (report, events) = events::unbounded_channel();
        let writer = Writer {
            directory: directory.clone(),
            journals: HashMap::new(),
            report,
        };
        std::thread::Builder::new()
            .name("rollout-store".to_owned())
            .spawn(move || writer.run(&received))?;
        Ok(Opened {
            store: Self {
                directory,
                requests,
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
        let request = Request::Cas(service.to_owned(), expected, Box::new(entry));
        // Fails only if the thread has panicked. Then no result arrives, and the rollout holds.
        let _ = self.requests.send(request);
    }

    async fn watch(&mut self) -> Option<StoreEvent> {
        self.events.recv().await
    }

    fn push_evidence(&self, service: &str, evidence: Evidence) {
        let request = Request::Evidence(service.to_owned(), evidence);
        // As above.
        let _ = self.requests.send(request);
    }

    fn read_evidence(&self, service: &str) -> Option<Evidence> {
        let bytes = fs::read(path(&self.directory, service, "evidence")).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

/// The state of a journal that this process has appended to.
#[derive(Clone, Copy, Debug)]
struct Tail {
    revision: u64,
    length: u64,
}

/// The thread that writes.
struct Writer {
    directory: PathBuf,
    journals: HashMap<String, Tail>,
    report: events::UnboundedSender<StoreEvent>,
}

impl Writer {
    fn run(mut self, requests: &mpsc::Receiver<Request>) {
        while let Ok(request) = requests.recv() {
            match request {
                Request::Cas(service, expected, entry) => {
                    let result = self.append(&service, expected, &entry);
                    if result.is_err() {
                        // What is on disk is read again before the next change.
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
        let line = journal::line(expected + 1, entry).map_err(|e| StoreError::Io(e.to_string()))?;
        let is_new = !path.exists();
        let mut file = options()
            .create(true)
            .open(&path)
            .map_err(|e| failed(&path, &e))?;
        // A predecessor may still write during a takeover. The lock is released when the file is closed.
        flock(&file, FlockOperation::LockExclusive).map_err(|e| failed(&path, &e.into()))?;
        let length = file.metadata().map_err(|e| failed(&path, &e))?.len();
        let tail = match self.journals.get(service) {
            Some(tail) if tail.length == length => *tail,
            _ => tail(&mut file).map_err(|e| located(&path, e))?,
        };
        if tail.revision != expected {
            return Err(StoreError::Conflict);
        }
        let written = write_at(&mut file, tail.length, line.as_bytes());
        written.map_err(|e| failed(&path, &e))?;
        if is_new {
            sync_directory(&self.directory).map_err(|e| failed(&path, &e))?;
        }
        let mut length = tail.length + line.len() as u64;
        if length > COMPACT {
            length = self.compact(&path).map_err(|e| located(&path, e))?;
        }
        let revision = expected + 1;
        self.journals
            .insert(service.to_owned(), Tail { revision, length });
        Ok(revision)
    }

    /// Rewrites a journal with its last entries, and returns its length.
    fn compact(&self, path: &Path) -> Result<u64, StoreError> {
        let journal = read(path)?;
        let first = journal.entries.len().saturating_sub(KEPT);
        let mut text = String::new();
        for (seq, entry) in &journal.entries[first..] {
            text += &journal::line(*seq, entry).map_err(|e| StoreError::Io(e.to_string()))?;
        }
        replace(path, text.as_bytes()).map_err(|e| failed(path, &e))?;
        Ok(text.len() as u64)
    }

    fn replace_evidence(&self, service: &str, evidence: &Evidence) -> io::Result<()> {
        let json = serde_json::to_vec(evidence)?;
        replace(&path(&self.directory, service, "evidence"), &json)
    }
}

/// Reads the end of an open journal.
fn tail(file: &mut File) -> Result<Tail, StoreError> {
    let mut bytes = Vec::new();
    let read = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes));
    read.map_err(|e| StoreError::Io(e.to_string()))?;
    let journal = journal::read(&bytes)?;
    Ok(Tail {
        revision: journal.revision(),
        length: journal.length as u64,
    })
}

/// Writes a line behind the part that reads, in place of an incomplete one, and flushes it to disk.
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

/// Replaces a file atomically.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = options().create(true).truncate(true).open(&new)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
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

/// The file of a service. Bytes of its name other than letters, digits, `-` and `_` are percent-encoded; a long name is hashed.
fn path(directory: &Path, service: &str, kind: &str) -> PathBuf {
    let mut name = String::new();
    for byte in service.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            _ => name += &format!("%{byte:02x}"),
        }
    }
    if name.len() > LONGEST_NAME {
        name = format!("%{:016x}", xxhash_rust::xxh3::xxh3_64(service.as_bytes()));
    }
    directory.join(format!("{name}.{kind}"))
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
