//! The interface between an exchange and a connection, for either protocol and either side.
//!
//! A [`Source`] yields the bytes of a body, a [`Sink`] accepts them; an HTTP/1 connection is both,
//! and so is an HTTP/2 stream. [`Downstream`] and [`Upstream`] add the heads. All methods are polled,
//! so one task can drive both directions without channels.
//!
//! Several methods have a default that does nothing. They are optimisations of plain HTTP/1
//! (splicing, copied chunk framing, buffers that are returned while idle); a connection that can't
//! do them behaves correctly with the defaults.

use std::fmt;
use std::io;
use std::task::{Context, Poll};

use http::HeaderMap;

use super::headers::{Fields, Outgoing, Request, RequestEdits};
use crate::http1::{Framing, Reject};
use crate::http2::ErrorCode;
use crate::net::buffer::{Piece, PooledPipe};
use crate::net::{ByteBudget, StreamSocket};

/// A failure on one side of an exchange.
#[derive(Debug)]
pub enum WireError {
    /// The peer sent a malformed or disallowed message.
    Bad(Reject),
    /// The peer ended the stream in the middle of a message.
    Cut,
    /// The HTTP/2 stream was reset.
    Reset(ErrorCode),
    /// The connection failed.
    Io(io::Error),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bad(reject) => write!(f, "malformed message ({reject})"),
            Self::Cut => f.write_str("the connection ended in the middle of a message"),
            Self::Reset(reason) => write!(f, "the HTTP/2 stream was reset ({reason:?})"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for WireError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => error.source(),
            _ => None,
        }
    }
}

impl From<io::Error> for WireError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<Reject> for WireError {
    fn from(reject: Reject) -> Self {
        Self::Bad(reject)
    }
}

/// Which end of a [`Flow`](super::body::Flow) failed.
#[derive(Debug)]
pub enum PumpError {
    /// The end that bytes are read from.
    Source(WireError),
    /// The end that bytes are written to.
    Sink(WireError),
}

/// The result of [`Source::poll_piece`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyPiece {
    /// This many bytes are available from [`Source::data`]. Never 0.
    Data(usize),
    /// The body has ended with trailers, available from [`Source::take_trailers`].
    Trailers,
    /// The body has ended without trailers.
    End,
}

/// The receiving side of a body.
pub trait Source {
    /// Waits for the next piece. Until something is consumed, further calls return at least as much
    /// data as the one before.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>>;
    /// The bytes that the last [`BodyPiece::Data`] announced.
    fn data(&self) -> &[u8];
    /// Drops the first `n` bytes of [`Self::data`].
    fn consume(&mut self, n: usize);
    /// Takes the bytes that the last [`BodyPiece::Data`] announced together with their memory, which saves a copy. `None` if that isn't
    /// worth it, or not possible.
    fn take_piece(&mut self) -> Option<Piece> {
        None
    }
    /// The trailers that the last [`BodyPiece::Trailers`] announced.
    fn take_trailers(&mut self) -> HeaderMap;
    /// Content bytes still to be received after [`Self::data`]; `None` if that isn't known.
    fn remaining(&self) -> Option<u64>;
    /// Whether the whole body has been received. `false` also if that isn't known.
    fn has_arrived(&self) -> bool {
        self.remaining() == Some(0)
    }
    /// Bytes of memory that what has been received and not consumed would take if it were kept.
    fn buffered(&self) -> usize {
        self.data().len()
    }
    /// Called when the sink is blocked: shrinks the input buffer.
    fn stall(&mut self) {}
    /// Whether [`Self::poll_piece`], which was pending, still would be, as far as that is known
    /// without a system call. The waker that was registered then stays registered.
    fn has_nothing_to_read(&self) -> bool {
        false
    }
    /// Forwards a small message to `to` with one read and one write, without keeping a buffer.
    /// Returns how many bytes `to` accepted; the rest, and anything larger, comes from
    /// [`Self::poll_piece`]. `None` means the same as [`Self::has_nothing_to_read`].
    ///
    /// # Errors
    /// A failure of either socket.
    fn pass(&mut self, to: &StreamSocket) -> Result<Option<usize>, PumpError> {
        let _ = to;
        Ok(Some(0))
    }
    /// Ready when [`Self::poll_piece`] may make progress.
    fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Ready(())
    }
    /// Returns empty input buffers, because nothing may arrive for a long time.
    fn release_input(&mut self) {}
    /// Makes [`Self::data`] include the chunk framing from now on, so that it can be copied to a
    /// chunked sink. `false`: not possible, nothing has changed.
    fn pass_chunk_framing(&mut self) -> bool {
        false
    }
    /// The socket to splice from, and how many bytes of it belong to the body (`u64::MAX` until the
    /// peer closes). `None` if splicing isn't possible or not worth it at the moment.
    fn splice_source(&self) -> Option<(&StreamSocket, u64)> {
        None
    }
    /// Records that `n` bytes were spliced from the socket.
    fn spliced_from(&mut self, n: usize) {
        let _ = n;
    }
    /// Returns to small reads, because splicing has turned out to be slow.
    fn splice_is_slow(&mut self) {}
    /// A pipe to splice through. `None` if the process has no more pipes to offer.
    fn pipe(&self) -> Option<PooledPipe> {
        None
    }
}

