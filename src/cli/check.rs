//! `cutover check`: validates configuration files as `run` would, without binding listeners.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::error::CommandError;
use super::proxy_address::{ProxyAddress, shown};
use super::{CommandResult, Json};
use crate::config::load::ConfigFile;
use crate::config::{self, Diagnostic, LoadFailure, Loaded};
use crate::control::preflight::{Findings, preflight, unstorable_rollouts};
use crate::snapshot::Snapshot;
use crate::telemetry::Telemetry;
use crate::upstream::Registry;

/// Checks configuration files.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes:\n  0  every file is valid\n  1  a file is invalid")]
pub(super) struct CheckArgs {
    /// Files to check [default: the file of -c]
    files: Vec<PathBuf>,
    #[command(flatten)]
    json: Json,
}

impl CheckArgs {
    pub(super) fn run(&self, address: &ProxyAddress) -> CommandResult {
        let files = match &self.files[..] {
            [] => vec![address.file()?],
            files => files.to_vec(),
        };
        let mut valid = true;
        let mut report = Vec::new();
        for file in &files {
            let checked = check(file);
            valid &= checked.errors.is_empty();
            if self.json.json {
                report.push(as_json(file, &checked));
            } else {
                print(file, &checked);
            }
        }
        if self.json.json {
            let report = serde_json::to_string_pretty(&report).unwrap_or_default();
            anstream::println!("{report}");
        }
        Ok(u8::from(!valid))
    }
}

/// The findings about one file.
struct CheckedFile {
    /// The parsed configuration; `None` where the text itself is invalid.
    loaded: Option<Loaded>,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

fn check(file: &Path) -> CheckedFile {
    let loaded = match config::load(file) {
        Ok(loaded) => loaded,
        Err(failure) => {
            return CheckedFile {
                loaded: None,
                errors: failure.diagnostics().to_vec(),
                warnings: Vec::new(),
            };
        }
    };
    // Compile the snapshot as a running proxy does, so that a bug in the compiler shows here and not at the start.
    let (registry, telemetry) = (Registry::new(), Telemetry::new(1));
    Snapshot::build(1, loaded.spec.clone(), &registry, &telemetry);
    let Findings {
        mut errors,
        warnings,
    } = preflight(&loaded, file);
    errors.extend(unstorable_rollouts(&loaded, file));
    let mut warnings = [loaded.warnings.clone(), warnings].concat();
    warnings.sort_by(Diagnostic::in_order);
    CheckedFile {
        loaded: Some(loaded),
        errors,
        warnings,
    }
}

fn print(file: &Path, checked: &CheckedFile) {
    let found = checked.errors.iter().chain(&checked.warnings);
    let found: Vec<String> = found.map(|d| d.rendered(true)).collect();
    if !found.is_empty() {
        anstream::eprintln!("{}", found.join("\n").trim_end());
    }
    if let (Some(loaded), true) = (&checked.loaded, checked.errors.is_empty()) {
        let files = loaded.files(file);
        anstream::println!("{}: ok, {}", shown(file), summary(loaded, files.len()));
        for included in &files[1..] {
            let services = match &*included.services {
                [] => "no service".to_owned(),
                services => services.join(", "),
            };
            anstream::println!("  {}: {services}", shown(&included.path));
        }
    }
}

fn summary(loaded: &Loaded, files: usize) -> String {
    let count = |number: usize, one: &str| match number {
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    };
    let services = &loaded.spec.services;
    let versions: Vec<_> = services.iter().flat_map(|s| &s.versions).collect();
    let endpoints = versions.iter().map(|v| v.endpoints.len()).sum();
    let mut counts = vec![
        count(loaded.spec.listeners.len(), "listener"),
        count(services.len(), "service"),
        count(versions.len(), "version"),
        count(endpoints, "endpoint"),
    ];
    if files > 1 {
        counts.push(count(files, "file"));
    }
    counts.join(", ")
}

fn as_json(file: &Path, checked: &CheckedFile) -> Value {
    let list = |all: &[Diagnostic]| all.iter().map(diagnostic).collect::<Vec<_>>();
    let files = checked.loaded.as_ref().map(|loaded| loaded.files(file));
    let file_json =
        |file: ConfigFile| json!({ "file": shown(&file.path), "services": file.services });
    let files: Vec<_> = files
        .unwrap_or_default()
        .into_iter()
        .map(file_json)
        .collect();
    json!({
        "file": shown(file),
        "files": files,
        "ok": checked.errors.is_empty(),
        "errors": list(&checked.errors),
        "warnings": list(&checked.warnings),
    })
}

fn diagnostic(found: &Diagnostic) -> Value {
    let (line, column) = found.position().unzip();
    let also = found.also().map(|(line, column, cause)| {
        json!({ "file": found.also_file(), "line": line, "column": column, "cause": cause })
    });
    json!({
        "file": found.file(),
        "line": line,
        "column": column,
        "message": found.message(),
        "cause": found.cause(),
        "also": also,
        "help": found.help(),
    })
}

/// The error of a command whose configuration file can't be loaded, with all diagnostics as detail.
pub(super) fn load_error(failure: &LoadFailure) -> CommandError {
    let mut error = CommandError::new("the configuration can't be used");
    error.detail = failure.to_string().lines().map(str::to_owned).collect();
    error
}
