//! Answers that the configuration gives to requests: `respond` and `redirect`.
//!
//! They are sent as local replies, so they carry `x-cutover-reason` and count as answers of the proxy. None of them counts as a
//! failure, because the operator has configured it.

use super::Ended;
use super::edit::Rewritten;
use super::error::LocalReply;
use super::headers::{Fields, Request};
use super::observe::Recording;
use super::respond::{RenderedReply, refuse, send_reply};
use super::wire::Downstream;
use crate::config::actions::{Answer, Redirect, Respond};
use crate::http1::status;
use crate::net::TaskControl;
use crate::routing::redirect::{self, RedirectSource};
use crate::snapshot::Snapshot;
use crate::telemetry::record::Reason;

/// A request that the proxy answers itself.
pub(super) struct AnsweredRequest<'a, F> {
    pub snapshot: &'a Snapshot,
    pub request: &'a Request<'a, F>,
    /// The request's target after `rewrite`, if that changes it.
    pub rewritten: Option<&'a Rewritten<'a>>,
    pub answer: &'a Answer,
}

/// Answers a request as the configuration says.
pub(super) async fn answer<D: Downstream, F: Fields>(
    watch: &TaskControl,
    answered: AnsweredRequest<'_, F>,
    recording: &mut Recording<'_>,
    down: &mut D,
) -> Ended {
    let snapshot = answered.snapshot;
    match answered.answer {
        Answer::Respond(fixed) => respond(watch, snapshot, recording, down, fixed).await,
        Answer::Redirect(redirect) => {
            let Some(location) = location(redirect, &answered) else {
                return refuse(watch, snapshot, recording, down, LocalReply::MISSING_HOST).await;
            };
            let reply = RenderedReply {
                status: redirect.status,
                reason: Reason::Redirect,
                body: Some(b"moved\n"),
                message: "",
                added: &[
                    ("content-type", "text/plain; charset=utf-8"),
                    ("location", &location),
                ],
            };
            send_reply(watch, snapshot, recording, down, &reply).await
        }
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
            // A 205 has to say that its body is empty. The other two statuses imply it (RFC 9110 §15.3.6).
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

/// The value of `location`; `None` if the redirect can't be made.
fn location<F: Fields>(redirect: &Redirect, answered: &AnsweredRequest<'_, F>) -> Option<String> {
    let request = answered.request;
    let (path, query) = request.target.split_at(request.path_len);
    let new = answered.rewritten.and_then(|r| r.target.as_ref());
    let from = RedirectSource {
        secure: request.is_https(),
        host: request.host,
        path: new.map_or(path, |(target, len)| &target[..*len]),
        query,
    };
    redirect::location(&redirect.to, &from)
}
