//! Hooks: calls that must succeed before a rollout continues.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::Value;

use super::backoff::Backoff;
use super::client::{self, OutcallRequest};
use super::url::OutcallUrl;
use crate::config::rollout::HookSpec;

/// Pauses between the attempts: 0.5 s, 1 s, 2 s and so on.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(500),
    factor: 2,
    most: Duration::from_secs(30),
};

/// Posts the rollout's state to a hook. After a connection error, a timeout or a 5xx it tries again, up to `hook.retries` times.
///
/// # Errors
/// The hook objected or could not be asked. The text names the peer as `host:port` and the last cause:
/// `127.0.0.1:8088: answered 503, in 3 attempts`.
pub(crate) async fn call(hook: &HookSpec, state: &Value) -> Result<(), String> {
    call_with(hook, state, BACKOFF).await
}

async fn call_with(hook: &HookSpec, state: &Value, backoff: Backoff) -> Result<(), String> {
    let url = OutcallUrl::parse(&hook.url)?;
    let body = Bytes::from(state.to_string());
    let mut attempts = 0;
    loop {
        attempts += 1;
        let failure = match attempt(&url, &body, hook.timeout).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        if failure.is_transient && attempts <= hook.retries {
            tokio::time::sleep(backoff.after(attempts)).await;
            continue;
        }
        return Err(match attempts {
            1 => failure.why,
            _ => format!("{}, in {attempts} attempts", failure.why),
        });
    }
}

/// Why an attempt failed.
struct HookFailure {
    why: String,
    is_transient: bool,
}

async fn attempt(url: &OutcallUrl, body: &Bytes, limit: Duration) -> Result<(), HookFailure> {
    let json = HeaderValue::from_static("application/json");
    let request = OutcallRequest {
        method: Method::POST,
        url: url.clone(),
        headers: HeaderMap::from_iter([(header::CONTENT_TYPE, json)]),
        body: body.clone(),
        limit,
    };
    let status = match client::send(request).await {
        Ok(response) => response.status,
        Err(error) => {
            return Err(HookFailure {
                why: error.to_string(),
                is_transient: error.is_transient(),
            });
        }
    };
    let hint = match status {
        200..=299 => return Ok(()),
        300..=399 => " (redirects aren't followed)",
        _ => "",
    };
    Err(HookFailure {
        why: format!("{url}: answered {status}{hint}"),
        is_transient: status >= 500,
    })
}

#[cfg(test)]
#[path = "hooks_tests.rs"]
mod tests;
