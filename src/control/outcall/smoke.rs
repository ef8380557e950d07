//! Smoke checks: requests that every endpoint of a version must answer as expected before users reach the version.
//!
//! They go to the endpoints directly, over connections of their own like those of health checks, and pass through no route, limit
//! or metric.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body_util::Full;
use tokio::task::JoinSet;

use super::exchange::{self, MAX_BODY_BYTES, OutcallResponse, ResponsePart, TransferError};
use super::expectation;
use crate::config::rollout::{SmokeBody, SmokeCheck};
use crate::config::spec::{HostPattern, Scheme, ServiceSpec};
use crate::upstream::Endpoint;
use crate::upstream::connect::{self, ConnectError};

/// Time limit of one check, connecting included.
const LIMIT: Duration = Duration::from_secs(5);

/// Number of endpoints that are checked at the same time.
const CONCURRENT_ENDPOINTS: usize = 8;

const AGENT: &str = "cutover-smoke";

/// Runs all checks of `service`'s rollout against each of these endpoints, one check after the other on each endpoint.
///
/// Requests have the service's first exact host, or else the endpoint's address, as `host`. Dropping the future ends all checks.
///
/// # Errors
/// The first failure: `GET /health on 10.0.2.10:8080: expected 200, got 500`. No endpoint at all is a failure too.
pub(crate) async fn run(
    checks: &[SmokeCheck],
    endpoints: &[Arc<Endpoint>],
    service: &ServiceSpec,
) -> Result<(), String> {
    let host = service.hosts.iter().find_map(|host| match host {
        HostPattern::Exact(name) => Some(name.as_str()),
        HostPattern::Suffix(_) => None,
    });
    run_within(checks, endpoints, host, LIMIT).await
}

async fn run_within(
    checks: &[SmokeCheck],
    endpoints: &[Arc<Endpoint>],
    host: Option<&str>,
    limit: Duration,
) -> Result<(), String> {
    if checks.is_empty() {
        return Ok(());
    }
    if endpoints.is_empty() {
        return Err("smoke checks: the version has no endpoint".into());
    }
    let checks: Arc<[SmokeCheck]> = checks.into();
    let host: Option<Arc<str>> = host.map(Into::into);
    let mut waiting = endpoints.iter();
    let mut running = JoinSet::new();
    loop {
        while running.len() < CONCURRENT_ENDPOINTS
            && let Some(endpoint) = waiting.next()
        {
            let (checks, endpoint, host) = (checks.clone(), endpoint.clone(), host.clone());
            running.spawn_local(async move {
                check_all(&checks, &endpoint, host.as_deref(), limit).await
            });
        }
        match running.join_next().await {
            None => return Ok(()),
            Some(Ok(result)) => result?,
            Some(Err(panic)) => return Err(format!("a smoke check ended unexpectedly: {panic}")),
        }
    }
}

async fn check_all(
    checks: &[SmokeCheck],
    endpoint: &Endpoint,
    host: Option<&str>,
    limit: Duration,
) -> Result<(), String> {
    for check in checks {
        let host = host.unwrap_or(&endpoint.authority);
        let asked = async {
            let response = ask(check, endpoint, host, limit).await?;
            expectation::compare(check, &response)
        };
        let result = match tokio::time::timeout(limit, asked).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {limit:?}")),
        };
        result.map_err(|why| {
            let (method, target, name) = (&check.method, &check.target, &endpoint.name);
            format!("{method} {target} on {name}: {why}")
        })?;
    }
    Ok(())
}

async fn ask(
    check: &SmokeCheck,
    endpoint: &Endpoint,
    host: &str,
    limit: Duration,
) -> Result<OutcallResponse, String> {
    let request = |h2| request(check, endpoint.spec.scheme, host, h2);
    // Refuses requests that can't be sent before a connection is opened.
    request(false)?;
    let opened = match connect::open(endpoint, limit).await {
        Ok(opened) => opened,
        Err(ConnectError::Timeout) => return Err(format!("no connection within {limit:?}")),
        Err(error) => return Err(format!("no connection: {error}")),
    };
    let part = match check.expect_json {
        Some(_) => ResponsePart::Whole,
        None => ResponsePart::Head,
    };
    let result = match opened.h2 {
        true => exchange::over_http2(opened.stream, request(true)?, part).await,
        false => exchange::over_http1(opened.stream, request(false)?, part).await,
    };
    result.map_err(|error| match error {
        TransferError::Broken(why) => format!("the exchange failed: {why}"),
        TransferError::TooLarge => format!("the answer is larger than {MAX_BODY_BYTES} bytes"),
    })
}

/// The request of a check: with a path over HTTP/1.1, with an absolute URI, from which `:authority` follows, over HTTP/2.
fn request(
    check: &SmokeCheck,
    scheme: Scheme,
    host: &str,
    h2: bool,
) -> Result<Request<Full<Bytes>>, String> {
    let invalid = |what: &str| format!("the request can't be sent: invalid {what}");
    let method = Method::from_bytes(check.method.as_bytes()).map_err(|_| invalid("method"))?;
    if method == Method::CONNECT || !check.target.starts_with('/') {
        return Err(invalid("method or target"));
    }
    let given = check.headers.iter().find(|(name, _)| name == "host");
    let host = given.map_or(host, |(_, value)| value);
    let uri = match (h2, scheme) {
        (false, _) => check.target.clone(),
        (true, Scheme::Https) => format!("https://{host}{}", check.target),
        (true, _) => format!("http://{host}{}", check.target),
    };
    let (content_type, body) = match &check.body {
        None => (None, Bytes::new()),
        Some(SmokeBody::Text(text)) => (Some("text/plain"), Bytes::from(text.clone())),
        Some(SmokeBody::Json(json)) => (Some("application/json"), Bytes::from(json.to_string())),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .body(Full::new(body))
        .map_err(|_| invalid("target or host"))?;
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    if !h2 {
        let host = HeaderValue::from_str(host).map_err(|_| invalid("host"))?;
        headers.insert(header::HOST, host);
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    // A field replaces the default of its name; a second one with that name is added.
    let mut fields = http::HeaderMap::new();
    for (name, value) in check.headers.iter().filter(|(name, _)| name != "host") {
        let field = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid("header"))?;
        let value = HeaderValue::from_str(value).map_err(|_| invalid(&format!("header {name}")))?;
        fields.append(field, value);
    }
    headers.extend(fields);
    Ok(request)
}

#[cfg(test)]
#[path = "smoke_tests.rs"]
mod tests;
