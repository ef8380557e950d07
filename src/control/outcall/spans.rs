//! Exports spans by OTLP over HTTP, as protobuf (OpenTelemetry protocol 1.x, "OTLP/HTTP").
//!
//! Runs on a thread of its own. Spans are collected for a second, or until there are enough for a request. One request is sent at a
//! time. Spans that the receiver can't take now are sent again, up to a limit; meanwhile further spans wait in the bounded queue.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use prost::Message;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout_at};

use super::backoff::Backoff;
use super::client::{self, OutcallRequest};
use super::exchange::OutcallResponse;
use super::retry_after::retry_after;
use super::url::OutcallUrl;
use crate::config::trace::ExportField;
use crate::telemetry::LogLimit;
use crate::telemetry::record::SpanOutcome;
use crate::telemetry::trace::otlp::{ExportResponse, KeyValue, OtlpSpan, export_request};
use crate::telemetry::trace::sink::{ExporterMessage, SpanQueue};

/// The limits of the delivery of spans.
#[derive(Clone, Copy, Debug)]
struct ExportPolicy {
    /// Largest number of spans of one request.
    batch: usize,
    /// Longest time that a span waits for others.
    collect: Duration,
    /// Time limit of one attempt.
    limit: Duration,
    /// Largest number of attempts after the first.
    retries: u32,
    backoff: Backoff,
}

const POLICY: ExportPolicy = ExportPolicy {
    batch: 2048,
    collect: Duration::from_secs(1),
    limit: Duration::from_secs(10),
    retries: 4,
    backoff: Backoff {
        first: Duration::from_secs(1),
        factor: 2,
        most: Duration::from_secs(30),
    },
};

/// Time between two log lines of one kind.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Kinds of log lines: slots of the [`LogLimit`].
const DROPPED: usize = 0;
const REJECTED: usize = 1;

/// A receiver of spans. `Debug` shows the peer at most.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SpanReceiver {
    /// Base URL, which may contain credentials.
    pub(crate) url: String,
    /// Further fields of requests to it.
    pub(crate) fields: Vec<ExportField>,
}

impl fmt::Debug for SpanReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match OutcallUrl::parse(&self.url) {
            Ok(url) => write!(f, "SpanReceiver({url})"),
            Err(_) => f.write_str("SpanReceiver"),
        }
    }
}

impl SpanReceiver {
    /// The fields of a request. Names and values were checked with the configuration.
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for ExportField { name, value } in &self.fields {
            let (name, value) = (name.parse::<HeaderName>(), HeaderValue::from_str(value));
            if let (Ok(name), Ok(mut value)) = (name, value) {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        headers.insert(header::CONTENT_TYPE, protobuf);
        headers
    }
}

/// Sends spans to a receiver.
pub(crate) struct SpanExporter {
    receiver: SpanReceiver,
    policy: ExportPolicy,
    resource: Vec<KeyValue>,
    log: LogLimit,
}

/// Why spans were not exported.
struct ExportFailure {
    why: String,
    /// Shortest pause before the next attempt; `None` if further attempts can't help.
    pause: Option<Duration>,
}

/// The spans that were collected for a request.
#[derive(Default)]
struct Collected {
    spans: Vec<OtlpSpan>,
    /// Notified once these spans have been exported.
    flush: Option<oneshot::Sender<()>>,
    /// Whether the sinks are gone.
    is_last: bool,
}

impl SpanExporter {
    /// Creates an exporter to this receiver.
    pub(crate) fn new(receiver: &SpanReceiver) -> Self {
        Self {
            receiver: receiver.clone(),
            policy: POLICY,
            resource: resource(),
            log: LogLimit::new(2, LOG_EVERY, Instant::now()),
        }
    }

    /// Exports the spans from the queue until its sinks are gone.
    pub(crate) async fn run(self, mut queue: SpanQueue) {
        loop {
            let collected = self.collect(&mut queue).await;
            // Before the process ends there is no time for a second attempt.
            let hurried = collected.flush.is_some() || collected.is_last;
            if !collected.spans.is_empty() {
                self.export(collected.spans, &queue, hurried).await;
            }
            if let Some(done) = collected.flush {
                // The receiver is dropped when its time limit has passed.
                let _ = done.send(());
            }
            if collected.is_last {
                return;
            }
        }
    }

