//! The two halves of an HTTP/2 stream, shared by both sides: [`ReceiveHalf`] backs a `Source`,
//! [`SendHalf`] a `Sink`. The h2 crate does framing and flow control; this adds back-pressure,
//! checks that the crate doesn't make, and fewer frames.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::wire::{self, WireError};
use crate::http1::{Reject, trailers};
use crate::http2::{Flaw, Flaws};
use crate::net::{Outbox, OutgoingPiece};
use crate::reason::Reason;

/// Bytes accepted by one write, about the size of a large HTTP/1 read.
const MAX_PIECE: usize = 64 * 1024;

/// Small writes are merged up to this size, the default maximum of a frame (RFC 9113 §4.2).
const MAX_GATHERED: usize = 16 * 1024;

/// Allowance for control frames from the peer, such as `WINDOW_UPDATE`. Sending data adds to it, and
/// the flood protection of the connection draws on it.
pub(crate) type FrameAllowance = Rc<Cell<u64>>;

/// Maps an error of the h2 crate.
pub(crate) fn wire_error(error: h2::Error) -> WireError {
    match error.reason() {
        Some(reason) => WireError::Reset(reason),
        None => error.into_io().map_or(WireError::Cut, WireError::Io),
    }
}

/// The receiving half. Flow-control window is returned to the peer only for consumed bytes, so a
/// slow sink slows the peer down.
#[derive(Debug)]
pub(crate) struct ReceiveHalf {
    body: RecvStream,
    piece: Bytes,
    trailers: Option<HeaderMap>,
    flaws: Flaws,
    ended: bool,
    /// Bytes that may still be consumed, if the head declared a length.
    declared_left: Option<u64>,
}

impl ReceiveHalf {
    /// A body, which ended with its head if `ended`. `length` limits its DATA: the declared length,
    /// or 0 if the message has no body.
    /// `flaws` is shared by the streams of a connection.
    pub(crate) fn new(body: RecvStream, ended: bool, length: Option<u64>, flaws: Flaws) -> Self {
        Self {
            ended,
            body,
            piece: Bytes::new(),
            trailers: None,
            flaws,
            declared_left: length,
        }
    }

    /// See [`super::wire::Source::poll_piece`].
    ///
    /// # Errors
    /// [`WireError::Bad`] for DATA beyond the declared length, before any of it is available, and
    /// for trailers that are malformed or too large.
    pub(crate) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<wire::BodyPiece, WireError>> {
        while self.piece.is_empty() && !self.ended {
            match ready!(self.body.poll_data(cx)) {
                Some(piece) => {
                    let piece = piece.map_err(wire_error)?;
                    // The h2 crate compares DATA with `content-length`, but lets DATA follow a 204 or a 304.
                    if self
                        .declared_left
                        .is_some_and(|left| piece.len() as u64 > left)
                    {
                        return Poll::Ready(Err(Reject::bad(Reason::SurplusData).into()));
                    }
                    self.piece = piece;
                }
                None => {
                    let trailers = ready!(self.body.poll_trailers(cx)).map_err(wire_error)?;
                    if let Some(trailers) = trailers {
                        self.trailers = self.check_trailers(trailers)?;
                    }
                    self.ended = true;
                }
            }
        }
        Poll::Ready(Ok(if !self.piece.is_empty() {
            wire::BodyPiece::Data(self.piece.len())
        } else if self.trailers.is_some() {
            wire::BodyPiece::Trailers
        } else {
            wire::BodyPiece::End
        }))
    }

    fn check_trailers(&self, trailers: HeaderMap) -> Result<Option<HeaderMap>, Reject> {
        let stream = self.body.stream_id().as_u32();
        if self.flaws.take(stream, Flaw::PseudoInTrailers) {
            return Err(PSEUDO_IN_TRAILERS);
        }
        // The size as HTTP/1 lines, so that both protocols have the same limit.
        let line =
            |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
        let size = trailers.iter().map(line).sum::<usize>() + 2;
        if trailers.len() > trailers::MAX_FIELDS || size > trailers::MAX_BYTES {
            return Err(trailers::TOO_LARGE);
        }
        Ok(without_forbidden(trailers))
    }

    /// See [`super::wire::Source::data`].
    pub(crate) fn data(&self) -> &[u8] {
        &self.piece
    }

    /// See [`super::wire::Source::consume`].
    pub(crate) fn consume(&mut self, n: usize) {
        self.piece.advance(n);
        self.declared_left = self.declared_left.map(|left| left.saturating_sub(n as u64));
        // Only fails for more capacity than was received, and `advance` has panicked then.
        let _ = self.body.flow_control().release_capacity(n);
    }

    /// See [`super::wire::Source::take_trailers`].
    pub(crate) fn take_trailers(&mut self) -> HeaderMap {
        self.trailers.take().unwrap_or_default()
    }

    /// See [`super::wire::Source::remaining`].
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self.ended {
            true => Some(0),
            false => Some(self.declared_left?.saturating_sub(self.piece.len() as u64)),
        }
    }

    /// See [`super::wire::Source::has_arrived`]. A used-up length isn't enough, since trailers may
    /// follow.
    pub(crate) fn has_arrived(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }
}

