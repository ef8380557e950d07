//! An HTTP/1 connection as a [`Source`] and a [`Sink`](super::wire::Sink): reads go through a body decoder, writes
//! through an encoder. Shared by both sides; [`super::h1_down`] and [`super::h1_up`] add the heads.
//!
//! The size of reads adapts to the peer. A connection without data holds no buffer. The first read
//! gets a small one, a body that fills it a large one; a body that fills a large one is considered
//! fast (`ceiling` is [`HUGE`]), which also allows it to be spliced.

use std::task::{Context, Poll, ready};

use http::HeaderMap;

use super::headers;
use super::wire::{BodyPiece, PumpError, Source, WireError};
use crate::http1::{BodyDecoder, DecodeStep, Framing};
use crate::net::buffer::{HUGE, LARGE, Piece, PooledPipe, SMALL};
use crate::net::{Buffer, Buffers, ByteBudget, Stream, StreamSocket};

mod over;
mod pass;
mod sink;

pub(crate) use over::OverH1;

/// Minimum of remaining body bytes for a splice; fewer are copied just as cheaply.
const WORTH_A_PIPE: u64 = 32 * 1024;

/// Most bytes behind a piece that is taken with its memory: the end of a chunked body.
const MOST_BEHIND: usize = 64;

/// The encoding of an outgoing body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Unencoded: its length was announced, or it ends when the connection does.
    Plain,
    /// Chunked, framed by us.
    Chunks,
    /// Chunked, with framing that is copied from the source.
    FramedChunks,
}

/// One HTTP/1 connection.
///
/// It is always within one message in each direction: [`Self::begin_source`] and [`Self::begin_sink`] start the next body, and
/// reset what is known of the last one. `mem.input` holds what was received and not used, which may be the rest of a body,
/// trailers, or requests that were pipelined.
#[derive(Debug)]
pub struct H1 {
    stream: Stream,
    /// The buffers of the connection.
    pub mem: Memory,
    /// Number of bytes of `mem.out` that have been written.
    sent: usize,
    decoder: BodyDecoder,
    /// Length of the decoded piece at the start of the input.
    piece_len: usize,
    chunks_in: bool,
    /// Boxed because they are rare: inline, every exchange would move their size.
    trailers: Option<Box<HeaderMap>>,
    /// Largest buffer that a read may get.
    ceiling: usize,
    /// The buffer size for the next read.
    wanted: usize,
    encoding: Encoding,
    /// Bytes still to be sent of a body with an announced length, else `u64::MAX`.
    body_left: u64,
    /// Bytes still to be sent of the current chunk.
    chunk_left: usize,
    finished: bool,
    eof: bool,
    written: u64,
}

impl H1 {
    /// Wraps a connection at a message boundary. Takes no buffers until there is something to read
    /// or write.
    #[inline]
    pub fn new(stream: Stream, buffers: Buffers) -> Self {
        Self {
            stream,
            mem: Memory {
                buffers,
                input: Buffer::default(),
                out: Vec::new(),
            },
            sent: 0,
            decoder: BodyDecoder::new(Framing::Empty, false),
            piece_len: 0,
            chunks_in: false,
            trailers: None,
            ceiling: LARGE,
            wanted: SMALL,
            encoding: Encoding::Plain,
            body_left: u64::MAX,
            chunk_left: 0,
            finished: false,
            eof: false,
            written: 0,
        }
    }

    /// Takes the connection, with its buffers, for another task. The remaining value can only be dropped.
    pub(crate) fn detach(&mut self) -> Self {
        let mut left = Self::new(Stream::Detached, self.mem.buffers.clone());
        left.eof = true;
        std::mem::replace(self, left)
    }

    /// Returns the stream. The buffers go back to the worker's pool.
    #[inline]
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// Returns the stream, the buffers, and how many bytes at the start of the input are the rest of
    /// the body. Only valid once the whole body has been received.
    pub fn into_parts(self) -> (Stream, Memory, usize) {
        (self.stream, self.mem, self.piece_len)
    }

    /// The stream.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// The output buffer. Heads are written here.
    #[inline]
    pub fn out(&mut self) -> &mut Vec<u8> {
        if self.mem.out.capacity() == 0 {
            self.equip_out();
        }
        &mut self.mem.out
    }

    #[inline(never)]
    fn equip_out(&mut self) {
        self.mem.out = self.mem.buffers.take_out();
    }

    /// Returns the buffers that are empty to the pool.
    pub fn release(&mut self) {
        self.rest();
        self.release_empty_out();
    }

    fn release_empty_out(&mut self) {
        if self.mem.out.len() == self.sent && self.mem.out.capacity() > 0 {
            self.mem.buffers.give_out(std::mem::take(&mut self.mem.out));
            self.sent = 0;
        }
    }

