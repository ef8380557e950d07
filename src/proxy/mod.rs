//! One request, from its head to its outcome.
//!
//! [`handle`] is the whole story: route, version, endpoint, attempt, answer, outcome. The parts:
//!
//! * [`wire`]: what an exchange asks of a connection. [`h1`], [`h1_down`], [`h1_up`]: HTTP/1. [`h2`], [`h2_down`], [`h2_up`]: HTTP/2.
//! * [`hold`]: a body is whole, or 64 KiB of it there, before the request takes a place. [`placing`]: which version. [`tries`]: which endpoint, and whether another try follows. [`attempt`]: a connection to it; [`active`]: that it is busy.
//! * [`exchange`]: the request up and the answer down on an open connection. [`tunnel`]: what follows a 101. [`body`]: the pump. [`drain`]: when it has had its time.
//! * [`headers`]: heads on their way through; [`id`]: what they are found by. [`peer`]: who asks. [`error`]: what broke, and who is told what.
//! * [`worker`]: what a thread has at hand.

pub mod active;
pub mod attempt;
pub mod body;
pub mod drain;
pub mod error;
pub mod exchange;
pub mod h1;
pub mod h1_down;
pub mod h1_up;
pub mod h2;
pub mod h2_down;
pub mod h2_up;
pub mod headers;
pub mod hold;
pub mod id;
pub mod pace;
pub mod peer;
pub mod placing;
pub mod tries;
pub mod tunnel;
pub mod turnstile;
pub mod wire;
pub mod worker;

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

pub use error::Answer;
pub use peer::Peer;
pub use worker::Worker;

use crate::http1::{self, Framing, Method};
use crate::net::{Phase, Watch};
use crate::snapshot::{Service, Snapshot};
use attempt::Call;
use body::Upload;
use headers::{Fields, NoFields, Outgoing, Request};
use placing::Placed;

use wire::{Downstream, WireError};

/// How an exchange ended, for the connection that it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client has its whole answer, this status.
    Whole(u16),
    /// The connection or stream must be cut: the client must not believe that the answer is whole.
    Cut(u16),
    /// It was a tunnel; the connection is used up.
    Tunnel,
}

impl Ended {
    /// What counts in `cutover_downstream_requests_total`.
    pub fn status(self) -> u16 {
        match self {
            Self::Whole(status) | Self::Cut(status) => status,
            Self::Tunnel => 101,
        }
    }
}

/// A fault of ours on purpose, at one place of a request that asks for it. Only this crate's own tests have it.
#[cfg(test)]
pub(crate) fn stumble(target: &[u8], place: &str) {
    let asked = target.strip_prefix(b"/stumble/");
    assert!(asked != Some(place.as_bytes()), "on purpose: {place}");
}

/// Takes one request to its end.
pub async fn handle<D: Downstream, F: Fields>(
    worker: &Worker,
    watch: &Watch,
    started: Instant,
    request: &Request<'_, F>,
    down: &mut D,
) -> Ended {
    watch.enter(Phase::Request);
    let _begun = worker.turnstile.begin();
    #[cfg(test)]
    stumble(request.target, "routing");
    let snapshot = worker.snapshot();
    let ended = match route(worker, &snapshot, request) {
        Ok((service, placed)) => {
            let call = Call {
                worker,
                watch,
                started,
                request,
                service,
                body_timeout: snapshot.spec.limits.body_timeout,
            };
            forward(&call, &snapshot, &placed, down).await
        }
        Err(refusal) => answer(watch, &snapshot, request.method, down, refusal).await,
    };
    request.peer.metrics[worker.id].request(ended.status());
    ended
}

/// The service for a request and where in it it goes, or why it gets none.
fn route<'s, F: Fields>(
    worker: &Worker,
    snapshot: &'s Snapshot,
    request: &Request<'_, F>,
) -> Result<(&'s Service, Placed), Answer> {
    let path = &request.target[..request.path_len];
    let found = snapshot.table.find(request.host, path);
    if let Some(seen) = http1::path::revealed(path)
        && snapshot.table.find(request.host, &seen) != found
    {
        return Err(Answer::AMBIGUOUS_PATH);
    }
    let found = found.ok_or(Answer::NO_ROUTE)?;
    let service = &snapshot.services[found.service];
    Ok((
        service,
        placing::place(worker, service, found.preview, request),
    ))
}

