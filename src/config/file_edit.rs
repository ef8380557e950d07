//! Edits of a configuration file that commands and the admin API make: shares, flags, versions, deployments, and the return to an
//! earlier text.
//!
//! [`FileEdit::apply`] is pure: it makes the new text, which is valid, from the text of the file, or returns the reason why it
//! can't. The caller holds the lock on the file and writes.

use std::fmt;
use std::io;
use std::str::FromStr;

use super::bundle::{self, FilePart};
use super::diagnostic::Diagnostic;
use super::edit::{self, EditError};
use super::load;
use super::spec::{ServiceSpec, Share, Spec};
use super::suggest::suggest;
use crate::index::VersionIx;

/// A change of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileEdit {
    /// Changes roles and shares of versions of a service, in this order.
    Split {
        /// Name of the service.
        service: String,
        /// Name of a version and its new role or share.
        changes: Vec<(String, SplitChange)>,
    },
    /// Changes the shares of flags of a service, in this order.
    Flags {
        /// Name of the service.
        service: String,
        /// Name of a flag and its new share.
        changes: Vec<(String, FlagChange)>,
    },
    /// Sets the endpoints or the label of a version, or both.
    Version(VersionEdit),
    /// Sets the endpoints or the label of a version, then starts the rollout of the service, or cuts over if it has no plan.
    Deploy(VersionEdit),
    /// Puts an earlier text back. The file must still have the text with the hash `running`.
    Restore {
        /// The earlier text.
        text: String,
        /// Hash of the text that the file must still have.
        running: String,
    },
}

/// New properties of a version. `None` leaves a property unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionEdit {
    /// Name of the service.
    pub service: String,
    /// Name of the version.
    pub version: String,
    /// Endpoints as the file writes them: `10.0.0.1:80 weight=2`.
    pub endpoints: Option<Vec<String>>,
    /// The version's label.
    pub label: Option<String>,
}

/// A change of a version's share or role in the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitChange {
    /// `5%`: the version gets this share.
    Share(Share),
    /// `rollout`: the version follows the plan of its service.
    Rollout,
    /// `stable`: the version becomes stable and gets what the split leaves.
    Stable,
}

impl fmt::Display for SplitChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{share}"),
            Self::Rollout => f.write_str("rollout"),
            Self::Stable => f.write_str("stable"),
        }
    }
}

impl FromStr for SplitChange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "rollout" => Ok(Self::Rollout),
            "stable" => Ok(Self::Stable),
            share => share.parse().map(Self::Share),
        }
    }
}

/// A change of a flag's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagChange {
    /// `5%`: the flag is on for this share of the users.
    Share(Share),
    /// `rollout`: the flag follows the plan of its service.
    Rollout,
}

impl fmt::Display for FlagChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{share}"),
            Self::Rollout => f.write_str("rollout"),
        }
    }
}

impl FromStr for FlagChange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "rollout" => Ok(Self::Rollout),
            share => share.parse().map(Self::Share),
        }
    }
}

/// A text that an edit has produced.
#[derive(Clone, Debug)]
pub struct EditedText {
    /// The whole text of the file.
    pub text: String,
    /// The configuration in the text.
    pub spec: Spec,
}

/// Why an edit can't be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EditRefusal {
    /// There is no such service or version.
    Unknown(String),
    /// The edit doesn't fit the current state of the file.
    Conflict(String),
    /// The file isn't valid, or would no longer be. Contains rendered diagnostics.
    Invalid(String),
}

impl fmt::Display for EditRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unknown(why) | Self::Conflict(why) | Self::Invalid(why)) = self;
        f.write_str(why)
    }
}

impl From<EditError> for EditRefusal {
    fn from(error: EditError) -> Self {
        let message = error.to_string();
        match error {
            EditError::NoService(..) | EditError::NoVersion(..) | EditError::NoFlag(..) => {
                Self::Unknown(message)
            }
            EditError::IsStable(..) | EditError::NoShare(..) => Self::Conflict(message),
            EditError::Syntax(_) | EditError::Malformed(_) => Self::Invalid(message),
        }
    }
}

impl FileEdit {
    /// Makes the new text of the file `name` from its current text.
    ///
    /// # Errors
    /// See [`EditRefusal`].
    pub fn apply(&self, text: &str, name: &str) -> Result<EditedText, EditRefusal> {
        let edited = match self {
            Self::Split { service, changes } => {
                in_its_file(text, service, |text| split(text, service, changes))?
            }
            Self::Flags { service, changes } => {
                in_its_file(text, service, |text| flags(text, service, changes))?
            }
            Self::Version(edit) => in_its_file(text, &edit.service, |text| version(text, edit))?,
            Self::Deploy(edit) => deploy(text, name, edit)?,
            Self::Restore {
                text: earlier,
                running,
            } => {
                if load::hash(text.as_bytes()) != *running {
                    return Err(EditRefusal::Conflict(format!(
                        "{name} has changed since the running configuration was adopted: `cutover reload` says whether it can be"
                    )));
                }
                earlier.clone()
            }
        };
        let spec = super::parse_bundle(&edited, name).map_err(|errors| {
            let why = "the edited file would be invalid; it was not changed";
            EditRefusal::Invalid(format!("{why}\n{}", rendered(&errors)))
        })?;
        Ok(EditedText { text: edited, spec })
    }
}

