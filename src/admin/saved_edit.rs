//! An edit of the configuration file that the proxy itself makes: on behalf of a client of the admin API, or to promote a version.
//!
//! The steps are the same as in the commands that edit the file: lock, edit, check, announce and replace.

use std::fmt;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use http::StatusCode;

use tokio::sync::{mpsc, oneshot};

use super::ControlCommand;
use super::history::{Announcement, Attribution, History};
use super::shared_edit::{ShareRefused, SharedChange};
use crate::config::file_edit::{EditRefusal, EditedText, FileEdit, unwritable_help};
use crate::config::file_set::{FileError, LockedFiles};
use crate::config::{load, shared};

/// Time limit for the lock on the file. Commands hold it until their edit is adopted.
const LOCK_TIMEOUT: Duration = Duration::from_secs(15);

/// The author of an edit that names none.
const UNNAMED: &str = "admin API";

/// Interval between two attempts to lock the file.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// Why an edit failed: the status of the response, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EditFault {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl EditFault {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    pub(super) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the proxy is stopping")
    }

    /// The work itself failed: its thread could not be started, or it panicked.
    pub(super) fn internal(why: String) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, why)
    }

    fn of_file(what: &str, error: &FileError) -> Self {
        Self::conflict(&error.file, what, &error.source)
    }

    fn conflict(file: &Path, what: &str, error: &io::Error) -> Self {
        let help = unwritable_help(error).join("\n");
        let message = format!("the proxy can't {what} {}: {error}\n{help}", file.display());
        Self::new(StatusCode::CONFLICT, message)
    }
}

impl fmt::Display for EditFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<EditRefusal> for EditFault {
    fn from(refusal: EditRefusal) -> Self {
        let status = match refusal {
            EditRefusal::Unknown(_) => StatusCode::NOT_FOUND,
            EditRefusal::Conflict(_) => StatusCode::CONFLICT,
            EditRefusal::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, refusal.to_string())
    }
}

/// An edit that is in the file, still locked.
///
/// The lock is held until this is dropped. Code that may have to put the previous text back keeps it until the proxy has adopted or
/// refused the new one, so that no other edit comes in between.
#[derive(Debug)]
pub(crate) struct SavedEdit {
    locked: LockedFiles,
    before: String,
    edited: EditedText,
    /// The text as it is on this machine: without a change of the fleet's tables.
    local: String,
    /// The change of the fleet's tables, which is still to be made.
    shared: Option<SharedChange>,
    /// Why the file was overwritten instead of replaced; `None` if it was replaced.
    pub(super) in_place: Option<String>,
}

impl SavedEdit {
    /// Locks and edits the file; waits for commands that are editing it. Blocks, so it needs a thread of its own.
    ///
    /// # Errors
    /// The file is busy or can't be written, or it doesn't allow the edit.
    pub(crate) fn make(
        file: &Path,
        edit: &FileEdit,
        by: Attribution,
        history: &History,
    ) -> Result<Self, EditFault> {
        let locked = lock(file)?;
        save(locked, file, edit, by, history)
    }

    /// Returns the text after an edit, without making it. Blocks as [`Self::make`] does.
    ///
    /// # Errors
    /// The file is busy or can't be read, or it doesn't allow the edit.
    pub(super) fn rehearse(file: &Path, edit: &FileEdit) -> Result<String, EditFault> {
        let locked = lock(file)?;
        let before = locked.read();
        let before = before.map_err(|error| EditFault::of_file("read", &error))?;
        let edited = edit.apply(&before, &file.display().to_string())?;
        Ok(edited.text)
    }

    /// Whether the edit changed the text.
    pub(super) fn has_changed(&self) -> bool {
        self.edited.text != self.before
    }

    /// Puts the previous text back, unless another program has changed the file. Blocks.
    pub(super) fn put_back(mut self) -> bool {
        let ours = self.locked.read().is_ok_and(|text| text == self.local);
        ours && self.locked.replace(&self.local, &self.before).is_ok()
    }

    /// The change of the fleet's tables that the edit is, if it is one.
    pub(crate) fn shared(&self) -> Option<&SharedChange> {
        self.shared.as_ref()
    }
}

/// Changes the tables of the fleet. Returns the generation that runs the change.
///
/// # Errors
/// See [`ShareRefused`].
pub(crate) async fn share(
    change: SharedChange,
    control: &mpsc::Sender<ControlCommand>,
) -> Result<u64, ShareRefused> {
    let (answer, answered) = oneshot::channel();
    let stopping = || ShareRefused::Failed("the proxy is stopping".to_owned());
    let command = ControlCommand::Share { change, answer };
    control.send(command).await.map_err(|_| stopping())?;
    answered.await.unwrap_or_else(|_| Err(stopping()))
}

/// Locks the file, and waits for other commands that edit it. Blocks.
#[expect(clippy::disallowed_methods, reason = "it runs on a thread of its own")]
fn lock(file: &Path) -> Result<LockedFiles, EditFault> {
    let began = Instant::now();
    loop {
        match LockedFiles::try_lock(file) {
            Ok(Some(locked)) => return Ok(locked),
            Ok(None) if began.elapsed() < LOCK_TIMEOUT => thread::sleep(LOCK_INTERVAL),
            Ok(None) => {
                let message = format!(
                    "another command has been editing {} for {LOCK_TIMEOUT:?}",
                    file.display()
                );
                return Err(EditFault::new(StatusCode::CONFLICT, message));
            }
            Err(error) => return Err(EditFault::conflict(file, "open and lock", &error)),
        }
    }
}

/// Edits the locked file. Blocks on the file system.
fn save(
    mut locked: LockedFiles,
    file: &Path,
    edit: &FileEdit,
    by: Attribution,
    history: &History,
) -> Result<SavedEdit, EditFault> {
    let before = locked
        .read()
        .map_err(|error| EditFault::of_file("read", &error))?;
    let edited = edit.apply(&before, &file.display().to_string())?;
    let (local, tables) = split(&before, &edited.text);
    let who = by.who.clone().unwrap_or_else(|| UNNAMED.to_owned());
    let shared = tables.map(|(before, after)| SharedChange {
        before,
        after,
        by: who,
    });
    let mut in_place = None;
    if edited.text != before {
        let hash = load::hash(edited.text.as_bytes());
        let announced = |by: String, cause| {
            let hash = hash.clone();
            history.announce(Announcement { hash, by }, cause)
        };
        // A name that can't be shown is not used.
        if by.who.is_none_or(|who| announced(who, by.cause).is_err()) {
            let _ = announced(UNNAMED.to_owned(), by.cause);
        }
        let written = locked.replace(&before, &local);
        let written = written.map_err(|error| EditFault::of_file("write", &error))?;
        in_place = written.iter().find_map(|written| written.in_place);
    }
    Ok(SavedEdit {
        locked,
        before,
        edited,
        local,
        shared,
        in_place: in_place.map(|why| why.to_string()),
    })
}

/// Divides an edit into the text that is written here, and the fleet's tables before and after, if they change.
fn split(before: &str, after: &str) -> (String, Option<(String, String)>) {
    match (shared::tables(before), shared::tables(after)) {
        (Some(old), Some(new)) if old != new => {
            // The text keeps its part with the tables, and with it the path of this member's copy.
            let local = shared::with_tables(after, "", old);
            (local, Some((old.to_owned(), new.to_owned())))
        }
        // A text with and one without them can't replace each other: writing it is refused.
        _ => (after.to_owned(), None),
    }
}
