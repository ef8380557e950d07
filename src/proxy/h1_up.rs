//! The endpoint's side of an exchange over HTTP/1.
//!
//! Besides the heads, this decides how much to read with a response head. The size of the last
//! response on the connection predicts the next one: a small response is read together with its
//! head by one system call, a large body is left in the socket and spliced.

use std::cell::RefCell;
use std::task::{Context, Poll};

use super::exchange::Remainder;
use super::h1::{Encoding, H1, OverH1};
use super::headers::{Fields, H1Fields, Request, RequestEdits};
use super::wire::{Source, Upstream, WireError};
use super::worker::Worker;
use crate::http1::{Framing, HeadCache, HeadLimits, Method, ResponseHead};
use crate::net::Stream;
use crate::net::buffer::HUGE;
use crate::upstream::Endpoint;

/// Limits for response heads. Wider than for requests, since endpoints are trusted more than clients.
const LIMITS: HeadLimits = HeadLimits {
    bytes: 256 * 1024,
    fields: 256,
    target: 0,
    underscores: true,
};

/// If the last response was at least this large, the next one is expected to be spliced.
const SPLICEABLE: usize = 48 * 1024;

/// Number of bytes that are read then: a head, and little of the body.
const HEAD_READ: usize = 4 * 1024;

/// An HTTP/1 connection to an endpoint.
///
/// Made for one exchange, from a kept connection or a new one. [`Self::finish`] or [`Self::part`] takes it apart and says whether
/// the connection may be kept.
#[derive(Debug)]
pub(crate) struct H1Up<'a> {
    wire: H1,
    /// Scratch space of the worker.
    head: Box<ResponseHead>,
    cache: &'a RefCell<HeadCache<ResponseHead>>,
    /// Supplies `Host` for a request without an authority (HTTP/1.0).
    endpoint: &'a Endpoint,
    method: Method,
    /// Expected size of the response; see [`Self::bulk`].
    bulk: usize,
    /// Number of bytes that had been written before this request.
    began: u64,
    /// Whether a byte of a response has arrived.
    seen: bool,
}

impl<'a> H1Up<'a> {
    /// Wraps a connection at a message boundary. `bulk` is the value of [`Self::bulk`] after the previous exchange.
    #[inline]
    pub(crate) fn new(
        stream: Stream,
        worker: &'a Worker,
        endpoint: &'a Endpoint,
        bulk: usize,
    ) -> Self {
        Self {
            wire: H1::new(stream, worker.buffers.clone()),
            head: worker.take_head(),
            cache: &worker.response_cache,
            endpoint,
            method: Method::Get,
            bulk,
            began: 0,
            seen: false,
        }
    }

    /// Size in bytes of the last response, as an estimate for the next one on this connection.
    pub(crate) fn bulk(&self) -> usize {
        self.bulk.min(self.wire.ceiling())
    }

    /// Ends the exchange. Returns the scratch space, and the stream if it can carry another request.
    #[inline]
    pub(crate) fn finish(self) -> (Box<ResponseHead>, Option<Stream>) {
        let clean = self.is_clean() && self.wire.source_is_done() && self.wire.mem.input.is_empty();
        // This isn't part of a closure, which would first move the whole connection into itself.
        let stream = self.wire.into_stream();
        (self.head, clean.then_some(stream))
    }

    /// Like [`Self::finish`], for a response that was received completely but not consumed. Also
    /// returns its rest.
    pub(crate) fn part(self) -> (Box<ResponseHead>, Option<Stream>, Remainder) {
        // Bytes beyond this response would be the start of one that nobody has asked for.
        let clean = self.is_clean() && self.wire.mem.input.len() == self.wire.data().len();
        let (stream, mem, left) = self.wire.into_parts();
        (
            self.head,
            clean.then_some(stream),
            Remainder::of_h1(mem, left),
        )
    }

    /// Whether the connection can carry another request once the response has been consumed.
    #[inline]
    fn is_clean(&self) -> bool {
        self.head.keep_alive
            && self.wire.is_flushed()
            && self.wire.sink_is_finished()
            && !self.wire.is_eof()
    }
}

impl Upstream for H1Up<'_> {
    type Fields<'f>
        = H1Fields<'f>
    where
        Self: 'f;
    type Connection = H1;

    fn open_tunnel(&mut self) {
        self.wire.open_tunnel();
    }

    fn detach(&mut self) -> Option<H1> {
        Some(self.wire.detach())
    }

    fn switched_to(&self) -> Option<&[u8]> {
        let span = self.head.upgrade?;
        Some(span.of(self.wire.mem.input.bytes()))
    }

    fn send_request<F: Fields>(
        &mut self,
        request: &Request<'_, F>,
        edits: Option<&RequestEdits<'_>>,
    ) -> Result<(), WireError> {
        self.method = request.method;
        self.began = self.wire.written();
        request.put_h1(self.wire.out(), self.endpoint.authority.as_bytes(), edits);
        let (encoding, length) = match request.framing {
            Framing::Chunked | Framing::UntilClose => (Encoding::Chunks, None),
            Framing::Empty => (Encoding::Plain, Some(0)),
            Framing::Length(n) => (Encoding::Plain, Some(n)),
        };
        self.wire.begin_sink(encoding, length);
        Ok(())
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        loop {
            if !self.wire.mem.input.is_empty() {
                self.seen = true;
                let received = self.wire.mem.input.bytes();
                let cache = &mut self.cache.borrow_mut();
                let head = &mut self.head;
                let parsed = head.parse_cached(received, self.method, &LIMITS, cache)?;
                if parsed.is_some() {
                    return Poll::Ready(Ok(()));
                }
            }
            if self.bulk < SPLICEABLE {
                self.wire.expect(self.bulk);
            } else {
                // A body that will be spliced should stay in the socket.
                self.wire.expect_head(HEAD_READ);
            }
            let Poll::Ready(n) = self.wire.poll_fill(cx)? else {
                self.wire.release();
                return Poll::Pending;
            };
            if n == 0 {
                return Poll::Ready(Err(WireError::Cut));
            }
        }
    }

    fn status(&self) -> u16 {
        self.head.status
    }

    fn fields(&self) -> H1Fields<'_> {
        H1Fields {
            head: &self.wire.mem.input.bytes()[..self.head.len],
            fields: &self.head.fields,
        }
    }

    fn framing(&self) -> Framing {
        self.head.framing
    }

    fn content_length(&self) -> Option<u64> {
        self.head.content_length
    }

    fn next(&mut self) {
        self.wire.mem.input.consume(self.head.len);
        if self.head.status >= 200 {
            let was_fast = self.bulk >= SPLICEABLE;
            self.bulk = match self.head.framing {
                Framing::Length(n) => self.head.len + n.min(HUGE as u64) as usize,
                Framing::Empty => 0,
                // The length isn't known in advance, so the bytes that arrived with the head count.
                Framing::Chunked | Framing::UntilClose => self.wire.mem.input.len(),
            };
            self.wire.begin_source(self.head.framing);
            if was_fast {
                self.wire.presume_fast();
            }
        }
    }

    fn has_begun(&self) -> bool {
        self.seen
    }

    fn may_have_sent(&self) -> bool {
        self.wire.written() > self.began
    }
}

impl OverH1 for H1Up<'_> {
    #[inline]
    fn h1(&self) -> &H1 {
        &self.wire
    }
    #[inline]
    fn h1_mut(&mut self) -> &mut H1 {
        &mut self.wire
    }
}