/// Sends the request to a version and tells the client what came of it.
async fn forward<D: Downstream, F: Fields>(
    call: &Call<'_, F>,
    snapshot: &Snapshot,
    placed: &Placed,
    down: &mut D,
) -> Ended {
    let limits = &snapshot.spec.limits;
    let (watch, request) = (call.watch, call.request);
    if let (Framing::Length(n), Some(limit)) = (request.framing, limits.body_bytes)
        && n > limit
    {
        let too_large = Answer {
            status: 413,
            reason: "body-too-large",
        };
        return answer(watch, snapshot, request.method, down, too_large).await;
    }
    let mut upload = Upload::new(limits.body_bytes, call.kept_bytes(placed.aim.version));
    let ran = match call.hold(&mut upload, down).await {
        Ok(()) => call.run(placed, &mut upload, down).await,
        Err(broken) => Err(broken.into()),
    };
    match ran {
        Ok(done) if done.tunnel => Ended::Tunnel,
        Ok(done) => Ended::Whole(done.status),
        Err(failure) if failure.answered => Ended::Cut(failure.broken.told()),
        Err(failure) => match failure.broken.answer() {
            Some(text) => {
                if failure.broken.charged().is_none() {
                    down.close_after();
                }
                answer(watch, snapshot, request.method, down, text).await
            }
            None => Ended::Cut(failure.broken.told()),
        },
    }
}

/// Sends the client to the same address on https: 308 keeps method and body.
pub async fn redirect_https<D: Downstream, F: Fields>(
    watch: &Watch,
    snapshot: &Snapshot,
    request: &Request<'_, F>,
    down: &mut D,
) -> Ended {
    let mut location = format!("https://{}", request.host).into_bytes();
    location.extend_from_slice(request.target);
    let location = String::from_utf8_lossy(&location);
    let own = Own {
        status: 308,
        text: "moved to https\n",
        added: &[
            ("location", &location),
            ("x-cutover-reason", "redirect-https"),
        ],
    };
    say(watch, snapshot, request.method, down, &own).await
}

/// Answers by ourselves: short, plain, with the reason.
pub async fn answer<D: Downstream>(
    watch: &Watch,
    snapshot: &Snapshot,
    method: Method,
    down: &mut D,
    answer: Answer,
) -> Ended {
    let added = [("x-cutover-reason", answer.reason), ("retry-after", "1")];
    let own = Own {
        status: answer.status,
        text: answer.text(),
        added: if answer.status == 503 {
            &added
        } else {
            &added[..1]
        },
    };
    say(watch, snapshot, method, down, &own).await
}

/// An answer of our own.
struct Own<'a> {
    status: u16,
    text: &'a str,
    added: &'a [(&'static str, &'a str)],
}

/// Sends it. A slow reader gets as long as a silent body.
async fn say<D: Downstream>(
    watch: &Watch,
    snapshot: &Snapshot,
    method: Method,
    down: &mut D,
    own: &Own<'_>,
) -> Ended {
    let bodiless = method == Method::Head;
    let length = own.text.len() as u64;
    if watch.is_closing() {
        down.close_after();
    }
    let mut added = vec![("content-type", "text/plain; charset=utf-8")];
    added.extend_from_slice(own.added);
    let sent = down.send_response(&Outgoing {
        status: own.status,
        fields: NoFields,
        framing: if bodiless {
            Framing::Empty
        } else {
            Framing::Length(length)
        },
        told_length: Some(length),
        added: &added,
        upgrade: None,
    });
    if sent.is_err() {
        return Ended::Cut(own.status);
    }
    watch.arm(snapshot.spec.limits.body_timeout);
    let mut rest = if bodiless { &[] } else { own.text.as_bytes() };
    let written = poll_fn(|cx| {
        let late = |cx: &std::task::Context<'_>| {
            if watch.expired(cx) {
                Poll::Ready(Err(WireError::Cut))
            } else {
                Poll::Pending
            }
        };
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
    .await;
    if written.is_ok() {
        Ended::Whole(own.status)
    } else {
        Ended::Cut(own.status)
    }
}