    /// Capacity of the buffers, in bytes.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.mem.input.capacity() + self.mem.out.capacity()
    }

    /// The largest buffer that a read of the current body may get.
    pub fn ceiling(&self) -> usize {
        self.ceiling
    }

    /// Returns the input buffer if it is empty, before waiting for the peer.
    pub fn rest(&mut self) {
        self.wanted = SMALL;
        self.mem.buffers.release(&mut self.mem.input);
    }

    /// Starts decoding a body with this framing.
    pub fn begin_source(&mut self, framing: Framing) {
        self.decoder = BodyDecoder::new(framing, false);
        self.piece_len = 0;
        self.trailers = None;
        self.chunks_in = framing == Framing::Chunked;
        // The head was followed by enough of the body to fill a large buffer: the peer is fast.
        let fast = self.mem.input.capacity() >= LARGE && self.mem.input.room().is_empty();
        self.ceiling = if fast { HUGE } else { LARGE };
    }

    /// Treats the peer as fast, as it was in the previous exchange.
    pub fn presume_fast(&mut self) {
        self.ceiling = HUGE;
    }

    /// Sizes the next read for this many bytes.
    pub fn expect(&mut self, bytes: usize) {
        self.wanted = bytes.max(SMALL);
    }

    /// Limits the next read to this many bytes, so that a body after the head stays in the socket,
    /// where it can be spliced from.
    pub fn expect_head(&mut self, bytes: usize) {
        self.wanted = bytes;
    }

    /// Starts encoding a body. `length` is the announced length, if any.
    pub fn begin_sink(&mut self, encoding: Encoding, length: Option<u64>) {
        self.encoding = encoding;
        self.body_left = length.unwrap_or(u64::MAX);
        self.chunk_left = 0;
        self.finished = false;
    }

    /// Switches to unframed bytes in both directions, until EOF.
    pub fn open_tunnel(&mut self) {
        self.begin_source(Framing::UntilClose);
        self.begin_sink(Encoding::Plain, None);
    }

    /// Whether the incoming body has been received and consumed.
    pub fn source_is_done(&self) -> bool {
        self.piece_len == 0 && self.decoder.is_done()
    }

    /// Whether the peer has closed its write side.
    pub fn is_eof(&self) -> bool {
        self.eof
    }

    /// Whether the outgoing body has been ended.
    pub fn sink_is_finished(&self) -> bool {
        self.finished
    }

    /// Bytes written since the connection was wrapped, without those that the kernel has refused.
    pub fn written(&self) -> u64 {
        self.written.saturating_sub(self.stream.refused() as u64)
    }

    /// Whether the kernel has taken everything that was written.
    pub fn is_flushed(&self) -> bool {
        self.sent == self.mem.out.len() && !self.stream.has_unsent()
    }

    /// Reads once into the input buffer; `Ok(0)` is EOF. A buffer is taken only once the socket is
    /// readable, and returned if the read finds nothing after all.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        self.poll_fill_in_turn(cx, |_| Poll::Ready(()))
    }

    /// Like [`Self::poll_fill`], but once the socket is readable, waits for `turn` before reading.
    pub fn poll_fill_in_turn(
        &mut self,
        cx: &mut Context<'_>,
        mut turn: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<std::io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        let n = loop {
            ready!(self.stream.poll_readable(cx))?;
            ready!(turn(cx));
            let most = self.equip();
            let room = self.mem.input.room();
            match self.stream.poll_read_into(cx, &mut room[..most])? {
                Poll::Ready(n) => {
                    if n == most {
                        // The read filled the buffer, so more is probably waiting: the peer is fast.
                        self.ceiling = HUGE;
                    }
                    break n;
                }
                Poll::Pending => {
                    // Reading a plain socket doesn't register the waker, so the loop asks for
                    // readiness again, which does. TLS (whatever wants a flush) has read part of a
                    // record and has registered it.
                    self.mem.buffers.release(&mut self.mem.input);
                    if self.stream.wants_flush() {
                        return Poll::Pending;
                    }
                }
            }
        };
        self.mem.input.filled(n);
        self.eof = n == 0;
        Poll::Ready(Ok(n))
    }

    /// Makes room for the next read, and returns how many bytes it may fill.
    fn equip(&mut self) -> usize {
        let Memory { buffers, input, .. } = &mut self.mem;
        if input.is_empty() {
            if input.capacity() < self.wanted || input.capacity() == 0 {
                buffers.equip(input, self.wanted.clamp(SMALL, buffers.most()));
            }
            if self.wanted < SMALL {
                return self.wanted;
            }
        } else if input.room().is_empty() {
            let more = if input.capacity() < LARGE {
                LARGE
            } else {
                input.capacity() * 2
            };
            buffers.equip(input, more);
        }
        input.room().len()
    }

    /// Sizes the next read for the rest of the body, up to the ceiling.
    fn grow_for_flow(&mut self) {
        let left = self.decoder.remaining().unwrap_or(u64::MAX);
        self.wanted = left.clamp(SMALL as u64, self.ceiling as u64) as usize;
    }
}

