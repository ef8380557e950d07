//! `cutover check FILE...`

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::fault::Fault;
use super::place::{Place, shown};
use super::{Json, Outcome};
use crate::admin::guard;
use crate::config::spec::Listener;
use crate::config::{self, Diagnostic, Failure, Loaded};
use crate::server::tls;
use crate::snapshot::Snapshot;
use crate::telemetry::Telemetry;
use crate::upstream::Registry;

/// Checks configurations by the path that `run` takes.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 every file is valid, 1 one is not.")]
pub struct Check {
    /// Files [default: the one of -c]
    files: Vec<PathBuf>,
    #[command(flatten)]
    json: Json,
}

impl Check {
    pub fn run(&self, place: &Place) -> Outcome {
        let files = match &self.files[..] {
            [] => vec![place.file()?],
            files => files.to_vec(),
        };
        let mut good = true;
        let mut report = Vec::new();
        for file in &files {
            let checked = checked(file);
            good &= checked.is_ok();
            if self.json.json {
                report.push(as_json(file, &checked));
            } else {
                say(file, &checked);
            }
        }
        if self.json.json {
            let report = serde_json::to_string_pretty(&report).unwrap_or_default();
            anstream::println!("{report}");
        }
        Ok(u8::from(!good))
    }
}

/// What is wrong with a file.
enum Wrong {
    /// With its text.
    Text(Failure),
    /// With what it names: certificates, keys.
    Named(String),
}

fn checked(file: &Path) -> Result<Loaded, Wrong> {
    let loaded = config::load(file).map_err(Wrong::Text)?;
    // Everything that a running proxy would make of it, so that what passes here starts there.
    let (registry, telemetry) = (Registry::new(), Telemetry::new(1));
    Snapshot::build(1, loaded.spec.clone(), &registry, &telemetry);
    guard::check_token(&loaded.spec).map_err(Wrong::Named)?;
    for listener in &loaded.spec.listeners {
        certificates(listener).map_err(Wrong::Named)?;
    }
    Ok(loaded)
}

fn certificates(listener: &Listener) -> Result<(), String> {
    if listener.certs.is_empty() {
        return Ok(());
    }
    let files = listener.certs.iter().map(tls::Files::read);
    let files: Vec<_> = files.collect::<Result<_, _>>()?;
    let (_, warnings) = tls::Table::new(listener, &files, None)?;
    for warning in warnings {
        anstream::eprintln!("warning: listener {}: {warning}", listener.name);
    }
    Ok(())
}

fn say(file: &Path, checked: &Result<Loaded, Wrong>) {
    match checked {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                anstream::eprintln!("{}", warning.rendered(true));
            }
            anstream::println!("{}: ok, {}", shown(file), summary(loaded));
        }
        Err(Wrong::Text(failure)) => anstream::eprintln!("{}", failure.rendered(true)),
        Err(Wrong::Named(what)) => {
            anstream::eprint!("{}", Fault::new(format!("{}: {what}", shown(file))));
        }
    }
}

fn summary(loaded: &Loaded) -> String {
    let count = |number: usize, one: &str| match number {
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    };
    let services = &loaded.spec.services;
    let versions: Vec<_> = services.iter().flat_map(|s| &s.versions).collect();
    let endpoints = versions.iter().map(|v| v.endpoints.len()).sum();
    [
        count(loaded.spec.listeners.len(), "listener"),
        count(services.len(), "service"),
        count(versions.len(), "version"),
        count(endpoints, "endpoint"),
    ]
    .join(", ")
}

fn as_json(file: &Path, checked: &Result<Loaded, Wrong>) -> Value {
    let list = |all: &[Diagnostic]| all.iter().map(diagnostic).collect::<Vec<_>>();
    let (errors, warnings) = match checked {
        Ok(loaded) => (Vec::new(), list(&loaded.warnings)),
        Err(Wrong::Text(failure)) => (list(failure.diagnostics()), Vec::new()),
        Err(Wrong::Named(what)) => (vec![json!({ "message": what })], Vec::new()),
    };
    json!({
        "file": shown(file),
        "ok": errors.is_empty(),
        "errors": errors,
        "warnings": warnings,
    })
}

fn diagnostic(found: &Diagnostic) -> Value {
    let (line, column) = found.position().unzip();
    let also = found
        .also()
        .map(|(line, column, cause)| json!({ "line": line, "column": column, "cause": cause }));
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

/// A file that can't be used, as the fault of a command that needed it.
pub fn fault(failure: &Failure) -> Fault {
    let mut fault = Fault::new("the configuration can't be used");
    fault.detail = failure.to_string().lines().map(str::to_owned).collect();
    fault
}
