//! The client's body across all tries of a request: a flow, a bounded copy of what it has sent, and
//! the limit `limits.body_bytes`.

use std::task::{Context, Poll, ready};

use http::HeaderMap;

use super::Flow;
use crate::net::buffer::Piece;
use crate::net::{BudgetShare, ByteBudget};
use crate::proxy::wire::{BodyPiece, PumpError, Sink, Source, WireError};

/// A request body across all tries of its request.
///
/// Holds a copy of the bytes that were taken from the client, up to a limit, so that another try
/// can send them again. A body that outgrows the copy, or for which the byte budget has no room,
/// continues as a stream and can't be sent twice.
#[derive(Debug)]
pub(crate) struct Upload {
    flow: Flow,
    replay: ReplayBuffer,
}

/// The bytes taken from the client, and how many of them the current try has sent.
///
/// Unless a body is read ahead, each byte is sent before it is kept, so keeping never delays a request. Once `complete` is false it
/// stays so, and `bytes` is empty. `sent` is at most the length of `bytes`.
#[derive(Debug)]
struct ReplayBuffer {
    bytes: Vec<u8>,
    /// The capacity of `bytes` is charged to this share of the body budget; `None`: uncharged.
    share: Option<BudgetShare>,
    /// Once more bytes than this have been sent, none are kept.
    max_kept: usize,
    /// How many of `bytes` the current try has sent.
    sent: usize,
    /// Whether `bytes` is everything that was taken from the client.
    complete: bool,
    /// Bytes taken from the client.
    seen: u64,
    limit: u64,
    too_large: bool,
}

/// Why an upload stopped.
#[derive(Debug)]
pub(crate) enum UploadError {
    /// The client (source) or the upstream (sink) failed.
    Pump(PumpError),
    /// The body exceeds `limits.body_bytes`.
    TooLarge,
}

impl Upload {
    /// A body of at most `limit` bytes. Up to `max_kept` sent bytes are kept for another try; pass
    /// 0 if there can't be one.
    pub(crate) fn new(limit: Option<u64>, max_kept: usize) -> Self {
        let replay = ReplayBuffer {
            bytes: Vec::new(),
            share: None,
            max_kept,
            sent: 0,
            complete: true,
            seen: 0,
            limit: limit.unwrap_or(u64::MAX),
            too_large: false,
        };
        Self {
            flow: Flow::default(),
            replay,
        }
    }

    /// The body of a request that has none: nothing is read of the client.
    pub(crate) fn none() -> Self {
        let mut upload = Self::new(None, 0);
        upload.flow.ended = true;
        upload
    }

    /// Charges the kept bytes to `budget`. To be called before anything is read.
    pub(crate) fn take_from(&mut self, budget: ByteBudget) {
        self.replay.share = Some(BudgetShare::new(budget));
    }

    /// Whether everything that was taken from the client has been kept.
    pub(crate) fn can_rewind(&self) -> bool {
        self.replay.complete
    }

    /// A copy that can be sent beside this one. `None` if `budget` has no room for it. Only valid if everything that the client
    /// sends has been kept, and it sends no trailers.
    pub(crate) fn held_copy(&self, budget: ByteBudget) -> Option<Self> {
        let kept = &self.replay;
        debug_assert!(kept.complete);
        let mut share = BudgetShare::new(budget);
        share.grow_to(kept.bytes.len()).then(|| Self {
            flow: Flow {
                ended: true,
                ..Flow::default()
            },
            replay: ReplayBuffer {
                bytes: kept.bytes.clone(),
                share: Some(share),
                sent: 0,
                ..*kept
            },
        })
    }

    /// Starts over from the first byte for another try. Only valid if [`Self::can_rewind`].
    pub(crate) fn rewind(&mut self) {
        debug_assert!(self.can_rewind());
        self.replay.sent = 0;
        // Trailers and the end of the body come from the client only once, so they carry over.
        let trailers = self.flow.trailers.take();
        self.flow = Flow {
            trailers,
            ended: self.flow.ended,
            ..Flow::default()
        };
    }

