//! Edits the configuration file on behalf of a client of the admin API.
//!
//! The steps are those of the commands that edit the file themselves: lock, edit, check, announce, replace, and wait until every
//! worker has adopted the result. What may block runs on a thread of its own, never on the control thread. If the proxy
//! refuses the edited file, for example because a port is taken, the previous text is put back.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::blocking::on_thread;
use super::history::{Announcement, ChangeCause, History};
use super::{Context, ControlCommand};
use crate::config::edit::{LockedFile, Replaced};
use crate::config::file_edit::{EditRefusal, EditedText, FileEdit, unwritable_help};
use crate::config::load;
use crate::snapshot::Live;

/// Time limit for the lock on the file. Commands hold it until their edit is adopted.
const LOCK_TIMEOUT: Duration = Duration::from_secs(15);

/// Interval between two attempts to lock the file.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// The author of a change whose client gives none.
const UNNAMED: &str = "admin API";

/// The response to an edit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EditReport {
    /// The generation that runs on every worker.
    pub generation: u64,
    /// Whether the edit changed the file.
    pub changed: bool,
    /// Why the file was overwritten instead of replaced; `None` if it was replaced.
    pub in_place: Option<String>,
}

/// Why an edit failed: the status of the response, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EditFault {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl EditFault {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    pub(super) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the proxy is stopping")
    }

    fn conflict(file: &Path, what: &str, error: &io::Error) -> Self {
        let help = unwritable_help(error).join("\n");
        let message = format!("the proxy can't {what} {}: {error}\n{help}", file.display());
        Self::new(StatusCode::CONFLICT, message)
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
struct SavedEdit {
    locked: LockedFile,
    before: String,
    edited: EditedText,
    in_place: Option<String>,
}

impl SavedEdit {
    /// Puts the previous text back, unless another program has changed the file. Blocks.
    fn put_back(mut self) -> bool {
        let ours = self
            .locked
            .read()
            .is_ok_and(|text| text == self.edited.text);
        ours && self.locked.replace(&self.before).is_ok()
    }
}

/// Edits the file of one proxy.
#[derive(Clone)]
pub(super) struct FileEditor {
    live: Arc<Live>,
    history: Arc<History>,
    publisher: mpsc::Sender<ControlCommand>,
}

impl FileEditor {
    pub(super) fn new(context: &Context) -> Self {
        Self {
            live: context.live.clone(),
            history: context.history.clone(),
            publisher: context.publisher.clone(),
        }
    }

    /// Makes an edit and returns once every worker has adopted it. `by` is the author for the history.
    ///
    /// # Errors
    /// The file is busy, can't be written or doesn't allow the edit, or the proxy refuses the result.
    pub(super) async fn edit(
        self,
        edit: FileEdit,
        by: Option<String>,
    ) -> Result<EditReport, EditFault> {
        // In a task of its own, so that a client that disconnects halfway doesn't leave a refused text in the file.
        let task = tokio::spawn(async move { self.run(edit, by).await });
        // The task fails only if the runtime shuts down.
        task.await.unwrap_or_else(|_| Err(EditFault::stopping()))
    }

    async fn run(&self, edit: FileEdit, by: Option<String>) -> Result<EditReport, EditFault> {
        let (file, history) = (self.live.source().path, self.history.clone());
        let saved = on_thread(move || {
            let locked = lock(&file)?;
            save(locked, &file, &edit, by, &history)
        });
        let saved = saved.await.unwrap_or_else(|| Err(EditFault::stopping()))?;
        let changed = saved.edited.text != saved.before;
        match self.reload().await? {
            Ok(generation) => Ok(EditReport {
                generation,
                changed,
                in_place: saved.in_place,
            }),
            Err(why) => {
                let restored = changed && on_thread(move || saved.put_back()).await == Some(true);
                let end = match restored {
                    true => {
                        // Clears the error in the status; whether that works doesn't change the answer.
                        let _ = self.reload().await;
                        "the file holds its previous text again"
                    }
                    false => "the edit stays in the file",
                };
                let message = format!("the proxy refuses the file: {end}\n{why}");
                Err(EditFault::new(StatusCode::UNPROCESSABLE_ENTITY, message))
            }
        }
    }

    /// Makes the publisher read the file. The inner error is the reason of a refusal.
    async fn reload(&self) -> Result<Result<u64, String>, EditFault> {
        let (answer, outcome) = oneshot::channel();
        let sent = self.publisher.send(ControlCommand::Reload { answer }).await;
        sent.map_err(|_| EditFault::stopping())?;
        outcome.await.map_err(|_| EditFault::stopping())
    }
}

/// Locks the file, and waits for other commands that edit it. Blocks.
#[expect(clippy::disallowed_methods, reason = "it runs on a thread of its own")]
fn lock(file: &Path) -> Result<LockedFile, EditFault> {
    let began = Instant::now();
    loop {
        match LockedFile::try_lock(file) {
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
    mut locked: LockedFile,
    file: &Path,
    edit: &FileEdit,
    by: Option<String>,
    history: &History,
) -> Result<SavedEdit, EditFault> {
    let before = locked
        .read()
        .map_err(|error| EditFault::conflict(file, "read", &error))?;
    let edited = edit.apply(&before, &file.display().to_string())?;
    let mut in_place = None;
    if edited.text != before {
        let hash = load::hash(edited.text.as_bytes());
        let announced = |by: String| {
            let hash = hash.clone();
            history.announce(Announcement { hash, by }, ChangeCause::Api)
        };
        // A name that can't be shown is not used.
        if by.is_none_or(|by| announced(by).is_err()) {
            let _ = announced(UNNAMED.to_owned());
        }
        let replaced = locked.replace(&edited.text);
        let replaced = replaced.map_err(|error| EditFault::conflict(file, "write", &error))?;
        if let Replaced::InPlace(why) = replaced {
            in_place = Some(why.to_string());
        }
    }
    Ok(SavedEdit {
        locked,
        before,
        edited,
        in_place,
    })
}
