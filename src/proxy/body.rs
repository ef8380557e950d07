//! Bodies on their way: one pump for both directions, and the client's body as attempts need it.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use http::HeaderMap;

use super::wire::{BodyPiece, PumpError, Sink, Source, WireError};
use crate::net::buffer::LentPipe;
use crate::net::{BudgetShare, ByteBudget};

/// One direction's progress.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Bytes moved, and one more for the end: whoever watches for silence compares it.
    pub moved: u64,
    /// The trailers that came at the end.
    pub trailers: Option<HeaderMap>,
    /// The last time it waited, it waited for the sink.
    pub waits_for_sink: bool,
    /// The last time it waited, nothing was held back, and only the source could wake it.
    pub rests: bool,
    ended: bool,
    done: bool,
    pipe: Option<LentPipe>,
    /// How often in a row the pipe took little.
    trickles: u8,
    /// Nothing goes by way of a pipe any more.
    unpiped: bool,
    /// What was moved when this turn began.
    turn_from: u64,
    /// Bytes that a turn moves at most, less [`TURN`].
    turn_less: u64,
    /// The last time it waited, it did so only because its turn was over.
    yielded: bool,
}

/// Most bytes that a body moves in a turn; then whatever else became ready has one.
pub(crate) const TURN: u64 = 1 << 20;

/// A pipe that takes less than this is as dear as reading and writing.
const TRICKLE: usize = 32 * 1024;
/// So often in a row.
const TRICKLES: u8 = 4;

impl Flow {
    /// A body that moves at most `bytes` in a turn, instead of [`TURN`].
    pub(crate) fn in_turns_of(bytes: u64) -> Self {
        Self {
            turn_less: TURN.saturating_sub(bytes),
            ..Self::default()
        }
    }

    /// Everything has come from the source.
    pub(crate) fn is_source_done(&self) -> bool {
        self.ended
    }

    /// The last time it waited, it waited because the sink doesn't take what there is.
    pub(crate) fn is_blocked(&self) -> bool {
        self.waits_for_sink && !self.yielded
    }

    /// What comes goes by way of a pipe.
    pub(crate) fn is_piped(&self) -> bool {
        self.pipe.is_some()
    }

    /// The source has ended; some of what it sent may not have been handed on yet.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Bytes moved.
    pub(crate) fn bytes(&self) -> u64 {
        self.moved - u64::from(self.done)
    }

