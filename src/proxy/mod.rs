//! The data path: one request, from its parsed head to its outcome.
//!
//! The listener parses a head and calls [`handle`], which routes the request to a service and a
//! version and forwards it. Forwarding buffers the start of the body, then tries endpoints until
//! one has answered or no retry is allowed; a request that gets no answer from an endpoint gets a
//! [`LocalReply`]. The [`Recording`] collects the facts on the way and publishes them once, when
//! it is dropped.
//!
//! Downstream and upstream connections are generic ([`wire`]): the same code moves a request from
//! HTTP/1 or HTTP/2 to HTTP/1 or HTTP/2. A request is one task; both directions of its body are
//! polled inside it, without channels.
//!
//! In the order in which a request meets them:
//!
//! * [`context`] holds what doesn't change during a request, [`observe`] its record and all that
//!   is counted and logged about it, [`worker`] the state of the thread that serves it,
//!   [`mod@access_log`] the lines that it has logged, [`traces`] its spans.
//! * [`max_forwards`] and [`websocket`] answer or refuse some requests before they are routed;
//!   [`placing`] picks the version.
//! * [`buffering`] reads the start of a body before the request takes a slot of its version;
//!   [`pace`] limits how slowly a client may send.
//! * [`tries`] picks endpoints and acts on failures ([`retry`] is the pure decision).
//!   [`attempt`] runs one exchange with one endpoint, on a connection from [`connection`];
//!   [`active`] counts the request as in flight there.
//! * [`hedging`] sends a request that takes long to a second endpoint ([`second_try`], which has no client of its own:
//!   [`detached`]) and uses the response that comes first.
//! * [`holding`] lets a request wait while no endpoint is usable, in a queue ([`hold_queue`]) from
//!   which [`releasing`] releases it. It may then use a later snapshot ([`snapshots`]).
//! * [`exchange`] sends the request and relays the response. [`body`] copies bytes from a source
//!   to a sink; [`tunnel`] does so both ways after a 101.
//! * [`mirror`] sends copies of requests to another version, after the users have been served.
//! * [`respond`] sends local replies, [`configured`] those that the configuration asks for.
//!   [`error`] says for each failure who caused it, what the client is told and what is charged to
//!   the version.
//! * [`wire`] is the interface to a connection, with [`h1`], [`h1_down`] and [`h1_up`] for HTTP/1,
//!   [`h2`], [`h2_down`] and [`h2_up`] for HTTP/2. [`headers`], [`id`], [`via`] and [`peer`]
//!   rewrite heads, [`edit`] as the configuration asks for.
//! * [`undelivered`] is a response that waits for its client when nothing else of its exchange is
//!   needed any more; [`silence`] is the deadline of the next progress.
//! * Overload and shutdown: [`admission_queue`] spreads the start of requests over event loop
//!   iterations, [`slow_downloads`] frees slots that slow clients occupy, [`drain`] says when a
//!   grace period has ended.

pub(crate) mod access_log;
pub(crate) mod active;
pub(crate) mod admission_queue;
pub(crate) mod attempt;
pub(crate) mod body;
pub(crate) mod buffering;
mod configured;
mod connect_pacing;
pub(crate) mod connection;
pub(crate) mod context;
mod detached;
pub(crate) mod drain;
pub mod edit;
pub(crate) mod error;
pub(crate) mod exchange;
pub(crate) mod h1;
pub(crate) mod h1_down;
pub(crate) mod h1_up;
pub(crate) mod h2;
pub(crate) mod h2_down;
pub(crate) mod h2_up;
pub mod headers;
mod hedging;
pub(crate) mod hold_queue;
mod holding;
pub(crate) mod id;
pub(crate) mod judged;
mod max_forwards;
mod mirror;
pub(crate) mod observe;
mod outcome;
pub(crate) mod pace;
pub(crate) mod peer;
pub mod placing;
pub(crate) mod releasing;
pub(crate) mod respond;
pub(crate) mod retry;
mod second_try;
pub(crate) mod silence;
pub(crate) mod slow_downloads;
pub(crate) mod snapshots;
pub(crate) mod traces;
pub(crate) mod tries;
pub(crate) mod tunnel;
mod undelivered;
pub(crate) mod via;
pub(crate) mod websocket;
pub(crate) mod wire;
pub(crate) mod worker;