/// A pseudo-header field in trailers makes the message malformed (RFC 9113 §8.1).
pub(crate) const PSEUDO_IN_TRAILERS: Reject = Reject::bad(Reason::PseudoInTrailers);

/// Removes the fields that must not appear in trailers (RFC 9110 §6.5.1). `None` if none is left.
fn without_forbidden(mut trailers: HeaderMap) -> Option<HeaderMap> {
    let forbidden = |name: &HeaderName| trailers::is_forbidden(name.as_str().as_bytes());
    if trailers.keys().any(forbidden) {
        let names: Vec<_> = trailers.keys().filter(|n| forbidden(n)).cloned().collect();
        for name in names {
            trailers.remove(name);
        }
    }
    (!trailers.is_empty()).then_some(trailers)
}

/// The sending half. The last piece is held back until it is known whether it ends the stream, so
/// that END_STREAM needs no frame of its own.
#[derive(Debug)]
pub(crate) struct SendHalf {
    stream: SendStream<OutgoingPiece>,
    outbox: Outbox,
    pending: Option<OutgoingPiece>,
    ended: bool,
    progress: Option<FrameAllowance>,
}

impl SendHalf {
    /// A stream whose head was sent, with END_STREAM if `ended`. `outbox` belongs to its connection.
    /// `progress` is the peer's frame allowance, on connections that limit its frames.
    pub(crate) fn new(
        stream: SendStream<OutgoingPiece>,
        ended: bool,
        outbox: Outbox,
        progress: Option<FrameAllowance>,
    ) -> Self {
        Self {
            stream,
            outbox,
            pending: None,
            ended,
            progress,
        }
    }

    /// Accepts as much of `data` as the peer's flow-control window allows, once the connection's
    /// output queue has room.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, h2::Error>> {
        if self.ended {
            return Poll::Ready(Err(h2::Reason::STREAM_CLOSED.into()));
        }
        if let Some(taken) = self.gather(data) {
            return Poll::Ready(Ok(taken));
        }
        self.send_pending(false)?;
        ready!(self.outbox.poll_room(cx));
        let wanted = data.len().min(MAX_PIECE);
        self.stream.reserve_capacity(wanted);
        let mut granted = self.stream.capacity();
        if granted == 0 {
            granted = match ready!(self.stream.poll_capacity(cx)) {
                Some(granted) => granted?,
                None => return Poll::Ready(Err(h2::Reason::STREAM_CLOSED.into())),
            };
        }
        let taken = granted.min(wanted);
        self.pending = Some(self.outbox.piece(&data[..taken]));
        Poll::Ready(Ok(taken))
    }

    /// Appends `data` to the piece that is held back, if frame size and window allow. A body that
    /// arrives in tiny chunks would otherwise become as many frames.
    fn gather(&mut self, data: &[u8]) -> Option<usize> {
        let pending = self.pending.as_mut()?;
        let both = pending.remaining() + data.len();
        if both > MAX_GATHERED {
            return None;
        }
        self.stream.reserve_capacity(both);
        if self.stream.capacity() < both {
            return None;
        }
        pending.append(data);
        Some(data.len())
    }

    /// Hands the piece that is held back to the connection.
    pub(crate) fn flush(&mut self) -> Result<(), h2::Error> {
        self.send_pending(false)
    }

    /// Ends the stream.
    pub(crate) fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), h2::Error> {
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        match trailers {
            Some(trailers) => {
                self.send_pending(false)?;
                self.stream.send_trailers(trailers.clone())
            }
            None => self.send_pending(true),
        }
    }

    fn send_pending(&mut self, end: bool) -> Result<(), h2::Error> {
        let piece = match self.pending.take() {
            Some(piece) => piece,
            None if end => self.outbox.nothing(),
            None => return Ok(()),
        };
        if let Some(progress) = &self.progress {
            // 4 frames for each DATA frame, and one for each 512 bytes.
            progress.set(progress.get() + 4 + piece.remaining() as u64 / 512);
        }
        self.stream.send_data(piece, end)
    }

    /// Whether END_STREAM was sent.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Resets the stream. Queued data that hasn't been sent is dropped.
    pub(crate) fn reset(&mut self, reason: h2::Reason) {
        self.stream.send_reset(reason);
    }

    /// Ready when the peer has reset the stream or the connection has failed.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_carry_no_framing_and_no_credentials() {
        let map = |fields: &[(&'static str, &str)]| {
            let pairs = fields
                .iter()
                .map(|(n, v)| (HeaderName::from_static(n), v.parse().expect("a value")));
            HeaderMap::from_iter(pairs)
        };
        let kept = without_forbidden(map(&[
            ("grpc-status", "0"),
            ("content-length", "3"),
            ("authorization", "x"),
            ("cache-control", "no-store"),
            ("x-forwarded-port", "1"),
            ("x_sum", "7"),
            ("x-sum", "7"),
        ]));
        assert_eq!(kept, Some(map(&[("grpc-status", "0"), ("x-sum", "7")])));
        assert_eq!(without_forbidden(map(&[("host", "a")])), None);
    }
}
