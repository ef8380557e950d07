//! Local replies: responses that the proxy makes itself, such as refusals, failures and redirects.
//!
//! A local reply is a one-line text with `x-cutover-reason` and `x-request-id`. A gRPC client gets
//! the failure as a `grpc-status` instead. All of them pass through [`send_reply`].

use std::borrow::Cow;
use std::future::poll_fn;
use std::task::{Context, Poll};

use super::edit;
use super::error::LocalReply;
use super::headers::{Fields, NoFields, Outgoing, RenderedFields, Request};
use super::observe::{Inbound, Recording};
use super::websocket;
use super::wire::{Downstream, WireError};
use super::{Ended, error::ExchangeError};
use crate::http1::{Framing, Method, Reject};
use crate::net::TaskControl;
use crate::snapshot::Snapshot;
use crate::telemetry::record::Reason;

const CONTENT_TYPE: (&str, &str) = ("content-type", "text/plain; charset=utf-8");

/// Redirects the client to the same URI with the scheme `https`. The status is 308, which unlike
/// 301 makes the client repeat method and body (RFC 9110 §15.4.9).
pub async fn redirect_https<D: Downstream, F: Fields>(
    watch: &TaskControl,
    snapshot: &Snapshot,
    request: &Request<'_, F>,
    recording: &mut Recording<'_>,
    down: &mut D,
) -> Ended {
    let mut location = format!("https://{}", request.host).into_bytes();
    location.extend_from_slice(request.target);
    let location = String::from_utf8_lossy(&location);
    let reply = RenderedReply {
        status: 308,
        reason: Reason::RedirectHttps,
        body: Some(b"moved to https\n"),
        message: "",
        added: &[CONTENT_TYPE, ("location", &location)],
    };
    send_reply(watch, snapshot, recording, down, &reply).await
}

/// Replies to a request that isn't forwarded to any version. A status of 400 or above is recorded
/// as a failure of the client.
pub async fn refuse<D: Downstream>(
    watch: &TaskControl,
    snapshot: &Snapshot,
    recording: &mut Recording<'_>,
    down: &mut D,
    answer: LocalReply,
) -> Ended {
    recording.record.failure = (answer.status >= 400).then(|| answer.failure());
    send_local_reply(watch, snapshot, recording, down, answer).await
}

/// The known parts of a head that was rejected. All of them may be empty.
#[derive(Debug)]
pub struct RejectedHead<'a> {
    /// The class of the method: a reply to HEAD has no body.
    pub method: Method,
    /// The method as received.
    pub method_text: &'a [u8],
    /// The host in lower case, without port.
    pub host: Cow<'a, str>,
    /// The path as received.
    pub path: &'a [u8],
}

impl RejectedHead<'_> {
    /// A head that could not be parsed.
    pub const UNREADABLE: RejectedHead<'static> = RejectedHead {
        method: Method::Other,
        method_text: b"",
        host: Cow::Borrowed(""),
        path: b"",
    };
}

/// Replies to a request whose head was rejected, so that there is no record of it yet.
pub async fn refuse_head<D: Downstream>(
    inbound: &Inbound<'_>,
    watch: &TaskControl,
    head: &RejectedHead<'_>,
    down: &mut D,
    answer: LocalReply,
) -> Ended {
    let id = inbound.worker.request_id(None);
    let mut recording = begin_rejected(inbound, id.ours(), head);
    refuse(watch, inbound.snapshot, &mut recording, down, answer).await
}

/// Records a request that is not answered, since its stream was reset because of its head.
pub fn record_rejected(inbound: &Inbound<'_>, head: &RejectedHead<'_>, reject: Reject) {
    let id = inbound.worker.request_id(None);
    let mut recording = begin_rejected(inbound, id.ours(), head);
    recording.fail(ExchangeError::Malformed(reject), false);
}

fn begin_rejected<'a>(
    inbound: &Inbound<'a>,
    id: &'a [u8],
    head: &'a RejectedHead<'_>,
) -> Recording<'a> {
    let mut recording = Recording::begin(inbound, id);
    recording.record.method = head.method;
    recording.record.method_text = head.method_text;
    recording.record.host = &head.host;
    recording.record.path = head.path;
    recording
}

/// Answers a challenge of an ACME authority (RFC 8555 section 8.3).
pub async fn answer_challenge<D: Downstream>(
    watch: &TaskControl,
    snapshot: &Snapshot,
    recording: &mut Recording<'_>,
    down: &mut D,
    text: &str,
) -> Ended {
    let reply = RenderedReply {
        status: 200,
        reason: Reason::AcmeChallenge,
        body: Some(text.as_bytes()),
        message: "",
        added: &[("content-type", "application/octet-stream")],
    };
    send_reply(watch, snapshot, recording, down, &reply).await
}

/// Records a failure and reports it to the client, which must not have seen any byte of a response.
pub(super) async fn report<D: Downstream>(
    watch: &TaskControl,
    snapshot: &Snapshot,
    recording: &mut Recording<'_>,
    down: &mut D,
    error: ExchangeError,
) -> Ended {
    let answer = error.answer();
    let is_charged = error.upstream_status().is_some();
    recording.fail(error, false);
    let Some(answer) = answer else {
        return Ended::Cut;
    };
    if !is_charged {
        // The upstream didn't cause the failure: the client's body is malformed, late or too large, or was
        // never read. The connection isn't at a message boundary and may not reach one soon.
        down.close_after();
    }
    send_local_reply(watch, snapshot, recording, down, answer).await
}

