//! The second phase: the response goes down; what is left of the request's body keeps going up.

use std::future::poll_fn;
use std::task::{Context, Poll};

use http::HeaderMap;

use super::ask::FinalHead;
use super::client_side;
use super::deliver::Arrived;
use crate::http1::{FieldId, Framing, Method};
use crate::net::BudgetShare;
use crate::proxy::active::Active;
use crate::proxy::body::{Flow, Upload, UploadError};
use crate::proxy::context::{HALF_CLOSED, RequestContext};
use crate::proxy::error::{AttemptError, ExchangeError};
use crate::proxy::headers::{Fields, Outgoing, Uncached};
use crate::proxy::observe::Recording;
use crate::proxy::slow_downloads::Download;
use crate::proxy::wire::{Downstream, Gone, PumpError, Upstream, WireError};

/// A response that sets a session's cookie must not be stored for others.
const UNCACHEABLE: (&str, &str) = ("cache-control", "no-store");

/// `grpc-status` of a call that ended without one: unknown.
const GRPC_UNKNOWN: u8 = 2;

/// How the response went down.
#[derive(Debug)]
pub(crate) enum Answered {
    /// The client has all of it. For gRPC: how the call ended.
    Whole(Option<u8>),
    /// It has arrived whole, but the client is slow to take it: it needs no connection to the upstream any more.
    Arrived(Arrived),
}

/// What an answer reads and fills beside the two connections.
#[derive(Debug)]
pub(crate) struct AnswerParts<'w, 'a, 'r> {
    /// The request's place on its endpoint.
    pub active: &'w mut Active<'a>,
    /// Its record.
    pub recording: &'w mut Recording<'r>,
    /// Its body.
    pub upload: &'w mut Upload,
}

/// Sends the response whose head has arrived. `cookie` is a session's `Set-Cookie` value; it makes the response
/// uncacheable.
///
/// # Errors
/// How it failed, and whether the client has seen part of it.
pub(crate) async fn answer<D: Downstream, U: Upstream, F: Fields>(
    cx: &RequestContext<'_, F>,
    head: FinalHead,
    cookie: Option<&str>,
    work: AnswerParts<'_, '_, '_>,
    down: &mut D,
    up: &mut U,
) -> Result<Answered, AttemptError> {
    let AnswerParts {
        active,
        recording,
        upload,
    } = work;
    let framing = match cx.request.method {
        Method::Head => Framing::Empty,
        _ => up.framing(),
    };
    let is_grpc = is_grpc(&up.fields());
    let grpc_status = is_grpc.then(|| up.fields().first(FieldId::GrpcStatus).map(grpc_status_of));
    if cx.watch.is_closing() {
        // The close was announced while the request was in flight: its response is the first that can say so.
        down.close_after();
    }
    send_head(head.status, framing, cookie, down, up)
        .map_err(|e| ExchangeError::ClientGone(Some(e)))?;
    recording.record.status = head.status;
    #[cfg(test)]
    crate::proxy::stumble(cx.request.target, "answering");
    up.next();
    if !matches!(framing, Framing::Length(_) | Framing::Empty) {
        active.becomes_stream();
    }
    if down.wants_chunks() && up.lend_chunks() {
        down.take_chunks();
    }
    let mut answering = Answering {
        cx,
        uploaded: head.uploaded,
        client: ClientSide::default(),
        flow: Flow::in_turns_of(cx.worker.turn_bytes()),
        download: Download::new(cx.worker, active.endpoint),
        held: None,
    };
    let result = poll_fn(|task| answering.poll(task, upload, down, up)).await;
    let Answering {
        flow, client, held, ..
    } = answering;
    recording.record.bytes_sent = flow.bytes();
    match result {
        Ok(AnswerProgress::Whole) => Ok(Answered::Whole(grpc_outcome(
            grpc_status,
            flow.trailers.as_ref(),
        ))),
        Ok(AnswerProgress::Arrived) => Ok(Answered::Arrived(Arrived {
            status: head.status,
            grpc_status,
            flow,
            client,
            _held: held,
        })),
        Err(error) => Err(AttemptError {
            error,
            answered: true,
        }),
    }
}

/// How a call ended whose head said `in_head`; `None` where it isn't one of gRPC.
pub(super) fn grpc_outcome(
    in_head: Option<Option<u8>>,
    trailers: Option<&HeaderMap>,
) -> Option<u8> {
    let in_head = in_head?;
    let in_trailers = trailers.and_then(|t| t.get("grpc-status"));
    let status = in_trailers.map(|code| grpc_status_of(code.as_bytes()));
    Some(status.or(in_head).unwrap_or(GRPC_UNKNOWN))
}

/// Whether these are the fields of a gRPC message.
pub(crate) fn is_grpc(fields: &impl Fields) -> bool {
    let content = fields.first(FieldId::ContentType);
    content.is_some_and(|t| t.starts_with(b"application/grpc"))
}

/// A `grpc-status` as a number; unknown where it isn't one.
fn grpc_status_of(text: &[u8]) -> u8 {
    std::str::from_utf8(text)
        .ok()
        .and_then(|t| t.parse().ok())
        .unwrap_or(GRPC_UNKNOWN)
}

