//! The requests that change the configuration file: shares, flags, versions, deployments and undo; and the plan of a
//! change.

use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;
use hyper::body::Body;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Context;
use super::blocking::on_thread;
use super::file_editor::{EditReport, FileEditor};
use super::history::ChangeLine;
use super::plan::plan;
use super::preview::preview;
use super::query::is_dry_run;
use super::reply::{AdminResponse, BodyError, document, error, parsed, read_body};
use super::saved_edit::EditFault;
use super::step_warnings::ServiceTraffic;
use crate::config::file_edit::{FileEdit, SplitChange, VersionEdit};
use crate::config::load;
use crate::config::spec::ServiceSpec;

/// Largest request body, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Largest request body with the text of a configuration, in bytes.
const MAX_TEXT_BYTES: usize = 4 << 20;

/// The header that names the author of a change, for the history: `alice@build-7 (shift)`.
pub(crate) const AUTHOR: &str = "x-cutover-by";

/// A path that changes the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteRoute<'p> {
    /// `/api/v1/services/{service}/split`
    Split(&'p str),
    /// `/api/v1/services/{service}/flags`
    Flags(&'p str),
    /// `/api/v1/services/{service}/versions/{version}`
    Version(&'p str, &'p str),
    /// `/api/v1/services/{service}/deploy`
    Deploy(&'p str),
    /// `/api/v1/undo`
    Undo,
    /// `/api/v1/plan`, which changes nothing, but has a body
    Plan,
}

impl<'p> WriteRoute<'p> {
    /// Parses a path.
    pub(super) fn of(path: &'p str) -> Option<Self> {
        match path {
            "/api/v1/undo" => return Some(Self::Undo),
            "/api/v1/plan" => return Some(Self::Plan),
            _ => {}
        }
        let rest = path.strip_prefix("/api/v1/services/")?;
        let (service, rest) = rest.split_once('/')?;
        match rest.split_once('/') {
            None if rest == "split" => Some(Self::Split(service)),
            None if rest == "flags" => Some(Self::Flags(service)),
            None if rest == "deploy" => Some(Self::Deploy(service)),
            Some(("versions", version)) => Some(Self::Version(service, version)),
            _ => None,
        }
    }
}

/// The body of `POST …/versions/{version}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionRequest {
    endpoints: Option<Vec<String>>,
    label: Option<String>,
}

/// The body of `POST …/deploy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeployRequest {
    /// Name of the version.
    pub version: String,
    /// The new endpoints; `None` keeps the current ones.
    pub endpoints: Option<Vec<String>>,
    /// The new label; `None` keeps the current one.
    pub label: Option<String>,
}

/// The body of `POST /api/v1/undo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UndoRequest {
    /// The generation to go back to; `None` takes back the last change.
    pub generation: Option<u64>,
    /// xxh3 hash of the text that the client expects to run; `None` if it doesn't matter.
    pub running: Option<String>,
    /// Only report what would change. The response then contains the text.
    pub plan: bool,
}

/// The body of `POST /api/v1/plan`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlanRequest {
    /// The text of a configuration.
    pub text: String,
    /// Name of the text's file, for diagnostics; `None` for the proxy's own file.
    pub name: Option<String>,
}

/// The response to an undo that was only planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UndoPlan {
    /// The generation to go back to.
    pub generation: u64,
    /// Time at which it was adopted, RFC 3339.
    pub at: String,
    /// Text of that generation.
    pub text: String,
    /// xxh3 hash of the running text.
    pub running: String,
    /// The changes that the undo would make.
    pub changes: Vec<ChangeLine>,
}

/// The response to an undo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UndoReport {
    /// The generation whose text runs again.
    pub to: u64,
    /// The edit that leads to that text.
    #[serde(flatten)]
    pub edit: EditReport,
}

/// Handles a request that changes the configuration.
pub(super) async fn write<B: Body<Error: Into<BodyError>>>(
    route: WriteRoute<'_>,
    head: &Parts,
    body: B,
    context: &Arc<Context>,
) -> AdminResponse {
    let is_dry_run = match is_dry_run(head.uri.query().unwrap_or("")) {
        Ok(is_dry_run) => is_dry_run,
        Err(message) => return error(StatusCode::BAD_REQUEST, &message),
    };
    let limit = match route {
        WriteRoute::Plan => MAX_TEXT_BYTES,
        _ => MAX_BODY_BYTES,
    };
    let body = match read_body(body, limit).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let by = head.headers.get(AUTHOR).and_then(|by| by.to_str().ok());
    let by = by.map(str::to_owned);
    let edit = match route {
        WriteRoute::Undo => return undo(&body, by, is_dry_run, context).await,
        WriteRoute::Plan => return plan_of(&body, context).await,
        WriteRoute::Split(service) => split(service, &body),
        WriteRoute::Flags(service) => flags(service, &body),
        WriteRoute::Version(service, version) => version_edit(service, version, &body),
        WriteRoute::Deploy(service) => deploy(service, &body),
    };
    match edit {
        Ok(edit) if is_dry_run => planned(edit, context).await,
        Ok(edit) => edited(FileEditor(context.clone()).edit(edit, by).await),
        Err(message) => error(StatusCode::BAD_REQUEST, &message),
    }
}

fn edited(outcome: Result<impl Serialize, EditFault>) -> AdminResponse {
    match outcome {
        Ok(report) => document(StatusCode::OK, &report),
        Err(failure) => error(failure.status, &failure.message),
    }
}

