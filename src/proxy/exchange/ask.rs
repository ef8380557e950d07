//! The first phase of an exchange: sends the request and waits for the head of the final response.
//! Informational responses are relayed on the way. Nothing of the final response has reached the
//! client when this phase ends, so the request can still be retried.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::http1::Reject;
use crate::proxy::body::{Upload, UploadError};
use crate::proxy::buffering;
use crate::proxy::context::{HALF_CLOSED, RequestContext};
use crate::proxy::error::{ExchangeError, client_side};
use crate::proxy::headers::{Fields, RequestEdits};
use crate::proxy::pace::UploadPace;
use crate::proxy::websocket;
use crate::proxy::wire::{Downstream, Gone, PumpError, Upstream, WireError};
use crate::reason::Reason;

/// Informational responses accepted before a final one.
const MAX_INFORMATIONAL: usize = 32;
/// Bytes of fields accepted in all informational responses of an exchange.
const MAX_INFORMATIONAL_BYTES: usize = 64 * 1024;
/// Longest pause of a client in its body once the upstream has switched protocols and only the
/// end of the body is missing.
const BODY_BEFORE_TUNNEL: Duration = Duration::from_secs(1);

/// A final response whose head has arrived, or a 101.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FinalHead {
    /// Status of the response: 101, or 200 and above.
    pub status: u16,
    /// Whether the request body has been sent completely.
    pub uploaded: bool,
}

/// Sends the request, and its body as it arrives, until the head of a final response or a usable
/// 101 has arrived. Informational responses are relayed to the client.
///
/// # Errors
/// How the exchange failed. The client has seen no part of a final response.
pub(crate) async fn ask<D: Downstream, U: Upstream, F: Fields>(
    cx: &RequestContext<'_, F>,
    first_byte: Duration,
    edits: Option<&RequestEdits<'_>>,
    upload: &mut Upload,
    down: &mut D,
    up: &mut U,
) -> Result<FinalHead, ExchangeError> {
    up.send_request(cx.request, edits)
        .map_err(ExchangeError::Upstream)?;
    tracing::trace!(path = %cx.request.logged_path(), "request sent upstream");
    let mut asking = Asking {
        cx,
        first_byte,
        uploaded: false,
        upload_refused: false,
        deadline: None,
        pace: None,
        informational: (0, 0),
        switching: false,
        unflushed: false,
    };
    let asked = poll_fn(|task| asking.poll(task, upload, down, up)).await;
    cx.watch.set_behind(None);
    asked?;
    Ok(FinalHead {
        status: up.status(),
        uploaded: asking.uploaded,
    })
}

/// The timeout that the deadline of the wait for the response stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deadline {
    FirstByte,
    Total,
    HalfClosed,
}

/// The state of one try until the head of its final response has arrived. Made anew for each try.
struct Asking<'a, 'c, F> {
    cx: &'a RequestContext<'c, F>,
    first_byte: Duration,
    uploaded: bool,
    /// Whether the upstream stopped reading the body. A response that says why may still arrive.
    upload_refused: bool,
    /// Set once nothing but the response is awaited.
    deadline: Option<Deadline>,
    pace: Option<UploadPace>,
    /// Number of informational responses, and bytes of their fields.
    informational: (usize, usize),
    /// Whether a 101 has arrived before the body was sent completely.
    switching: bool,
    /// Whether an informational response may be buffered in `down`.
    unflushed: bool,
}

