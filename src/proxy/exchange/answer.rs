//! The second phase of an exchange: relays the response to the client. The rest of the request
//! body, if any, continues to be sent meanwhile.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::ask::FinalHead;
use super::client::ClientState;
use super::deliver::Arrived;
use super::grpc;
use crate::http1::{Framing, Method};
use crate::net::BudgetShare;
use crate::proxy::active::Active;
use crate::proxy::body::{Flow, Upload, UploadError};
use crate::proxy::context::RequestContext;
use crate::proxy::edit;
use crate::proxy::error::{AttemptError, ExchangeError, client_side};
use crate::proxy::headers::{Fields, Outgoing, RenderedFields, Uncached};
use crate::proxy::observe::Recording;
use crate::proxy::slow_downloads::Download;
use crate::proxy::wire::{Downstream, PumpError, Upstream, WireError};

/// Added to a response with a session cookie, which a shared cache must not give to other clients.
const UNCACHEABLE: (&str, &str) = ("cache-control", "no-store");

/// What a response takes besides its rest while it waits for its client, about: the state of its stream and its request.
const WAITING: usize = 2 * 1024;

/// How the second phase ended.
#[derive(Debug)]
pub(crate) enum Answered {
    /// The client has the complete response. Contains the status of a gRPC call.
    Whole(Option<u8>),
    /// The upstream has completed the response, and the client is slow to read it. The rest is in
    /// memory, so the upstream connection isn't needed any more. Boxed because it is rare: inline,
    /// every request would move its size from one future to the next.
    Arrived(Box<Arrived>),
}

/// The state of the request that an answer reads and updates.
#[derive(Debug)]
pub(crate) struct AnswerParts<'w, 'a, 'r> {
    /// The request's slot on its endpoint.
    pub active: &'w mut Active<'a>,
    /// The record of the request.
    pub recording: &'w mut Recording<'r>,
    /// The body of the request.
    pub upload: &'w mut Upload,
}

/// Relays the response whose head has arrived. `cookie` is a session's `Set-Cookie` value and makes
/// the response uncacheable.
///
/// # Errors
/// How the exchange failed, and whether the client has seen part of the response.
pub(crate) async fn answer<D: Downstream, U: Upstream, F: Fields>(
    cx: &RequestContext<'_, F>,
    head: FinalHead,
    cookie: Option<&str>,
    parts: AnswerParts<'_, '_, '_>,
    down: &mut D,
    up: &mut U,
) -> Result<Answered, AttemptError> {
    let AnswerParts {
        active,
        recording,
        upload,
    } = parts;
    // Read before `next` gives up the head.
    let grpc_status = grpc::status_in_head(&up.fields());
    let framing = start_response(cx, head.status, cookie, recording, down, up)?;
    recording.record.status = head.status;
    tracing::trace!(path = %cx.request.logged_path(), "response started");
    if !matches!(framing, Framing::Length(_) | Framing::Empty) {
        active.becomes_stream();
        recording.became_stream();
    }
    let mut answering = Answering {
        cx,
        uploaded: head.uploaded,
        client: ClientState::default(),
        flow: Flow::in_turns_of(cx.worker.turn_bytes()),
        download: Download::new(&cx.worker.downloads, active.endpoint),
        share: None,
    };
    let result = poll_fn(|task| {
        let polled = answering.poll(task, upload, down, up);
        if polled.is_pending() {
            recording.response_waits();
        }
        polled
    })
    .await;
    recording.record.bytes_sent = answering.flow.bytes();
    match result {
        Ok(AnswerProgress::Whole) => Ok(Answered::Whole(grpc::outcome(
            grpc_status,
            answering.flow.trailers.as_deref(),
        ))),
        Ok(AnswerProgress::Arrived) => {
            recording.response_waits();
            Ok(Answered::Arrived(Box::new(Arrived {
                status: head.status,
                grpc_status,
                flow: answering.flow,
                client: answering.client,
                _share: answering.share,
            })))
        }
        Err(error) => Err(AttemptError {
            error,
            answered: true,
        }),
    }
}

