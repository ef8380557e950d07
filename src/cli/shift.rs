//! `cutover shift SERVICE VERSION=SHARE...` and, for a cut-over, `cutover shift SERVICE VERSION`.
//!
//! The command edits the configuration file and waits until the running proxy has adopted the edit. The file stays locked
//! from reading it until every worker runs the edited text, so that concurrent commands take effect one after the other.
//! [`progress`] decides from the proxy's status what has become of an edit.

mod progress;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use super::author::announce;
use super::error::CommandError;
use super::proxy::{Proxy, ProxyError};
use super::proxy_address::{ProxyAddress, shown};
use super::{CommandResult, block_on};
use crate::admin::status::ProxyStatus;
use crate::config::edit::{self, LockedFile, Replaced};
use crate::config::spec::Share;
use crate::config::{self, Spec};
use progress::{Edit, ShiftProgress};

/// Time limit for the proxy to put the edit into effect.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for the lock on the file. One command holds it for up to [`TIMEOUT`], and several may be waiting.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Interval between two attempts to lock the file, and between two requests for the status.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Time after which a message says what the command is waiting for.
const NOTICE_DELAY: Duration = Duration::from_millis(500);

/// Moves traffic between the versions of a service.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  in effect on every worker\n  1  refused, held back, or not in effect in time; the message says whether the file was changed\n  3  the file was changed, but no proxy answers"
)]
pub(super) struct ShiftArgs {
    /// Name of the service
    service: String,
    /// Share of a canary, such as `green=5%`; a version without a share becomes stable
    #[arg(required = true, value_name = "VERSION=SHARE", value_parser = desired_share)]
    changes: Vec<DesiredShare>,
}

/// The change of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
enum DesiredShare {
    /// `green=5%`: the version gets this share of the split.
    Share(String, Share),
    /// `green`: the version becomes stable and gets what the split leaves.
    Stable(String),
}

impl DesiredShare {
    fn version(&self) -> &str {
        let (Self::Share(version, _) | Self::Stable(version)) = self;
        version
    }
}

fn desired_share(text: &str) -> Result<DesiredShare, String> {
    match text.split_once('=') {
        None if !text.is_empty() => Ok(DesiredShare::Stable(text.to_owned())),
        Some((version, share)) if !version.is_empty() => {
            Ok(DesiredShare::Share(version.to_owned(), share.parse()?))
        }
        _ => Err("expected VERSION=SHARE, for example green=5%".to_owned()),
    }
}

impl ShiftArgs {
    pub(super) fn run(&self, address: &ProxyAddress) -> CommandResult {
        let file = address.file()?;
        block_on(self.shift(address, file))?
    }

    async fn shift(&self, address: &ProxyAddress, file: PathBuf) -> CommandResult {
        let found = match Proxy::find(address).await {
            Ok((proxy, _)) => Ok(proxy),
            Err(ProxyError::Unreachable(fault)) => Err(fault),
            Err(ProxyError::Failed(fault)) => return Err(fault.with("the file was not changed")),
        };
        let mut locked = locked(&file).await?;
        // Read under the lock, so that no other command's edit is published between this generation and ours.
        let before = match &found {
            Ok(proxy) => proxy.status().await?.generation,
            Err(_) => 0,
        };
        let (edited, spec) = self.save(&mut locked, &file, found.as_ref().ok()).await?;
        let saved = Instant::now();
        let shares = self.shares(&spec);
        let proxy = found.map_err(|unreachable| {
            let edited = format!(
                "{} was changed ({shares}), but no proxy answers",
                shown(&file)
            );
            let mut edited = CommandError::new(edited).exit(3);
            edited.detail = unreachable.detail;
            edited
        })?;
        let hash = config::load::hash(edited.as_bytes());
        let versions: Vec<&str> = self.changes.iter().map(DesiredShare::version).collect();
        let edit = Edit::new(&self.service, &versions, &spec, hash, before);
        let wait = Wait {
            proxy,
            file,
            edit,
            shares,
            saved,
        };
        wait.adopted(locked).await
    }

    /// Announces the edit to the proxy and writes it to the file. Returns the edited text and its parsed form.
    async fn save(
        &self,
        locked: &mut LockedFile,
        file: &Path,
        proxy: Option<&Proxy>,
    ) -> Result<(String, Spec), CommandError> {
        let text = locked
            .read()
            .map_err(|e| CommandError::new(format!("can't read {}: {e}", shown(file))))?;
        let edited = self
            .edited(&text)
            .map_err(|error| CommandError::new(error.to_string()))?;
        let spec = config::parse(&edited, &shown(file)).map_err(|errors| {
            let refused = CommandError::new("the edited file would be invalid; it was not changed");
            errors.iter().fold(refused, |fault, error| {
                let lines = error.rendered(false);
                lines.lines().fold(fault, |fault, line| fault.with(line))
            })
        })?;
        if edited != text {
            if let Some(proxy) = proxy {
                announce(proxy, "shift", &edited).await;
            }
            let replaced = locked.replace(&edited);
            if let Replaced::InPlace(why) = replaced.map_err(|e| unwritable(file, &e))? {
                anstream::eprintln!("overwrote {} in place: {why}", shown(file));
            }
        }
        Ok((edited, spec))
    }

    fn edited(&self, text: &str) -> Result<String, edit::EditError> {
        let mut edited = text.to_owned();
        for change in &self.changes {
            edited = match change {
                DesiredShare::Share(version, share) => {
                    edit::shift(&edited, &self.service, &[(version, *share)])
                }
                DesiredShare::Stable(version) => edit::set_stable(&edited, &self.service, version),
            }?;
        }
        Ok(edited)
    }