impl<F: Fields> Asking<'_, '_, F> {
    fn poll<D: Downstream, U: Upstream>(
        &mut self,
        task: &mut Context<'_>,
        upload: &mut Upload,
        down: &mut D,
        up: &mut U,
    ) -> Poll<Result<(), ExchangeError>> {
        self.poll_upload(task, upload, down, up)?;
        let arrived = self.poll_head(task, down, up)?.is_ready();
        // On the connection to the upstream, tunnel bytes follow the request body, so a 101 has to
        // wait until the body has been sent (RFC 9110 §7.8). If the client stalls meanwhile, the
        // failure is the client's, and a shorter timeout frees the endpoint.
        if arrived && (self.uploaded || up.status() != 101) {
            return Poll::Ready(Ok(()));
        }
        if arrived && !self.switching {
            self.switching = true;
            self.cx
                .watch
                .arm(self.cx.body_timeout().min(BODY_BEFORE_TUNNEL));
        }
        if self.unflushed {
            // A client that doesn't read an informational response must not delay the final one.
            // MAX_INFORMATIONAL_BYTES limits the buffer.
            match down.poll_flush(task) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(e)) => return client_gone(Some(e)),
                Poll::Pending => {}
            }
        }
        if self.uploaded || self.upload_refused {
            self.await_response(task, down)?;
        } else {
            if down.poll_taken_back(task).is_ready() {
                return client_gone(None);
            }
            self.await_body(upload);
        }
        if self.cx.watch.expired(task) {
            return Poll::Ready(Err(self.expired(upload)));
        }
        Poll::Pending
    }

    fn poll_upload<D: Downstream, U: Upstream>(
        &mut self,
        task: &mut Context<'_>,
        upload: &mut Upload,
        down: &mut D,
        up: &mut U,
    ) -> Result<(), ExchangeError> {
        if self.uploaded || self.upload_refused {
            return Ok(());
        }
        match upload.poll(task, down, up) {
            Poll::Ready(Ok(())) => self.uploaded = true,
            Poll::Ready(Err(UploadError::Pump(PumpError::Sink(_)))) => self.upload_refused = true,
            Poll::Ready(Err(e)) => return Err(client_side(e)),
            Poll::Pending => {}
        }
        Ok(())
    }

    /// Ready when a final head or a usable 101 has arrived. Relays informational heads.
    fn poll_head<D: Downstream, U: Upstream>(
        &mut self,
        task: &mut Context<'_>,
        down: &mut D,
        up: &mut U,
    ) -> Poll<Result<(), ExchangeError>> {
        loop {
            match up.poll_head(task) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(ExchangeError::Upstream(e))),
                Poll::Pending => return Poll::Pending,
            }
            match up.status() {
                101 => {
                    let asked = self.cx.request.upgrade;
                    let switched_to = up.switched_to();
                    if !is_asked_for(asked, switched_to) {
                        return Poll::Ready(Err(malformed(Reason::UnaskedUpgrade)));
                    }
                    let is_complete = !U::ANSWERS_KEYS
                        || websocket::completes(self.cx.request, switched_to, &up.fields());
                    return Poll::Ready(match is_complete {
                        true => Ok(()),
                        false => Err(malformed(Reason::BadWebsocket)),
                    });
                }
                200.. => return Poll::Ready(Ok(())),
                status => self.pass_informational(status, down, up)?,
            }
        }
    }

    fn pass_informational<D: Downstream, U: Upstream>(
        &mut self,
        status: u16,
        down: &mut D,
        up: &mut U,
    ) -> Result<(), ExchangeError> {
        let (count, bytes) = &mut self.informational;
        *count += 1;
        up.fields()
            .each(|_, name, value| *bytes += name.len() + value.len() + 4);
        if *count > MAX_INFORMATIONAL || *bytes > MAX_INFORMATIONAL_BYTES {
            return Err(malformed(Reason::TooManyInformational));
        }
        down.send_informational(status, &up.fields())
            .map_err(|e| ExchangeError::ClientGone(Some(e)))?;
        self.unflushed = true;
        up.next();
        Ok(())
    }

    /// Nothing is being sent: starts the timeout for the response head, and watches for a client
    /// that closes its connection.
    fn await_response<D: Downstream>(
        &mut self,
        task: &mut Context<'_>,
        down: &mut D,
    ) -> Result<(), ExchangeError> {
        if self.deadline.is_none() {
            self.deadline = Some(self.arm_first_byte());
        }
        match down.poll_gone(task) {
            Poll::Ready(Gone::Left) => Err(ExchangeError::ClientGone(None)),
            Poll::Ready(Gone::HalfClosed) if self.deadline != Some(Deadline::HalfClosed) => {
                self.cx.watch.arm(HALF_CLOSED);
                self.deadline = Some(Deadline::HalfClosed);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Arms the deadline for the response head: `timeouts.first_byte` or what is left of
    /// `timeouts.total`. Called once, so informational responses don't extend it.
    fn arm_first_byte(&self) -> Deadline {
        match self.cx.total_left() {
            Some(left) if left < self.first_byte => {
                self.cx.watch.arm(left);
                Deadline::Total
            }
            _ => {
                self.cx.watch.arm(self.first_byte);
                Deadline::FirstByte
            }
        }
    }

    /// The body is still arriving: arms the deadline for a client that sends too slowly.
    fn await_body(&mut self, upload: &Upload) {
        let cx = self.cx;
        let pace = self
            .pace
            .get_or_insert_with(|| buffering::pace(cx.request, cx.body_timeout(), cx.watch));
        let flow = upload.flow();
        if let Some(wait) = pace.update(cx.watch.now_ms(), flow.moved, !flow.waits_for_sink) {
            cx.arm_silence(match self.switching {
                true => wait.min(BODY_BEFORE_TUNNEL),
                false => wait,
            });
            cx.watch.set_behind(pace.behind_at());
        }
    }

    fn expired(&self, upload: &Upload) -> ExchangeError {
        if self.cx.watch.is_shut() {
            return ExchangeError::Shutdown;
        }
        match self.deadline {
            Some(Deadline::FirstByte) => ExchangeError::FirstByteTimeout,
            Some(Deadline::Total) => ExchangeError::TotalTimeout,
            Some(Deadline::HalfClosed) => ExchangeError::ClientGone(None),
            // Back-pressure: the upstream read nothing, so the client couldn't send anything.
            None if upload.flow().waits_for_sink => ExchangeError::FirstByteTimeout,
            None => ExchangeError::BodyTimeout,
        }
    }
}

fn client_gone(error: Option<WireError>) -> Poll<Result<(), ExchangeError>> {
    Poll::Ready(Err(ExchangeError::ClientGone(error)))
}

fn malformed(reason: Reason) -> ExchangeError {
    ExchangeError::Upstream(WireError::Bad(Reject::bad(reason)))
}

/// Whether the upstream switched to a protocol that the client offered. A server must not select
/// any other (RFC 9110 §7.8).
fn is_asked_for(asked: Option<&[u8]>, switched_to: Option<&[u8]>) -> bool {
    let (Some(asked), Some(switched_to)) = (asked, switched_to) else {
        return false;
    };
    let mut named = asked.split(|&b| b == b',').map(<[u8]>::trim_ascii);
    named.any(|protocol| protocol.eq_ignore_ascii_case(switched_to.trim_ascii()))
}
