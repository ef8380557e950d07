//! `cutover shift SERVICE VERSION=SHARE...` and, for a cut-over, `cutover shift SERVICE VERSION`
//!
//! The file is locked from reading it until every worker has the edit, so that commands that run at once take effect
//! one after the other. [`progress`] says from the proxy's status what has become of an edit.

mod progress;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use super::fault::CommandError;
use super::proxy::{Proxy, Silence};
use super::proxy_address::{ProxyAddress, shown};
use super::{CommandResult, block_on};
use crate::admin::status::ProxyStatus;
use crate::config::edit::{self, LockedFile, Replaced};
use crate::config::spec::Share;
use crate::config::{self, Spec};
use progress::{Edit, ShiftProgress};

/// Longest time until the edit is live.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest wait for other commands that edit the file. One holds it for [`PATIENCE`] at most; many may be in line.
const LINE: Duration = Duration::from_secs(60);

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(5);

/// Somebody at a terminal is told what is waited for after this long.
const SILENT: Duration = Duration::from_millis(500);

/// Moves traffic.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 in effect on every worker, 1 refused, held back, or not live in time (the message says whether\nthe file is changed), 3 the file is changed but no proxy answers."
)]
pub(super) struct Shift {
    /// Service
    service: String,
    /// Shares of canaries: `green=5%`; a version alone becomes stable
    #[arg(required = true, value_name = "VERSION=SHARE", value_parser = wish)]
    wishes: Vec<DesiredShare>,
}

/// What is asked for a version.
#[derive(Clone, Debug, PartialEq, Eq)]
enum DesiredShare {
    /// `green=5%`
    Share(String, Share),
    /// `green`: all that the split leaves.
    Stable(String),
}

impl DesiredShare {
    fn version(&self) -> &str {
        let (Self::Share(version, _) | Self::Stable(version)) = self;
        version
    }
}

fn wish(text: &str) -> Result<DesiredShare, String> {
    match text.split_once('=') {
        None if !text.is_empty() => Ok(DesiredShare::Stable(text.to_owned())),
        Some((version, share)) if !version.is_empty() => {
            Ok(DesiredShare::Share(version.to_owned(), share.parse()?))
        }
        _ => Err("expected VERSION=SHARE, for example green=5%".to_owned()),
    }
}

impl Shift {
    pub(super) fn run(&self, place: &ProxyAddress) -> CommandResult {
        let file = place.file()?;
        block_on(self.shift(place, file))?
    }

    async fn shift(&self, place: &ProxyAddress, file: PathBuf) -> CommandResult {
        let found = match Proxy::find(place).await {
            Ok((proxy, _)) => Ok(proxy),
            Err(Silence::Nobody(fault)) => Err(fault),
            Err(Silence::Trouble(fault)) => return Err(fault.with("nothing is changed")),
        };
        let mut locked = locked(&file).await?;
        // Looked at under the lock: nobody else's edit comes between this and ours.
        let before = match &found {
            Ok(proxy) => proxy.status().await?.generation,
            Err(_) => 0,
        };
        let (edited, spec) = self.save(&mut locked, &file)?;
        let saved = Instant::now();
        let now = self.now(&spec);
        let proxy = found.map_err(|nobody| {
            let edited = format!("{} is changed ({now}), but no proxy answers", shown(&file));
            let mut edited = CommandError::new(edited).exit(3);
            edited.detail = nobody.detail;
            edited
        })?;
        let hash = config::load::hash(edited.as_bytes());
        let versions: Vec<&str> = self.wishes.iter().map(DesiredShare::version).collect();
        let edit = Edit::new(&self.service, &versions, &spec, hash, before);
        let wait = Wait {
            proxy,
            file,
            edit,
            now,
            saved,
        };
        wait.adopted(locked).await
    }

    /// Writes the edit. Returns the text with it and what that says.
    fn save(&self, locked: &mut LockedFile, file: &Path) -> Result<(String, Spec), CommandError> {
        let text = locked
            .read()
            .map_err(|e| CommandError::new(format!("can't read {}: {e}", shown(file))))?;
        let edited = self
            .edited(&text)
            .map_err(|error| CommandError::new(error.to_string()))?;
        let spec = config::parse(&edited, &shown(file)).map_err(|errors| {
            let refused = CommandError::new("the file would not be valid; nothing is changed");
            errors.iter().fold(refused, |fault, error| {
                let lines = error.rendered(false);
                lines.lines().fold(fault, |fault, line| fault.with(line))
            })
        })?;
        if edited != text {
            let replaced = locked.replace(&edited);
            if let Replaced::InPlace(why) = replaced.map_err(|e| unwritable(file, &e))? {
                anstream::eprintln!("{} is overwritten in place: {why}", shown(file));
            }
        }
        Ok((edited, spec))
    }

    fn edited(&self, text: &str) -> Result<String, edit::EditError> {
        let mut edited = text.to_owned();
        for wish in &self.wishes {
            edited = match wish {
                DesiredShare::Share(version, share) => {
                    edit::shift(&edited, &self.service, &[(version, *share)])
                }
                DesiredShare::Stable(version) => edit::set_stable(&edited, &self.service, version),
            }?;
        }
        Ok(edited)
    }