pub use error::LocalReply;
pub use observe::{Inbound, Recording};
pub use peer::Peer;
pub use respond::{
    RejectedHead, answer_challenge, record_rejected, redirect_https, refuse, refuse_head,
};
pub use snapshots::RequestSnapshots;
pub use undelivered::Undelivered;
pub use worker::{SharedSnapshot, Worker};

use crate::http1::{self, Framing};
use crate::net::{TaskControl, TaskPhase};
use crate::snapshot::{Service, Snapshot};
use crate::telemetry::record::Protocol;
use admission_queue::Begun;
use body::Upload;
use configured::AnsweredRequest;
use context::RequestContext;
use error::{AttemptError, ExchangeError};
use exchange::is_grpc;
use headers::{Fields, Request};
use holding::{Hold, Missed};
use outcome::Served;
use placing::{Placed, Placement};
use tries::Tries;
use wire::Downstream;

/// How a request ended. Tells the caller what to do with the downstream connection or stream.
#[derive(Debug)]
pub enum Ended {
    /// The response was sent in full; an HTTP/1 connection may carry the next request.
    Whole,
    /// The response is missing or incomplete. The caller has to abort the connection or stream in
    /// a way that the client can't mistake for the end of a complete response.
    Cut,
    /// The connection was switched to a tunnel, which has ended. Close the connection.
    Tunnel,
    /// The response has arrived completely, and its client is slow to read it. The caller sends the rest and records how that
    /// ends. Only after [`handle`], and if [`Downstream::TAKES_UNDELIVERED`].
    Undelivered(Box<Undelivered>),
}

/// Serves one request: routes it, forwards it and sends the client a response.
///
/// Every outcome ends up in `recording`, including a panic or a dropped future: dropping this
/// future cancels the exchange, and the record is still published when `recording` is dropped.
pub async fn handle<'a, D: Downstream, F: Fields>(
    inbound: &Inbound<'a>,
    watch: &'a TaskControl,
    request: &'a Request<'a, F>,
    recording: &mut Recording<'a>,
    down: &mut D,
) -> Ended {
    watch.enter(TaskPhase::Request);
    tracing::trace!(path = %request.logged_path(), "request received");
    // gRPC requires HTTP/2, so an HTTP/1 request is spared the lookup of its content type.
    recording.record.grpc = inbound.protocol == Protocol::Http2 && is_grpc(&request.fields);
    let mut passage = Passage::default();
    let mut snapshot = inbound.snapshot;
    loop {
        let inbound = (inbound, snapshot);
        match pass(inbound, watch, request, recording, down, &mut passage).await {
            Forwarded::Ended(ended) => return ended,
            Forwarded::Again => snapshot = inbound.0.snapshots.latest(inbound.0.worker),
        }
    }
}

/// The state of a request that is kept when it is routed again after it has waited.
#[derive(Default)]
struct Passage<'a> {
    /// Set once the request has waited.
    hold: Option<Hold<'a>>,
    /// Set once the request was forwarded.
    upload: Option<Upload>,
}

/// The result of routing and forwarding a request once.
enum Forwarded {
    /// The request has ended.
    Ended(Ended),
    /// The request has waited for an endpoint and is to be routed again.
    Again,
}