/// The sending side of a body.
pub trait Sink {
    /// Accepts some of `data`, at least one byte. Accepted bytes may be buffered.
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, WireError>>;
    /// Accepts the piece of this length that `source` has announced, and takes its memory. Returns whether it did; if not, nothing has
    /// changed.
    fn take_over(&mut self, len: usize, source: &mut impl Source) -> bool {
        let _ = (len, source);
        false
    }
    /// Ends the body. Ready once everything has been handed to the kernel.
    fn poll_finish(
        &mut self,
        cx: &mut Context<'_>,
        trailers: Option<&HeaderMap>,
    ) -> Poll<Result<(), WireError>>;
    /// Hands buffered bytes to the kernel.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>>;
    /// Whether the body is sent in chunks and [`Self::accept_chunk_framing`] is supported.
    fn wants_chunks(&self) -> bool {
        false
    }
    /// Announces that `data` includes its chunk framing from now on; see [`Source::pass_chunk_framing`].
    fn accept_chunk_framing(&mut self) {}
    /// The socket to splice to, and how many more bytes the framing allows (`u64::MAX` if there is
    /// no limit). `None` if splicing isn't possible.
    fn splice_sink(&self) -> Option<(&StreamSocket, u64)> {
        None
    }
    /// Hands buffered bytes to the kernel because spliced bytes follow at once (`MSG_MORE`).
    fn poll_clear(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.poll_flush(cx)
    }
    /// Returns empty output buffers, because nothing may be sent for a long time.
    fn release_output(&mut self) {}
    /// Records that `n` bytes were spliced to the socket.
    fn spliced_to(&mut self, n: usize) {
        let _ = n;
    }
    /// Closes the write side of a tunnel.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>>;
}

/// The connection of a stream that shares one with others, and so can't be taken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NoConnection {}

impl Source for NoConnection {
    fn poll_piece(&mut self, _: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>> {
        match *self {}
    }
    fn data(&self) -> &[u8] {
        match *self {}
    }
    fn consume(&mut self, _: usize) {
        match *self {}
    }
    fn take_trailers(&mut self) -> HeaderMap {
        match *self {}
    }
    fn remaining(&self) -> Option<u64> {
        match *self {}
    }
}

impl Sink for NoConnection {
    fn poll_write(&mut self, _: &mut Context<'_>, _: &[u8]) -> Poll<Result<usize, WireError>> {
        match *self {}
    }
    fn poll_finish(
        &mut self,
        _: &mut Context<'_>,
        _: Option<&HeaderMap>,
    ) -> Poll<Result<(), WireError>> {
        match *self {}
    }
    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        match *self {}
    }
    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        match *self {}
    }
}

