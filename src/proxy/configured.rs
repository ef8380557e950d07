//! Answers that the configuration gives to requests: `respond`.
//!
//! They are sent as local replies, so they carry `x-cutover-reason` and count as answers of the proxy. None is a failure: the
//! operator wants it.

use super::Ended;
use super::observe::Recording;
use super::respond::{RenderedReply, send_reply};
use super::wire::Downstream;
use crate::config::actions::{Answer, Respond};
use crate::http1::status;
use crate::net::TaskControl;
use crate::snapshot::Snapshot;
use crate::telemetry::record::Reason;

/// Answers a request as the configuration says.
pub(super) async fn answer<D: Downstream>(
    watch: &TaskControl,
    snapshot: &Snapshot,
    recording: &mut Recording<'_>,
    down: &mut D,
    answer: &Answer,
) -> Ended {
    match answer {
        Answer::Respond(fixed) => respond(watch, snapshot, recording, down, fixed).await,
    }
}

async fn respond<D: Downstream>(
    watch: &TaskControl,
    snapshot: &Snapshot,
    recording: &mut Recording<'_>,
    down: &mut D,
    fixed: &Respond,
) -> Ended {
    let phrase = status::reason(fixed.status);
    let default = format!("{phrase}\n");
    let is_bodiless = Respond::is_bodiless(fixed.status);
    let retry_after = fixed.retry_after.map(|seconds| seconds.to_string());
    let mut added = Vec::with_capacity(4);
    if !is_bodiless {
        added.push(("content-type", fixed.content_type.as_str()));
    }
    if let Some(seconds) = &retry_after {
        added.push(("retry-after", seconds.as_str()));
    }
    let reply = RenderedReply {
        status: fixed.status,
        reason: Reason::Respond,
        body: match &fixed.body {
            // It has to say that the body is empty, which for the other two is understood (RFC 9110 §15.3.6).
            _ if fixed.status == 205 => Some(b""),
            _ if is_bodiless => None,
            Some(body) => Some(body),
            None => Some(default.as_bytes()),
        },
        message: phrase,
        added: &added,
    };
    send_reply(watch, snapshot, recording, down, &reply).await
}
