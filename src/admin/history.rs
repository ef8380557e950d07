//! The history of adopted generations: what each one changed, when and by whom.
//!
//! [`History`] keeps the newest entries in memory, for `GET /api/v1/history` and for undo. The control plane adds an entry for
//! each generation and stores it on disk from a thread of its own. Entries describe changes by names, shares and addresses, never
//! by the values of other keys, so they contain no secrets. The texts of the file may contain some: they leave the process only
//! in answers that need the same permission as a change.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config;

/// Number of entries that are kept.
pub(crate) const MOST_ENTRIES: usize = 1000;

/// Limit of the texts that are kept in memory, in bytes. The two newest are kept whatever their size; older ones are read from
/// disk.
const TEXT_BYTES: usize = 8 << 20;

/// Number of announcements that are remembered.
const ANNOUNCED: usize = 64;

/// How long an announced text is expected.
const ANNOUNCED_FOR: Duration = Duration::from_secs(300);

/// Longest name of an author, in bytes.
const AUTHOR_BYTES: usize = 200;

/// The cause of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChangeCause {
    /// The process started with this text.
    Start,
    /// The file was changed by a program that did not announce itself, such as an editor.
    File,
    /// A command of this program changed the file.
    Cli,
    /// The proxy changed its file on a request to the admin API.
    Api,
    /// A version that the stable gate held back passed its check.
    Gate,
    /// A step of a rollout.
    Rollout,
    /// The tables that the members of a fleet share were changed.
    Fleet,
}

impl ChangeCause {
    /// The name, as in the JSON documents.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::File => "file",
            Self::Cli => "cli",
            Self::Api => "api",
            Self::Gate => "gate",
            Self::Rollout => "rollout",
            Self::Fleet => "fleet",
        }
    }
}

/// Who or what caused a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attribution {
    /// The kind of cause.
    pub cause: ChangeCause,
    /// The person or program, as it announced itself: `alice@build-7 (shift)`.
    pub who: Option<String>,
}

impl From<ChangeCause> for Attribution {
    fn from(cause: ChangeCause) -> Self {
        Self { cause, who: None }
    }
}

/// One change of a generation, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangeLine {
    /// The service that it concerns; `None` for listeners and the proxy as a whole.
    pub service: Option<String>,
    /// The change: `shop: v2 5% -> 25%`.
    pub text: String,
}

/// One adopted generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HistoryEntry {
    /// The number of the generation.
    pub generation: u64,
    /// Time at which it was adopted, RFC 3339.
    pub at: String,
    /// Cause of the generation.
    pub by: ChangeCause,
    /// Person or program that caused it, if known.
    pub who: Option<String>,
    /// xxh3 hash of the text, 16 hex digits.
    pub hash: String,
    /// Changes from the generation before.
    pub changes: Vec<ChangeLine>,
}

impl HistoryEntry {
    /// An entry with the current time.
    pub(crate) fn now(
        generation: u64,
        by: Attribution,
        hash: String,
        changes: Vec<ChangeLine>,
    ) -> Self {
        Self {
            generation,
            at: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            by: by.cause,
            who: by.who,
            hash,
            changes,
        }
    }
}

/// The document of `/api/v1/history`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HistoryReport {
    /// Whether the entries survive a restart.
    pub stored: bool,
    /// The newest first.
    pub entries: Vec<HistoryEntry>,
}

/// The body of `POST /api/v1/announce`: who is about to save which text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Announcement {
    /// xxh3 hash of the text, 16 hex digits.
    pub hash: String,
    /// The author: `alice@build-7 (shift)`.
    pub by: String,
}

impl Announcement {
    /// Checks both fields. The author is printed on terminals, so control characters are refused.
    ///
    /// # Errors
    /// A message that says which field is wrong.
    fn check(&self) -> Result<(), &'static str> {
        let is_hash = self.hash.len() == 16 && self.hash.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_hash {
            return Err("hash must be the 16 hex digits of the text's xxh3 hash");
        }
        let printable = !self.by.chars().any(char::is_control);
        if self.by.is_empty() || self.by.len() > AUTHOR_BYTES || !printable {
            return Err("by must have 1 to 200 bytes and no control characters");
        }
        Ok(())
    }
}

/// The newest entries, their texts, and the announced edits.
///
/// The control thread adds entries, the writer thread notes whether they are stored, and requests to the admin API read. The lock
/// is held only to look at memory: texts that aren't there are read from disk without it.
#[derive(Debug, Default)]
pub(crate) struct History {
    state: Mutex<HistoryState>,
    /// Where the texts are stored.
    directory: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct HistoryState {
    /// Oldest first.
    entries: VecDeque<HistoryEntry>,
    /// Hash and text, the most recently adopted last.
    texts: VecDeque<(String, Arc<str>)>,
    announced: VecDeque<Announced>,
    stored: bool,
    /// Number of entries that this process has added.
    added: u64,
}

#[derive(Debug)]
struct Announced {
    hash: String,
    by: Attribution,
    at: Instant,
}

impl History {
    /// An empty history whose texts are stored in `directory`.
    pub(crate) fn new(directory: Option<PathBuf>) -> Self {
        Self {
            state: Mutex::default(),
            directory,
        }
    }

    fn state(&self) -> MutexGuard<'_, HistoryState> {
        // The lock is not poisoned: nothing panics while it is held.
        self.state.lock().expect("history lock")
    }

