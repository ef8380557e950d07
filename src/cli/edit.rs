//! Edits of the configuration file by a command: here on the file, or through the admin API by the proxy on its own file.
//!
//! A command that edits the file locks it from reading it until every worker runs the edited text, so that concurrent commands
//! take effect one after the other. It announces the text to the proxy first, for the history. [`progress`] determines the state of
//! an edit from the proxy's status.

pub(super) mod progress;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::CommandResult;
use super::author::{announce, author};
use super::error::CommandError;
use super::proxy::{Proxy, ProxyError};
use super::proxy_address::{ProxyAddress, shown};
use crate::admin::file_editor::EditReport;
use crate::admin::status::ProxyStatus;
use crate::config::file_edit::{EditedText, FileEdit, unwritable_help};
use crate::config::file_set::{FileError, LockedFiles, WrittenFile};
use crate::config::load;
use progress::{Edit, Goal, ShiftProgress};

/// Time limit for the proxy to put the edit into effect.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for the lock on the file. One command holds it for up to [`TIMEOUT`], and several may be waiting.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Time limit for an edit through the admin API, which waits for the lock and for the adoption.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Interval between two attempts to lock the file, and between two requests for the status.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Time after which a message names the condition that the command waits for.
const NOTICE_DELAY: Duration = Duration::from_millis(500);

/// Exit code if no proxy answers.
pub(super) const NO_PROXY: u8 = 3;

/// The proxy of a command, and the locked file that the command edits.
pub(super) struct FileSession {
    /// The proxy, or the reason why none answers.
    pub proxy: Result<Proxy, CommandError>,
    /// The generation that was published before the edit; 0 without a proxy.
    pub before: u64,
    /// The main file.
    pub file: PathBuf,
    /// The file that was edited, once one was.
    edited: Option<PathBuf>,
    locked: LockedFiles,
    /// The name of the command, for the history.
    command: &'static str,
}

impl FileSession {
    /// Finds the proxy and locks the file.
    ///
    /// # Errors
    /// The file is not known or can't be locked, or the proxy does not answer as one should.
    pub(super) async fn begin(
        address: &ProxyAddress,
        command: &'static str,
    ) -> Result<Self, CommandError> {
        let file = address.file()?;
        let proxy = match Proxy::find(address).await {
            Ok((proxy, _)) => Ok(proxy),
            Err(ProxyError::Unreachable(fault)) => Err(fault),
            Err(ProxyError::Failed(fault)) => return Err(fault.with("the file was not changed")),
        };
        let locked = locked(&file).await?;
        // Read under the lock, so that no other command's edit is published between this generation and the edit's.
        let before = match &proxy {
            Ok(proxy) => proxy.status().await?.generation,
            Err(_) => 0,
        };
        Ok(Self {
            proxy,
            before,
            file,
            edited: None,
            locked,
            command,
        })
    }

    /// Makes the edit: announces the text and writes it to the file, unless the file holds it already.
    ///
    /// # Errors
    /// The edit is refused, or the file can't be read or written.
    pub(super) async fn save(&mut self, edit: &FileEdit) -> Result<EditedText, CommandError> {
        let text = self.locked.read();
        let text = text.map_err(|FileError { file, source }| {
            CommandError::new(format!("can't read {}: {source}", shown(&file)))
        })?;
        let edited = edit.apply(&text, &shown(&self.file));
        let edited = edited.map_err(|refusal| CommandError::new(refusal.to_string()))?;
        if edited.text != text {
            if let Ok(proxy) = &self.proxy {
                announce(proxy, self.command, &edited.text).await;
            }
            let written = self.locked.replace(&text, &edited.text);
            let written = written.map_err(|e| unwritable(&e.file, &e.source))?;
            for WrittenFile { file, in_place } in &written {
                if let Some(why) = in_place {
                    anstream::eprintln!("overwrote {} in place: {why}", shown(file));
                }
            }
            self.edited = written.into_iter().next().map(|written| written.file);
        }
        Ok(edited)
    }

