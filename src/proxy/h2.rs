//! A stream of an HTTP/2 connection as `Source` and `Sink`, shared by both sides. The connection does framing and flow control;
//! this adds the checks that depend on the exchange.

use std::task::{Context, Poll, ready};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::wire::{self, Gone, Recipient, Sink, WireError};
use crate::http1::{FieldId, Reject, trailers};
use crate::http2::{ErrorCode, HeadBlock, HeadWriter, Indexing, StreamError, StreamHandle};
use crate::reason::Reason;

/// Bytes accepted by one write, about the size of a large HTTP/1 read.
const MAX_PIECE: usize = 64 * 1024;

/// Maps an error of a stream.
pub(crate) fn wire_error(error: StreamError) -> WireError {
    match error {
        StreamError::Reset { code, .. }
        | StreamError::Connection(code)
        | StreamError::Unprocessed(code) => WireError::Reset(code),
        StreamError::Malformed(reject) => WireError::Bad(reject),
        StreamError::Io(kind) => WireError::Io(kind.into()),
    }
}

/// The sending side of a stream. Dropping it drops the handle, which resets a stream that hasn't ended.
#[derive(Debug)]
pub(crate) struct H2Sender {
    handle: StreamHandle,
    /// The head of the message was sent; of a response, the final one.
    head_sent: bool,
    ended: bool,
}

/// One stream. Flow-control window is returned to the peer only for consumed bytes, so a slow sink slows the peer down.
///
/// One side of an exchange owns it, [`super::h2_down`] or [`super::h2_up`].
#[derive(Debug)]
pub(crate) struct H2Stream {
    pub(crate) sender: H2Sender,
    /// Data that was taken from the connection. The first `used` bytes of it were consumed.
    piece: Vec<u8>,
    used: usize,
    /// Boxed, as it is large and most messages have none.
    trailers: Option<Box<HeaderMap>>,
    receive_ended: bool,
    /// Bytes that may still be consumed, if the head declared a length.
    declared_left: Option<u64>,
}

impl H2Stream {
    /// A stream that sends a body unless `send_ended`. What it receives is described by [`Self::expect`].
    pub(crate) fn new(handle: StreamHandle, send_ended: bool) -> Self {
        Self {
            sender: H2Sender {
                handle,
                head_sent: false,
                ended: send_ended,
            },
            piece: Vec::new(),
            used: 0,
            trailers: None,
            receive_ended: false,
            declared_left: None,
        }
    }

    /// A body follows, or none if `ended`. `length` limits it: the declared length, or 0 if the message has no body.
    pub(crate) fn expect(&mut self, ended: bool, length: Option<u64>) {
        self.receive_ended = ended;
        self.declared_left = length;
    }

    /// The stream itself.
    pub(crate) fn handle(&self) -> &StreamHandle {
        &self.sender.handle
    }

    /// See [`super::wire::Source::poll_piece`].
    ///
    /// # Errors
    /// [`WireError::Bad`] for DATA beyond the declared length, before any of it is available, and for trailers that are
    /// malformed or too large.
    pub(crate) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<wire::BodyPiece, WireError>> {
        while self.data().is_empty() && !self.receive_ended {
            self.piece.clear();
            self.used = 0;
            let polled = ready!(self.sender.handle.poll_data(cx, &mut self.piece));
            if polled.map_err(wire_error)? {
                // The connection compares DATA with `content-length`, but lets DATA follow a 204 or a 304.
                let surplus = |left| self.piece.len() as u64 > left;
                if self.declared_left.is_some_and(surplus) {
                    return Poll::Ready(Err(Reject::bad(Reason::SurplusData).into()));
                }
            } else {
                if let Some(block) = self.handle().take_trailers() {
                    self.trailers = trailer_map(&block)?.map(Box::new);
                    self.handle().recycle(block);
                }
                self.receive_ended = true;
            }
        }
        Poll::Ready(Ok(if !self.data().is_empty() {
            wire::BodyPiece::Data(self.data().len())
        } else if self.trailers.is_some() {
            wire::BodyPiece::Trailers
        } else {
            wire::BodyPiece::End
        }))
    }

    /// See [`super::wire::Source::data`].
    pub(crate) fn data(&self) -> &[u8] {
        &self.piece[self.used..]
    }