fn split(
    text: &str,
    service: &str,
    changes: &[(String, SplitChange)],
) -> Result<String, EditError> {
    let mut text = text.to_owned();
    for (version, change) in changes {
        text = match change {
            SplitChange::Share(share) => edit::shift(&text, service, &[(version, *share)]),
            SplitChange::Rollout => edit::start_rollout(&text, service, version),
            SplitChange::Stable => edit::set_stable(&text, service, version),
        }?;
    }
    Ok(text)
}

fn flags(text: &str, service: &str, changes: &[(String, FlagChange)]) -> Result<String, EditError> {
    let mut text = text.to_owned();
    for (flag, change) in changes {
        text = edit::set_flag(&text, service, flag, &change.to_string())?;
    }
    Ok(text)
}

fn version(text: &str, edit: &VersionEdit) -> Result<String, EditError> {
    let (service, version) = (&*edit.service, &*edit.version);
    let mut text = text.to_owned();
    if let Some(endpoints) = &edit.endpoints {
        text = edit::set_endpoints(&text, service, version, endpoints)?;
    }
    if let Some(label) = &edit.label {
        text = edit::set_label(&text, service, version, label)?;
    }
    Ok(text)
}

fn deploy(text: &str, name: &str, edit: &VersionEdit) -> Result<String, EditRefusal> {
    let spec = super::parse_bundle(text, name).map_err(|errors| {
        let why = format!("{name} is not valid; it was not changed");
        EditRefusal::Invalid(format!("{why}\n{}", rendered(&errors)))
    })?;
    let names: Vec<&str> = spec.services.iter().map(|s| s.name.as_str()).collect();
    let service = spec.services.iter().find(|s| s.name == edit.service);
    let service = service.ok_or_else(|| {
        let help = suggest(&edit.service, &names, "the services are");
        EditError::NoService(edit.service.clone(), help)
    })?;
    // Unknown versions are reported by the edit below.
    if let Some(at) = service.version(&edit.version) {
        deployable(service, at)?;
    }
    let edited = in_its_file(text, &edit.service, |text| {
        let text = version(text, edit)?;
        match service.rollout {
            Some(_) => edit::start_rollout(&text, &edit.service, &edit.version),
            None => edit::set_stable(&text, &edit.service, &edit.version),
        }
    });
    Ok(edited?)
}

/// Edits the file in which a service stands; the others stay as they are.
fn in_its_file(
    text: &str,
    service: &str,
    edit: impl FnOnce(&str) -> Result<String, EditError>,
) -> Result<String, EditError> {
    let parts = bundle::parts(text);
    let part = match &parts[..] {
        [main] => main,
        all => file_of(all, service)?,
    };
    Ok(bundle::with_part(text, part, &edit(part.text)?))
}

fn file_of<'p, 't>(
    parts: &'p [FilePart<'t>],
    service: &str,
) -> Result<&'p FilePart<'t>, EditError> {
    let mut names = Vec::new();
    for part in parts {
        let own = bundle::services(part);
        if own.iter().any(|name| name == service) {
            return Ok(part);
        }
        names.extend(own);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let help = suggest(service, &names, "the services are");
    Err(EditError::NoService(service.to_owned(), help))
}

/// Checks that a version may be deployed: it isn't stable, and no other version is on its way.
fn deployable(service: &ServiceSpec, version: VersionIx) -> Result<(), EditRefusal> {
    let name = |version: VersionIx| &*service.versions[version].name;
    let shop = &service.name;
    if version == service.stable {
        let idle = VersionIx::all(service.versions.len())
            .filter(|v| *v != service.stable && service.share(*v).0 == 0)
            .map(name);
        let idle: Vec<&str> = idle.collect();
        let help = match &idle[..] {
            [] => "add a version to deploy to".to_owned(),
            [one] => format!("deploy to the idle version `{one}`"),
            more => format!("deploy to an idle version: `{}`", more.join("`, `")),
        };
        return Err(EditRefusal::Conflict(format!(
            "`{}` is the stable version of `{shop}`: {help}",
            name(version)
        )));
    }
    let whole = |v: &VersionIx| *v != version && service.share(*v).0 == Share::WHOLE;
    if let Some(other) = VersionIx::all(service.versions.len())
        .filter(|v| *v != service.stable)
        .find(whole)
    {
        return Err(EditRefusal::Conflict(format!(
            "`{}` has 100% of `{shop}` and isn't stable yet: make it stable with `cutover shift {shop} {}`, or take its share back",
            name(other),
            name(other)
        )));
    }
    if let Some(other) = service.rolling_version().filter(|other| *other != version) {
        return Err(EditRefusal::Conflict(format!(
            "`{}` of `{shop}` is under a rollout: promote or abort it first",
            name(other)
        )));
    }
    if let Some(flag) = service.rolling_flag() {
        return Err(EditRefusal::Conflict(format!(
            "flag `{}` of `{shop}` is under a rollout: promote it or give it a share first",
            service.flags[flag].name
        )));
    }
    Ok(())
}

fn rendered(errors: &[Diagnostic]) -> String {
    let errors: Vec<String> = errors.iter().map(|e| e.rendered(false)).collect();
    errors.join("\n")
}

/// Says how to change a file that can't be written, in one or more lines.
pub fn unwritable_help(error: &io::Error) -> &'static [&'static str] {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => &[
            "a mounted ConfigMap, Secret or image can only be changed at its source,",
            "for example with `kubectl edit configmap`; the proxy then reloads the file by itself",
        ],
        io::ErrorKind::PermissionDenied => &[
            "the current user can write neither the file nor its directory:",
            "run the command as the file's owner, or give your group write access (chmod g+w)",
        ],
        _ => &["the file was not changed"],
    }
}

#[cfg(test)]
#[path = "file_edit_tests.rs"]
mod tests;
