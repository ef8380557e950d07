//! Edits the configuration file on behalf of a client of the admin API.
//!
//! The steps are the same as in the commands that edit the file themselves: lock, edit, check, announce, replace, and wait until
//! every worker has adopted the result. Work that may block runs on a thread of its own, never on the control thread. If the
//! proxy refuses the edited file, for example because a port is taken, the previous text is put back.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::blocking::on_thread;
use super::history::{Attribution, ChangeCause};
use super::saved_edit::{EditFault, SavedEdit, share};
use super::shared_edit::ShareRefused;
use super::{Context, ControlCommand};
use crate::config::file_edit::FileEdit;

/// Name of the threads that edit.
const THREAD: &str = "file-edit";

/// Number of attempts at an edit of the fleet's tables when other edits come first.
const ATTEMPTS: usize = 10;

/// Pause in which this member takes up the other edit.
const PAUSE: Duration = Duration::from_millis(100);

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

/// Edits the file of one proxy.
#[derive(Clone)]
pub(super) struct FileEditor(pub(super) Arc<Context>);

impl FileEditor {
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

    /// The text of the file as an edit would leave it.
    ///
    /// # Errors
    /// The file is busy, can't be read or doesn't allow the edit.
    pub(super) async fn rehearse(&self, edit: FileEdit) -> Result<Arc<str>, EditFault> {
        let file = self.0.live.source().path;
        let text = on_thread(THREAD, move || SavedEdit::rehearse(&file, &edit)).await;
        Ok(text.map_err(EditFault::internal)??.into())
    }

    async fn run(&self, edit: FileEdit, by: Option<String>) -> Result<EditReport, EditFault> {
        for _ in 0..ATTEMPTS {
            if let Some(report) = self.try_edit(edit.clone(), by.clone()).await? {
                return Ok(report);
            }
            tokio::time::sleep(PAUSE).await;
        }
        let busy = "other members keep changing the fleet's tables: try again";
        Err(EditFault::new(StatusCode::CONFLICT, busy))
    }

    /// Makes an edit. Returns `None` if another member has changed the fleet's tables in between.
    async fn try_edit(
        &self,
        edit: FileEdit,
        by: Option<String>,
    ) -> Result<Option<EditReport>, EditFault> {
        let (file, history) = (self.0.live.source().path, self.0.history.clone());
        let by = Attribution {
            cause: ChangeCause::Api,
            who: by,
        };
        let saved = on_thread(THREAD, move || SavedEdit::make(&file, &edit, by, &history));
        let saved = saved.await.map_err(EditFault::internal)??;
        let changed = saved.has_changed();
        let outcome = match saved.shared().cloned() {
            None => self.reload().await?,
            Some(change) => match share(change, &self.0.publisher).await {
                Ok(generation) => Ok(generation),
                Err(refused) => {
                    // The part of the edit that is on this machine, if it has one.
                    let _ = on_thread(THREAD, move || saved.put_back()).await;
                    return unshared(refused);
                }
            },
        };
        match outcome {
            Ok(generation) => Ok(Some(EditReport {
                generation,
                changed,
                in_place: saved.in_place,
            })),
            Err(why) => {
                let restored =
                    changed && on_thread(THREAD, move || saved.put_back()).await == Ok(true);
                let end = match restored {
                    true => {
                        // Clears the error in the status. Whether that works doesn't change the answer.
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
        let command = |answer| ControlCommand::Reload { answer };
        let outcome = self.0.ask(command).await;
        outcome.ok_or_else(EditFault::stopping)
    }
}

/// Decides what follows a refused edit of the fleet's tables: `None` to try again, or the error for the client.
fn unshared(refused: ShareRefused) -> Result<Option<EditReport>, EditFault> {
    match refused {
        ShareRefused::Overtaken => Ok(None),
        ShareRefused::Failed(why) => {
            let message = format!("the fleet's tables can't be changed: {why}");
            Err(EditFault::new(StatusCode::SERVICE_UNAVAILABLE, message))
        }
        ShareRefused::Refused(why) => {
            let message = format!("the proxy refuses the tables, which are as before\n{why}");
            Err(EditFault::new(StatusCode::UNPROCESSABLE_ENTITY, message))
        }
    }
}