    /// The shares of the service in the edited file: `shop: v1 95%, v2 5%`.
    fn shares(&self, spec: &Spec) -> String {
        let found = spec.services.iter().find(|s| s.name == self.service);
        let Some(service) = found else {
            return self.service.clone();
        };
        let name = |version: usize| &service.versions[version].name;
        let canaries: u32 = service.split.iter().map(|(_, share)| share.0).sum();
        let rest = Share(Share::WHOLE - canaries);
        let mut shares = vec![format!("{} {rest}", name(service.stable))];
        let split = service.split.iter();
        shares.extend(split.map(|(v, share)| format!("{} {share}", name(*v))));
        format!("{}: {}", service.name, shares.join(", "))
    }
}

/// Locks the file against other commands that edit it.
///
/// # Errors
/// The file can't be opened, or another command has held it for [`LOCK_TIMEOUT`].
pub(super) async fn locked(file: &Path) -> Result<LockedFile, CommandError> {
    let began = Instant::now();
    let mut noticed = false;
    loop {
        let tried = LockedFile::try_lock(file);
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

/// The error for a file that can't be written, with a hint where to change it instead.
fn unwritable(file: &Path, error: &io::Error) -> CommandError {
    let fault = CommandError::new(format!("can't write {}: {error}", shown(file)));
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => fault
            .with("a mounted ConfigMap, Secret or image can only be changed at its source,")
            .with("for example with `kubectl edit configmap`; the proxy then reloads the file by itself"),
        io::ErrorKind::PermissionDenied => fault
            .with("the current user can write neither the file nor its directory:")
            .with("run the command as the file's owner, or give your group write access (chmod g+w)"),
        _ => fault.with("the file was not changed"),
    }
}

/// The wait for an edit that is in the file but not in effect yet.
struct Wait {
    proxy: Proxy,
    file: PathBuf,
    edit: Edit,
    /// The shares of the service in the edited file.
    shares: String,
    saved: Instant,
}

impl Wait {
    /// Waits until the edit is in effect. The lock is released once every worker has the edit, even if a gate still holds
    /// its shares back: the health check may take long, and other edits needn't wait for it.
    async fn adopted(&self, locked: LockedFile) -> CommandResult {
        let mut locked = Some(locked);
        let (mut noticed, mut held) = (false, false);
        loop {
            let status = self.proxy.status().await?;
            let late = self.saved.elapsed() > TIMEOUT;
            match self.edit.progress(&status, self.hash().as_deref()) {
                ShiftProgress::Live(generation) => {
                    self.print_live(generation, "");
                    return Ok(0);
                }
                ShiftProgress::Past(generation) if !held => {
                    self.print_live(generation, "; a later edit has since replaced it");
                    return Ok(0);
                }
                ShiftProgress::Past(_) | ShiftProgress::Overwritten => {
                    return Err(self.overwritten());
                }
                ShiftProgress::Refused(why) => return Err(self.refused(&why)),
                ShiftProgress::Held(versions) if late => {
                    let fault = format!(
                        "{}: adopted, but not in effect after {TIMEOUT:?}",
                        self.shares
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

    /// The hash of the file's current content, which other writers may have changed since.
    fn hash(&self) -> Option<String> {
        let text = std::fs::read(&self.file).ok()?;
        Some(config::load::hash(&text))
    }

    fn print_live(&self, generation: u64, more: &str) {
        let (shares, took) = (&self.shares, self.saved.elapsed().as_millis());
        anstream::println!(
            "{shares}: live on every worker after {took} ms (generation {generation}){more}"
        );
    }

    fn refused(&self, why: &str) -> CommandError {
        let refused = "the proxy refuses the file; the previous configuration stays in use";
        CommandError::new(format!("{refused}\n{why}")).with(format!(
            "the edit stays in {} ({})",
            shown(&self.file),
            self.shares
        ))
    }

    fn overwritten(&self) -> CommandError {
        CommandError::new("a later edit replaced this one before it was in effect").with(format!(
            "{} has changed since, and the proxy runs its current content",
            shown(&self.file)
        ))
    }

    fn late(&self, status: &ProxyStatus) -> CommandError {
        let fault = CommandError::new(format!("not in effect after {TIMEOUT:?}"))
            .with(format!("the edit stays in {}", shown(&self.file)));
        let same = |path: &str| Path::new(path).canonicalize().ok();
        if same(&status.config.path) != same(&shown(&self.file)) {
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

/// Says why an adopted split is not in effect: the gate waits for a health check of these versions.
pub(super) fn held_back(versions: &[String]) -> String {
    let versions = versions.join(", ");
    format!(
        "the previous split stays in effect until an endpoint of {versions} passes its health check"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_for_an_unwritable_file_says_where_to_change_it() {
        let error = |kind: io::ErrorKind| unwritable(Path::new("a.toml"), &kind.into()).to_string();
        assert!(error(io::ErrorKind::ReadOnlyFilesystem).contains("kubectl edit configmap"));
        assert!(error(io::ErrorKind::PermissionDenied).contains("chmod g+w"));
        assert!(error(io::ErrorKind::StorageFull).contains("not changed"));
    }

    #[test]
    fn changes_are_parsed_as_typed() {
        let five = DesiredShare::Share("v2".to_owned(), Share(5_000));
        assert_eq!(desired_share("v2=5%"), Ok(five));
        assert_eq!(
            desired_share("v2"),
            Ok(DesiredShare::Stable("v2".to_owned()))
        );
        for wrong in ["", "=5%", "v2=", "v2=5", "v2=101%"] {
            assert!(desired_share(wrong).is_err(), "{wrong}");
        }
    }
}
