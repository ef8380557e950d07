//! Routes requests of the admin API to their handlers and builds the responses.
//!
//! [`guard`](super::guard) decides first whether a request is allowed. Errors are JSON objects with the key `error`. After a
//! handover the process answers reads on its open connections, but refuses changes, which would be lost.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Body;
use serde::Deserialize;
use serde_json::json;

use super::explain::explain;
use super::guard::{AdminRefusal, ListenerKind, admit, authorise};
use super::history::{Announcement, ChangeCause};
use super::logs::{self, LogFollower};
use super::mirror::MirrorStatus;
use super::names;
use super::query::decoded;
use super::reply::{
    AdminResponse, BodyError, document, error, parsed, read_body, stream, text, with,
};
use super::request::DescribedRequest;
use super::rollout::RolloutRefused;
use super::status::ProxyStatus;
use super::stream::StreamBody;
use super::writes::{WriteRoute, write};
use super::{Context, ControlCommand, ProcessPhase, dashboard, drain, events, scrape, view};
use crate::rollout::machine::OperatorCommand;
use crate::routing::ClientCertificate;
use crate::telemetry::render;

/// Largest request body, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// The description of the API in the form of OpenAPI.
static DESCRIPTION: &[u8] = include_bytes!("../../docs/openapi.json");

/// Handles one request that came through a listener of this kind.
pub(crate) async fn answer<B: Body<Error: Into<BodyError>>>(
    request: Request<B>,
    listener: ListenerKind,
    context: &Arc<Context>,
) -> AdminResponse {
    let mut answer = route(request, listener, context).await;
    if context.readiness.phase() == ProcessPhase::Stopping {
        // The client has to reconnect for its next request, and then reaches the successor.
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(CONNECTION, close);
    }
    answer
}

async fn route<B: Body<Error: Into<BodyError>>>(
    request: Request<B>,
    listener: ListenerKind,
    context: &Arc<Context>,
) -> AdminResponse {
    let (head, body) = request.into_parts();
    // The configuration in force decides on access. After a reload, that is true for requests on open connections as well.
    let spec = context.live.current().spec.clone();
    if let Err(refusal) = admit(&head, listener, spec.admin.as_ref()) {
        return refused(&refusal);
    }
    let path = head.uri.path();
    let allowed = match path {
        "/healthz" | "/readyz" | "/metrics" | "/api/v1/status" | "/api/v1/config"
        | "/api/v1/explain" | "/api/v1/history" => "GET, HEAD",
        "/api/v1/openapi.json" => "GET, HEAD",
        "/api/v1/logs" | "/api/v1/events" => "GET",
        "/api/v1/reload" | "/api/v1/announce" => "POST",
        _ if dashboard::is_page(path) => "GET, HEAD",
        _ if mirror_of(path).is_some() || series_of(path).is_some() => "GET, HEAD",
        _ if WriteRoute::of(path).is_some() => "POST",
        _ if service_to_drain(path).is_some() => "POST, DELETE",
        _ if rollout_command(path).is_some() => "POST",
        _ => {
            let message = format!("not found: {path}");
            return error(StatusCode::NOT_FOUND, &message);
        }
    };
    if !allowed.split(", ").any(|m| m == head.method.as_str()) {
        let message = format!("{path} accepts only {allowed}");
        let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, &message);
        let allow = HeaderValue::from_static(allowed);
        answer.headers_mut().insert(ALLOW, allow);
        return answer;
    }
    let is_change = head.method == Method::POST || head.method == Method::DELETE;
    // Lines of the access log say more about users than anything else that can be read here.
    if is_change || path == "/api/v1/logs" {
        let token = spec.admin.as_ref().and_then(|a| a.token_file.as_deref());
        if let Err(refusal) = authorise(&head.headers, listener, token) {
            return refused(&refusal);
        }
        if is_change && context.readiness.is_handed_over() {
            // The successor got the state at the handover. A change to this process would be lost.
            return error(
                StatusCode::SERVICE_UNAVAILABLE,
                "another process has taken over; repeat the request",
            );
        }
    }
    match path {
        "/healthz" => text("ok\n"),
        "/readyz" => ready(context),
        "/metrics" => metrics(context),
        "/api/v1/status" => document(StatusCode::OK, &ProxyStatus::of(context)),
        "/api/v1/config" => {
            let config = view::config(&context.live.current().spec);
            document(StatusCode::OK, &config)
        }
        "/api/v1/explain" => explanation(head.uri.query().unwrap_or(""), context),
        "/api/v1/history" => history(head.uri.query().unwrap_or(""), context),
        "/api/v1/openapi.json" => {
            let description = Bytes::from_static(DESCRIPTION);
            with(StatusCode::OK, "application/json", description)
        }
        "/api/v1/events" => events::follow(head.uri.query().unwrap_or(""), &head.headers, context),
        "/api/v1/logs" => follow(head.uri.query().unwrap_or(""), context),
        "/api/v1/announce" => announce(body, context).await,
        "/api/v1/reload" => reload(context).await,
        _ => {
            if let Some(page) = dashboard::page(path, &head.headers) {
                return page;
            }
            if let Some(service) = mirror_of(path) {
                return mirror(service, context);
            }
            if let Some(service) = series_of(path) {
                return series(service, context);
            }
            if let Some(route) = WriteRoute::of(path) {
                return write(route, &head, body, context).await;
            }
            if let Some((service, command)) = rollout_command(path) {
                return change_rollout(service, command, body, context).await;
            }
            // Every other path that passed the check above is a drain.
            let service = service_to_drain(path).unwrap_or_default();
            change_drain(service, head.method == Method::DELETE, body, context).await
        }
    }
}

