//! Bodies are held here until they are whole, or [`BUFFERED_BYTES`] of them is there: a client that dribbles one takes none of the version's places.
//!
//! A request takes its place under `limits.requests`, and a connection to an endpoint, from its first byte up to its answer's last.
//! A client that sends a body of 10 KiB by the byte would have them for minutes, a thousand such clients all that there are.
//! So what is to be held of a body of stated length is read first. What came with its head needs no holding, and goes as it lies.
//! Bodies whose length nobody states stream at once, for they may be one half of a conversation; and the rest of a large one does.
//! When all places are taken, those that are behind give theirs up ([`super::Worker::shed_slow_uploads`]).
//!
//! What is held is bounded for each worker, and for each HTTP/2 connection ([`crate::net::ByteBudget`]). A body for which there is no room
//! streams: the peer's window, or its socket, then takes no more than the upstream does.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::body::Upload;
use super::context::RequestContext;
use super::error::ExchangeError;
use super::exchange::client_side;
use super::headers::{Fields, Request};
use super::pace::UploadPace;
use super::wire::{BodyPiece, Downstream};
use crate::http1::{FieldId, Framing};
use crate::net::{TaskControl, TaskPhase};

/// Most bytes of a body that are held.
pub(crate) const BUFFERED_BYTES: u64 = 64 * 1024;

/// What is asked of the client's body: of gRPC only that it isn't silent, for its messages come when there is something to say.
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
    /// Reads a body's beginning, unless it is there already or the client waits for our word first.
    ///
    /// # Errors
    /// What the client did instead of sending it.
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
                // Who sends slowly is among the first to be spared when the house is full.
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
