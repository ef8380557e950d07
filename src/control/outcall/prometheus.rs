//! Queries of a Prometheus server, or of another one with the same API: Thanos, Mimir, VictoriaMetrics.
//!
//! A query has to yield one number. Anything else, an error or a timeout is no answer, which neither passes nor fails: a monitoring
//! system that is down says nothing about the canary.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;
use serde_json::Value;

use super::client::{self, OutcallRequest};
use super::exchange::OutcallResponse;
use super::url::{OutcallUrl, form_pair};
use crate::config::rollout::QuerySpec;
use crate::config::secret;

/// Time limit of one query. The server is told the same limit.
const LIMIT: Duration = Duration::from_secs(10);

/// Longest part of a server's error message that is repeated, in characters.
const ERROR_CHARS: usize = 200;

/// The result of one query.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum QueryAnswer {
    /// The number meets the condition.
    Pass(f64),
    /// The number doesn't meet the condition.
    Miss(f64),
    /// There is no number, for this reason.
    Unanswered(String),
}

/// Asks for the present value of a query and compares it.
pub(crate) async fn ask(query: &QuerySpec) -> QueryAnswer {
    ask_within(query, LIMIT).await
}

async fn ask_within(query: &QuerySpec, limit: Duration) -> QueryAnswer {
    let (comparison, bound) = query.pass;
    match value(query, limit).await {
        Ok(value) if comparison.holds(value, bound) => QueryAnswer::Pass(value),
        Ok(value) => QueryAnswer::Miss(value),
        Err(why) => QueryAnswer::Unanswered(why),
    }
}

async fn value(query: &QuerySpec, limit: Duration) -> Result<f64, String> {
    let url = OutcallUrl::parse(&query.prometheus)?.join("/api/v1/query");
    let peer = url.to_string();
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, form)]);
    if let Some(file) = &query.token_file {
        headers.insert(header::AUTHORIZATION, token(file)?);
    }
    // A form has no limit of length, unlike a URL.
    let timeout = format!("{}ms", limit.as_millis());
    let pairs = [
        form_pair("query", &query.query),
        form_pair("timeout", &timeout),
    ];
    let request = OutcallRequest {
        method: Method::POST,
        url,
        headers,
        body: Bytes::from(pairs.join("&")),
        limit,
    };
    let response = client::send(request).await.map_err(|e| e.to_string())?;
    number(&response).map_err(|why| format!("{peer}: {why}"))
}

/// Reads the token, for `Authorization` of the request.
fn token(file: &Path) -> Result<HeaderValue, String> {
    let bytes = secret::read(file, "query token", "read this Prometheus server")?;
    let unusable = |why: &str| format!("query token {}: {why}", file.display());
    if bytes.len() as u64 > secret::MOST {
        return Err(unusable(&format!("more than {} bytes", secret::MOST)));
    }
    let token = bytes.trim_ascii();
    if token.is_empty() {
        return Err(unusable("the file is empty"));
    }
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", token].concat())
        .map_err(|_| unusable("more than one line, or control characters"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A response of the API. Fields that aren't needed, such as warnings, are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApiResponse {
    status: String,
    data: Option<QueryData>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct QueryData {
    result_type: String,
    result: Value,
}

/// Extracts the number from a scalar, or from a vector with one sample.
fn number(response: &OutcallResponse) -> Result<f64, String> {
    let status = response.status;
    let parsed = serde_json::from_slice::<ApiResponse>(&response.body);
    let Ok(parsed) = parsed else {
        return Err(match status {
            200 => "the answer isn't that of a Prometheus query".into(),
            300..=399 => format!("answered {status} (redirects aren't followed)"),
            _ => format!("answered {status}"),
        });
    };
    if let Some(error) = parsed.error {
        let error: String = error.chars().take(ERROR_CHARS).collect();
        return Err(format!("answered {status}: {}", error.escape_debug()));
    }
    match parsed.data {
        Some(data) if status == 200 && parsed.status == "success" => data.number(),
        _ => Err(format!("answered {status} without a result")),
    }
}

impl QueryData {
    fn number(&self) -> Result<f64, String> {
        let sample = match (self.result_type.as_str(), &self.result) {
            ("scalar", sample) => sample,
            ("vector", Value::Array(samples)) => match samples.as_slice() {
                [] => return Err("the query has no result".into()),
                [one] => &one["value"],
                more => return Err(format!("the query has {} results, not one", more.len())),
            },
            ("matrix", _) => return Err("the query yields a range, not one number".into()),
            ("string", _) => return Err("the query yields a string, not a number".into()),
            _ => return Err("the query yields no number".into()),
        };
        // A sample is `[time, "number"]`; native histograms have `histogram` in place of `value`.
        let number = sample[1].as_str().and_then(|text| text.parse().ok());
        match number {
            Some(number) if f64::is_nan(number) => Err("the query yields NaN".into()),
            Some(number) => Ok(number),
            None => Err("the query yields no number".into()),
        }
    }
}

#[cfg(test)]
#[path = "prometheus_tests.rs"]
mod tests;