/// The service of `/api/v1/services/{service}/mirror`.
fn mirror_of(path: &str) -> Option<&str> {
    path.strip_prefix("/api/v1/services/")?
        .strip_suffix("/mirror")
}

fn mirror(service: &str, context: &Context) -> AdminResponse {
    match MirrorStatus::full(&context.live.current(), service) {
        Ok(mirror) => document(StatusCode::OK, &mirror),
        Err(why) => error(StatusCode::NOT_FOUND, &why),
    }
}

/// The service of `/api/v1/services/{service}/series`.
fn series_of(path: &str) -> Option<&str> {
    path.strip_prefix("/api/v1/services/")?
        .strip_suffix("/series")
}

fn series(service: &str, context: &Context) -> AdminResponse {
    // The lock is not poisoned: nothing panics while it is held.
    let series = context.series.lock().expect("series lock");
    match series.of(&context.live.current(), service) {
        Some(series) => document(StatusCode::OK, &series),
        None => error(
            StatusCode::NOT_FOUND,
            &format!("there is no service {service:?}"),
        ),
    }
}

/// The service and the command of `/api/v1/services/{service}/rollout/{command}`.
fn rollout_command(path: &str) -> Option<(&str, OperatorCommand)> {
    let (service, command) = path
        .strip_prefix("/api/v1/services/")?
        .split_once("/rollout/")?;
    Some((service, OperatorCommand::parse(command)?))
}

/// The body of a command on a rollout.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RolloutRequest {
    /// The author of the command, for the history: `alice@build-7`.
    by: Option<String>,
}

async fn change_rollout<B: Body<Error: Into<BodyError>>>(
    service: &str,
    command: OperatorCommand,
    body: B,
    context: &Context,
) -> AdminResponse {
    let body = match read_body(body, MAX_BODY_BYTES).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let request = match body.is_empty() {
        true => RolloutRequest::default(),
        false => match parsed(&body, "{\"by\": …}, which is optional") {
            Ok(request) => request,
            Err(message) => return error(StatusCode::BAD_REQUEST, &message),
        },
    };
    let command = |answer| ControlCommand::Rollout {
        service: service.to_owned(),
        command,
        by: request.by.unwrap_or_else(|| "API".to_owned()),
        answer,
    };
    match context.ask(command).await {
        Some(Ok(status)) => document(StatusCode::OK, &status),
        Some(Err(RolloutRefused::Unknown(why))) => error(StatusCode::NOT_FOUND, &why),
        Some(Err(RolloutRefused::Conflict(why))) => error(StatusCode::CONFLICT, &why),
        None => stopping(),
    }
}

/// The service of `/api/v1/services/{service}/drain`.
fn service_to_drain(path: &str) -> Option<&str> {
    path.strip_prefix("/api/v1/services/")?
        .strip_suffix("/drain")
}

async fn change_drain<B: Body<Error: Into<BodyError>>>(
    service: &str,
    undo: bool,
    body: B,
    context: &Context,
) -> AdminResponse {
    let body = match read_body(body, MAX_BODY_BYTES).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let mut request = match body.is_empty() {
        true => drain::DrainRequest::default(),
        false => {
            let expected =
                "{\"version\": …, \"endpoint\": …, \"force\": …}, where each key is optional";
            match parsed(&body, expected) {
                Ok(request) => request,
                Err(message) => return error(StatusCode::BAD_REQUEST, &message),
            }
        }
    };
    request.undo |= undo;
    let command = |answer| ControlCommand::Drain {
        service: service.to_owned(),
        request,
        answer,
    };
    match context.ask(command).await {
        Some(Ok(report)) => document(StatusCode::OK, &report),
        Some(Err(drain::DrainRefused::Unknown(why))) => error(StatusCode::NOT_FOUND, &why),
        Some(Err(drain::DrainRefused::Last(why))) => error(StatusCode::CONFLICT, &why),
        None => stopping(),
    }
}

