//! Body transfer: [`Flow`] copies one direction of an exchange, [`Upload`] is the client's body
//! across all tries of a request.
//!
//! A flow pulls pieces from a [`Source`] and pushes them into a [`Sink`] until one of them would
//! block. Between two plain TCP sockets with a large body it splices through a pipe instead, so
//! that the bytes never enter user space.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use http::HeaderMap;

use super::wire::{BodyPiece, PumpError, Sink, Source, WireError};
use crate::net::buffer::PooledPipe;

mod upload;

pub(crate) use upload::{Upload, UploadError};

/// Progress of one direction of an exchange.
///
/// It owns neither end: the same flow is polled with both again and again, until it is ready or fails. After a failure it must not
/// be polled any more, because bytes may be lost between the two.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Bytes moved, plus one once the end has been handed to the kernel: it changes with every
    /// progress, so idle timeouts compare it with its former value.
    pub moved: u64,
    /// Trailers that ended the body. Boxed because they are rare, and every request has two flows.
    pub trailers: Option<Box<HeaderMap>>,
    /// Whether the last poll was pending on the sink rather than on the source.
    pub waits_for_sink: bool,
    /// Whether the last poll was pending on the source alone, with nothing left to flush: only the source
    /// can wake the task.
    pub idle: bool,
    ended: bool,
    done: bool,
    /// Boxed, as it is large and most bodies have none.
    pipe: Option<Box<PooledPipe>>,
    /// Consecutive splices that moved less than [`SMALL_SPLICE`].
    small_splices: u8,
    /// No further bytes are spliced into a pipe. Bytes that are already in one still have to leave it.
    splice_off: bool,
    /// How much shorter than [`TURN`] a turn is. Stored as a reduction so that 0, the default,
    /// means a full turn.
    turn_reduction: u32,
    /// Whether the last poll was pending only because the turn was used up.
    yielded: bool,
}

/// Bytes that a body may move before its task yields to other tasks of the worker.
pub(crate) const TURN: u64 = 1 << 20;

/// Below this many bytes a splice costs as much as a read and a write.
const SMALL_SPLICE: usize = 32 * 1024;
/// Consecutive small splices after which a body is copied instead.
const MAX_SMALL_SPLICES: u8 = 4;

impl Flow {
    /// A flow whose turns are `bytes` long, at most [`TURN`].
    pub(crate) fn in_turns_of(bytes: u64) -> Self {
        Self {
            turn_reduction: TURN.saturating_sub(bytes) as u32,
            ..Self::default()
        }
    }

    /// Whether the source has ended. Some of its bytes may still have to be written.
    pub(crate) fn is_source_done(&self) -> bool {
        self.ended
    }

    /// Whether the last poll was pending because the sink's peer doesn't read.
    pub(crate) fn is_blocked(&self) -> bool {
        self.waits_for_sink && !self.yielded
    }

    /// Whether bytes are being spliced.
    pub(crate) fn is_piped(&self) -> bool {
        self.pipe.is_some()
    }

    /// Content bytes moved.
    pub(crate) fn bytes(&self) -> u64 {
        self.moved - u64::from(self.done)
    }

    /// Moves bytes until one end would block. Ready once the whole body, trailers included, has
    /// been handed to the kernel; polling again is harmless.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
        sink: &mut impl Sink,
    ) -> Poll<Result<(), PumpError>> {
        let turn_end = self.moved + TURN - u64::from(self.turn_reduction);
        self.idle = false;
        self.yielded = false;
        while !self.ended {
            ready!(self.poll_turn(cx, turn_end));
            if !self.splice_off || self.pipe.is_some() {
                ready!(self.poll_pipe(cx, source, sink, turn_end))?;
            }
            match source.poll_piece(cx) {
                Poll::Ready(Ok(BodyPiece::Data(len))) => {
                    if sink.take_over(len, source) {
                        self.moved += len as u64;
                        continue;
                    }
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
                    self.trailers = Some(Box::new(source.take_trailers()));
                    self.ended = true;
                }
                Poll::Ready(Ok(BodyPiece::End)) => self.ended = true,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(PumpError::Source(e))),
                Poll::Pending => return self.wait_for_source(cx, sink),
            }
        }
        self.waits_for_sink = true;
        ready!(sink.poll_finish(cx, self.trailers.as_deref())).map_err(PumpError::Sink)?;
        if !self.done {
            self.done = true;
            self.moved += 1;
        }
        Poll::Ready(Ok(()))
    }
}

impl Flow {
    /// Pending when the turn is used up, since more than `turn_end` bytes were moved. A fast source
    /// and a fast sink never block each other, so without turns one large body would starve every
    /// other task of the worker. `yield_now` wakes this task after the runtime has polled the I/O driver.
    #[inline]
    fn poll_turn(&mut self, cx: &mut Context<'_>, turn_end: u64) -> Poll<()> {
        if self.moved <= turn_end {
            return Poll::Ready(());
        }
        // Timeouts ask which end a flow waits for. It waits for neither now; naming the sink keeps
        // the source from being blamed for silence, and `yielded` clears the sink.
        self.waits_for_sink = true;
        self.yielded = true;
        pin!(tokio::task::yield_now()).poll(cx)
    }

