//! The spans of a request, from its record: one for the request, one for each try.
//!
//! Attributes have the names of OpenTelemetry's semantic conventions for HTTP (1.23 and later). Those that the conventions lack
//! are named `cutover.…`. Queries and header fields, which may hold secrets, aren't among them.

use std::time::{Duration, Instant};

use super::otlp::{KeyValue, OtlpSpan, SpanKind, SpanStatus};
use super::request::{RequestTrace, TrySpan};
use crate::http1::Method;
use crate::telemetry::record::{Failure, Protocol, Reason, RequestFlags, RequestRecord, TryRecord};

/// The facts about a request that its record doesn't have.
#[derive(Debug)]
pub(crate) struct SpanFacts<'a> {
    /// Time at which the head of the request had been read.
    pub started: Instant,
    /// Time at which the request ended, in nanoseconds since the Unix epoch.
    pub ended_unix_nanos: u64,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The client's `tracestate`.
    pub trace_state: String,
    /// Share of the service's traffic that the version of the last try has, from 0 to 1.
    pub split: Option<f64>,
    /// The user's point in the cohort, from 0 to 1.
    pub cohort: Option<f64>,
    /// Whether a try went to another version than stable.
    pub canary: bool,
}

/// `Status.code` of a failure.
const ERROR: i32 = 2;

/// Returns the spans of a request.
pub(crate) fn spans(
    record: &RequestRecord<'_>,
    trace: &RequestTrace,
    facts: &SpanFacts<'_>,
) -> Vec<OtlpSpan> {
    let began = trace.tries().map(|span| span.began).skip(1);
    // A try that was repeated elsewhere before it failed has no end of its own.
    let next_began = began.map(Some).chain(std::iter::repeat(None));
    let tries = record.tries().zip(trace.tries()).zip(next_began);
    let mut spans = vec![of_request(record, trace, facts)];
    for (resends, ((attempt, span), next)) in tries.enumerate() {
        let context = TryContext {
            record,
            trace,
            facts,
            span,
            next,
            resends: resends as u64,
        };
        spans.push(of_try(attempt, &context));
    }
    spans
}

/// Attributes of a span. Values that are absent or empty are left out.
#[derive(Default)]
struct AttributeList(Vec<KeyValue>);

impl AttributeList {
    fn text(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.0.push(KeyValue::new(key, value));
        }
    }

    fn bytes(&mut self, key: &str, value: &[u8]) {
        self.text(key, &String::from_utf8_lossy(value));
    }

    fn number(&mut self, key: &str, value: Option<u64>) {
        self.0.extend(value.map(|value| KeyValue::new(key, value)));
    }

    fn fraction(&mut self, key: &str, value: Option<f64>) {
        self.0.extend(value.map(|value| KeyValue::new(key, value)));
    }

    fn flag(&mut self, key: &str, value: bool) {
        if value {
            self.0.push(KeyValue::new(key, true));
        }
    }

    /// Adds the method, and its text as sent if it isn't a known one.
    fn method(&mut self, record: &RequestRecord<'_>) {
        if record.method_text.is_empty() {
            return;
        }
        match record.method {
            Method::Other => {
                self.text("http.request.method", "_OTHER");
                self.bytes("http.request.method_original", record.method_text);
            }
            known => self.text("http.request.method", known.as_label()),
        }
    }

    fn failure(&mut self, failure: Option<Failure>) {
        if let Some(failure) = failure {
            self.text("cutover.reason", failure.reason.as_str());
            self.text("cutover.origin", failure.origin.as_str());
        }
    }
}

fn of_request(record: &RequestRecord<'_>, trace: &RequestTrace, facts: &SpanFacts<'_>) -> OtlpSpan {
    let mut out = AttributeList::default();
    out.method(record);
    out.text("url.scheme", facts.scheme);
    out.bytes("url.path", record.path);
    out.text("server.address", record.host);
    out.text("client.address", &record.client.to_string());
    out.text("network.peer.address", &record.peer.to_string());
    let version = match record.protocol {
        Protocol::Http10 => "1.0",
        Protocol::Http11 => "1.1",
        Protocol::Http2 => "2",
    };
    out.text("network.protocol.version", version);
    out.number("http.response.status_code", Some(record.status.into()));
    out.number("http.request.body.size", Some(record.bytes_received));
    out.number("http.response.body.size", Some(record.bytes_sent));
    choice(record, facts, &mut out);
    out.failure(record.failure);
    if let Some(reason) = record.local_reply {
        if record.failure.is_none() {
            out.text("cutover.reason", reason.as_str());
        }
        out.flag("cutover.local", true);
    }
    // The conventions leave the status of a server's span unset for a 4xx, and for a client that left.
    let status = record.counted_status();
    let is_error = status >= 500;
    if is_error {
        let reason = record.failure.map(|failure| failure.reason);
        out.text("error.type", &error_type(reason, status));
    }
    let total = nanos(record.times.total);
    OtlpSpan {
        parent_span_id: match trace.parent_id {
            0 => Vec::new(),
            parent => parent.to_be_bytes().to_vec(),
        },
        name: name(record, record.service),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: facts.ended_unix_nanos.saturating_sub(total),
        end_time_unix_nano: facts.ended_unix_nanos,
        status: is_error.then(|| failed(record.failure)),
        ..span(trace, trace.span_id, out, facts)
    }
}

