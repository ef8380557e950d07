//! Buffers the start of a request body before the request takes a slot of its version, so that slow
//! senders can't occupy slots.
//!
//! A request occupies a slot under `limits.requests` and a connection to an endpoint from the first
//! byte it sends there to the last byte of its response. A client that sends 10 KiB one byte at a
//! time would occupy them for minutes, and a thousand such clients would occupy all of them. So the
//! first [`BUFFERED_BYTES`] of a body with a known length are read first; a short body that came
//! with its head is complete already and isn't copied. A body of unknown length streams from the
//! start, because it may be half of a conversation, and so does the rest of a large body. When a
//! version is at its limit, slow uploads are ended ([`super::Worker::shed_slow_uploads`]).
//!
//! Buffered bytes are limited for each worker and each HTTP/2 connection
//! ([`crate::net::ByteBudget`]). Beyond the budget a body streams, and back-pressure limits it.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::body::Upload;
use super::context::RequestContext;
use super::error::{ExchangeError, client_side};
use super::headers::{Fields, Request};
use super::pace::UploadPace;
use super::wire::{BodyPiece, Downstream};
use crate::http1::{FieldId, Framing};
use crate::net::{TaskControl, TaskPhase};

/// Number of bytes of a body that are buffered, 64 KiB.
pub(crate) const BUFFERED_BYTES: u64 = 64 * 1024;

/// The minimum rate for a request's body. A gRPC stream is only limited in its silence, since its
/// messages come whenever there is something to say.
pub(super) fn pace<F: Fields>(
    request: &Request<'_, F>,
    body_timeout: std::time::Duration,
    watch: &TaskControl,
) -> UploadPace {
    let content = request.fields.first(FieldId::ContentType);
    let messages = content.is_some_and(|t| t.starts_with(b"application/grpc"));
    UploadPace::new(body_timeout, messages, watch.now_ms())
}

impl<F: Fields> RequestContext<'_, F> {
    /// Buffers the start of the body, unless it has arrived with the head, its length is unknown, or
    /// the client waits for a 100 or a 101 before it sends more.
    ///
    /// # Errors
    /// A failure of the client: gone, too slow, or malformed framing.
    #[inline]
    pub(crate) async fn buffer_body<D: Downstream>(
        &self,
        upload: &mut Upload,
        down: &mut D,
    ) -> Result<(), ExchangeError> {
        if self.request.framing.has_body() {
            upload.take_from(down.body_budget());
        }
        match self.request.framing {
            Framing::Length(length)
                if !self.request.expect_continue && self.request.upgrade.is_none() =>
            {
                self.read_ahead(length.min(BUFFERED_BYTES), upload, down)
                    .await
            }
            _ => Ok(()),
        }
    }

    async fn read_ahead<D: Downstream>(
        &self,
        most: u64,
        upload: &mut Upload,
        down: &mut D,
    ) -> Result<(), ExchangeError> {
        let mut rate = None;
        poll_fn(|cx| {
            if rate.is_none() {
                // First poll: bytes that are in the connection's buffer are sent from there.
                match down.poll_piece(cx) {
                    Poll::Ready(Ok(BodyPiece::Data(n))) if n as u64 >= most => {
                        return Poll::Ready(Ok(()));
                    }
                    Poll::Ready(Ok(BodyPiece::End)) => return Poll::Ready(Ok(())),
                    _ => {}
                }
            }
            match upload.poll_buffer(cx, down, most) {
                Poll::Ready(held) => return Poll::Ready(held.map_err(client_side)),
                Poll::Pending => {}
            }
            if down.poll_taken_back(cx).is_ready() {
                return Poll::Ready(Err(ExchangeError::ClientGone(None)));
            }
            let rate = rate.get_or_insert_with(|| {
                // While connections are scarce, tasks in the phase `Head` are closed first.
                self.watch.enter(TaskPhase::Head);
                pace(self.request, self.body_timeout(), self.watch)
            });
            if let Some(wait) = rate.update(self.watch.now_ms(), upload.received(), true) {
                self.arm_silence(wait);
            }
            self.late(cx)
        })
        .await?;
        if rate.is_some() {
            self.watch.enter(TaskPhase::Request);
        }
        Ok(())
    }

    fn late(&self, cx: &Context<'_>) -> Poll<Result<(), ExchangeError>> {
        match self.watch.expired(cx) {
            false => Poll::Pending,
            true if self.watch.is_shut() => Poll::Ready(Err(ExchangeError::Shutdown)),
            true => Poll::Ready(Err(ExchangeError::BodyTimeout)),
        }
    }
}