    /// Waits until the proxy has adopted a saved edit, and releases the lock. Returns the line that says so. `edit` is made of the
    /// hash of the text and the generation before it.
    ///
    /// # Errors
    /// Exit code 3 if no proxy answers; else the proxy refuses the file, or doesn't adopt it in time.
    pub(super) async fn adopted(
        self,
        edited: &EditedText,
        edit: impl FnOnce(String, u64) -> Edit,
        summary: String,
    ) -> Result<(Proxy, String), CommandError> {
        let proxy = self.proxy.map_err(|unreachable| {
            let changed = format!(
                "{} was changed ({summary}), but no proxy answers",
                shown(self.edited.as_ref().unwrap_or(&self.file))
            );
            let mut changed = CommandError::new(changed).exit(NO_PROXY);
            changed.detail = unreachable.detail;
            changed
        })?;
        let wait = Wait {
            proxy: proxy.clone(),
            edited: self.edited,
            file: Some(self.file),
            edit: edit(load::hash(edited.text.as_bytes()), self.before),
            summary,
            saved: Instant::now(),
        };
        Ok((proxy, wait.adopted(Some(self.locked)).await?))
    }
}

/// Posts an edit to the admin API of the proxy, which edits its own file.
///
/// # Errors
/// No proxy answers (exit code 3), or it refuses the edit.
pub(super) async fn post<T: DeserializeOwned>(
    address: &ProxyAddress,
    command: &str,
    path: &str,
    body: &impl Serialize,
) -> Result<(Proxy, T), CommandError> {
    let (proxy, _) = find(address).await?;
    let by = Some(author(command));
    let answer = proxy.post_as(path, body, by, REQUEST_TIMEOUT).await?;
    Ok((proxy, answer))
}

/// An edit of a service that the proxy makes to its own file.
pub(super) struct ApiEdit<'a> {
    /// The name of the command, for the history.
    pub command: &'static str,
    pub service: &'a str,
    /// The part of the service that is edited: the last segment of the API's path.
    pub part: &'static str,
    /// The new value of each name.
    pub values: Map<String, Value>,
    /// The roles and shares that have to be in effect.
    pub goals: Vec<Goal>,
    /// The edit in a few words.
    pub summary: String,
}

impl ApiEdit<'_> {
    /// Lets the proxy edit its file, waits until the edit is in effect, and prints a line about it.
    ///
    /// # Errors
    /// See [`post`] and [`Wait::adopted`].
    pub(super) async fn make(self, address: &ProxyAddress) -> CommandResult {
        let path = format!("/api/v1/services/{}/{}", self.service, self.part);
        let saved = Instant::now();
        let (proxy, report) =
            post::<EditReport>(address, self.command, &path, &self.values).await?;
        if let Some(why) = &report.in_place {
            anstream::eprintln!("the proxy overwrote its file in place: {why}");
        }
        let wait = Wait {
            proxy,
            edited: None,
            file: None,
            edit: Edit::adopted(self.service, self.goals, report.generation),
            summary: self.summary,
            saved,
        };
        anstream::println!("{}", wait.adopted(None).await?);
        Ok(0)
    }
}

/// Finds the proxy, with exit code 3 if there is none.
///
/// # Errors
/// See [`Proxy::find`].
pub(super) async fn find(address: &ProxyAddress) -> Result<(Proxy, ProxyStatus), CommandError> {
    Proxy::find(address).await.map_err(|error| match error {
        ProxyError::Unreachable(fault) => fault.exit(NO_PROXY),
        ProxyError::Failed(fault) => fault,
    })
}