    /// How the service's traffic is shared by the file as it is now: `shop: v1 95%, v2 5%`.
    fn now(&self, spec: &Spec) -> String {
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

/// The file, once no other command holds it.
pub(super) async fn locked(file: &Path) -> Result<LockedFile, CommandError> {
    let began = Instant::now();
    let mut told = false;
    loop {
        let tried = LockedFile::try_lock(file);
        if let Some(locked) = tried
            .map_err(|e| CommandError::new(format!("can't open and lock {}: {e}", shown(file))))?
        {
            return Ok(locked);
        }
        if began.elapsed() > LINE {
            let held = format!(
                "another command has been editing {} for {LINE:?}",
                shown(file)
            );
            return Err(CommandError::new(held).with("nothing is changed"));
        }
        if began.elapsed() > SILENT && !std::mem::replace(&mut told, true) {
            anstream::eprintln!("waiting for another command that edits {}", shown(file));
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// Why a file can't be written, and where it can be changed instead.
fn unwritable(file: &Path, error: &io::Error) -> CommandError {
    let fault = CommandError::new(format!("can't write {}: {error}", shown(file)));
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => fault
            .with("a mounted ConfigMap, Secret or image can only be changed where it comes from,")
            .with("for example with `kubectl edit configmap`; the proxy adopts the new text by itself"),
        io::ErrorKind::PermissionDenied => fault
            .with("this user may write neither the file nor its directory:")
            .with("run the command as the file's owner, or let a group of yours write it (chmod g+w)"),
        _ => fault.with("nothing is changed"),
    }
}

/// An edit that is in the file and not in effect yet.
struct Wait {
    proxy: Proxy,
    file: PathBuf,
    edit: Edit,
    /// The service's shares as the edited file gives them.
    now: String,
    saved: Instant,
}

impl Wait {
    /// Waits until the edit is in effect; the file is released when every worker has it.
    async fn adopted(&self, locked: LockedFile) -> CommandResult {
        let mut locked = Some(locked);
        let (mut told, mut held) = (false, false);
        loop {
            let status = self.proxy.status().await?;
            let late = self.saved.elapsed() > PATIENCE;
            match self.edit.progress(&status, self.hash().as_deref()) {
                ShiftProgress::Live(generation) => {
                    self.say_live(generation, "");
                    return Ok(0);
                }
                ShiftProgress::Past(generation) if !held => {
                    self.say_live(generation, "; a later edit has replaced it since");
                    return Ok(0);
                }
                ShiftProgress::Past(_) | ShiftProgress::Overwritten => {
                    return Err(self.overwritten());
                }
                ShiftProgress::Refused(why) => return Err(self.refused(&why)),
                ShiftProgress::Held(versions) if late => {
                    let fault = format!("{}: adopted, not in effect after {PATIENCE:?}", self.now);
                    return Err(CommandError::new(fault).with(waiting(&versions)));
                }
                ShiftProgress::Held(versions) => {
                    drop(locked.take());
                    told = true;
                    if !std::mem::replace(&mut held, true) {
                        anstream::eprintln!("{}", waiting(&versions));
                    }
                }
                ShiftProgress::Awaited if late => return Err(self.late(&status)),
                ShiftProgress::Awaited => {}
            }
            if !told && self.saved.elapsed() > SILENT {
                told = true;
                anstream::eprintln!("waiting for the proxy (pid {}) to adopt it", status.pid);
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Of the file as it is now.
    fn hash(&self) -> Option<String> {
        let text = std::fs::read(&self.file).ok()?;
        Some(config::load::hash(&text))
    }

    fn say_live(&self, generation: u64, more: &str) {
        let (now, took) = (&self.now, self.saved.elapsed().as_millis());
        anstream::println!(
            "{now}: live in every worker after {took} ms (generation {generation}){more}"
        );
    }

    fn refused(&self, why: &str) -> CommandError {
        let refused = "the proxy refuses the file; the old configuration runs on";
        CommandError::new(format!("{refused}\n{why}")).with(format!(
            "{} keeps the edit ({})",
            shown(&self.file),
            self.now
        ))
    }

    fn overwritten(&self) -> CommandError {
        CommandError::new("a later edit replaced this one before it was in effect").with(format!(
            "{} has another text now, which is what runs",
            shown(&self.file)
        ))
    }

    fn late(&self, status: &ProxyStatus) -> CommandError {
        let fault = CommandError::new(format!("not live after {PATIENCE:?}"))
            .with(format!("{} is changed", shown(&self.file)));
        let same = |path: &str| Path::new(path).canonicalize().ok();
        if same(&status.config.path) != same(&shown(&self.file)) {
            return fault.with(format!(
                "the proxy that answers runs by {}: say with -c or --admin which is meant",
                status.config.path
            ));
        }
        if let Some(why) = &status.config.error {
            let fault = fault.with("it was changed again, and the proxy refuses it:");
            return why.lines().fold(fault, |fault, line| fault.with(line));
        }
        let (adopted, generation) = (status.adopted, status.generation);
        fault.with(format!(
            "generation {generation} is published, all workers have adopted {adopted}"
        ))
    }
}

/// Why an adopted share is not in effect.
fn waiting(versions: &[String]) -> String {
    let versions = versions.join(", ");
    format!("the old split stays until an endpoint of {versions} passes its check")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_names_the_way() {
        let said = |kind: io::ErrorKind| unwritable(Path::new("a.toml"), &kind.into()).to_string();
        assert!(said(io::ErrorKind::ReadOnlyFilesystem).contains("kubectl edit configmap"));
        assert!(said(io::ErrorKind::PermissionDenied).contains("chmod g+w"));
        assert!(said(io::ErrorKind::StorageFull).contains("nothing is changed"));
    }

    #[test]
    fn wishes_as_typed() {
        let five = DesiredShare::Share("v2".to_owned(), Share(5_000));
        assert_eq!(wish("v2=5%"), Ok(five));
        assert_eq!(wish("v2"), Ok(DesiredShare::Stable("v2".to_owned())));
        for wrong in ["", "=5%", "v2=", "v2=5", "v2=101%"] {
            assert!(wish(wrong).is_err(), "{wrong}");
        }
    }
}