/// Routes a request by this snapshot and forwards it, once it doesn't have to wait.
async fn pass<'a, D: Downstream, F: Fields>(
    (inbound, snapshot): (&Inbound<'a>, &'a Snapshot),
    watch: &'a TaskControl,
    request: &'a Request<'a, F>,
    recording: &mut Recording<'a>,
    down: &mut D,
    passage: &mut Passage<'a>,
) -> Forwarded {
    let worker = inbound.worker;
    let begun = worker.admission.begin();
    let has_waited = passage.hold.is_some();
    let (service, placement) = match route((inbound, snapshot), request, recording, has_waited) {
        Ok(found) => found,
        Err(answer) => return refused(watch, snapshot, recording, down, answer).await,
    };
    recording.set_service(service, placement.decided());
    let rewritten = match service.actions.rewrite(recording.record.rule) {
        None => None,
        Some(rewrite) => match edit::rewritten(rewrite, request) {
            Ok(rewritten) => Some(rewritten),
            Err(answer) => return refused(watch, snapshot, recording, down, answer).await,
        },
    };
    let placed = match placement {
        Placement::Forward(placed) => placed,
        Placement::Answer(placing::Answered {
            answer, version, ..
        }) => {
            if let Some(version) = version {
                recording.answers_for(version);
            }
            let answered = AnsweredRequest {
                snapshot,
                request,
                rewritten: rewritten.as_deref(),
                answer,
            };
            // Boxed because it is rare: inline, its state would enlarge every request's future.
            let answering = configured::answer(watch, answered, recording, down);
            return Forwarded::Ended(Box::pin(answering).await);
        }
    };
    recording.set_user(placed.user);
    if !service.routing.flags.is_empty() {
        recording.decide_flags(service, request, placed.user);
    }
    let cx = RequestContext {
        worker,
        watch,
        snapshot,
        started: inbound.started,
        request,
        rewritten,
        service,
    };
    dispatch(&cx, &placed, begun, recording, down, passage).await
}

/// Forwards a routed request, or lets it wait for an endpoint. `begun` counts it as in flight.
async fn dispatch<'a, D: Downstream, F: Fields>(
    cx: &RequestContext<'a, F>,
    placed: &Placed,
    begun: Begun<'_>,
    recording: &mut Recording<'_>,
    down: &mut D,
    passage: &mut Passage<'a>,
) -> Forwarded {
    let missed = match holding::must_wait(cx, placed, passage.hold.is_some()) {
        true => Missed {
            version: placed.aim.version,
            error: None,
        },
        false => match forward_and_copy(cx, placed, recording, down, passage).await {
            Ok(ended) => return Forwarded::Ended(ended),
            Err(missed) => missed,
        },
    };
    // A request that waits doesn't keep others from being admitted.
    drop(begun);
    let waiting = holding::wait(cx, placed, &mut passage.hold, missed, recording, down);
    match Box::pin(waiting).await {
        Ok(()) => Forwarded::Again,
        Err(error) => {
            let reported = respond::report(cx.watch, cx.snapshot, recording, down, error);
            Forwarded::Ended(Box::pin(reported).await)
        }
    }
}

/// Forwards a routed request and, if the service mirrors it, sends a copy of it afterwards.
///
/// # Errors
/// See [`forward`].
async fn forward_and_copy<D: Downstream, F: Fields>(
    cx: &RequestContext<'_, F>,
    placed: &Placed,
    recording: &mut Recording<'_>,
    down: &mut D,
    passage: &mut Passage<'_>,
) -> Result<Ended, Missed> {
    // What was read of a body before the request waited isn't read again, so that the copy would lack it.
    let is_whole = passage.upload.is_none() || !cx.request.framing.has_body();
    let draft = is_whole.then(|| mirror::select(cx, placed)).flatten();
    let Some(draft) = draft else {
        return forward(cx, placed, recording, down, passage).await;
    };
    // Boxed because it is rare: inline, its state would enlarge every request's future.
    let copied = async {
        let mut tee = draft.tee(down, cx.request.framing);
        let ended = forward(cx, placed, recording, &mut tee, passage).await?;
        draft.send(cx, recording, tee);
        Ok(ended)
    };
    Box::pin(copied).await
}

/// Replies to a request that isn't forwarded.
async fn refused<D: Downstream>(
    watch: &TaskControl,
    snapshot: &Snapshot,
    recording: &mut Recording<'_>,
    down: &mut D,
    answer: LocalReply,
) -> Forwarded {
    Forwarded::Ended(refuse(watch, snapshot, recording, down, answer).await)
}