/// How a client has gone away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The client can't receive the response any more.
    Left,
    /// The client has closed its write side. It has either left or waits for the response on a half-closed
    /// connection; TCP doesn't say which.
    HalfClosed,
}

/// What a response is sent to.
pub trait Recipient: Sink {
    /// Ready when the client has gone away. May read; pipelined bytes are buffered up to a limit.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone>;
}

/// The client's side of an exchange.
pub trait Downstream: Source + Recipient {
    /// The status of a response that opens a tunnel: 101, or 200 over HTTP/2 (RFC 8441 §5).
    const SWITCHED: u16 = 101;
    /// Whether its host sends the rest of a response that has arrived completely, and records how that ends.
    const TAKES_UNDELIVERED: bool = false;
    /// Switches to a tunnel after such a response: bytes pass in both directions until EOF.
    fn open_tunnel(&mut self);
    /// A connection that a tunnel has to itself; [`NoConnection`] for a stream of HTTP/2.
    type Connection: Source + Sink + 'static;
    /// Takes that connection for another task, if there is one. The remaining value can only be dropped.
    fn detach(&mut self) -> Option<Self::Connection>;
    /// Queues the head of the final response.
    fn send_response<F: Fields>(&mut self, response: &Outgoing<'_, F>) -> Result<(), WireError>;
    /// Queues an informational response other than 101, unless the client speaks HTTP/1.0.
    fn send_informational<F: Fields>(&mut self, status: u16, fields: &F) -> Result<(), WireError>;
    /// Like [`Recipient::poll_gone`], but never reads, so that it can be used while the request body is
    /// still arriving. HTTP/1 can't tell, HTTP/2 sees a stream reset.
    fn poll_taken_back(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Pending
    }
    /// Whether this connection has carried a complete response before.
    fn has_completed_a_response(&self) -> bool;
    /// The budget that buffered request bodies of this connection are charged to.
    fn body_budget(&self) -> ByteBudget;
    /// The budget for responses that are complete upstream and wait for this connection's client.
    fn answer_budget(&self) -> ByteBudget;
    /// Closes the connection after this response. No effect on HTTP/2, where a stream doesn't
    /// decide about its connection.
    fn close_after(&mut self) {}
}

/// The endpoint's side of an exchange.
pub(crate) trait Upstream: Source + Sink {
    /// Whether a 101 answers the key of a WebSocket. HTTP/2 has no keys (RFC 8441 §5).
    const ANSWERS_KEYS: bool = true;
    /// Switches to a tunnel after a 101: bytes pass in both directions until EOF.
    fn open_tunnel(&mut self);
    /// A connection that a tunnel has to itself; [`NoConnection`] for a stream of HTTP/2.
    type Connection: Source + Sink + 'static;
    /// Takes that connection for another task, if there is one. The remaining value can only be dropped.
    fn detach(&mut self) -> Option<Self::Connection>;
    /// The protocol that a 101 names.
    fn switched_to(&self) -> Option<&[u8]>;
    /// The fields of a response head.
    type Fields<'a>: Fields
    where
        Self: 'a;
    /// Queues the request head, with these edits.
    fn send_request<F: Fields>(
        &mut self,
        request: &Request<'_, F>,
        edits: Option<&RequestEdits<'_>>,
    ) -> Result<(), WireError>;
    /// Ready when a response head, informational or final, has arrived.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>>;
    /// The status of the last head; 101 where a stream of HTTP/2 becomes a tunnel.
    fn status(&self) -> u16;
    /// The fields of the last head.
    fn fields(&self) -> Self::Fields<'_>;
    /// The framing of the body that follows the last head.
    fn framing(&self) -> Framing;
    /// The value of `content-length`, even if no body follows (HEAD, 304).
    fn content_length(&self) -> Option<u64>;
    /// Consumes the last head. The next [`Self::poll_head`] waits for another one after an
    /// informational head; after a final head, the body can be read.
    fn next(&mut self);
    /// Whether any byte of a response has arrived.
    fn has_begun(&self) -> bool;
    /// Whether any byte of the request may have reached the endpoint.
    fn may_have_sent(&self) -> bool;
}