impl Source for H1 {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>> {
        loop {
            if self.piece_len > 0 {
                return Poll::Ready(Ok(BodyPiece::Data(self.piece_len)));
            }
            match self.decoder.step(self.mem.input.bytes())? {
                DecodeStep::Data(n) => self.piece_len = n,
                DecodeStep::Skip(n) => self.mem.input.consume(n),
                DecodeStep::Trailers(n) => {
                    let trailers = headers::trailer_map(&self.mem.input.bytes()[..n])?;
                    self.trailers = Some(Box::new(trailers));
                    self.mem.input.consume(n);
                    return Poll::Ready(Ok(BodyPiece::Trailers));
                }
                DecodeStep::Done => return Poll::Ready(Ok(BodyPiece::End)),
                DecodeStep::More => {
                    self.grow_for_flow();
                    let n = ready!(self.poll_fill(cx))?;
                    if n == 0 {
                        let complete = self.decoder.is_complete_at_eof();
                        return Poll::Ready(if complete {
                            Ok(BodyPiece::End)
                        } else {
                            Err(WireError::Cut)
                        });
                    }
                }
            }
        }
    }

    fn data(&self) -> &[u8] {
        &self.mem.input.bytes()[..self.piece_len]
    }

    fn consume(&mut self, n: usize) {
        self.mem.input.consume(n);
        self.piece_len -= n;
    }

    fn take_piece(&mut self) -> Option<Piece> {
        let Memory { buffers, input, .. } = &mut self.mem;
        let rest = input.len() - self.piece_len;
        // A larger buffer would occupy too much memory if the sink's peer is slow, and a longer rest would take a copy after all.
        if input.capacity() != SMALL || rest > MOST_BEHIND {
            return None;
        }
        let len = std::mem::take(&mut self.piece_len);
        Some(buffers.split_off(input, len))
    }

    fn take_trailers(&mut self) -> HeaderMap {
        *self.trailers.take().unwrap_or_default()
    }

    fn remaining(&self) -> Option<u64> {
        self.decoder.remaining()
    }

    fn buffered(&self) -> usize {
        let left = self.data().len();
        match self.mem.is_roomy_for(left) {
            true => left,
            false => self.mem.input.capacity(),
        }
    }

    fn stall(&mut self) {
        self.ceiling = LARGE;
        // Many clients may stall at the same time, each for long: keep no more than the data needs.
        let fits = if self.mem.input.len() <= SMALL {
            SMALL
        } else {
            LARGE
        };
        self.mem.buffers.shrink(&mut self.mem.input, fits);
    }

    fn splice_source(&self) -> Option<(&StreamSocket, u64)> {
        if self.ceiling < HUGE || self.piece_len > 0 || !self.mem.input.is_empty() {
            return None;
        }
        let left = self.decoder.is_plain()?.unwrap_or(u64::MAX);
        if left < WORTH_A_PIPE {
            return None;
        }
        Some((self.stream.clear()?, left))
    }

    fn spliced_from(&mut self, n: usize) {
        self.decoder.skip(n as u64);
    }

    fn pipe(&self) -> Option<PooledPipe> {
        self.mem.buffers.pipe()
    }

    fn splice_is_slow(&mut self) {
        self.ceiling = SMALL;
    }

    #[inline]
    fn has_nothing_to_read(&self) -> bool {
        !self.eof && self.stream.has_nothing_to_read()
    }

    #[inline]
    fn pass(&mut self, to: &StreamSocket) -> Result<Option<usize>, PumpError> {
        self.pass_to(to)
    }

    #[inline]
    fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.eof || !self.mem.input.is_empty() {
            return Poll::Ready(());
        }
        // An error is reported again by the read that follows.
        self.stream.poll_readable(cx).map(drop)
    }

    fn release_input(&mut self) {
        self.rest();
    }

    fn pass_chunk_framing(&mut self) -> bool {
        if self.chunks_in {
            self.decoder = BodyDecoder::new(Framing::Chunked, true);
        }
        self.chunks_in
    }
}

/// The buffers of one connection. They return to the worker's pool when this is dropped.
#[derive(Debug)]
pub struct Memory {
    buffers: Buffers,
    /// Bytes received and not yet consumed.
    pub input: Buffer,
    out: Vec<u8>,
}

impl Memory {
    /// Whether a rest of this length is to be copied out of the input buffer rather than to occupy it for long.
    pub(crate) fn is_roomy_for(&self, left: usize) -> bool {
        left <= self.input.capacity() / 4
    }

    /// See [`Buffers::bodies`].
    pub fn bodies(&self) -> ByteBudget {
        self.buffers.bodies()
    }

    /// See [`Buffers::answers`].
    pub fn answers(&self) -> ByteBudget {
        self.buffers.answers()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.input.clear();
        self.buffers.release(&mut self.input);
        if self.out.capacity() > 0 {
            self.buffers.give_out(std::mem::take(&mut self.out));
        }
    }
}
