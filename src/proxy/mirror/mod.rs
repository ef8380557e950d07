//! Mirroring: a share of a service's requests is sent to another version as well, and the responses are compared.
//!
//! A request that is copied is served as any other, on a connection that keeps the parts its copy needs ([`tee`]). When the user
//! has been served, the copy goes to a thread of its own ([`copy`]), which sends it ([`client`]) and compares the responses
//! ([`diff`]). So a copy can't delay or fail a request, whatever its target does. It doesn't count under the limits of the version
//! that gets it, nor for that version's metrics, outlier detection or rollout.
//!
//! The response that is compared is the one that the endpoint sent, before the proxy edits it.

mod answer;
mod client;
mod copy;
mod diff;
mod redact;
mod tee;

use std::sync::Arc;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, header};

use super::context::RequestContext;
use super::edit;
use super::headers::{self, Fields, Request, RequestEdits};
use super::observe::Recording;
use super::placing::Placed;
use super::wire::Downstream;
use crate::config::spec::Share;
use crate::http1::Framing;
use crate::index::VersionIx;
use crate::snapshot::MirrorTarget;
use crate::telemetry::mirror::MirrorPermit;
use crate::telemetry::record::MirrorOutcome;
use client::CopiedRequest;
use copy::MirrorCopy;
use tee::{MirrorTee, RequestBody};

/// Fields that identify a user. They are copied only if the configuration says so.
const CREDENTIALS: [&str; 3] = ["authorization", "proxy-authorization", "cookie"];

/// A request that was selected for a copy. Dropping it without [`Self::send`] counts the copy as abandoned.
#[derive(Debug)]
pub(crate) struct MirrorDraft<'a> {
    target: &'a Arc<MirrorTarget>,
    permit: MirrorPermit,
}

/// Selects a request for a copy. `None` at once if its service has no mirror.
#[inline]
pub(super) fn select<'a, F: Fields>(
    cx: &RequestContext<'a, F>,
    placed: &Placed,
) -> Option<MirrorDraft<'a>> {
    let target = cx.service.mirror.as_ref()?;
    let draw = cx.worker.with_rng(|rng| rng.u32(0..Share::WHOLE));
    draft(target, cx.request, placed.aim.version, draw)
}

/// Selects a request for `version` by a number that was drawn from 0 to [`Share::WHOLE`].
fn draft<'a, F: Fields>(
    target: &'a Arc<MirrorTarget>,
    request: &Request<'_, F>,
    version: VersionIx,
    draw: u32,
) -> Option<MirrorDraft<'a>> {
    let spec = &target.spec;
    let method = request.method_text;
    let fits = version != spec.to
        && draw < spec.share.0
        && request.upgrade.is_none()
        && spec.methods.iter().any(|m| m.as_bytes() == method);
    if !fits {
        return None;
    }
    let mut permit = target.log.admit(spec.requests as usize)?;
    if let Framing::Length(n) = request.framing
        && n > spec.body_bytes as u64
    {
        permit.outcome = MirrorOutcome::TooLarge;
        return None;
    }
    Some(MirrorDraft { target, permit })
}

impl<'a> MirrorDraft<'a> {
    /// The client's connection, for the length of the request.
    pub(super) fn tee<'d, D: Downstream>(
        &self,
        down: &'d mut D,
        framing: Framing,
    ) -> MirrorTee<'d, D>
    where
        'a: 'd,
    {
        MirrorTee::new(down, &self.target.spec, framing)
    }

    /// Sends the copy, once the user has been served.
    pub(super) fn send<F: Fields, D: Downstream>(
        self,
        cx: &RequestContext<'_, F>,
        recording: &Recording<'_>,
        tee: MirrorTee<'_, D>,
    ) {
        let request = cx.request;
        let Self { target, mut permit } = self;
        let (body, answer) = tee.finish();
        let body = match body {
            RequestBody::Whole(body) => body,
            RequestBody::Arriving(body) if is_complete(request.framing, &body) => body,
            RequestBody::Arriving(_) => return,
            RequestBody::TooLarge => {
                permit.outcome = MirrorOutcome::TooLarge;
                return;
            }
        };
        let edits = edit::of_request(cx.rewritten.as_deref(), recording);
        let credentials = target.spec.credentials;
        let Some(copied) = copied(request, edits.as_deref(), body, credentials) else {
            permit.outcome = MirrorOutcome::Failed;
            return;
        };
        let attempt = recording.record.last_try();
        copy::hand_over(MirrorCopy {
            live: answer.filter(|_| is_comparable(recording, target.spec.to)),
            target: Arc::clone(target),
            permit,
            request: copied,
            id: text(request.id_text()),
            path: text(recording.record.path),
            version: attempt.map_or("", |attempt| attempt.version.0).to_owned(),
        });
    }
}

/// Whether all of a body has arrived whose end was not seen: one of known length needs no end.
fn is_complete(framing: Framing, body: &[u8]) -> bool {
    matches!(framing, Framing::Length(n) if n == body.len() as u64)
}

/// Whether the user got a complete response of another version than the one that gets the copy.
fn is_comparable(recording: &Recording<'_>, to: VersionIx) -> bool {
    let record = &recording.record;
    let by_another = record.last_try().is_some_and(|last| last.version.1 != to);
    by_another && record.failure.is_none() && record.local_reply.is_none()
}

/// A text of the request as it may be shown.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().collect()
}

/// The copy of a request, with the edits that it was forwarded with. `None` if it can't be expressed.
fn copied<F: Fields>(
    request: &Request<'_, F>,
    edits: Option<&RequestEdits<'_>>,
    body: Vec<u8>,
    credentials: bool,
) -> Option<CopiedRequest> {
    let edited = edits.and_then(|edits| edits.fields.as_ref());
    let drops = |name: &[u8]| edited.is_some_and(|edits| edits.drops(name));
    let is_left_out = |name: &[u8]| {
        let is_named = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        // The whole body is there: the copy needs no permission to send it.
        is_named("expect") || (!credentials && CREDENTIALS.into_iter().any(is_named))
    };
    let mut fields = HeaderMap::new();
    request.fields.each(|id, name, value| {
        if !request.is_ours(id) && !drops(name) && !is_left_out(name) {
            headers::add(&mut fields, name, value);
        }
    });
    request.each_added(|name, parts| {
        if !drops(name) {
            headers::add(&mut fields, name, &parts.concat());
        }
    });
    for (name, value) in edited.iter().flat_map(|edits| edits.values()) {
        let name = name.as_str().as_bytes();
        if !is_left_out(name) {
            headers::add(&mut fields, name, value);
        }
    }
    if request.te_trailers {
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let target = edits.and_then(|edits| edits.target);
    let authority = edits.and_then(|edits| edits.authority);
    let authority = match authority.unwrap_or(request.authority) {
        b"" => None,
        authority => Some(Authority::try_from(authority).ok()?),
    };
    Some(CopiedRequest {
        method: Method::from_bytes(request.method_text).ok()?,
        target: PathAndQuery::try_from(target.unwrap_or(request.target)).ok()?,
        authority,
        fields,
        body: Bytes::from(body),
    })
}
