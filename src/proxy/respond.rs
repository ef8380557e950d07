//! Answers of the proxy itself: refusals, failures and redirects.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::error::LocalReply;
use super::headers::{Fields, NoFields, Outgoing, Request};
use super::observe::{Inbound, Recording};
use super::websocket;
use super::wire::{Downstream, WireError};
use super::{Ended, error::ExchangeError};
use crate::http1::{Framing, Method};
use crate::net::TaskControl;
use crate::snapshot::Snapshot;
use crate::telemetry::record::Reason;

/// What every answer of ours says of itself.
const CONTENT_TYPE: (&str, &str) = ("content-type", "text/plain; charset=utf-8");

/// Redirects the client to the same address on https. Status 308 keeps method and body (RFC 9110 §15.4.9).
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
        text: "moved to https\n",
        added: &[CONTENT_TYPE, ("location", &location)],
    };
    send(watch, snapshot, recording, down, &reply).await
}

/// Refuses a request that reached no version.
pub async fn refuse<D: Downstream>(
    watch: &TaskControl,
    snapshot: &Snapshot,
    recording: &mut Recording<'_>,
    down: &mut D,
    answer: LocalReply,
) -> Ended {
    recording.record.failure = (answer.status >= 400).then(|| answer.failure());
    send_answer(watch, snapshot, recording, down, answer).await
}

/// Refuses a request whose head can't be used. `method` decides whether the answer has a body.
pub async fn refuse_head<D: Downstream>(
    inbound: Inbound<'_>,
    watch: &TaskControl,
    method: Method,
    down: &mut D,
    answer: LocalReply,
) -> Ended {
    let id = inbound.worker.request_id(None);
    let mut recording = Recording::begin(inbound, id.ours());
    recording.record.method = method;
    refuse(watch, inbound.snapshot, &mut recording, down, answer).await
}

/// Tells the client of a failure, where it can still be told.
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
        // What is left of the client's bytes is in doubt, or the client was slow: don't wait for the rest.
        down.close_after();
    }
    send_answer(watch, snapshot, recording, down, answer).await
}

async fn send_answer<D: Downstream>(
    watch: &TaskControl,
    snapshot: &Snapshot,
    recording: &mut Recording<'_>,
    down: &mut D,
    answer: LocalReply,
) -> Ended {
    let mut added = vec![CONTENT_TYPE];
    match answer.status {
        // RFC 9110 §15.5.6: the methods that may be used instead have to be named.
        405 => added.push(("allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")),
        426 => added.extend_from_slice(&websocket::REQUIRED),
        503 => added.push(("retry-after", "1")),
        _ => {}
    }
    let reply = RenderedReply {
        status: answer.status,
        reason: answer.reason,
        text: answer.text(),
        added: &added,
    };
    send(watch, snapshot, recording, down, &reply).await
}

/// An answer of the proxy itself, apart from the fields that all of them carry.
struct RenderedReply<'a> {
    status: u16,
    reason: Reason,
    text: &'a str,
    added: &'a [(&'static str, &'a str)],
}

/// Sends it. A slow reader gets as long as a silent body.
async fn send<D: Downstream>(
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
    let is_grpc = record.grpc && reply.status >= 400;
    let bodiless = is_grpc || record.method == Method::Head;
    let queued = if is_grpc {
        queue_grpc(down, record.id, reply)
    } else {
        queue(down, record.id, record.method, reply)
    };
    if queued.is_err() {
        return Ended::Cut;
    }
    record.status = reply.status;
    let text: &[u8] = if bodiless { &[] } else { reply.text.as_bytes() };
    watch.arm(snapshot.spec.limits.body_timeout);
    if finish(watch, down, text).await.is_err() {
        return Ended::Cut;
    }
    record.bytes_sent = text.len() as u64;
    Ended::Whole
}

/// Queues the head of a plain answer.
fn queue<D: Downstream>(
    down: &mut D,
    id: &[u8],
    method: Method,
    reply: &RenderedReply<'_>,
) -> Result<(), WireError> {
    let length = reply.text.len() as u64;
    let id = String::from_utf8_lossy(id);
    let mut added = reply.added.to_vec();
    added.push(("x-cutover-reason", reply.reason.as_str()));
    added.push(("x-request-id", &id));
    down.send_response(&Outgoing {
        status: reply.status,
        fields: NoFields,
        framing: match method {
            Method::Head => Framing::Empty,
            _ => Framing::Length(length),
        },
        told_length: Some(length),
        added: &added,
        upgrade: None,
    })
}

/// Queues a gRPC answer without messages: status 200 and the call's status, all in one head ("Trailers-Only" in gRPC's
/// protocol over HTTP/2).
fn queue_grpc<D: Downstream>(
    down: &mut D,
    id: &[u8],
    reply: &RenderedReply<'_>,
) -> Result<(), WireError> {
    let id = String::from_utf8_lossy(id);
    let code = grpc_code(reply.status);
    down.send_response(&Outgoing {
        status: 200,
        fields: NoFields,
        framing: Framing::Empty,
        told_length: None,
        added: &[
            ("content-type", "application/grpc"),
            ("grpc-status", code),
            ("grpc-message", reply.text.trim_ascii_end()),
            ("x-cutover-reason", reply.reason.as_str()),
            ("x-request-id", &id),
        ],
        upgrade: None,
    })
}

/// The gRPC status for an HTTP status, as gRPC's own mapping for clients has it
/// (grpc/doc/http-grpc-status-mapping.md).
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

/// Writes the body and ends it.
async fn finish<D: Downstream>(
    watch: &TaskControl,
    down: &mut D,
    mut rest: &[u8],
) -> Result<(), WireError> {
    let late = |cx: &Context<'_>| match watch.expired(cx) {
        true => Poll::Ready(Err(WireError::Cut)),
        false => Poll::Pending,
    };
    poll_fn(|cx| {
        while !rest.is_empty() {
            match down.poll_write(cx, rest) {
                Poll::Ready(Ok(n)) => rest = &rest[n..],
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => return late(cx),
            }
        }
        match down.poll_finish(cx, None) {
            Poll::Pending => late(cx),
            ready => ready,
        }
    })
    .await
}
