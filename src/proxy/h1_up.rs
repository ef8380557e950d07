//! An HTTP/1 connection to an endpoint, for one exchange.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::exchange::Remainder;
use super::h1::{Encoding, H1, OverH1};
use super::headers::{Fields, H1Fields, Request};
use super::wire::{Source, Upstream, WireError};
use crate::http1::{Framing, HeadLimits, Method, ResponseHead};
use crate::net::buffer::HUGE;
use crate::net::{Buffers, Stream};
use crate::upstream::Endpoint;

/// What a response head may be like: wide, since the application is ours to trust more than a client.
const LIMITS: HeadLimits = HeadLimits {
    bytes: 256 * 1024,
    fields: 256,
    target: 0,
    underscores: true,
};

/// Where the last answer brought so much at once, the next is presumed to be worth a pipe.
const PIPED: usize = 48 * 1024;

/// What is read then: a head, and a little of the body.
const HEAD: usize = 4 * 1024;

/// An HTTP/1 connection to an endpoint.
#[derive(Debug)]
pub(crate) struct H1Up {
    wire: H1,
    head: ResponseHead,
    /// Whom `Host` names where the request names nobody.
    endpoint: Arc<Endpoint>,
    method: Method,
    bulk: usize,
    began: u64,
    seen: bool,
}

impl H1Up {
    /// Over a connection at a message boundary; `head` is scratch of the worker, `bulk` what [`Self::bulk`] was before.
    #[inline]
    pub(crate) fn new(
        stream: Stream,
        buffers: Buffers,
        head: ResponseHead,
        endpoint: Arc<Endpoint>,
        bulk: usize,
    ) -> Self {
        Self {
            wire: H1::new(stream, buffers),
            head,
            endpoint,
            method: Method::Get,
            bulk,
            began: 0,
            seen: false,
        }
    }

    /// Bytes of an answer that may come at once, judging by the last one on this connection.
    pub(crate) fn bulk(&self) -> usize {
        self.bulk.min(self.wire.ceiling())
    }

    /// Ends the exchange: the scratch, and the stream where it can carry another request.
    #[inline]
    pub(crate) fn finish(self) -> (ResponseHead, Option<Stream>) {
        let clean = self.is_clean() && self.wire.source_is_done() && self.wire.mem.input.is_empty();
        (self.head, clean.then(|| self.wire.into_stream()))
    }

    /// The same when the response has arrived whole and the client hasn't taken all of it: what is left besides.
    pub(crate) fn part(self) -> (ResponseHead, Option<Stream>, Remainder) {
        let clean = self.is_clean() && self.wire.mem.input.len() == self.wire.data().len();
        let (stream, mem, left) = self.wire.into_parts();
        (
            self.head,
            clean.then_some(stream),
            Remainder::H1 { mem, left },
        )
    }

    /// Whether nothing but what is left of the response stands against another request.
    #[inline]
    fn is_clean(&self) -> bool {
        self.head.keep_alive
            && self.wire.is_flushed()
            && self.wire.sink_is_finished()
            && !self.wire.is_eof()
    }
}

impl Upstream for H1Up {
    type Fields<'a> = H1Fields<'a>;

    fn open_tunnel(&mut self) {
        self.wire.open_tunnel();
    }

    fn send_request<F: Fields>(&mut self, request: &Request<'_, F>) -> Result<(), WireError> {
        self.method = request.method;
        self.began = self.wire.written();
        request.put_h1(self.wire.out(), self.endpoint.authority.as_bytes());
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
                if self
                    .head
                    .parse(self.wire.mem.input.bytes(), self.method, &LIMITS)?
                    .is_some()
                {
                    return Poll::Ready(Ok(()));
                }
            }
            if self.bulk < PIPED {
                self.wire.expect(self.bulk);
            } else {
                // A body that goes by way of a pipe isn't to be read.
                self.wire.expect_head(HEAD);
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
            let was_fast = self.bulk >= PIPED;
            self.bulk = match self.head.framing {
                Framing::Length(n) => self.head.len + n.min(HUGE as u64) as usize,
                Framing::Empty => 0,
                // As much as came at once.
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

impl OverH1 for H1Up {
    #[inline]
    fn h1(&self) -> &H1 {
        &self.wire
    }
    #[inline]
    fn h1_mut(&mut self) -> &mut H1 {
        &mut self.wire
    }
}