fn send_head<D: Downstream, U: Upstream>(
    status: u16,
    framing: Framing,
    cookie: Option<&str>,
    down: &mut D,
    up: &U,
) -> Result<(), WireError> {
    let told_length = up.content_length();
    let upgrade = None;
    match cookie {
        None => down.send_response(&Outgoing {
            status,
            fields: up.fields(),
            framing,
            told_length,
            added: &[],
            upgrade,
        }),
        Some(line) => down.send_response(&Outgoing {
            status,
            fields: Uncached(up.fields()),
            framing,
            told_length,
            added: &[("set-cookie", line), UNCACHEABLE],
            upgrade,
        }),
    }
}

/// How far the response has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerProgress {
    /// To the client, whole.
    Whole,
    /// From the upstream whole; the client is slow to take it.
    Arrived,
}

/// The state of the second phase.
struct Answering<'a, 'c, F> {
    cx: &'a RequestContext<'c, F>,
    uploaded: bool,
    client: ClientSide,
    flow: Flow,
    download: Download<'a>,
    /// The memory of a response that the upstream has finished.
    held: Option<BudgetShare>,
}

impl<F: Fields> Answering<'_, '_, F> {
    fn poll<D: Downstream, U: Upstream>(
        &mut self,
        task: &mut Context<'_>,
        upload: &mut Upload,
        down: &mut D,
        up: &mut U,
    ) -> Poll<Result<AnswerProgress, ExchangeError>> {
        if !self.uploaded {
            match upload.poll(task, down, up) {
                Poll::Pending => {}
                // An upstream that takes no more of the body may still answer whole.
                Poll::Ready(Err(UploadError::Pump(PumpError::Sink(_))) | Ok(())) => {
                    self.uploaded = true;
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(client_side(e))),
            }
        }
        match self.flow.poll(task, up, down) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(AnswerProgress::Whole)),
            Poll::Ready(Err(PumpError::Source(e))) => {
                return Poll::Ready(Err(ExchangeError::Upstream(e)));
            }
            Poll::Ready(Err(PumpError::Sink(e))) => {
                return Poll::Ready(Err(ExchangeError::ClientGone(Some(e))));
            }
            Poll::Pending => {}
        }
        let moved = self.flow.moved + upload.flow().moved;
        self.client
            .heed(self.cx, task, moved, self.uploaded, down)?;
        if self.cx.watch.expired(task) {
            return Poll::Ready(Err(self.expired(upload)));
        }
        let blocked = self.flow.is_blocked();
        let has_arrived = self.flow.is_source_done() || up.has_arrived();
        if blocked && self.uploaded && has_arrived && self.may_hold(down, up) {
            // The version has done its part: a client that reads slowly holds none of its room.
            return Poll::Ready(Ok(AnswerProgress::Arrived));
        }
        self.download
            .update(blocked, self.flow.moved, self.cx.watch);
        Poll::Pending
    }

    /// Whether there is memory for what is left of a finished response. One for which there is none keeps its room in the
    /// version, so that `limits.requests` bounds how many of these there are.
    fn may_hold<D: Downstream, U: Upstream>(&mut self, down: &D, up: &U) -> bool {
        let budget = || BudgetShare::new(down.answer_budget());
        self.held.get_or_insert_with(budget).grow_to(up.buffered())
    }

    /// Whose silence it was that lasted too long.
    fn expired(&self, upload: &Upload) -> ExchangeError {
        if self.cx.watch.is_shut() {
            ExchangeError::Shutdown
        } else if self.download.is_shed() {
            ExchangeError::ClientSlow
        } else if self.flow.waits_for_sink || self.client.half_closed {
            ExchangeError::ClientGone(None)
        } else if !self.uploaded && !upload.flow().waits_for_sink {
            // The client owes the rest of its body, which the upstream may be waiting for.
            ExchangeError::BodyTimeout
        } else {
            ExchangeError::IdleTimeout
        }
    }
}

/// What is known of the client while its response goes down.
#[derive(Debug)]
pub(super) struct ClientSide {
    half_closed: bool,
    /// Bytes moved both ways when the deadline was armed last.
    moved: u64,
}

impl Default for ClientSide {
    fn default() -> Self {
        Self {
            half_closed: false,
            moved: u64::MAX,
        }
    }
}

impl ClientSide {
    /// Notices that the client has left, and arms the deadline anew after each progress. `moved`: bytes both ways so far.
    pub(super) fn heed<D: Downstream, F: Fields>(
        &mut self,
        cx: &RequestContext<'_, F>,
        task: &mut Context<'_>,
        moved: u64,
        uploaded: bool,
        down: &mut D,
    ) -> Result<(), ExchangeError> {
        let mut news = false;
        if uploaded && !self.half_closed {
            match down.poll_gone(task) {
                Poll::Ready(Gone::Left) => return Err(ExchangeError::ClientGone(None)),
                Poll::Ready(Gone::HalfClosed) => (self.half_closed, news) = (true, true),
                Poll::Pending => {}
            }
        }
        if moved != self.moved || news {
            self.moved = moved;
            let idle = cx.service.timeouts.idle;
            cx.arm_silence(match self.half_closed {
                true => HALF_CLOSED.min(idle),
                false => idle,
            });
        }
        Ok(())
    }
}