    /// The source is pending and has registered the waker: flushes the sink before the task
    /// sleeps, since nothing may follow for a long time. Never `Ready(Ok)`.
    #[inline]
    fn wait_for_source<T>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut impl Sink,
    ) -> Poll<Result<T, PumpError>> {
        self.waits_for_sink = false;
        match sink.poll_flush(cx) {
            Poll::Ready(Err(e)) => return Poll::Ready(Err(PumpError::Sink(e))),
            Poll::Ready(Ok(())) => self.idle = true,
            Poll::Pending => {}
        }
        Poll::Pending
    }

    /// Splices from socket to socket for as long as both ends offer their socket and it pays.
    /// `Ready(Ok)` with an empty pipe: the body continues by copying.
    fn poll_pipe(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
        sink: &mut impl Sink,
        turn_end: u64,
    ) -> Poll<Result<(), PumpError>> {
        loop {
            ready!(self.poll_turn(cx, turn_end));
            // The pipe is emptied before it is filled again. `splice` returns EAGAIN both for a
            // full pipe and for an empty socket, so with bytes in the pipe a fill could wait for a
            // socket that is readable already.
            if let Some(pipe) = &mut self.pipe
                && pipe.held() > 0
            {
                self.waits_for_sink = true;
                self.moved += ready!(poll_empty_pipe(cx, pipe, sink))?;
            } else if !ready!(self.poll_fill_pipe(cx, source, sink))? {
                self.pipe = None;
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Splices from the source's socket into the pipe, which has to be empty. `false`: nothing was
    /// spliced, and the caller has to copy.
    #[inline]
    fn poll_fill_pipe(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
        sink: &mut impl Sink,
    ) -> Poll<Result<bool, PumpError>> {
        if self.splice_off {
            return Poll::Ready(Ok(false));
        }
        // A source has none while it holds bytes that were read with the head, or hasn't proved
        // to be fast. That may change, so splicing stays on.
        let Some((from, most)) = source.splice_source() else {
            return Poll::Ready(Ok(false));
        };
        // The sink can't splice (TLS, HTTP/2, chunks), or the announced length is used up. In the
        // latter case the copying path reports the surplus as an error.
        let Some((_, room)) = sink.splice_sink() else {
            self.splice_off = true;
            return Poll::Ready(Ok(false));
        };
        // Bytes in the pipe can't be refused any more, so the sink's framing limits them here.
        let most = most.min(room);
        if self.pipe.is_none() {
            self.pipe = source.pipe().map(Box::new);
        }
        let Some(pipe) = &mut self.pipe else {
            self.splice_off = true;
            return Poll::Ready(Ok(false));
        };
        let Poll::Ready(spliced) = from.poll_splice_to(cx, pipe, most) else {
            return self.wait_for_source(cx, sink);
        };
        match spliced {
            // End of stream. `splice` can't tell a complete body from a truncated one; the read
            // that follows returns 0 again, and the decoder knows which it is.
            Ok(0) => {
                self.splice_off = true;
                Poll::Ready(Ok(false))
            }
            Ok(n) => {
                source.spliced_from(n);
                self.judge_splice(n, most, source);
                Poll::Ready(Ok(true))
            }
            // EINVAL: the kernel can't splice this socket.
            Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => {
                self.splice_off = true;
                Poll::Ready(Ok(false))
            }
            Err(e) => Poll::Ready(Err(PumpError::Source(e.into()))),
        }
    }

    /// Turns splicing off after several small splices in a row. The last piece of a body
    /// (`n == most`) says nothing about the source's speed.
    #[inline]
    fn judge_splice(&mut self, n: usize, most: u64, source: &mut impl Source) {
        let is_small = n < SMALL_SPLICE && n as u64 != most;
        self.small_splices = if is_small { self.small_splices + 1 } else { 0 };
        if self.small_splices >= MAX_SMALL_SPLICES {
            source.splice_is_slow();
            self.splice_off = true;
        }
    }
}

/// Splices from the pipe to the sink's socket; returns how many bytes left the pipe.
#[inline]
fn poll_empty_pipe(
    cx: &mut Context<'_>,
    pipe: &mut PooledPipe,
    sink: &mut impl Sink,
) -> Poll<Result<u64, PumpError>> {
    // What the sink has gathered, such as the response head, comes first on the wire.
    ready!(sink.poll_clear(cx)).map_err(PumpError::Sink)?;
    let Some((to, _)) = sink.splice_sink() else {
        return Poll::Ready(Err(PumpError::Sink(WireError::Cut)));
    };
    let n = ready!(to.poll_splice_from(cx, pipe)).map_err(|e| PumpError::Sink(e.into()))?;
    if n == 0 {
        return Poll::Ready(Err(PumpError::Sink(WireError::Cut)));
    }
    sink.spliced_to(n);
    Poll::Ready(Ok(n as u64))
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
#[cfg(test)]
#[path = "body_turns_tests.rs"]
mod turns;
