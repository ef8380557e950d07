//! The body of a response that has no length: pieces are sent as they become available.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};

/// The source of a stream's pieces.
pub(super) trait Pieces: Sized + Send + 'static {
    /// Waits for the next piece and returns it with the source of the rest; `None` at the end of the stream. Not called before the
    /// client has taken the former piece.
    fn next(self) -> impl Future<Output = Option<(Bytes, Self)>> + Send;
}

/// A body that ends when its source ends.
pub(crate) struct StreamBody {
    next: Pin<Box<dyn Future<Output = Option<NextPiece>> + Send>>,
}

/// A piece, and the body of the rest.
type NextPiece = (Bytes, StreamBody);

impl StreamBody {
    /// The body with these pieces.
    pub(super) fn new(pieces: impl Pieces) -> Self {
        Self {
            next: Box::pin(async {
                let (piece, rest) = pieces.next().await?;
                Some((piece, Self::new(rest)))
            }),
        }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.next.as_mut().poll(cx) {
            Poll::Ready(Some((piece, rest))) => {
                *self = rest;
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Poll::Ready(None) => {
                self.next = Box::pin(std::future::pending());
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