    /// Moves what can be moved. Ready when the whole body, trailers included, has been handed to the kernel.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
        sink: &mut impl Sink,
    ) -> Poll<Result<(), PumpError>> {
        self.turn_from = self.moved;
        self.rests = false;
        self.yielded = false;
        while !self.ended {
            ready!(self.poll_turn(cx));
            if !self.unpiped || self.pipe.is_some() {
                ready!(self.poll_pipe(cx, source, sink))?;
            }
            match source.poll_piece(cx) {
                Poll::Ready(Ok(BodyPiece::Data(_))) => {
                    self.waits_for_sink = true;
                    let Poll::Ready(written) = sink.poll_write(cx, source.data()) else {
                        source.stall();
                        return Poll::Pending;
                    };
                    let n = written.map_err(PumpError::Sink)?;
                    source.consume(n);
                    self.moved += n as u64;
                }
                Poll::Ready(Ok(BodyPiece::Trailers)) => {
                    self.trailers = Some(source.take_trailers());
                    self.ended = true;
                }
                Poll::Ready(Ok(BodyPiece::End)) => self.ended = true,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(PumpError::Source(e))),
                Poll::Pending => {
                    return self.wait_for_source(cx, sink);
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

impl Flow {
    /// Pending when the turn is over; the next begins when the worker has looked for what else is ready.
    #[inline]
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.moved - self.turn_from <= TURN - self.turn_less {
            return Poll::Ready(());
        }
        // Neither end is to blame for this wait.
        self.waits_for_sink = true;
        self.yielded = true;
        pin!(tokio::task::yield_now()).poll(cx)
    }

    /// The source has nothing now, and wakes when it has: till then nothing is held back.
    #[inline]
    fn wait_for_source(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut impl Sink,
    ) -> Poll<Result<(), PumpError>> {
        self.waits_for_sink = false;
        match sink.poll_flush(cx) {
            Poll::Ready(Err(e)) => return Poll::Ready(Err(PumpError::Sink(e))),
            Poll::Ready(Ok(())) => self.rests = true,
            Poll::Pending => {}
        }
        Poll::Pending
    }

    /// Moves bytes from socket to socket, as long as that is possible and worth it.
    fn poll_pipe(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
        sink: &mut impl Sink,
    ) -> Poll<Result<(), PumpError>> {
        loop {
            ready!(self.poll_turn(cx));
            if let Some(pipe) = &mut self.pipe
                && pipe.held() > 0
            {
                self.waits_for_sink = true;
                ready!(sink.poll_clear(cx)).map_err(PumpError::Sink)?;
                let Some((to, _)) = sink.splice_sink() else {
                    return Poll::Ready(Err(PumpError::Sink(WireError::Cut)));
                };
                let n = ready!(pipe.poll_give(cx, to)).map_err(|e| PumpError::Sink(e.into()))?;
                if n == 0 {
                    return Poll::Ready(Err(PumpError::Sink(WireError::Cut)));
                }
                sink.spliced_to(n);
                self.moved += n as u64;
                continue;
            }
            let Some((from, most)) = source.splice_source().filter(|_| !self.unpiped) else {
                self.pipe = None;
                return Poll::Ready(Ok(()));
            };
            let Some((_, room)) = sink.splice_sink() else {
                // Without room the sink refuses what comes next, when it is written.
                self.unpiped = true;
                continue;
            };
            // What is in the pipe can't be refused any more.
            let most = most.min(room);
            if self.pipe.is_none() {
                self.pipe = source.pipe();
            }
            let Some(pipe) = &mut self.pipe else {
                self.unpiped = true;
                continue;
            };
            let Poll::Ready(taken) = pipe.poll_take(cx, from, most) else {
                return self.wait_for_source(cx, sink);
            };
            match taken {
                Ok(n) if n > 0 => {
                    source.spliced_from(n);
                    let little = n < TRICKLE && n as u64 != most;
                    self.trickles = if little { self.trickles + 1 } else { 0 };
                    if self.trickles >= TRICKLES {
                        source.splice_is_slow();
                        self.unpiped = true;
                    }
                }
                // The end: reading meets it again, and knows what it means. Or there is no way round for these sockets.
                Ok(_) => self.unpiped = true,
                Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => self.unpiped = true,
                Err(e) => return Poll::Ready(Err(PumpError::Source(e.into()))),
            }
        }
    }
}

/// The client's body through all attempts: what has been sent is kept, up to a limit, so that it can be sent again.
#[derive(Debug)]
pub(crate) struct Upload {
    flow: Flow,
    ledger: Ledger,
}

/// What has been taken from the client.
#[derive(Debug)]
struct Ledger {
    kept: Vec<u8>,
    /// What `kept` may take of the memory for bodies; `None`: it isn't counted.
    share: Option<BudgetShare>,
    keep: usize,
    replayed: usize,
    complete: bool,
    seen: u64,
    limit: u64,
    too_large: bool,
}

/// Why an upload stopped.
#[derive(Debug)]
pub(crate) enum UploadError {
    /// Source or sink broke.
    Pump(PumpError),
    /// More than `limits.body_bytes`.
    TooLarge,
}

impl Upload {
    /// At most `limit` bytes; up to `keep` of them are kept for another attempt (0 where there won't be one).
    pub(crate) fn new(limit: Option<u64>, keep: usize) -> Self {
        let ledger = Ledger {
            kept: Vec::new(),
            share: None,
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

    /// What is kept takes its bytes from this budget. Called before anything is read.
    pub(crate) fn take_from(&mut self, budget: ByteBudget) {
        self.ledger.share = Some(BudgetShare::new(budget));
    }

    /// Whether everything that was taken from the client can be sent again.
    pub(crate) fn can_rewind(&self) -> bool {
        self.ledger.complete
    }

    /// Begins again from the first byte, for another attempt; only where [`Self::can_rewind`].
    pub(crate) fn rewind(&mut self) {
        debug_assert!(self.can_rewind());
        self.ledger.replayed = 0;
        let trailers = self.flow.trailers.take();
        self.flow = Flow {
            trailers,
            ended: self.flow.ended,
            ..Flow::default()
        };
    }

    /// Reads the body, to be sent later; ready when it is whole, or `most` bytes of it are there, or the budget has no room for more.
    pub(crate) fn poll_buffer(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
        most: u64,
    ) -> Poll<Result<(), UploadError>> {
        let ledger = &mut self.ledger;
        while ledger.seen < most {
            let piece = ready!(source.poll_piece(cx))
                .map_err(|e| UploadError::Pump(PumpError::Source(e)))?;
            if let BodyPiece::Data(n) = piece {
                if !ledger.buffer(source.data(), most as usize) {
                    break;
                }
                ledger.seen += n as u64;
                source.consume(n);
                continue;
            }
            if piece == BodyPiece::Trailers {
                self.flow.trailers = Some(source.take_trailers());
            }
            self.flow.ended = true;
            break;
        }
        Poll::Ready(Ok(()))
    }

    /// So many bytes were read by [`Self::poll_buffer`].
    pub(crate) fn held(&self) -> u64 {
        self.ledger.seen
    }

    /// Bytes that have come from the client.
    pub(crate) fn received(&self) -> u64 {
        self.ledger.seen
    }

    /// Progress.
    pub(crate) fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Moves what can be moved. Ready when the whole body has been handed to the kernel.
    pub(crate) fn poll(
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
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>> {
        let piece = self.source.poll_piece(cx);
        if let Poll::Ready(Ok(BodyPiece::Data(n))) = piece
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
    /// Adds to what is kept, unless the budget has no room for it. The memory grows by doubling, up to `most` bytes.
    fn buffer(&mut self, bytes: &[u8], most: usize) -> bool {
        const LEAST: usize = 1024;
        let len = self.kept.len() + bytes.len();
        if len > self.kept.capacity() {
            let capacity = (2 * self.kept.capacity()).max(LEAST).min(most).max(len);
            if let Some(share) = &mut self.share
                && !share.grow_to(capacity)
            {
                return false;
            }
            self.kept.reserve_exact(capacity - self.kept.len());
        }
        self.kept.extend_from_slice(bytes);
        true
    }

    fn note(&mut self, bytes: &[u8]) {
        self.seen += bytes.len() as u64;
        if !self.complete {
            return;
        }
        if self.kept.len() + bytes.len() > self.keep || !self.buffer(bytes, self.keep) {
            self.complete = false;
            self.kept = Vec::new();
            self.share = None;
        }
        self.replayed = self.kept.len();
    }
}

#[cfg(test)]
#[path = "body_buffer_tests.rs"]
mod buffering;
#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
#[cfg(test)]
#[path = "body_turns_tests.rs"]
mod turns;