    /// Adds the entries of earlier processes, oldest first.
    pub(crate) fn restore(&self, entries: Vec<HistoryEntry>) {
        let mut state = self.state();
        state.entries.extend(entries);
        state.stored = true;
        state.trim();
    }

    /// Adds an entry. `text` is the text of the file; texts that are known already need not be given.
    pub(crate) fn add(&self, entry: HistoryEntry, text: Option<Arc<str>>) {
        let mut state = self.state();
        let known = state.texts.iter().position(|(hash, _)| *hash == entry.hash);
        let known = known.and_then(|at| state.texts.remove(at));
        if let Some(text) = text.or_else(|| known.map(|(_, text)| text)) {
            state.texts.push_back((entry.hash.clone(), text));
        }
        state.entries.push_back(entry);
        state.added += 1;
        state.trim();
    }

    /// Records whether entries are being stored on disk.
    pub(crate) fn note_stored(&self, stored: bool) {
        self.state().stored = stored;
    }

    /// The newest entry.
    pub(crate) fn last(&self) -> Option<HistoryEntry> {
        self.state().entries.back().cloned()
    }

    /// The number of entries that this process has added, and those after the first `known` of them, oldest first.
    pub(crate) fn added_after(&self, known: u64) -> (u64, Vec<HistoryEntry>) {
        let state = self.state();
        let new = state.added.saturating_sub(known) as usize;
        let skipped = state.entries.len().saturating_sub(new);
        (
            state.added,
            state.entries.iter().skip(skipped).cloned().collect(),
        )
    }

    /// The entries, newest first; with `service` only those that changed it, each with the changes of that service.
    pub(crate) fn report(&self, service: Option<&str>) -> HistoryReport {
        let state = self.state();
        let concerning = |entry: &HistoryEntry| {
            let mut entry = entry.clone();
            if let Some(service) = service {
                let of = |line: &ChangeLine| line.service.as_deref() == Some(service);
                entry.changes.retain(of);
            }
            (service.is_none() || !entry.changes.is_empty()).then_some(entry)
        };
        HistoryReport {
            stored: state.stored,
            entries: state.entries.iter().rev().filter_map(concerning).collect(),
        }
    }

    /// Remembers the author of a text that is about to be saved.
    ///
    /// # Errors
    /// A message that says what is wrong with the announcement.
    pub(crate) fn announce(
        &self,
        announcement: Announcement,
        cause: ChangeCause,
    ) -> Result<(), &'static str> {
        announcement.check()?;
        let mut state = self.state();
        state.announced.retain(|a| a.hash != announcement.hash);
        if state.announced.len() == ANNOUNCED {
            state.announced.pop_front();
        }
        state.announced.push_back(Announced {
            hash: announcement.hash,
            by: Attribution {
                cause,
                who: Some(announcement.by),
            },
            at: Instant::now(),
        });
        Ok(())
    }

    /// Takes the author of a text that is being adopted: the one that announced it, else the file.
    pub(crate) fn author(&self, hash: &str) -> Attribution {
        let mut state = self.state();
        state.announced.retain(|a| a.at.elapsed() < ANNOUNCED_FOR);
        let found = state.announced.iter().position(|a| a.hash == hash);
        let found = found.and_then(|at| state.announced.remove(at));
        found.map_or_else(|| ChangeCause::File.into(), |a| a.by)
    }

    /// The entry that an undo goes back to: the one with this generation, or the newest one with another text than `running`.
    ///
    /// # Errors
    /// A message that says why there is none.
    pub(crate) fn target(
        &self,
        generation: Option<u64>,
        running: &str,
    ) -> Result<HistoryEntry, String> {
        let state = self.state();
        let mut newest = state.entries.iter().rev();
        let Some(wanted) = generation else {
            let other = newest.find(|entry| entry.hash != running);
            let none = "nothing to undo: the history has no other text than the running one";
            return other.cloned().ok_or_else(|| none.to_owned());
        };
        let found = newest.find(|entry| entry.generation == wanted);
        found.cloned().ok_or_else(|| {
            let known = state.entries.iter().map(|entry| entry.generation);
            match (known.clone().min(), known.max()) {
                (Some(first), Some(last)) => format!(
                    "the history has no generation {wanted}: it has generations from {first} to {last}"
                ),
                _ => format!("the history has no generation {wanted}: it is empty"),
            }
        })
    }

    /// The text with this hash, from memory or from disk. May block on the file system.
    pub(crate) fn text(&self, hash: &str) -> Option<Arc<str>> {
        let known = {
            let state = self.state();
            let known = state.texts.iter().find(|(h, _)| h == hash);
            known.map(|(_, text)| text.clone())
        };
        known.or_else(|| {
            let path = text_file(self.directory.as_ref()?, hash);
            let text = std::fs::read_to_string(path).ok()?;
            (config::load::hash(text.as_bytes()) == hash).then(|| text.into())
        })
    }
}

/// The file of a stored text.
pub(crate) fn text_file(directory: &std::path::Path, hash: &str) -> PathBuf {
    directory.join(format!("{hash}.toml"))
}

impl HistoryState {
    fn trim(&mut self) {
        let surplus = self.entries.len().saturating_sub(MOST_ENTRIES);
        self.entries.drain(..surplus);
        let mut bytes: usize = self.texts.iter().map(|(_, text)| text.len()).sum();
        while bytes > TEXT_BYTES && self.texts.len() > 2 {
            let oldest = self.texts.pop_front();
            bytes -= oldest.map_or(0, |(_, text)| text.len());
        }
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
