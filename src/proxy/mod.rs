//! One request, from its head to its outcome.
//!
//! [`handle`] is the whole story: route, version, endpoint, attempt, answer, outcome. The parts:
//!
//! * [`context`]: what stays the same for a request. [`observe`]: its record, and everything that is counted and logged about it.
//! * [`hold`]: a body is whole, or 64 KiB of it there, before the request takes room in its version. [`placing`]: which version.
//! * [`tries`]: which endpoint, and what follows a failure ([`retry`] decides, pure). [`attempt`]: an exchange with it; [`connection`]: a connection to it; [`active`]: that it is busy.
//! * [`exchange`]: the request up and the response down on an open connection, in two phases. [`tunnel`]: what follows a 101. [`body`]: the pump.
//! * [`respond`]: answers of the proxy itself. [`error`]: what failed, who caused it, and who is told what.
//! * [`room`]: room for requests when slow downloads take all of it. [`drain`]: when what drains has had its time.
//! * [`wire`]: what an exchange asks of a connection. [`h1`], [`h1_down`], [`h1_up`]: HTTP/1. [`h2`], [`h2_down`], [`h2_up`]: HTTP/2.
//! * [`max_forwards`], [`websocket`]: requests that the proxy answers or refuses whatever their route.
//! * [`headers`]: heads on their way through; [`id`]: the request's id; [`via`]. [`peer`]: the other end of the connection. [`worker`]: what a thread has at hand.

pub(crate) mod active;
pub(crate) mod admission_queue;
pub(crate) mod attempt;
pub(crate) mod body;
pub(crate) mod buffering;
pub(crate) mod connection;
pub(crate) mod context;
pub(crate) mod drain;
pub(crate) mod error;
pub(crate) mod exchange;
pub(crate) mod h1;
pub(crate) mod h1_down;
pub(crate) mod h1_up;
pub(crate) mod h2;
pub(crate) mod h2_down;
pub(crate) mod h2_up;
pub mod headers;
pub(crate) mod id;
mod max_forwards;
pub(crate) mod observe;
pub(crate) mod pace;
pub(crate) mod peer;
pub(crate) mod placing;
pub(crate) mod respond;
pub(crate) mod retry;
pub(crate) mod room;
pub(crate) mod tries;
pub(crate) mod tunnel;
pub(crate) mod via;
mod websocket;
pub(crate) mod wire;
pub(crate) mod worker;

pub use error::LocalReply;
pub use observe::{Inbound, Recording};
pub use peer::Peer;
pub use respond::{redirect_https, refuse, refuse_head};
pub use worker::Worker;

use crate::http1::{self, Framing};
use crate::net::{TaskControl, TaskPhase};
use crate::snapshot::{Service, Snapshot};
use crate::telemetry::record::Protocol;
use body::Upload;
use context::RequestContext;
use error::{AttemptError, ExchangeError};
use exchange::is_grpc;
use headers::{Fields, Request};
use placing::Placed;
use tries::{Served, Tries};
use wire::Downstream;

/// How a request ended, for the connection or stream that it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client has its whole answer.
    Whole,
    /// The connection or stream must be cut: the client must not believe that the answer is whole.
    Cut,
    /// It was a tunnel; the connection is used up.
    Tunnel,
}

/// A fault of ours on purpose, at one place of a request that asks for it. Only this crate's own tests have it.
#[cfg(test)]
pub(crate) fn stumble(target: &[u8], place: &str) {
    let asked = target.strip_prefix(b"/stumble/");
    assert!(asked != Some(place.as_bytes()), "on purpose: {place}");
}

/// Takes one request to its end.
pub async fn handle<'a, D: Downstream, F: Fields>(
    inbound: Inbound<'a>,
    watch: &'a TaskControl,
    request: &'a Request<'a, F>,
    recording: &mut Recording<'a>,
    down: &mut D,
) -> Ended {
    let Inbound {
        worker, snapshot, ..
    } = inbound;
    watch.enter(TaskPhase::Request);
    let _begun = worker.admission.begin();
    #[cfg(test)]
    stumble(request.target, "routing");
    // gRPC is spoken over HTTP/2 alone: a request by HTTP/1 is not searched for its content type.
    recording.record.grpc = inbound.protocol == Protocol::Http2 && is_grpc(&request.fields);
    let (service, placed) = match route(worker, snapshot, request) {
        Ok(found) => found,
        Err(answer) => return refuse(watch, snapshot, recording, down, answer).await,
    };
    recording.set_service(service, (placed.chosen, placed.rule));
    let cx = RequestContext {
        worker,
        watch,
        snapshot,
        started: inbound.started,
        request,
        service,
    };
    forward(&cx, &placed, recording, down).await
}

/// The service for a request and where in it it goes, or why it gets none.
fn route<'s, F: Fields>(
    worker: &Worker,
    snapshot: &'s Snapshot,
    request: &Request<'_, F>,
) -> Result<(&'s Service, Placed), LocalReply> {
    let refusal = max_forwards::final_answer(request).or_else(|| websocket::refusal(request));
    if let Some(answer) = refusal {
        return Err(answer);
    }
    let path = &request.target[..request.path_len];
    let found = snapshot.table.find(request.host, path);
    let readings = http1::path::readings(request.typed_path, path);
    let elsewhere = |seen: &Vec<u8>| snapshot.table.find(request.host, seen) != found;
    if readings.iter().any(elsewhere) {
        return Err(LocalReply::AMBIGUOUS_PATH);
    }
    let found = found.ok_or(LocalReply::NO_ROUTE)?;
    let service = &snapshot.services[found.service];
    Ok((
        service,
        placing::place(worker, service, found.preview, request),
    ))
}

/// Sends the request to a version and tells the client what came of it.
async fn forward<'a, D: Downstream, F: Fields>(
    cx: &'a RequestContext<'a, F>,
    placed: &'a Placed,
    recording: &'a mut Recording<'_>,
    down: &mut D,
) -> Ended {
    let limit = cx.snapshot.spec.limits.body_bytes;
    let mut upload = Upload::new(limit, cx.kept_bytes(placed.aim.version));
    let served = match cx.request.framing {
        Framing::Length(n) if limit.is_some_and(|limit| n > limit) => {
            Err(ExchangeError::BodyTooLarge.into())
        }
        _ => match cx.buffer_body(&mut upload, down).await {
            Ok(()) => {
                let tries = Tries::new(cx, &mut *recording, placed);
                tries.run(&mut upload, down).await
            }
            Err(error) => Err(error.into()),
        },
    };
    recording.record.bytes_received = upload.received();
    match served {
        Ok(Served::Answered) => Ended::Whole,
        Ok(Served::Tunnel) => Ended::Tunnel,
        Err(AttemptError {
            error,
            answered: true,
        }) => {
            recording.fail(error, true);
            Ended::Cut
        }
        Err(AttemptError { error, .. }) => {
            respond::report(cx.watch, cx.snapshot, recording, down, error).await
        }
    }
}