/// Finds the service for a request, and what the service does with it. `has_waited`: it was found
/// before, and the limits of its client have admitted the request.
///
/// # Errors
/// The reply to a request that isn't forwarded: a `Max-Forwards` of 0, a malformed WebSocket
/// handshake, an ambiguous path, no route, or too many requests of the client.
fn route<'s, F: Fields>(
    (inbound, snapshot): (&Inbound<'s>, &'s Snapshot),
    request: &Request<'_, F>,
    recording: &mut Recording<'s>,
    has_waited: bool,
) -> Result<(&'s Service, Placement<'s>), LocalReply> {
    let &Inbound {
        worker, started, ..
    } = inbound;
    if !has_waited {
        let limits = &snapshot.listener_limits;
        limits
            .admit(inbound.listener, request, started)
            .map_err(LocalReply::too_many_requests)?;
    }
    let refusal = max_forwards::final_answer(request).or_else(|| websocket::refusal(request));
    if let Some(answer) = refusal {
        return Err(answer);
    }
    let path = &request.target[..request.path_len];
    let table = snapshot.table_of(inbound.listener);
    let found = table.find(request.host, path);
    if let Some(needed) = found.and_then(|found| snapshot.needed_for(found.service)) {
        worker.prefetch(needed);
    }
    // An application may decode `%2f` or read `\` as `/`. If such a reading of the path would be
    // routed elsewhere, forwarding it could bypass what the other route protects.
    let readings = http1::path::readings(request.typed_path, path);
    let elsewhere = |seen: &Vec<u8>| table.find(request.host, seen) != found;
    if readings.iter().any(elsewhere) {
        return Err(LocalReply::AMBIGUOUS_PATH);
    }
    let found = found.ok_or(LocalReply::NO_ROUTE)?;
    let service = &snapshot.services[found.service];
    // The same holds for a path that a rule of the service guards.
    let guarded = |seen: &Vec<u8>| service.routing.guards_otherwise(request, seen);
    if readings.iter().any(guarded) {
        return Err(LocalReply::AMBIGUOUS_PATH);
    }
    let is_preview = found.preview.is_some();
    let limits = &service.client_limits;
    if !has_waited && let Err(over) = limits.admit(&service.routing, is_preview, request, started) {
        recording.set_service(service, (None, over.rule));
        return Err(LocalReply::too_many_requests(over.wait));
    }
    let placement = placing::place(worker, service, found.preview, request);
    if let (_, Some(rule)) = placement.decided()
        && !has_waited
    {
        service.rule_hits.hit(worker.id, rule);
    }
    Ok((service, placement))
}

/// Forwards a routed request: buffers the start of its body, tries endpoints, and reports a
/// failure to the client if no byte of a response has been sent yet.
///
/// # Errors
/// The request could not be sent, and waits for another try.
async fn forward<'a, D: Downstream, F: Fields>(
    cx: &'a RequestContext<'a, F>,
    placed: &'a Placed,
    recording: &'a mut Recording<'_>,
    down: &mut D,
    passage: &mut Passage<'_>,
) -> Result<Ended, Missed> {
    let limit = cx.service.body_bytes;
    let is_first = passage.upload.is_none();
    let new = || match cx.request.framing {
        Framing::Empty => Upload::none(),
        _ => Upload::new(limit, cx.kept_bytes(placed.aim.version)),
    };
    let upload = passage.upload.get_or_insert_with(new);
    let mut version = placed.aim.version;
    let ready = match cx.request.framing {
        // Refused before an endpoint is asked. A body of unknown length is checked as it arrives.
        Framing::Length(n) if limit.is_some_and(|limit| n > limit) => {
            Err(ExchangeError::BodyTooLarge)
        }
        _ if is_first => cx.buffer_body(upload, down).await,
        _ => Ok(()),
    };
    let served = match ready {
        Ok(()) => {
            let mut tries = Tries::new(cx, &mut *recording, placed);
            let served = tries.run(upload, down).await;
            version = tries.version;
            served
        }
        Err(error) => Err(error.into()),
    };
    if !recording.record.tunnel {
        recording.record.bytes_received = upload.received();
    }
    Ok(match served {
        Ok(Served::Answered) => Ended::Whole,
        Ok(Served::Tunnel) => Ended::Tunnel,
        Ok(Served::Undelivered(rest)) => Ended::Undelivered(rest),
        Err(AttemptError {
            error,
            answered: true,
        }) => {
            recording.fail(error, true);
            Ended::Cut
        }
        Err(AttemptError { error, .. })
            if upload.can_rewind() && holding::may_wait(cx, &error, passage.hold.is_some()) =>
        {
            upload.rewind();
            let error = Some(error);
            return Err(Missed { version, error });
        }
        Err(AttemptError { error, .. }) => {
            respond::report(cx.watch, cx.snapshot, recording, down, error).await
        }
    })
}
