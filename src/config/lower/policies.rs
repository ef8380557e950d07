//! Resilience policies: `[defaults.X]`, and the tables of a service that override them key by key.

use std::time::Duration;

use super::client_limits::{LimitScope, client_limits};
use super::{headers, health, outlier, proxy, retry, split, sticky};
use crate::config::actions::HeaderEdits;
use crate::config::policy::{
    DrainPolicy, Hedge, Limits, Outlier, Policies, Retry, Sticky, WaitPolicy,
};
use crate::config::problems::Problems;
use crate::config::raw::{RawTable, RawValue};
use crate::config::rollout::Quantile;
use crate::config::spec::{Timeouts, VersionSpec};
use crate::config::value::SHORTEST;

/// The maximum of a limit. "No limit" is written as 0.
const MAX_LIMIT: u32 = 100_000_000;

/// Values of `[defaults]`, or the built-in ones, for every service that doesn't override them.
#[derive(Default)]
pub(super) struct Defaults {
    pub(super) timeouts: Timeouts,
    pub(super) headers: HeaderEdits,
    health: health::Draft,
    outlier: Outlier,
    limits: Limits,
    retry: Retry,
    drain: DrainPolicy,
    sticky: Option<Sticky>,
}

/// Reads `[defaults]`.
pub(super) fn defaults(file: &mut RawTable<'_>, out: &mut Problems) -> Defaults {
    let mut result = Defaults::default();
    let table = file.take("defaults").and_then(|v| v.table("a table", out));
    let Some(mut table) = table else {
        return result;
    };
    if let Some(value) = table.take("timeouts") {
        proxy::timeouts(&value, &mut result.timeouts, out);
    }
    result.headers = headers::headers(&mut table, out);
    if let Some(value) = table.take("health") {
        result.health = health::defaults(&value, out);
    }
    if let Some(value) = table.take("sticky") {
        result.sticky = sticky::defaults(&value, out);
    }
    let Defaults {
        outlier,
        limits,
        retry,
        drain,
        ..
    } = &mut result;
    shared(&mut table, outlier, limits, retry, drain, out);
    table.finish(out);
    result
}

/// Reads the resilience policies of a service.
pub(super) fn policies(
    table: &mut RawTable<'_>,
    versions: &[VersionSpec],
    defaults: &Defaults,
    out: &mut Problems,
) -> Policies {
    let mut result = Policies {
        health: health::service(table, &defaults.health, out),
        outlier: defaults.outlier.clone(),
        limits: defaults.limits.clone(),
        retry: defaults.retry.clone(),
        drain: defaults.drain.clone(),
        ..Policies::default()
    };
    let Policies {
        outlier,
        limits,
        retry,
        drain,
        ..
    } = &mut result;
    shared(table, outlier, limits, retry, drain, out);
    let (sticky, finish_sessions) = sticky::service(table, defaults.sticky.as_ref(), out);
    result.sticky = sticky;
    result.finish_sessions = finish_sessions;
    result.shield = table
        .take("shield")
        .and_then(|v| v.flag(out))
        .unwrap_or(false);
    result.fallback = table.take("fallback").and_then(|value| {
        let text = value.text("the name of a version", out)?;
        split::version(&text, &value.path, versions, out)
    });
    result.client_limits = table
        .take("client_limits")
        .and_then(|value| client_limits(&value, LimitScope::Requests, out));
    result.hedge = hedge(table, &result.retry, out);
    result.wait = wait(table, out);
    result
}

/// Reads `hedge`.
fn hedge(table: &mut RawTable<'_>, retry: &Retry, out: &mut Problems) -> Option<Hedge> {
    let value = table.take("hedge")?;
    let text = value.as_text();
    let text = text.as_ref().map_or("", |text| text.value);
    let hedge = match Quantile::parse(text) {
        Some(quantile) => Hedge::Quantile(quantile),
        None if text.starts_with('p') => {
            let words = Quantile::ALL.iter().map(|q| format!("\"{q}\""));
            let words = words.collect::<Vec<_>>().join(", ");
            out.error(
                value.span,
                format!("`{}` is not a known quantile", value.path),
            )
            .label(format!("expected {words}, or a duration such as \"100ms\""));
            return None;
        }
        None => Hedge::After(value.duration(SHORTEST, out)?),
    };
    if retry.budget == 0 {
        out.error(value.span, format!("`{}` has no effect", value.path))
            .label("`retry.budget` is 0 %, which second tries are paid from")
            .help("leave it out, or raise the budget: `retry.budget = \"20%\"`");
    }
    Some(hedge)
}

/// Reads `wait` and `wait_pending`.
fn wait(table: &mut RawTable<'_>, out: &mut Problems) -> Option<WaitPolicy> {
    let wait = table.take("wait");
    let mut pending = 10_000;
    if let Some(at) = table.set_count("wait_pending", &mut pending, 1..=1_000_000, out)
        && wait.is_none()
    {
        out.error(at, format!("`{}.wait_pending` has no effect", table.path))
            .label("there is no `wait`")
            .help("write how long requests wait as well: `wait = \"30s\"`");
    }
    Some(WaitPolicy {
        longest: wait?.duration(SHORTEST, out)?,
        pending,
    })
}

/// Reads the tables that have the same form under `[defaults]` and under a service.
fn shared(
    table: &mut RawTable<'_>,
    outlier: &mut Outlier,
    limits: &mut Limits,
    retry: &mut Retry,
    drain: &mut DrainPolicy,
    out: &mut Problems,
) {
    if let Some(value) = table.take("outlier") {
        outlier::outlier(&value, outlier, out);
    }
    if let Some(value) = table.take("limits") {
        read_limits(&value, limits, out);
    }
    if let Some(value) = table.take("retry") {
        retry::retry(&value, retry, out);
    }
    if let Some(value) = table.take("drain") {
        read_drain(&value, drain, out);
    }
}

/// Reads `[…limits]` over the values in `result`.
fn read_limits(value: &RawValue<'_>, result: &mut Limits, out: &mut Problems) {
    let Some(mut table) = value.table("a table such as { requests = 1024 }", out) else {
        return;
    };
    let counts = [
        ("connections", &mut result.connections),
        ("pending", &mut result.pending),
        ("requests", &mut result.requests),
        ("retries", &mut result.retries),
        (
            "requests_per_connection",
            &mut result.requests_per_connection,
        ),
    ];
    for (key, count) in counts {
        table.set_count(key, count, 0..=MAX_LIMIT, out);
    }
    table.finish(out);
}

/// Reads `[…drain]` over the values in `result`.
fn read_drain(value: &RawValue<'_>, result: &mut DrainPolicy, out: &mut Problems) {
    let Some(mut table) = value.table("a table with `requests` and `streams`", out) else {
        return;
    };
    for (key, time) in [
        ("requests", &mut result.requests),
        ("streams", &mut result.streams),
    ] {
        table.set_duration(key, time, Duration::ZERO, out);
    }
    table.finish(out);
}
