//! Bodies on their way: one pump for both directions, and the client's body as attempts need it.

use std::task::{Context, Poll, ready};

use http::HeaderMap;

use super::wire::{Piece, Sink, Source, WireError};

/// Which end of a pump broke.
#[derive(Debug)]
pub enum PumpError {
    /// Where the bytes come from.
    Source(WireError),
    /// Where they go.
    Sink(WireError),
}

/// One direction's progress.
#[derive(Debug, Default)]
pub struct Flow {
    /// Bytes moved, and one more for the end: whoever watches for silence compares it.
    pub moved: u64,
    /// The trailers that came at the end.
    pub trailers: Option<HeaderMap>,
    /// The last time it waited, it waited for the sink.
    pub waits_for_sink: bool,
    ended: bool,
    done: bool,
}

impl Flow {
    /// Everything has been handed on.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Moves what can be moved. Ready when the whole body, trailers included, has been handed to the kernel.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
        sink: &mut impl Sink,
    ) -> Poll<Result<(), PumpError>> {
        while !self.ended {
            match source.poll_piece(cx) {
                Poll::Ready(Ok(Piece::Data(_))) => {
                    self.waits_for_sink = true;
                    let Poll::Ready(written) = sink.poll_write(cx, source.data()) else {
                        source.stall();
                        return Poll::Pending;
                    };
                    let n = written.map_err(PumpError::Sink)?;
                    source.consume(n);
                    self.moved += n as u64;
                }
                Poll::Ready(Ok(Piece::Trailers)) => {
                    self.trailers = Some(source.take_trailers());
                    self.ended = true;
                }
                Poll::Ready(Ok(Piece::End)) => self.ended = true,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(PumpError::Source(e))),
                Poll::Pending => {
                    self.waits_for_sink = false;
                    if let Poll::Ready(Err(e)) = sink.poll_flush(cx) {
                        return Poll::Ready(Err(PumpError::Sink(e)));
                    }
                    return Poll::Pending;
                }
            }
        }
        self.waits_for_sink = true;
        ready!(sink.poll_finish(cx, self.trailers.as_ref())).map_err(PumpError::Sink)?;
        if !self.done {
            self.done = true;
            self.moved += 1;
        }
        Poll::Ready(Ok(()))
    }
}

/// The client's body through all attempts: what has been sent is kept, up to a limit, so that it can be sent again.
#[derive(Debug)]
pub struct Upload {
    flow: Flow,
    ledger: Ledger,
}

/// What has been taken from the client.
#[derive(Debug)]
struct Ledger {
    kept: Vec<u8>,
    keep: usize,
    replayed: usize,
    complete: bool,
    seen: u64,
    limit: u64,
    too_large: bool,
}

/// Why an upload stopped.
#[derive(Debug)]
pub enum UploadError {
    /// Source or sink broke.
    Pump(PumpError),
    /// More than `limits.body_bytes`.
    TooLarge,
}

impl Upload {
    /// At most `limit` bytes; up to `keep` of them are kept for another attempt (0 where there won't be one).
    pub fn new(limit: Option<u64>, keep: usize) -> Self {
        let ledger = Ledger {
            kept: Vec::new(),
            keep,
            replayed: 0,
            complete: true,
            seen: 0,
            limit: limit.unwrap_or(u64::MAX),
            too_large: false,
        };
        Self {
            flow: Flow::default(),
            ledger,
        }
    }

    /// Whether everything that was taken from the client can be sent again.
    pub fn can_rewind(&self) -> bool {
        self.ledger.complete
    }

    /// Begins again from the first byte, for another attempt; only where [`Self::can_rewind`].
    pub fn rewind(&mut self) {
        debug_assert!(self.can_rewind());
        self.ledger.replayed = 0;
        let trailers = self.flow.trailers.take();
        self.flow = Flow {
            trailers,
            ended: self.flow.ended,
            ..Flow::default()
        };
    }

    /// Progress.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Moves what can be moved. Ready when the whole body has been handed to the kernel.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
        sink: &mut impl Sink,
    ) -> Poll<Result<(), UploadError>> {
        let ledger = &mut self.ledger;
        while ledger.replayed < ledger.kept.len() {
            self.flow.waits_for_sink = true;
            let n = ready!(sink.poll_write(cx, &ledger.kept[ledger.replayed..]))
                .map_err(|e| UploadError::Pump(PumpError::Sink(e)))?;
            ledger.replayed += n;
            self.flow.moved += n as u64;
        }
        let result = self.flow.poll(cx, &mut Tap { source, ledger }, sink);
        if self.ledger.too_large {
            return Poll::Ready(Err(UploadError::TooLarge));
        }
        result.map_err(UploadError::Pump)
    }
}

/// A source that writes down what is taken from it.
struct Tap<'a, S> {
    source: &'a mut S,
    ledger: &'a mut Ledger,
}

impl<S: Source> Source for Tap<'_, S> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, WireError>> {
        let piece = self.source.poll_piece(cx);
        if let Poll::Ready(Ok(Piece::Data(n))) = piece
            && self.ledger.seen + n as u64 > self.ledger.limit
        {
            // Before a byte of it goes up: the upstream must not take a body that was refused for a whole one.
            self.ledger.too_large = true;
            return Poll::Ready(Err(WireError::Cut));
        }
        piece
    }
    fn data(&self) -> &[u8] {
        self.source.data()
    }
    fn consume(&mut self, n: usize) {
        self.ledger.note(&self.source.data()[..n]);
        self.source.consume(n);
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

impl Ledger {
    fn note(&mut self, bytes: &[u8]) {
        self.seen += bytes.len() as u64;
        if !self.complete {
            return;
        }
        if self.kept.len() + bytes.len() <= self.keep {
            self.kept.extend_from_slice(bytes);
        } else {
            self.complete = false;
            self.kept = Vec::new();
        }
        self.replayed = self.kept.len();
    }
}