/// Locks the file against other commands that edit it.
///
/// # Errors
/// The file can't be opened, or another command has held it for [`LOCK_TIMEOUT`].
pub(super) async fn locked(file: &Path) -> Result<LockedFiles, CommandError> {
    let began = Instant::now();
    let mut noticed = false;
    loop {
        let tried = LockedFiles::try_lock(file);
        if let Some(locked) = tried
            .map_err(|e| CommandError::new(format!("can't open and lock {}: {e}", shown(file))))?
        {
            return Ok(locked);
        }
        if began.elapsed() > LOCK_TIMEOUT {
            let held = format!(
                "another command has been editing {} for {LOCK_TIMEOUT:?}",
                shown(file)
            );
            return Err(CommandError::new(held).with("the file was not changed"));
        }
        if began.elapsed() > NOTICE_DELAY && !std::mem::replace(&mut noticed, true) {
            anstream::eprintln!("waiting for another command that edits {}", shown(file));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The error for a file that can't be written, with advice where to change it instead.
fn unwritable(file: &Path, error: &std::io::Error) -> CommandError {
    let fault = CommandError::new(format!("can't write {}: {error}", shown(file)));
    let help = unwritable_help(error).iter();
    help.fold(fault, |fault, line| fault.with(*line))
}

/// The wait for an edit that is in the file but not in effect yet.
pub(super) struct Wait {
    /// The proxy to ask.
    pub proxy: Proxy,
    /// The main file; `None` if the proxy edited its own.
    pub file: Option<PathBuf>,
    /// The file that was edited, if it is known and another one.
    pub edited: Option<PathBuf>,
    /// The edit to wait for.
    pub edit: Edit,
    /// The edit in a few words: `shop: v1 95%, v2 5%`.
    pub summary: String,
    /// When the edit was saved.
    pub saved: Instant,
}

impl Wait {
    /// Waits until the edit is in effect, and returns the line that says so. The lock is released once every worker has the edit,
    /// even if a gate still holds its shares back: the health check may take long, and other edits needn't wait for it.
    pub(super) async fn adopted(
        &self,
        mut locked: Option<LockedFiles>,
    ) -> Result<String, CommandError> {
        let (mut noticed, mut held) = (false, false);
        loop {
            let status = self.proxy.status().await?;
            let late = self.saved.elapsed() > TIMEOUT;
            match self.edit.progress(&status, self.hash().as_deref()) {
                ShiftProgress::Live(generation) => {
                    return Ok(self.live(generation, ""));
                }
                // An edit that a gate held back was never in effect before it was replaced.
                ShiftProgress::Past(generation) if !held => {
                    return Ok(self.live(generation, "; a later edit has since replaced it"));
                }
                ShiftProgress::Past(_) | ShiftProgress::Overwritten => {
                    return Err(self.overwritten());
                }
                ShiftProgress::Refused(why) => return Err(self.refused(&why)),
                ShiftProgress::Held(versions) if late => {
                    let fault = format!(
                        "{}: adopted, but not in effect after {TIMEOUT:?}",
                        self.summary
                    );
                    return Err(CommandError::new(fault).with(held_back(&versions)));
                }
                ShiftProgress::Held(versions) => {
                    drop(locked.take());
                    noticed = true;
                    if !std::mem::replace(&mut held, true) {
                        anstream::eprintln!("{}", held_back(&versions));
                    }
                }
                ShiftProgress::Pending if late => return Err(self.late(&status)),
                ShiftProgress::Pending => {}
            }
            if !noticed && self.saved.elapsed() > NOTICE_DELAY {
                noticed = true;
                anstream::eprintln!(
                    "waiting for the proxy (pid {}) to adopt the edit",
                    status.pid
                );
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The hash of the current content of the files, which other writers may have changed since.
    fn hash(&self) -> Option<String> {
        load::hash_of(self.file.as_ref()?)
    }

    /// The file that was edited, for messages.
    fn place(&self) -> String {
        match self.edited.as_ref().or(self.file.as_ref()) {
            Some(file) => shown(file),
            None => "the proxy's file".to_owned(),
        }
    }

    fn live(&self, generation: u64, more: &str) -> String {
        let (summary, took) = (&self.summary, self.saved.elapsed().as_millis());
        format!("{summary}: live on every worker after {took} ms (generation {generation}){more}")
    }

    fn refused(&self, why: &str) -> CommandError {
        let refused = "the proxy refuses the file; the previous configuration stays in use";
        CommandError::new(format!("{refused}\n{why}")).with(format!(
            "the edit stays in {} ({})",
            self.place(),
            self.summary
        ))
    }

    fn overwritten(&self) -> CommandError {
        CommandError::new("a later edit replaced this one before it was in effect").with(format!(
            "{} has changed since, and the proxy runs its current content",
            self.place()
        ))
    }

    fn late(&self, status: &ProxyStatus) -> CommandError {
        let fault = CommandError::new(format!("not in effect after {TIMEOUT:?}"))
            .with(format!("the edit stays in {}", self.place()));
        let canonical = |path: &Path| path.canonicalize().ok();
        let other = self
            .file
            .as_deref()
            .is_some_and(|file| canonical(Path::new(&status.config.path)) != canonical(file));
        if other {
            return fault.with(format!(
                "the proxy that answers runs with {}: name the right one with -c or --admin",
                status.config.path
            ));
        }
        if let Some(why) = &status.config.error {
            let fault = fault.with("the file was changed again, and the proxy refuses it:");
            return why.lines().fold(fault, |fault, line| fault.with(line));
        }
        let (adopted, generation) = (status.adopted, status.generation);
        fault.with(format!(
            "generation {generation} is published, but some workers still run generation {adopted}"
        ))
    }
}

/// Explains why an adopted split is not in effect: the gate waits for a health check of these versions.
pub(super) fn held_back(versions: &[String]) -> String {
    let versions = versions.join(", ");
    format!(
        "the previous split stays in effect until an endpoint of {versions} passes its health check"
    )
}