/// Adds the version and endpoint that the request was sent to, and how they were chosen.
fn choice(record: &RequestRecord<'_>, facts: &SpanFacts<'_>, out: &mut AttributeList) {
    out.bytes("cutover.request_id", record.id);
    out.text("cutover.listener", record.listener);
    out.text("cutover.service", record.service);
    if let Some(last) = record.last_try() {
        out.text("cutover.version", last.version.0);
        out.text(
            "cutover.endpoint",
            last.endpoint.map_or("", |(name, _)| name),
        );
    }
    out.text("cutover.chosen", record.chosen.map_or("", |c| c.as_str()));
    out.number("cutover.rule", record.rule.map(|rule| rule.0 as u64));
    out.fraction("cutover.split", facts.split);
    out.fraction("cutover.cohort", facts.cohort);
    let flags = record.flags.map(RequestFlags::text).unwrap_or_default();
    out.bytes("cutover.flags", &flags);
    out.flag("cutover.canary", facts.canary);
    out.flag("cutover.shielded", record.shielded);
    out.flag("cutover.tunnel", record.tunnel);
}

/// The values that the span of a try depends on.
struct TryContext<'c> {
    record: &'c RequestRecord<'c>,
    trace: &'c RequestTrace,
    facts: &'c SpanFacts<'c>,
    span: TrySpan,
    /// Time at which the next try began.
    next: Option<Instant>,
    /// Number of tries before this one.
    resends: u64,
}

fn of_try(attempt: &TryRecord<'_>, context: &TryContext<'_>) -> OtlpSpan {
    let TryContext {
        record,
        trace,
        facts,
        span: ids,
        ..
    } = context;
    let mut out = AttributeList::default();
    out.method(record);
    if let Some((endpoint, _)) = attempt.endpoint {
        let (host, port) = address(endpoint);
        out.text("server.address", host);
        out.number("server.port", port.map(u64::from));
    }
    let resends = (context.resends > 0).then_some(context.resends);
    out.number("http.request.resend_count", resends);
    out.text("cutover.service", record.service);
    out.text("cutover.version", attempt.version.0);
    out.text(
        "cutover.endpoint",
        attempt.endpoint.map_or("", |(name, _)| name),
    );
    out.number("rpc.grpc.status_code", attempt.grpc_status.map(u64::from));
    out.failure(attempt.failure);
    let status = attempt.status.filter(|_| has_response(attempt));
    out.number("http.response.status_code", status.map(u64::from));
    let is_cancelled = attempt.failure.is_some_and(|f| f.reason == Reason::Hedged);
    let is_error = attempt.failure.is_some() || status.is_some_and(|status| status >= 400);
    let is_error = is_error && !is_cancelled;
    if is_error {
        let reason = attempt.failure.map(|failure| failure.reason);
        out.text("error.type", &error_type(reason, status.unwrap_or(0)));
    }
    let total = facts.ended_unix_nanos;
    let origin = total.saturating_sub(nanos(record.times.total));
    let start = origin + nanos(ids.began.saturating_duration_since(facts.started));
    let took = match (attempt.took, context.next) {
        (Duration::ZERO, Some(next)) => next.saturating_duration_since(ids.began),
        (took, _) => took,
    };
    OtlpSpan {
        parent_span_id: trace.span_id.to_be_bytes().to_vec(),
        name: name(record, &format!("{}/{}", record.service, attempt.version.0)),
        kind: SpanKind::Client.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + nanos(took),
        status: is_error.then(|| failed(attempt.failure)),
        ..span(trace, ids.id, out, facts)
    }
}

/// Whether the status of a try came with a response, rather than from its failure.
fn has_response(attempt: &TryRecord<'_>) -> bool {
    match attempt.failure {
        Some(failure) => failure.reason == Reason::UpstreamStatus || attempt.first_byte.is_some(),
        None => true,
    }
}

/// Fills in the parts that all spans of a trace share.
fn span(trace: &RequestTrace, id: u64, out: AttributeList, facts: &SpanFacts<'_>) -> OtlpSpan {
    OtlpSpan {
        trace_id: trace.trace_id.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        trace_state: facts.trace_state.clone(),
        attributes: out.0,
        flags: trace.flags.into(),
        ..OtlpSpan::default()
    }
}

/// The name of a span: the method and its target. Of low cardinality, as the conventions ask for.
fn name(record: &RequestRecord<'_>, target: &str) -> String {
    let method = match record.method {
        Method::Other => "HTTP",
        known => known.as_label(),
    };
    match record.service {
        "" => method.to_owned(),
        _ => format!("{method} {target}"),
    }
}

fn error_type(reason: Option<Reason>, status: u16) -> String {
    match reason {
        Some(reason) if reason != Reason::UpstreamStatus => reason.as_str().to_owned(),
        _ => status.to_string(),
    }
}

fn failed(failure: Option<Failure>) -> SpanStatus {
    let reason = failure.map_or("", |failure| failure.reason.as_str());
    SpanStatus {
        message: reason.to_owned(),
        code: ERROR,
    }
}

/// Host and port of an endpoint's name: `[scheme://]host:port`, or a path.
fn address(endpoint: &str) -> (&str, Option<u16>) {
    let name = endpoint
        .split_once("://")
        .map_or(endpoint, |(_, rest)| rest);
    match name.rsplit_once(':') {
        Some((host, port)) if !name.starts_with("unix:") => {
            (host.trim_matches(['[', ']']), port.parse().ok())
        }
        _ => (name.trim_start_matches("unix:"), None),
    }
}

/// Nanoseconds; a u64 holds 584 years of them.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "span_tests.rs"]
mod tests;
