//! The first phase: the request goes up until the final head of the response is there.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use super::client_side;
use crate::http1::{FieldId, Reject};
use crate::proxy::body::{Upload, UploadError};
use crate::proxy::buffering;
use crate::proxy::context::{HALF_CLOSED, RequestContext};
use crate::proxy::error::ExchangeError;
use crate::proxy::headers::Fields;
use crate::proxy::pace::UploadPace;
use crate::proxy::websocket;
use crate::proxy::wire::{Downstream, Gone, PumpError, Upstream, WireError};

/// Most informational responses before a final one.
const MAX_INFORMATIONAL: usize = 32;
/// How long a client may pause in its body once the upstream has switched protocols and waits for the body's end.
const BODY_BEFORE_TUNNEL: Duration = Duration::from_secs(1);
/// Most bytes of their fields.
const MAX_INFORMATIONAL_BYTES: usize = 64 * 1024;

/// A final response whose head has arrived, or 101.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FinalHead {
    /// Its status: 101, or 200 and above.
    pub status: u16,
    /// The request's body has gone up whole.
    pub uploaded: bool,
}

/// Sends the request, and what comes of its body, until the head of a final response or a 101 is there. Informational
/// responses pass to the client meanwhile.
///
/// # Errors
/// How it failed; the client has seen no part of an answer.
pub(crate) async fn ask<D: Downstream, U: Upstream, F: Fields>(
    cx: &RequestContext<'_, F>,
    first_byte: Duration,
    upload: &mut Upload,
    down: &mut D,
    up: &mut U,
) -> Result<FinalHead, ExchangeError> {
    up.send_request(cx.request)
        .map_err(ExchangeError::Upstream)?;
    #[cfg(test)]
    crate::proxy::stumble(cx.request.target, "asked");
    let mut asking = Asking {
        cx,
        first_byte,
        uploaded: false,
        upstream_deaf: false,
        waits_for: None,
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

/// What the wait for the response's head ends with when its deadline passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deadline {
    FirstByte,
    Total,
    HalfClosed,
}

/// The state of the first phase.
struct Asking<'a, 'c, F> {
    cx: &'a RequestContext<'c, F>,
    first_byte: Duration,
    uploaded: bool,
    /// The upstream takes no more of the body, but it may have said why.
    upstream_deaf: bool,
    /// Set once the request is sent and only the response is awaited.
    waits_for: Option<Deadline>,
    pace: Option<UploadPace>,
    /// Informational responses so far, and the bytes of their fields.
    informational: (usize, usize),
    /// A 101 has arrived before the body has gone up whole.
    switching: bool,
    /// An informational response may not have reached the kernel yet.
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
        // A tunnel's bytes can't be told from those of a body, so a 101 waits until the body has gone up whole
        // (RFC 9110 §7.8). A client that stalls meanwhile is to blame, not the endpoint.
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
            // A client that doesn't take an informational response delays nothing: the bytes are bounded.
            match down.poll_flush(task) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(e)) => return gone(Some(e)),
                Poll::Pending => {}
            }
        }
        if self.uploaded || self.upstream_deaf {
            self.await_response(task, down)?;
        } else {
            if down.poll_taken_back(task).is_ready() {
                return gone(None);
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
        if self.uploaded || self.upstream_deaf {
            return Ok(());
        }
        match upload.poll(task, down, up) {
            Poll::Ready(Ok(())) => self.uploaded = true,
            Poll::Ready(Err(UploadError::Pump(PumpError::Sink(_)))) => self.upstream_deaf = true,
            Poll::Ready(Err(e)) => return Err(client_side(e)),
            Poll::Pending => {}
        }
        Ok(())
    }

    /// Ready when a final head or a usable 101 has arrived. Passes informational heads on.
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
                    let fields = up.fields();
                    let switched_to = fields.first(FieldId::Upgrade);
                    if !is_asked_for(asked, switched_to) {
                        return Poll::Ready(Err(malformed("unasked-upgrade")));
                    }
                    return Poll::Ready(
                        match websocket::completes(self.cx.request, switched_to, &fields) {
                            true => Ok(()),
                            false => Err(malformed("bad-websocket")),
                        },
                    );
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
            return Err(malformed("too-many-informational"));
        }
        down.send_informational(status, &up.fields())
            .map_err(|e| ExchangeError::ClientGone(Some(e)))?;
        self.unflushed = true;
        up.next();
        Ok(())
    }

    /// The request is sent: the response has its time, and the client may leave.
    fn await_response<D: Downstream>(
        &mut self,
        task: &mut Context<'_>,
        down: &mut D,
    ) -> Result<(), ExchangeError> {
        if self.waits_for.is_none() {
            self.waits_for = Some(self.arm_first_byte());
        }
        match down.poll_gone(task) {
            Poll::Ready(Gone::Left) => Err(ExchangeError::ClientGone(None)),
            Poll::Ready(Gone::HalfClosed) if self.waits_for != Some(Deadline::HalfClosed) => {
                self.cx.watch.arm(HALF_CLOSED);
                self.waits_for = Some(Deadline::HalfClosed);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Arms the watch for the response's head. Informational responses don't arm it again.
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

    /// The body is still to come: the client has to send it at a pace.
    fn await_body(&mut self, upload: &Upload) {
        let cx = self.cx;
        let pace = self
            .pace
            .get_or_insert_with(|| buffering::pace(cx.request, cx.body_timeout(), cx.watch));
        let flow = upload.flow();
        if let Some(wait) = pace.news(cx.watch.now_ms(), flow.moved, !flow.waits_for_sink) {
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
        match self.waits_for {
            Some(Deadline::FirstByte) => ExchangeError::FirstByteTimeout,
            Some(Deadline::Total) => ExchangeError::TotalTimeout,
            Some(Deadline::HalfClosed) => ExchangeError::ClientGone(None),
            // The upstream took nothing for so long, so the client could send nothing.
            None if upload.flow().waits_for_sink => ExchangeError::FirstByteTimeout,
            None => ExchangeError::BodyTimeout,
        }
    }
}

fn gone(error: Option<WireError>) -> Poll<Result<(), ExchangeError>> {
    Poll::Ready(Err(ExchangeError::ClientGone(error)))
}

fn malformed(reason: &'static str) -> ExchangeError {
    ExchangeError::Upstream(WireError::Bad(Reject::bad(reason)))
}

/// Whether the upstream switches to a protocol that the client named (RFC 9110 §7.8).
fn is_asked_for(asked: Option<&[u8]>, switched_to: Option<&[u8]>) -> bool {
    let (Some(asked), Some(switched_to)) = (asked, switched_to) else {
        return false;
    };
    let mut named = asked.split(|&b| b == b',').map(<[u8]>::trim_ascii);
    named.any(|protocol| protocol.eq_ignore_ascii_case(switched_to.trim_ascii()))
}