    /// Reads ahead without sending. Ready once the body is complete, `most` bytes have been read,
    /// or the budget is used up.
    pub(crate) fn poll_buffer(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
        most: u64,
    ) -> Poll<Result<(), UploadError>> {
        let replay = &mut self.replay;
        while replay.seen < most {
            let piece = ready!(source.poll_piece(cx))
                .map_err(|e| UploadError::Pump(PumpError::Source(e)))?;
            if let BodyPiece::Data(n) = piece {
                if !replay.buffer(source.data(), most as usize) {
                    break;
                }
                replay.seen += n as u64;
                source.consume(n);
                continue;
            }
            if piece == BodyPiece::Trailers {
                self.flow.trailers = Some(Box::new(source.take_trailers()));
            }
            self.flow.ended = true;
            break;
        }
        Poll::Ready(Ok(()))
    }

    /// Content bytes received from the client.
    pub(crate) fn received(&self) -> u64 {
        self.replay.seen
    }

    /// Progress of the current try.
    pub(crate) fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Sends the kept bytes again, then relays the rest as it arrives. Ready once the whole body
    /// has been handed to the kernel.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
        sink: &mut impl Sink,
    ) -> Poll<Result<(), UploadError>> {
        let replay = &mut self.replay;
        while replay.sent < replay.bytes.len() {
            self.flow.waits_for_sink = true;
            let n = ready!(sink.poll_write(cx, &replay.bytes[replay.sent..]))
                .map_err(|e| UploadError::Pump(PumpError::Sink(e)))?;
            replay.sent += n;
            self.flow.moved += n as u64;
        }
        let result = self.flow.poll(cx, &mut Tap { source, replay }, sink);
        // The tap reports an oversized body as a cut source, since a source has no such error.
        if self.replay.too_large {
            return Poll::Ready(Err(UploadError::TooLarge));
        }
        result.map_err(UploadError::Pump)
    }
}

/// The client's connection, with a copy of every consumed byte going to the replay buffer. Offers
/// no socket to splice from: spliced bytes could be neither kept nor counted against the limit.
struct Tap<'a, S> {
    source: &'a mut S,
    replay: &'a mut ReplayBuffer,
}

impl<S: Source> Source for Tap<'_, S> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>> {
        let piece = self.source.poll_piece(cx);
        if let Poll::Ready(Ok(BodyPiece::Data(n))) = piece
            && self.replay.seen + n as u64 > self.replay.limit
        {
            // Checked before any byte beyond the limit is sent: with chunked framing the upstream
            // could otherwise take a refused body for a complete one.
            self.replay.too_large = true;
            return Poll::Ready(Err(WireError::Cut));
        }
        piece
    }
    fn data(&self) -> &[u8] {
        self.source.data()
    }
    fn consume(&mut self, n: usize) {
        self.replay.note(&self.source.data()[..n]);
        self.source.consume(n);
    }
    fn take_piece(&mut self) -> Option<Piece> {
        let piece = self.source.take_piece()?;
        self.replay.note(&piece);
        Some(piece)
    }
    fn take_trailers(&mut self) -> HeaderMap {
        self.source.take_trailers()
    }
    fn remaining(&self) -> Option<u64> {
        self.source.remaining()
    }
    fn stall(&mut self) {
        self.source.stall();
    }
}

impl ReplayBuffer {
    /// Appends `bytes`; `false` if the budget has no room. Capacity doubles, up to `most` bytes.
    fn buffer(&mut self, bytes: &[u8], most: usize) -> bool {
        const LEAST: usize = 1024;
        let len = self.bytes.len() + bytes.len();
        if len > self.bytes.capacity() {
            let capacity = (2 * self.bytes.capacity()).max(LEAST).min(most).max(len);
            if let Some(share) = &mut self.share
                && !share.grow_to(capacity)
            {
                return false;
            }
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        true
    }

    /// Accounts for bytes that went straight to the sink, and keeps them while that is possible.
    fn note(&mut self, bytes: &[u8]) {
        self.seen += bytes.len() as u64;
        if !self.complete {
            return;
        }
        if self.bytes.len() + bytes.len() > self.max_kept || !self.buffer(bytes, self.max_kept) {
            self.complete = false;
            self.bytes = Vec::new();
            self.share = None;
        }
        // The current try has just sent these bytes itself.
        self.sent = self.bytes.len();
    }
}

#[cfg(test)]
#[path = "upload_tests.rs"]
mod tests;