    /// See [`super::wire::Source::consume`].
    pub(crate) fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.data().len());
        self.used += n;
        self.declared_left = self.declared_left.map(|left| left.saturating_sub(n as u64));
        self.handle().release(n);
    }

    /// See [`super::wire::Source::release_input`].
    pub(crate) fn release_input(&mut self) {
        if self.data().is_empty() {
            self.piece = Vec::new();
            self.used = 0;
            self.handle().release_data_memory();
        }
    }

    /// Frees memory beyond what was received, all of which has arrived.
    pub(crate) fn shrink(&mut self) {
        self.piece.drain(..std::mem::take(&mut self.used));
        self.piece.shrink_to_fit();
    }

    /// See [`super::wire::Source::take_trailers`].
    pub(crate) fn take_trailers(&mut self) -> HeaderMap {
        self.trailers
            .take()
            .map_or_else(HeaderMap::new, |trailers| *trailers)
    }

    /// See [`super::wire::Source::remaining`].
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self.receive_ended {
            true => Some(0),
            false => Some(self.declared_left?.saturating_sub(self.data().len() as u64)),
        }
    }

    /// See [`super::wire::Source::has_arrived`]. A used-up length isn't enough, since trailers may follow.
    pub(crate) fn has_arrived(&self) -> bool {
        self.receive_ended || self.handle().has_received_all()
    }
}

impl H2Sender {
    /// Resets the stream, unless it is closed.
    pub(crate) fn reset(&self, code: ErrorCode) {
        self.handle.reset(code);
    }

    /// Sends a response head, after which a body follows unless `ended`.
    pub(crate) fn send_head(
        &mut self,
        ended: bool,
        write: impl FnOnce(&mut HeadWriter<'_>),
    ) -> Result<(), StreamError> {
        self.head_sent = true;
        self.ended = ended;
        self.handle.send_head(ended, write)
    }

    /// Whether [`Self::send_head`] was called.
    pub(crate) fn head_sent(&self) -> bool {
        self.head_sent
    }

    /// Ends the message.
    pub(crate) fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), StreamError> {
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        let Some(trailers) = trailers else {
            return self.handle.finish();
        };
        self.handle.send_head(true, |head| {
            for (name, value) in trailers {
                let name = name.as_str().as_bytes();
                let indexing = Indexing::of(FieldId::of(name), name, value.is_sensitive());
                head.put(name, value.as_bytes(), indexing);
            }
        })
    }
}

impl Recipient for H2Sender {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        match self.ended {
            // The response is complete, so a reset can't take anything back.
            true => Poll::Pending,
            false => self.handle.poll_failed(cx).map(|_| Gone::Left),
        }
    }
}

impl Sink for H2Sender {
    /// Accepts as much of `data` as the peer's flow-control window allows, once the connection's output has room.
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, WireError>> {
        let piece = &data[..data.len().min(MAX_PIECE)];
        self.handle.poll_send(cx, piece).map_err(wire_error)
    }
    fn poll_finish(
        &mut self,
        _: &mut Context<'_>,
        trailers: Option<&HeaderMap>,
    ) -> Poll<Result<(), WireError>> {
        Poll::Ready(self.finish(trailers).map_err(wire_error))
    }
    /// Accepted bytes are in the connection's output already.
    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.poll_finish(cx, None)
    }
}

/// The fields of a trailer section as a map, without those that must not be there (RFC 9110 §6.5.1). `None` if none is left.
///
/// # Errors
/// The section is too large.
fn trailer_map(block: &HeadBlock) -> Result<Option<HeaderMap>, Reject> {
    // The size as HTTP/1 lines, so that both protocols have the same limit.
    let size = block.fields.iter().map(|f| f.line.len()).sum::<usize>() + 2;
    if block.too_large.is_some()
        || block.fields.len() > trailers::MAX_FIELDS
        || size > trailers::MAX_BYTES
    {
        return Err(trailers::TOO_LARGE);
    }
    let mut map = HeaderMap::new();
    for field in &block.fields {
        let name = field.name.of(&block.bytes);
        if trailers::is_forbidden(name) {
            continue;
        }
        let value = field.value.of(&block.bytes);
        let parsed = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value));
        if let (Ok(name), Ok(mut value)) = parsed {
            value.set_sensitive(field.sensitive);
            map.append(name, value);
        }
    }
    Ok((!map.is_empty()).then_some(map))
}
