//! Reads the files that `body_file` names, once the text of the configuration is valid.
//!
//! The content becomes part of the [`Spec`], so that a changed file makes a new generation like a changed text does.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::actions::{Actions, Answer, LARGEST_BODY};
use super::bundle::FilePart;
use super::diagnostic::Diagnostic;
use super::locate::{PathStep, locate};
use super::spec::{ServiceSpec, Spec};

/// Reads all body files into `spec`.
///
/// # Errors
/// A file can't be read, or is too large. Each is reported at the key that names it.
pub(super) fn read(
    spec: &mut Spec,
    parts: &[FilePart<'_>],
    name: &str,
) -> Result<(), Vec<Diagnostic>> {
    let mut errors = Vec::new();
    for service in &mut spec.services {
        each(service, &mut |actions, path| {
            let Some(Answer::Respond(respond)) = &mut actions.answer else {
                return;
            };
            let Some(file) = &respond.body_file else {
                return;
            };
            match content(file) {
                Ok(body) => Arc::make_mut(respond).body = Some(body),
                Err(problem) => {
                    let message = format!("body_file {}: {problem}", file.display());
                    let keys = path.iter().cloned();
                    let key: Vec<_> = keys
                        .chain(["respond", "body_file"].map(PathStep::from))
                        .collect();
                    // The key was read from this text.
                    let span = locate(parts, &key).unwrap_or_default();
                    errors.push(Diagnostic::at(parts, name, span, &message));
                }
            }
        });
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(errors),
    }
}

impl Spec {
    /// The files that the bodies of answers are read from.
    pub fn body_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for service in &self.services {
            let rules = service.rules.iter().map(|rule| &rule.actions);
            let versions = service.versions.iter().map(|version| &version.actions);
            let all = rules.chain(versions).chain([&service.actions]);
            let named = all.filter_map(|actions| actions.answer.as_ref()?.body_file());
            files.extend(named.cloned());
        }
        files
    }
}

/// Calls `visit` with all actions of a service, and the path to the table that holds them.
fn each(service: &mut ServiceSpec, visit: &mut dyn FnMut(&mut Actions, &[PathStep])) {
    let own: [PathStep; 2] = ["service".into(), service.name.as_str().into()];
    visit(&mut service.actions, &own);
    for version in &mut service.versions {
        let path = ["versions".into(), version.name.as_str().into()];
        visit(&mut version.actions, &[&own[..], &path].concat());
    }
    for (index, rule) in service.rules.iter_mut().enumerate() {
        let path = ["match".into(), index.into()];
        visit(&mut rule.actions, &[&own[..], &path].concat());
    }
}

fn content(file: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("can't be read: {error}");
    // Checked before the file is opened, because opening a named pipe blocks until it has a writer.
    if !std::fs::metadata(file).map_err(failed)?.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut body = Vec::new();
    let opened = File::open(file).map_err(failed)?;
    opened
        .take(LARGEST_BODY + 1)
        .read_to_end(&mut body)
        .map_err(failed)?;
    if body.len() as u64 > LARGEST_BODY {
        return Err("is larger than 1 MiB, and answers are kept in memory".to_owned());
    }
    Ok(body)
}