fn split(service: &str, body: &[u8]) -> Result<FileEdit, String> {
    let expected = "an object of versions, as in {\"v2\": \"25%\"}; a value is a share, \"rollout\" or \"stable\"";
    let shares: Map<String, Value> = parsed(body, expected)?;
    if shares.is_empty() {
        return Err(format!("no version: expected {expected}"));
    }
    let change = |(version, value): (String, Value)| {
        let text = value.as_str();
        let text = text.ok_or_else(|| format!("{version}: expected {expected}"))?;
        let change: SplitChange = text.parse().map_err(|why| format!("{version}: {why}"))?;
        Ok((version, change))
    };
    let changes: Result<Vec<_>, String> = shares.into_iter().map(change).collect();
    Ok(FileEdit::Split {
        service: service.to_owned(),
        changes: changes?,
    })
}

fn flags(service: &str, body: &[u8]) -> Result<FileEdit, String> {
    let expected = "an object of flags and their shares, as in {\"new-checkout\": \"25%\"}";
    let shares: Map<String, Value> = parsed(body, expected)?;
    if shares.is_empty() {
        return Err(format!("no flag: expected {expected}"));
    }
    let change = |(flag, value): (String, Value)| {
        let text = value.as_str();
        let text = text.ok_or_else(|| format!("{flag}: expected {expected}"))?;
        let share = text.parse().map_err(|why| format!("{flag}: {why}"))?;
        Ok((flag, share))
    };
    let changes: Result<Vec<_>, String> = shares.into_iter().map(change).collect();
    Ok(FileEdit::Flags {
        service: service.to_owned(),
        changes: changes?,
    })
}

fn version_edit(service: &str, version: &str, body: &[u8]) -> Result<FileEdit, String> {
    let expected = "{\"endpoints\": [\"10.0.0.1:80\"], \"label\": \"1.1\"}, one of them or both";
    let request: VersionRequest = parsed(body, expected)?;
    if request.endpoints.is_none() && request.label.is_none() {
        return Err(format!("nothing to change: expected {expected}"));
    }
    Ok(FileEdit::Version(VersionEdit {
        service: service.to_owned(),
        version: version.to_owned(),
        endpoints: request.endpoints,
        label: request.label,
    }))
}

fn deploy(service: &str, body: &[u8]) -> Result<FileEdit, String> {
    let expected = "{\"version\": \"v2\", \"endpoints\": [\"10.0.0.1:80\"], \"label\": \"1.1\"}, label is optional";
    let request: DeployRequest = parsed(body, expected)?;
    Ok(FileEdit::Deploy(VersionEdit {
        service: service.to_owned(),
        version: request.version,
        endpoints: request.endpoints,
        label: request.label,
    }))
}

async fn undo(
    body: &[u8],
    by: Option<String>,
    is_dry_run: bool,
    context: &Arc<Context>,
) -> AdminResponse {
    let expected = "{\"generation\": 12}, or nothing to take back the last change";
    let request = match body.is_empty() {
        true => Ok(UndoRequest::default()),
        false => parsed(body, expected),
    };
    let request: UndoRequest = match request {
        Ok(request) => request,
        Err(message) => return error(StatusCode::BAD_REQUEST, &message),
    };
    let running = context.live.source().hash;
    if request.running.is_some_and(|expected| expected != running) {
        let message = "another configuration has been adopted in the meantime";
        return error(StatusCode::CONFLICT, message);
    }
    let target = match context.history.target(request.generation, &running) {
        Ok(target) => target,
        Err(message) => return error(StatusCode::NOT_FOUND, &message),
    };
    let (history, hash) = (context.history.clone(), target.hash.clone());
    // Reads from the disk if the text is old.
    let text = on_thread("history", move || history.text(&hash)).await;
    let Some(text) = text.ok().flatten() else {
        let message = format!(
            "the text of generation {} is no longer stored",
            target.generation
        );
        return error(StatusCode::NOT_FOUND, &message);
    };
    if !request.plan && !is_dry_run {
        let edit = FileEdit::Restore {
            text: text.to_string(),
            running,
        };
        let outcome = FileEditor(context.clone()).edit(edit, by).await;
        return edited(outcome.map(|edit| UndoReport {
            to: target.generation,
            edit,
        }));
    }
    let name = context.live.source().path.display().to_string();
    match preview(text.clone(), name, context).await {
        Ok((preview, _)) => document(
            StatusCode::OK,
            &UndoPlan {
                generation: target.generation,
                at: target.at,
                text: text.to_string(),
                running,
                changes: preview.changes,
            },
        ),
        Err(failure) => error(failure.status, &failure.message),
    }
}

/// Reports the changes that a text would make to the running proxy.
async fn plan_of(body: &[u8], context: &Context) -> AdminResponse {
    let request: PlanRequest = match parsed(body, "{\"text\": …}, the text of a configuration") {
        Ok(request) => request,
        Err(message) => return error(StatusCode::BAD_REQUEST, &message),
    };
    plan_report(request.text.into(), request.name, context).await
}

/// Reports the changes that an edit of the file would make.
async fn planned(edit: FileEdit, context: &Arc<Context>) -> AdminResponse {
    match FileEditor(context.clone()).rehearse(edit).await {
        Ok(text) => plan_report(text, None, context).await,
        Err(failure) => error(failure.status, &failure.message),
    }
}

async fn plan_report(text: Arc<str>, name: Option<String>, context: &Context) -> AdminResponse {
    let source = context.live.source();
    let identical = load::hash(text.as_bytes()) == source.hash;
    let name = name.unwrap_or_else(|| source.path.display().to_string());
    match preview(text, name, context).await {
        Ok((preview, warnings)) => {
            // The lock is not poisoned: nothing panics while it is held.
            let windows = context.windows.lock().expect("windows lock");
            let traffic = |service: &ServiceSpec| ServiceTraffic::measured(&windows, service);
            let report = plan(preview, identical, warnings, traffic);
            document(StatusCode::OK, &report)
        }
        Err(failure) => error(failure.status, &failure.message),
    }
}