fn ready(context: &Context) -> AdminResponse {
    match context.readiness.phase() {
        ProcessPhase::Ready => text("ready\n"),
        ProcessPhase::Starting => error(StatusCode::SERVICE_UNAVAILABLE, "the proxy is starting"),
        ProcessPhase::Stopping => stopping(),
    }
}

fn metrics(context: &Context) -> AdminResponse {
    let mut answer = text(render::render(
        &context.telemetry,
        &scrape::collect(
            &context.live,
            // The lock is not poisoned: nothing panics while it is held.
            &context.rollouts.lock().expect("rollouts lock"),
            names::series(context),
            context.fleet.status(Instant::now()),
        ),
    ));
    let kind = HeaderValue::from_static(render::CONTENT_TYPE);
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

fn explanation(query: &str, context: &Context) -> AdminResponse {
    match described_request(query) {
        Ok(request) => document(StatusCode::OK, &explain(&context.live.current(), &request)),
        Err(message) => error(StatusCode::BAD_REQUEST, &message),
    }
}

/// Parses the request that a query describes by the parameters `url`, `method`, `header` (`name: value`, repeatable), `ip`
/// and, of the client's certificate, `client_subject`, `client_san` (repeatable) and `client_fingerprint`, all percent-encoded.
fn described_request(query: &str) -> Result<DescribedRequest, String> {
    let (mut url, mut method, mut ip) = (None, None, None);
    let mut headers = Vec::new();
    let mut certificate = ClientCertificate::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value)?;
        match name {
            "url" => url = Some(value),
            "method" => method = Some(value),
            "header" => headers.push(value),
            "client_subject" => certificate.subject = value,
            "client_san" => certificate.san.push(value),
            "client_fingerprint" => certificate.fingerprint = value,
            "ip" => {
                let address = value.parse::<IpAddr>();
                ip = Some(address.map_err(|_| format!("{value:?} is not an IP address"))?);
            }
            _ => {
                return Err(format!(
                    "unknown parameter {name:?}: expected url, method, header, ip, client_subject, client_san or client_fingerprint"
                ));
            }
        }
    }
    let url = url.ok_or("url is missing: use /api/v1/explain?url=http://host/path")?;
    let request = DescribedRequest::new(&url, method.as_deref(), &headers, ip)?;
    Ok(request.with_certificate(certificate))
}

fn history(query: &str, context: &Context) -> AdminResponse {
    let mut service = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("service", name)) => match decoded(name) {
                Ok(name) => service = Some(name),
                Err(message) => return error(StatusCode::BAD_REQUEST, &message),
            },
            _ => {
                let message = format!("unknown parameter {pair:?}: expected service=NAME");
                return error(StatusCode::BAD_REQUEST, &message);
            }
        }
    }
    document(StatusCode::OK, &context.history.report(service.as_deref()))
}

fn follow(query: &str, context: &Arc<Context>) -> AdminResponse {
    let filter = match logs::filter(query) {
        Ok(filter) => filter,
        Err(message) => return error(StatusCode::BAD_REQUEST, &message),
    };
    let snapshot = context.live.current();
    if let Some(name) = &filter.service
        && !snapshot.services.iter().any(|s| *s.name == **name)
    {
        return error(StatusCode::NOT_FOUND, &format!("no service {name:?}"));
    }
    match context.telemetry.access_log().followers().subscribe(filter) {
        Some(subscription) => {
            let follower = LogFollower::new(subscription, context.clone());
            stream(logs::CONTENT_TYPE, StreamBody::new(follower))
        }
        None => error(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many clients follow the log already",
        ),
    }
}

async fn announce<B: Body<Error: Into<BodyError>>>(body: B, context: &Context) -> AdminResponse {
    let body = match read_body(body, MAX_BODY_BYTES).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let announcement: Announcement = match parsed(&body, "{\"hash\": …, \"by\": …}") {
        Ok(announcement) => announcement,
        Err(message) => return error(StatusCode::BAD_REQUEST, &message),
    };
    match context.history.announce(announcement, ChangeCause::Cli) {
        Ok(()) => document(StatusCode::OK, &json!({})),
        Err(message) => error(StatusCode::BAD_REQUEST, message),
    }
}

async fn reload(context: &Context) -> AdminResponse {
    match context
        .ask(|answer| ControlCommand::Reload { answer })
        .await
    {
        Some(Ok(generation)) => document(StatusCode::OK, &json!({ "generation": generation })),
        Some(Err(why)) => error(StatusCode::UNPROCESSABLE_ENTITY, &why),
        None => stopping(),
    }
}

fn stopping() -> AdminResponse {
    error(StatusCode::SERVICE_UNAVAILABLE, "the proxy is stopping")
}

fn refused(refusal: &AdminRefusal) -> AdminResponse {
    let mut answer = error(refusal.status, &refusal.message);
    if refusal.status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer");
        answer.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    }
    answer
}
