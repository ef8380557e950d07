//! The two halves of an HTTP/2 stream as the exchange sees them, the same on both sides: a [`ReceiveHalf`] lends what arrives,
//! a [`SendHalf`] takes what leaves.

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

/// Most bytes that are taken at once: as much as an HTTP/1 source lends.
const AT_ONCE: usize = 64 * 1024;

/// Most bytes that are gathered into one frame: as many as a frame may have unless the peer allows more (RFC 9113 §4.2).
const GATHERED: usize = 16 * 1024;

/// What moved on a connection lately, as allowance for the frames that a peer may send about it: whoever sends data counts it here,
/// whoever meters the peer's frames takes it out.
pub(crate) type FrameAllowance = Rc<Cell<u64>>;

/// What an error of the h2 crate's means for an exchange.
pub(crate) fn wire_error(error: h2::Error) -> WireError {
    match error.reason() {
        Some(reason) => WireError::Reset(reason),
        None => error.into_io().map_or(WireError::Cut, WireError::Io),
    }
}

/// The half that arrives. Window is given back only for bytes that were consumed: that is the back-pressure.
#[derive(Debug)]
pub(crate) struct ReceiveHalf {
    body: RecvStream,
    piece: Bytes,
    trailers: Option<HeaderMap>,
    flaws: Flaws,
    over: bool,
    left: Option<u64>,
}

impl ReceiveHalf {
    /// A body; `ended` with its head. `length` is the most DATA that may come: what the head declared, 0 where no body may follow.
    /// `flaws` are those of its connection.
    pub(crate) fn new(body: RecvStream, ended: bool, length: Option<u64>, flaws: Flaws) -> Self {
        Self {
            over: ended,
            body,
            piece: Bytes::new(),
            trailers: None,
            flaws,
            left: length,
        }
    }

