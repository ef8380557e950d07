//! Renders the policies of a service, such as health checks, limits, retries and drains.

use serde_json::{Map, Value, json};

use super::{client_limits, time};
use crate::config::policy::{
    DrainPolicy, HealthPolicy, Hedge, Limits, Outlier, Probe, Retry, RetryOn, Sticky,
};
use crate::config::spec::{ServiceSpec, Share};

/// The policy keys of a service. A policy that is off is null.
pub(super) fn policies(service: &ServiceSpec) -> Map<String, Value> {
    let policies = &service.policies;
    let fallback = policies.fallback.map(|v| &service.versions[v].name);
    let keys = [
        ("health", json!(policies.health.as_ref().map(health))),
        ("outlier", outlier(&policies.outlier)),
        ("limits", limits(&policies.limits)),
        ("retry", retry(&policies.retry)),
        ("drain", drain(&policies.drain)),
        ("sticky", json!(policies.sticky.as_ref().map(sticky))),
        ("finish_sessions", json!(policies.finish_sessions.map(time))),
        ("shield", json!(policies.shield)),
        ("hedge", json!(policies.hedge.map(hedge))),
        ("fallback", json!(fallback)),
        (
            "wait",
            json!(policies.wait.as_ref().map(|w| time(w.longest))),
        ),
        (
            "wait_pending",
            json!(policies.wait.as_ref().map(|w| w.pending)),
        ),
        (
            "client_limits",
            json!(policies.client_limits.as_ref().map(client_limits)),
        ),
    ];
    keys.map(|(key, value)| (key.to_owned(), value))
        .into_iter()
        .collect()
}

fn health(health: &HealthPolicy) -> Value {
    json!({
        "path": probe(&health.probe),
        "interval": time(health.interval),
        "timeout": time(health.timeout),
        "rise": health.rise,
        "fall": health.fall,
    })
}

/// Formats a health check as the file does: `/ready`, `tcp`, `grpc`, `grpc:SERVICE`.
pub(crate) fn probe(probe: &Probe) -> String {
    match probe {
        Probe::Http(path) => path.clone(),
        Probe::Tcp => "tcp".to_owned(),
        Probe::Grpc(service) if service.is_empty() => "grpc".to_owned(),
        Probe::Grpc(service) => format!("grpc:{service}"),
    }
}

/// Formats a share, in thousandths of the whole, as the file does: `50%`, `33.3%`.
fn thousandths(n: u32) -> String {
    Share(n * 100).to_string()
}

fn outlier(outlier: &Outlier) -> Value {
    json!({
        "consecutive_5xx": outlier.consecutive_5xx,
        "consecutive_gateway": outlier.consecutive_gateway,
        "success_rate_stdev": outlier.success_rate_stdev,
        "interval": time(outlier.interval),
        "eject": time(outlier.eject),
        "eject_max": time(outlier.eject_max),
        "max_ejected": thousandths(outlier.max_ejected),
        "panic": thousandths(outlier.panic),
    })
}

fn limits(limits: &Limits) -> Value {
    json!({
        "connections": limits.connections,
        "pending": limits.pending,
        "requests": limits.requests,
        "retries": limits.retries,
        "requests_per_connection": limits.requests_per_connection,
    })
}

fn retry(retry: &Retry) -> Value {
    json!({
        "tries": retry.tries,
        "on": causes(&retry.on),
        "methods": if retry.all_methods { "all" } else { "idempotent" },
        "budget": thousandths(retry.budget),
        "per_try": retry.per_try.map(time),
        "body_bytes": retry.body_bytes,
    })
}

fn causes(on: &RetryOn) -> Vec<String> {
    let words = [
        (on.connect, "connect"),
        (on.reset, "reset"),
        (on.timeout, "timeout"),
    ];
    let words = words
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, word)| (*word).to_owned());
    words
        .chain(on.statuses.iter().map(u16::to_string))
        .collect()
}

/// Formats the delay of a hedged request as the file does: `p95`, `100ms`.
fn hedge(hedge: Hedge) -> Value {
    match hedge {
        Hedge::Quantile(quantile) => json!(quantile.as_str()),
        Hedge::After(delay) => json!(time(delay)),
    }
}

fn drain(drain: &DrainPolicy) -> Value {
    json!({ "requests": time(drain.requests), "streams": time(drain.streams) })
}

fn sticky(sticky: &Sticky) -> Value {
    json!({
        "cookie": sticky.cookie,
        "to": if sticky.to_endpoint { "endpoint" } else { "version" },
        "idle": time(sticky.idle),
        "max_life": time(sticky.max_life),
        "key_file": sticky.key_file,
    })
}
