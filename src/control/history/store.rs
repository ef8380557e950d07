//! The files of the history: a log with one JSON line for each generation, and one file for each text.
//!
//! `STATE_DIR/history/<16 hex digits>/` has mode 0700 and its files 0600, because texts may contain secrets. The digits are those
//! of the control socket. The log begins with a line that names the format. A line that a crash cut off is ignored and removed
//! with the next write. Old entries are dropped when there are more than [`MOST_ENTRIES`] or their texts exceed [`TEXT_BYTES`].

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::admin::history::{HistoryEntry, MOST_ENTRIES, text_file};

/// The format of the log. Fields may be added without a new number.
const FORMAT: u32 = 1;

const LOG: &str = "log.jsonl";

/// Number of lines beyond [`MOST_ENTRIES`] after which the log is rewritten.
const SLACK: usize = 100;

/// Limit of the stored texts together, in bytes. The two newest are kept whatever their size.
const TEXT_BYTES: u64 = 64 << 20;

/// The first line of the log.
#[derive(Debug, Serialize, Deserialize)]
struct LogHeader {
    format: u32,
}

/// The content of a log.
#[derive(Debug, Default)]
struct LogContent {
    /// Entries, oldest first.
    entries: Vec<HistoryEntry>,
    /// Whether lines can be appended: the log exists and ends with a whole line.
    appendable: bool,
}

/// The files of one proxy's history.
///
/// Only the writer thread writes them, and only in the process that serves. A text is on disk before the line that names it, and is
/// removed only after the log without that line, so a crash leaves a text too many but never one too few.
#[derive(Debug)]
pub(super) struct HistoryStore {
    directory: PathBuf,
    /// Number of lines, once they have been read.
    lines: Option<usize>,
}

impl HistoryStore {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            lines: None,
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads all entries, oldest first. None if there is no history yet.
    ///
    /// # Errors
    /// The log can't be read, or a newer release wrote it.
    pub(super) fn load(&self) -> io::Result<Vec<HistoryEntry>> {
        Ok(self.read()?.entries)
    }

    /// Adds an entry durably. `text` is needed unless it is stored already.
    ///
    /// # Errors
    /// The directory can't be written to, or the log is one of a newer release.
    pub(super) fn append(&mut self, entry: &HistoryEntry, text: Option<&str>) -> io::Result<()> {
        self.create_directory()?;
        let text_path = text_file(&self.directory, &entry.hash);
        if let Some(text) = text
            && !text_path.exists()
        {
            self.replace(&text_path, text.as_bytes())?;
        }
        let lines = match self.lines {
            Some(lines) if lines < MOST_ENTRIES + SLACK && self.text_bytes()? <= TEXT_BYTES => {
                lines
            }
            _ => return self.rewrite(entry),
        };
        let mut log = OpenOptions::new().append(true).open(self.log())?;
        let written = log
            .write_all(line(entry)?.as_bytes())
            .and_then(|()| log.sync_data());
        // After an error the last line may be incomplete: the next write begins by reading the log again.
        self.lines = written.is_ok().then_some(lines + 1);
        written
    }

    /// Rewrites the log with this entry at its end, without entries beyond the limits, and removes texts that no entry needs.
    fn rewrite(&mut self, entry: &HistoryEntry) -> io::Result<()> {
        let LogContent {
            mut entries,
            appendable,
        } = self.read()?;
        let full = entries.len() >= MOST_ENTRIES || self.text_bytes()? > TEXT_BYTES;
        if appendable && !full {
            self.lines = Some(entries.len());
            return self.append(entry, None);
        }
        entries.push(entry.clone());
        let kept = &entries[self.first_kept(&entries)..];
        let mut text = serde_json::to_string(&LogHeader { format: FORMAT })? + "\n";
        for entry in kept {
            text += &line(entry)?;
        }
        self.replace(&self.log(), text.as_bytes())?;
        self.lines = Some(kept.len());
        let needed: HashSet<PathBuf> = kept
            .iter()
            .map(|entry| text_file(&self.directory, &entry.hash))
            .collect();
        for (path, _) in self.texts()? {
            if !needed.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// The index of the oldest entry within both limits.
    fn first_kept(&self, entries: &[HistoryEntry]) -> usize {
        let (mut bytes, mut texts) = (0, HashSet::new());
        let most = entries.len().saturating_sub(MOST_ENTRIES);
        for (at, entry) in entries.iter().enumerate().rev() {
            if texts.insert(&entry.hash) {
                let path = text_file(&self.directory, &entry.hash);
                bytes += fs::metadata(path).map_or(0, |about| about.len());
            }
            if at < most || bytes > TEXT_BYTES && texts.len() > 2 {
                return at + 1;
            }
        }
        0
    }

    fn read(&self) -> io::Result<LogContent> {
        let text = match fs::read(self.log()) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(LogContent::default()),
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines().map(str::as_bytes);
        let header = lines.next().map(serde_json::from_slice::<LogHeader>);
        match header {
            Some(Ok(header)) if header.format > FORMAT => {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    format!("format {} is of a newer release", header.format),
                ));
            }
            Some(Ok(_)) => {}
            // Without a header nothing can be said about the lines.
            _ => return Ok(LogContent::default()),
        }
        let parsed: Vec<_> = lines.map(serde_json::from_slice::<HistoryEntry>).collect();
        let whole = text.ends_with('\n') && parsed.iter().all(Result::is_ok);
        Ok(LogContent {
            entries: parsed.into_iter().filter_map(Result::ok).collect(),
            appendable: whole,
        })
    }

    fn log(&self) -> PathBuf {
        self.directory.join(LOG)
    }

    /// Path and size of each stored text.
    fn texts(&self) -> io::Result<Vec<(PathBuf, u64)>> {
        let mut texts = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|e| e == "toml") {
                texts.push((entry.path(), entry.metadata()?.len()));
            }
        }
        Ok(texts)
    }

    fn text_bytes(&self) -> io::Result<u64> {
        Ok(self.texts()?.iter().map(|(_, size)| size).sum())
    }

    fn create_directory(&mut self) -> io::Result<()> {
        if self.directory.is_dir() {
            return Ok(());
        }
        // The directory may also have been removed while the process runs.
        self.lines = None;
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        // The umask may have taken bits away, and a parent that existed keeps its mode.
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))
    }

    /// Replaces a file atomically and durably.
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension("tmp");
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| {
                file.set_permissions(fs::Permissions::from_mode(0o600))?;
                file.write_all(content)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&temporary, path))
            // Makes the new directory entry durable, see fsync(2).
            .and_then(|()| File::open(&self.directory)?.sync_all());
        if written.is_err() {
            // Report the first error, whether or not the temporary file can be removed.
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

fn line(entry: &HistoryEntry) -> io::Result<String> {
    Ok(serde_json::to_string(entry)? + "\n")
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