async fn send_local_reply<D: Downstream>(
    watch: &TaskControl,
    snapshot: &Snapshot,
    recording: &mut Recording<'_>,
    down: &mut D,
    answer: LocalReply,
) -> Ended {
    let mut added = vec![CONTENT_TYPE];
    let retry_after = answer.retry_after.map(|seconds| seconds.to_string());
    if let Some(seconds) = &retry_after {
        added.push(("retry-after", seconds));
    }
    match answer.status {
        // A 405 must list the allowed methods (RFC 9110 §15.5.6).
        405 => added.push(("allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")),
        426 => added.extend_from_slice(&websocket::REQUIRED),
        _ => {}
    }
    let reply = RenderedReply {
        status: answer.status,
        reason: answer.reason,
        body: Some(answer.text().as_bytes()),
        message: answer.text().trim_ascii_end(),
        added: &added,
    };
    send_reply(watch, snapshot, recording, down, &reply).await
}

/// A local reply without the fields that all of them carry.
pub(super) struct RenderedReply<'a> {
    pub status: u16,
    pub reason: Reason,
    /// The body; `None` for a status that has none, not even one of length 0.
    pub body: Option<&'a [u8]>,
    /// The `grpc-message` for a gRPC client.
    pub message: &'a str,
    pub added: &'a [(&'static str, &'a str)],
}

/// Sends a local reply and records it. The client has `limits.body_timeout` to read all of it.
pub(super) async fn send_reply<D: Downstream>(
    watch: &TaskControl,
    snapshot: &Snapshot,
    recording: &mut Recording<'_>,
    down: &mut D,
    reply: &RenderedReply<'_>,
) -> Ended {
    let record = &mut recording.record;
    record.local_reply = Some(reply.reason);
    if watch.is_closing() {
        down.close_after();
    }
    // A gRPC client takes the outcome from `grpc-status`; it doesn't show the body of a response
    // to its user. A redirect or a 200 has no counterpart in gRPC.
    let is_grpc = record.grpc && reply.status >= 400;
    let is_bodiless = is_grpc || record.method == Method::Head;
    let (id, method) = (record.id, record.method);
    let edits = edit::of_response(snapshot, recording);
    let queued = if is_grpc {
        queue_grpc_head(down, id, reply, edits.as_ref())
    } else {
        queue_head(down, (id, method), reply, edits.as_ref())
    };
    drop(edits);
    let record = &mut recording.record;
    if queued.is_err() {
        return Ended::Cut;
    }
    record.status = reply.status;
    let text = reply.body.filter(|_| !is_bodiless).unwrap_or_default();
    watch.arm(snapshot.spec.limits.body_timeout);
    if write_body(watch, down, text).await.is_err() {
        return Ended::Cut;
    }
    record.bytes_sent = text.len() as u64;
    Ended::Whole
}

fn queue_head<D: Downstream>(
    down: &mut D,
    (id, method): (&[u8], Method),
    reply: &RenderedReply<'_>,
    edits: Option<&RenderedFields<'_>>,
) -> Result<(), WireError> {
    let length = reply.body.map(|body| body.len() as u64);
    let id = String::from_utf8_lossy(id);
    let mut added = reply.added.to_vec();
    added.push(("x-cutover-reason", reply.reason.as_str()));
    added.push(("x-request-id", &id));
    down.send_response(&Outgoing {
        status: reply.status,
        fields: NoFields,
        framing: match length {
            Some(length) if method != Method::Head => Framing::Length(length),
            _ => Framing::Empty,
        },
        declared_length: length,
        added: &added,
        // The fields that describe the body aren't edited.
        fixed: added
            .iter()
            .take_while(|(name, _)| *name == "content-type")
            .count(),
        edits,
        upgrade: None,
    })
}

/// Queues a gRPC response without messages: status 200, with the call's status in the head
/// ("Trailers-Only" in the gRPC over HTTP/2 protocol).
fn queue_grpc_head<D: Downstream>(
    down: &mut D,
    id: &[u8],
    reply: &RenderedReply<'_>,
    edits: Option<&RenderedFields<'_>>,
) -> Result<(), WireError> {
    let id = String::from_utf8_lossy(id);
    let code = grpc_code(reply.status);
    down.send_response(&Outgoing {
        status: 200,
        fields: NoFields,
        framing: Framing::Empty,
        declared_length: None,
        added: &[
            ("content-type", "application/grpc"),
            ("grpc-status", code),
            ("grpc-message", reply.message),
            ("x-cutover-reason", reply.reason.as_str()),
            ("x-request-id", &id),
        ],
        // The fields with the outcome of the call, and those that make it a gRPC response, aren't edited.
        fixed: 3,
        edits,
        upgrade: None,
    })
}

/// The `grpc-status` for an HTTP status, from gRPC's own mapping
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
fn grpc_code(status: u16) -> &'static str {
    match status {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502..=504 => "14",
        _ => "2",
    }
}

/// Writes and ends the body. The deadline is the one that `watch` is armed with.
async fn write_body<D: Downstream>(
    watch: &TaskControl,
    down: &mut D,
    mut unsent: &[u8],
) -> Result<(), WireError> {
    let timed_out = |cx: &Context<'_>| match watch.expired(cx) {
        true => Poll::Ready(Err(WireError::Cut)),
        false => Poll::Pending,
    };
    poll_fn(|cx| {
        while !unsent.is_empty() {
            match down.poll_write(cx, unsent) {
                Poll::Ready(Ok(n)) => unsent = &unsent[n..],
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => return timed_out(cx),
            }
        }
        match down.poll_finish(cx, None) {
            Poll::Pending => timed_out(cx),
            ready => ready,
        }
    })
    .await
}
