//! What the exchange asks of a connection, whichever protocol it speaks and whichever side it is on.
//!
//! A [`Source`] lends the bytes of a body, a [`Sink`] takes them; both are polled, so that one task moves both directions
//! without channels. An HTTP/1 connection is both; so is an HTTP/2 stream.

use std::fmt;
use std::io;
use std::task::{Context, Poll};

use http::HeaderMap;
use tokio::net::TcpStream;

use super::headers::{Fields, Outgoing, Request};
use crate::http1::{Framing, Reject};
use crate::net::ByteBudget;
use crate::net::buffer::LentPipe;

/// What broke on one side of an exchange.
#[derive(Debug)]
pub enum WireError {
    /// The peer sent what it must not.
    Bad(Reject),
    /// The peer ended the stream in the middle of a message.
    Cut,
    /// The peer refused or took back an HTTP/2 stream.
    Reset(h2::Reason),
    /// The connection broke.
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

/// Which end of a pump broke.
#[derive(Debug)]
pub enum PumpError {
    /// Where the bytes come from.
    Source(WireError),
    /// Where they go.
    Sink(WireError),
}

/// What a source has next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyPiece {
    /// So many bytes, to be looked at by [`Source::data`]. Never 0.
    Data(usize),
    /// Trailers, to be fetched by [`Source::take_trailers`]; the body is over.
    Trailers,
    /// The body is over.
    End,
}

/// Where a body comes from.
pub trait Source {
    /// What comes next. Asking again before anything was consumed gives at least the same.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>>;
    /// The bytes that the last [`BodyPiece::Data`] announced.
    fn data(&self) -> &[u8];
    /// Drops the first `n` of them.
    fn consume(&mut self, n: usize);
    /// The trailers that the last [`BodyPiece::Trailers`] announced.
    fn take_trailers(&mut self) -> HeaderMap;
    /// How many content bytes are still to come beyond those that are lent, where that is known.
    fn remaining(&self) -> Option<u64>;
    /// Whether the whole body has arrived, as far as that is known: what is left is in the proxy's hands.
    fn has_arrived(&self) -> bool {
        self.remaining() == Some(0)
    }
    /// Bytes of memory that hold what has come and was not taken.
    fn buffered(&self) -> usize {
        self.data().len()
    }
    /// The sink doesn't keep up: what can be given back of the memory, is.
    fn stall(&mut self) {}
    /// Asked after it had nothing: nothing has come since as far as is known without looking, and who waited is still to be woken.
    fn has_no_news(&self) -> bool {
        false
    }
    /// Passes on to this socket what has come, as far as that is a message of few bytes: how many it took. What it didn't take, and more
    /// bytes than few, come next by [`Self::poll_piece`]. `None`: as [`Self::has_no_news`].
    ///
    /// # Errors
    /// One of the sockets'.
    fn pass(&mut self, to: &TcpStream) -> Result<Option<usize>, PumpError> {
        let _ = to;
        Ok(Some(0))
    }
    /// Ready when [`Self::poll_piece`] may have something.
    fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Ready(())
    }
    /// There may be nothing for long: what can be given back of the memory, is.
    fn rest_source(&mut self) {}
    /// From now on lends chunk framing together with content, if it can: the sink takes them as they are.
    fn lend_chunks(&mut self) -> bool {
        false
    }
    /// Where many bytes come fast and as they are: their socket, and how many may be taken from it by way of [`Self::pipe`].
    fn splice_source(&self) -> Option<(&TcpStream, u64)> {
        None
    }
    /// So many bytes were taken from the socket.
    fn spliced_from(&mut self, n: usize) {
        let _ = n;
    }
    /// They don't come fast after all.
    fn splice_is_slow(&mut self) {}
    /// A pipe for them, if there is one to spare.
    fn pipe(&self) -> Option<LentPipe> {
        None
    }
}

/// Where a body goes to.
pub trait Sink {
    /// Takes some of `data`, at least one byte.
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, WireError>>;
    /// Ends the body; ready when everything has been handed to the kernel.
    fn poll_finish(
        &mut self,
        cx: &mut Context<'_>,
        trailers: Option<&HeaderMap>,
    ) -> Poll<Result<(), WireError>>;
    /// Hands everything held back to the kernel.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>>;
    /// Whether the body leaves in chunks that [`Source::lend_chunks`] can provide.
    fn wants_chunks(&self) -> bool {
        false
    }
    /// From now on data comes with its chunk framing.
    fn take_chunks(&mut self) {}
    /// Where bytes leave as they are: their socket, and how many more the framing allows (`u64::MAX` without a bound).
    fn splice_sink(&self) -> Option<(&TcpStream, u64)> {
        None
    }
    /// Before bytes are given to the socket: hands everything held back to the kernel.
    fn poll_clear(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.poll_flush(cx)
    }
    /// Nothing may follow for long: what can be given back of the memory, is.
    fn rest_sink(&mut self) {}
    /// So many bytes were given to the socket.
    fn spliced_to(&mut self, n: usize) {
        let _ = n;
    }
    /// Tells the peer that nothing more follows (tunnels only).
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>>;
}

/// How a client has given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It takes nothing any more.
    Left,
    /// It sends nothing any more: it has left, or it waits for the answer over a half-closed connection. TCP doesn't tell which.
    HalfClosed,
}

/// The client's side of one exchange.
pub trait Downstream: Source + Sink {
    /// The answer was 101: from now on bytes pass as they are, both ways, until the peer ends.
    fn open_tunnel(&mut self);
    /// Queues the head of the final answer.
    fn send_response<F: Fields>(&mut self, response: &Outgoing<'_, F>) -> Result<(), WireError>;
    /// Queues a 1xx other than 101, where the client's version knows them.
    fn send_informational<F: Fields>(&mut self, status: u16, fields: &F) -> Result<(), WireError>;
    /// Ready when the client has given up. Bytes that arrive meanwhile are kept within bounds.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone>;
    /// Ready when the client has given up, as far as that is known without reading: for while its body is still to come.
    fn poll_taken_back(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Pending
    }
    /// Bounds what is buffered of bodies that come by this connection.
    fn body_budget(&self) -> ByteBudget;
    /// Bounds what is held of responses that upstreams have finished and this connection's client hasn't taken.
    fn answer_budget(&self) -> ByteBudget;
    /// The connection carries no other request: what is left of this one's bytes is in doubt.
    fn close_after(&mut self) {}
}

/// The application's side of one exchange.
pub(crate) trait Upstream: Source + Sink {
    /// The answer was 101: from now on bytes pass as they are, both ways, until the peer ends.
    fn open_tunnel(&mut self);
    /// The fields of the response's head.
    type Fields<'a>: Fields
    where
        Self: 'a;
    /// Queues the request's head.
    fn send_request<F: Fields>(&mut self, request: &Request<'_, F>) -> Result<(), WireError>;
    /// Ready when a head (1xx or final) has arrived.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>>;
    /// The status of the head that arrived last.
    fn status(&self) -> u16;
    /// Its fields.
    fn fields(&self) -> Self::Fields<'_>;
    /// How the response's body is framed.
    fn framing(&self) -> Framing;
    /// What `content-length` says, also where no body follows.
    fn content_length(&self) -> Option<u64>;
    /// The head that arrived last is dealt with: the next is awaited after a 1xx, the body begins after a final one.
    fn next(&mut self);
    /// Whether any byte of a response has arrived.
    fn has_begun(&self) -> bool;
    /// Whether any byte of the request may have reached the application.
    fn may_have_sent(&self) -> bool;
}