/// Sends the head downstream and prepares both connections for the body, whose framing it returns.
fn start_response<D: Downstream, U: Upstream, F: Fields>(
    cx: &RequestContext<'_, F>,
    status: u16,
    cookie: Option<&str>,
    recording: &Recording<'_>,
    down: &mut D,
    up: &mut U,
) -> Result<Framing, ExchangeError> {
    let framing = match cx.request.method {
        Method::Head => Framing::Empty,
        _ => up.framing(),
    };
    if cx.watch.is_closing() {
        // The close was announced while the request was in flight, so its response is the first
        // message that can carry the announcement.
        down.close_after();
    }
    let edits = edit::of_response(cx.snapshot, recording);
    send_head((status, framing), cookie, edits.as_ref(), down, up)
        .map_err(|e| ExchangeError::ClientGone(Some(e)))?;
    up.next();
    // Chunked on both sides: the chunk framing is copied along instead of being decoded and encoded.
    if down.wants_chunks() && up.pass_chunk_framing() {
        down.accept_chunk_framing();
    }
    Ok(framing)
}

fn send_head<D: Downstream, U: Upstream>(
    (status, framing): (u16, Framing),
    cookie: Option<&str>,
    edits: Option<&RenderedFields<'_>>,
    down: &mut D,
    up: &U,
) -> Result<(), WireError> {
    let declared_length = up.content_length();
    let upgrade = None;
    match cookie {
        None => down.send_response(&Outgoing {
            status,
            fields: up.fields(),
            framing,
            declared_length,
            added: &[],
            fixed: 0,
            edits,
            upgrade,
        }),
        Some(line) => down.send_response(&Outgoing {
            status,
            fields: Uncached(up.fields()),
            framing,
            declared_length,
            added: &[("set-cookie", line), UNCACHEABLE],
            fixed: 2,
            edits,
            upgrade,
        }),
    }
}

/// How far a complete response has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerProgress {
    /// All of it has been sent to the client.
    Whole,
    /// All of it has been received from the upstream.
    Arrived,
}

struct Answering<'a, 'c, F> {
    cx: &'a RequestContext<'c, F>,
    uploaded: bool,
    client: ClientState,
    flow: Flow,
    download: Download<'a>,
    /// Memory charged for a response that waits for its client.
    share: Option<BudgetShare>,
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
                // An upstream may stop reading the body once it knows its response, such as a 413
                // (RFC 9112 §9.5). The response is still relayed.
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
            .check(self.cx.silence(), task, moved, self.uploaded, down)?;
        if self.cx.watch.expired(task) {
            return Poll::Ready(Err(self.expired(upload)));
        }
        let blocked = self.flow.is_blocked();
        let has_arrived = self.flow.is_source_done() || up.has_arrived();
        if blocked && self.uploaded && has_arrived && self.may_detach(down, up) {
            // The upstream is done. Returning frees its connection and the request's slot, which a
            // slow client would otherwise occupy.
            return Poll::Ready(Ok(AnswerProgress::Arrived));
        }
        self.download
            .update(blocked, self.flow.moved, self.cx.watch);
        Poll::Pending
    }

    /// Whether the budget has room for the rest of a completed response. If not, the response keeps
    /// its slot in the version, so that `limits.requests` bounds the memory of all of them.
    fn may_detach<D: Downstream, U: Upstream>(&mut self, down: &D, up: &U) -> bool {
        let budget = || BudgetShare::new(down.answer_budget());
        let bytes = WAITING + up.buffered();
        self.share.get_or_insert_with(budget).grow_to(bytes)
    }

    /// The error for a passed deadline, by who was being waited for.
    fn expired(&self, upload: &Upload) -> ExchangeError {
        if self.cx.watch.is_shut() {
            ExchangeError::Shutdown
        } else if self.download.is_shed() {
            ExchangeError::ClientSlow
        } else if self.flow.waits_for_sink || self.client.half_closed {
            ExchangeError::ClientGone(None)
        } else if !self.uploaded && !upload.flow().waits_for_sink {
            // The upstream may be waiting for the rest of the body, which the client hasn't sent.
            ExchangeError::BodyTimeout
        } else {
            ExchangeError::IdleTimeout
        }
    }
}