    /// Waits for spans, and then a little for further ones.
    async fn collect(&self, queue: &mut SpanQueue) -> Collected {
        let mut collected = Collected::default();
        let mut next = queue.messages.recv().await;
        let end = tokio::time::Instant::now() + self.policy.collect;
        loop {
            match next {
                None => collected.is_last = true,
                Some(ExporterMessage::Flush(done)) => collected.flush = Some(done),
                Some(ExporterMessage::Spans(spans)) => {
                    collected.spans.extend(spans);
                    if collected.spans.len() < self.policy.batch {
                        match timeout_at(end, queue.messages.recv()).await {
                            Ok(message) => next = message,
                            Err(_) => return collected,
                        }
                        continue;
                    }
                }
            }
            return collected;
        }
    }

    async fn export(&self, spans: Vec<OtlpSpan>, queue: &SpanQueue, mut hurried: bool) {
        let count = spans.len();
        let request = export_request(spans, self.resource.clone());
        let body = Bytes::from(request.encode_to_vec());
        let mut attempts = 0;
        loop {
            attempts += 1;
            let failure = match self.attempt(&body).await {
                Ok(response) => {
                    let rejected = self.rejected(&response).min(count);
                    queue.finish(SpanOutcome::Rejected, rejected);
                    return queue.finish(SpanOutcome::Exported, count - rejected);
                }
                Err(failure) => failure,
            };
            match failure.pause {
                Some(least) if attempts <= self.policy.retries && !hurried => {
                    let pause = self.policy.backoff.after(attempts).max(least);
                    tokio::select! {
                        () = sleep(pause) => {}
                        // The next attempt is the last one.
                        () = queue.hurry.notified() => hurried = true,
                    }
                }
                _ => {
                    queue.finish(SpanOutcome::Dropped, count);
                    return self.warn(DROPPED, &failure.why, count);
                }
            }
        }
    }

    /// Number of spans that the receiver has refused. A response that can't be read counts as one that took all spans.
    fn rejected(&self, response: &OutcallResponse) -> usize {
        let response = ExportResponse::decode(response.body.clone()).unwrap_or_default();
        let Some(partial) = response.partial_success else {
            return 0;
        };
        let rejected = usize::try_from(partial.rejected_spans).unwrap_or(0);
        if rejected > 0 {
            self.warn(REJECTED, &partial.error_message, rejected);
        }
        rejected
    }

    fn warn(&self, kind: usize, reason: &str, spans: usize) {
        let Some(omitted) = self.log.check(kind, Instant::now()) else {
            return;
        };
        // The receiver's text is untrusted.
        let reason = reason.chars().take(200).collect::<String>();
        let reason = reason.escape_debug().to_string();
        match kind {
            REJECTED => tracing::warn!(spans, reason, omitted, "receiver rejected spans"),
            _ => tracing::warn!(spans, reason, omitted, "spans dropped: not delivered"),
        }
    }

    async fn attempt(&self, body: &Bytes) -> Result<OutcallResponse, ExportFailure> {
        let url = OutcallUrl::parse(&self.receiver.url).map_err(|why| ExportFailure {
            why: why.to_owned(),
            pause: None,
        })?;
        let url = url.join("/v1/traces");
        let peer = url.to_string();
        let request = OutcallRequest {
            method: Method::POST,
            url,
            headers: self.receiver.headers(),
            body: body.clone(),
            limit: self.policy.limit,
        };
        let response = client::send(request).await.map_err(|e| ExportFailure {
            why: e.to_string(),
            pause: e.is_transient().then_some(Duration::ZERO),
        })?;
        match response.status {
            200..=299 => Ok(response),
            // The statuses that the protocol calls retryable.
            status @ (429 | 502 | 503 | 504) => Err(ExportFailure {
                why: format!("{peer}: answered {status}"),
                pause: Some(retry_after(&response.headers)),
            }),
            status => Err(ExportFailure {
                why: format!("{peer}: answered {status}"),
                pause: None,
            }),
        }
    }
}

/// The attributes of this process, by OpenTelemetry's conventions for resources.
fn resource() -> Vec<KeyValue> {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    let pid = std::process::id();
    vec![
        KeyValue::new("service.name", env!("CARGO_PKG_NAME")),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", format!("{host}:{pid}")),
        KeyValue::new("host.name", &*host),
        KeyValue::new("process.pid", u64::from(pid)),
    ]
}

#[cfg(test)]
#[path = "spans_tests.rs"]
mod tests;