    /// See [`super::wire::Source::poll_piece`].
    ///
    /// # Errors
    /// [`WireError::Bad`] for DATA beyond the declared length, before a byte of it is lent, and for trailers that are malformed or too large.
    pub(crate) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<wire::BodyPiece, WireError>> {
        while self.piece.is_empty() && !self.over {
            match ready!(self.body.poll_data(cx)) {
                Some(piece) => {
                    let piece = piece.map_err(wire_error)?;
                    // The h2 crate compares DATA with `content-length`, but lets DATA follow a 204 or a 304.
                    if self.left.is_some_and(|left| piece.len() as u64 > left) {
                        return Poll::Ready(Err(Reject::bad("surplus-data").into()));
                    }
                    self.piece = piece;
                }
                None => {
                    let trailers = ready!(self.body.poll_trailers(cx)).map_err(wire_error)?;
                    if let Some(trailers) = trailers {
                        self.trailers = self.checked(trailers)?;
                    }
                    self.over = true;
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

    fn checked(&self, trailers: HeaderMap) -> Result<Option<HeaderMap>, Reject> {
        let stream = self.body.stream_id().as_u32();
        if self.flaws.take(stream, Flaw::PseudoInTrailers) {
            return Err(PSEUDO_IN_TRAILERS);
        }
        // As HTTP/1 measures them, so that what one protocol takes the other can carry.
        let line =
            |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
        let size = trailers.iter().map(line).sum::<usize>() + 2;
        if trailers.len() > trailers::MAX_FIELDS || size > trailers::MAX_BYTES {
            return Err(trailers::TOO_LARGE);
        }
        Ok(allowed(trailers))
    }

    /// See [`super::wire::Source::data`].
    pub(crate) fn data(&self) -> &[u8] {
        &self.piece
    }

    /// See [`super::wire::Source::consume`].
    pub(crate) fn consume(&mut self, n: usize) {
        self.piece.advance(n);
        self.left = self.left.map(|left| left.saturating_sub(n as u64));
        // Fails only for more than was taken.
        let _ = self.body.flow_control().release_capacity(n);
    }

    /// See [`super::wire::Source::take_trailers`].
    pub(crate) fn take_trailers(&mut self) -> HeaderMap {
        self.trailers.take().unwrap_or_default()
    }

    /// See [`super::wire::Source::remaining`].
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self.over {
            true => Some(0),
            false => Some(self.left?.saturating_sub(self.piece.len() as u64)),
        }
    }

    /// See [`super::wire::Source::has_arrived`]. Its length alone doesn't say so: trailers may follow.
    pub(crate) fn has_arrived(&self) -> bool {
        self.over || self.body.is_end_stream()
    }
}

/// A pseudo-header field in trailers makes the message malformed (RFC 9113 §8.1).
pub(crate) const PSEUDO_IN_TRAILERS: Reject = Reject::bad("pseudo-in-trailers");

/// Trailers without the fields that have no place among them; `None` if nothing is left.
fn allowed(mut trailers: HeaderMap) -> Option<HeaderMap> {
    let forbidden = |name: &HeaderName| trailers::is_forbidden(name.as_str().as_bytes());
    if trailers.keys().any(forbidden) {
        let names: Vec<_> = trailers.keys().filter(|n| forbidden(n)).cloned().collect();
        for name in names {
            trailers.remove(name);
        }
    }
    (!trailers.is_empty()).then_some(trailers)
}

/// The half that leaves. The last piece is held back until it is clear whether it ends the stream, so that the end costs no frame of its own.
#[derive(Debug)]
pub(crate) struct SendHalf {
    stream: SendStream<OutgoingPiece>,
    outbox: Outbox,
    held: Option<OutgoingPiece>,
    ended: bool,
    progress: Option<FrameAllowance>,
}

impl SendHalf {
    /// A stream whose head was sent; `ended` with it. `outbox` is its connection's. `progress` where somebody meters the peer.
    pub(crate) fn new(
        stream: SendStream<OutgoingPiece>,
        ended: bool,
        outbox: Outbox,
        progress: Option<FrameAllowance>,
    ) -> Self {
        Self {
            stream,
            outbox,
            held: None,
            ended,
            progress,
        }
    }

    /// Takes as much as the peer's window grants, while the connection has room for it.
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
        self.send_held(false)?;
        ready!(self.outbox.poll_room(cx));
        let wanted = data.len().min(AT_ONCE);
        self.stream.reserve_capacity(wanted);
        let mut granted = self.stream.capacity();
        if granted == 0 {
            granted = match ready!(self.stream.poll_capacity(cx)) {
                Some(granted) => granted?,
                None => return Poll::Ready(Err(h2::Reason::STREAM_CLOSED.into())),
            };
        }
        let taken = granted.min(wanted);
        self.held = Some(self.outbox.piece(&data[..taken]));
        Poll::Ready(Ok(taken))
    }

    /// Puts a few bytes behind those that are held back, where the peer's window has room for both: a body of tiny chunks would
    /// be as many frames.
    fn gather(&mut self, data: &[u8]) -> Option<usize> {
        let held = self.held.as_mut()?;
        let both = held.remaining() + data.len();
        if both > GATHERED {
            return None;
        }
        self.stream.reserve_capacity(both);
        if self.stream.capacity() < both {
            return None;
        }
        held.append(data);
        Some(data.len())
    }

    /// Hands everything held back to the connection.
    pub(crate) fn flush(&mut self) -> Result<(), h2::Error> {
        self.send_held(false)
    }

    /// Ends the stream.
    pub(crate) fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), h2::Error> {
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        match trailers {
            Some(trailers) => {
                self.send_held(false)?;
                self.stream.send_trailers(trailers.clone())
            }
            None => self.send_held(true),
        }
    }

    fn send_held(&mut self, end: bool) -> Result<(), h2::Error> {
        let piece = match self.held.take() {
            Some(piece) => piece,
            None if end => self.outbox.nothing(),
            None => return Ok(()),
        };
        if let Some(progress) = &self.progress {
            progress.set(progress.get() + 4 + piece.remaining() as u64 / 512);
        }
        self.stream.send_data(piece, end)
    }

    /// Whether the end was sent.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes the stream back with this reason; what was queued and not sent is dropped.
    pub(crate) fn reset(&mut self, reason: h2::Reason) {
        self.stream.send_reset(reason);
    }

    /// Ready when the peer has taken the stream back, or the connection broke.
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
        let kept = allowed(map(&[
            ("grpc-status", "0"),
            ("content-length", "3"),
            ("authorization", "x"),
            ("cache-control", "no-store"),
            ("x-forwarded-port", "1"),
            ("x_sum", "7"),
            ("x-sum", "7"),
        ]));
        assert_eq!(kept, Some(map(&[("grpc-status", "0"), ("x-sum", "7")])));
        assert_eq!(allowed(map(&[("host", "a")])), None);
    }
}
