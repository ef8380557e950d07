//! One HTTP/1 connection as the exchange sees it: bytes in through a body decoder, bytes out through an encoder.
//! The same on both sides; what only one side does is in [`super::h1_down`] and [`super::h1_up`].

use std::task::{Context, Poll, ready};

use http::HeaderMap;
use tokio::net::TcpStream;

use super::headers;
use super::wire::{BodyPiece, PumpError, Source, WireError};
use crate::http1::{BodyDecoder, DecodeStep, Framing};
use crate::net::buffer::{HUGE, LARGE, LentPipe, SMALL};
use crate::net::{Buffer, Buffers, ByteBudget, Stream};

mod over;
mod pass;
mod sink;

pub(crate) use over::OverH1;

/// So much must be left of a body to send it by way of a pipe: less is read at once as cheaply.
const WORTH_A_PIPE: u64 = 32 * 1024;

/// How a body leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As it is: the length was announced, or the connection's end is the body's.
    Plain,
    /// In chunks that we frame.
    Chunks,
    /// In chunks that come framed.
    FramedChunks,
}

/// One HTTP/1 connection.
#[derive(Debug)]
pub struct H1 {
    stream: Stream,
    /// Bytes on their way.
    pub mem: Memory,
    sent: usize,
    decoder: BodyDecoder,
    lent: usize,
    chunks_in: bool,
    trailers: Option<HeaderMap>,
    /// The next read may fill a buffer of this size.
    ceiling: usize,
    /// The size of the buffer that the next read gets.
    wanted: usize,
    encoding: Encoding,
    /// What is to come of an outgoing body of announced length; `u64::MAX` where none was announced.
    body_left: u64,
    chunk_left: usize,
    finished: bool,
    eof: bool,
    written: u64,
}

impl H1 {
    /// Over a connection at a message boundary. Holds no buffers until there is something to read or write.
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
            lent: 0,
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

    /// Gives the stream back; buffers go to the shelf.
    #[inline]
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// The stream, and what is left of the body that came in: the first bytes of the memory, as many as are lent. Only once the whole
    /// body has arrived.
    pub fn into_parts(self) -> (Stream, Memory, usize) {
        (self.stream, self.mem, self.lent)
    }

    /// The stream and the bytes that were read ahead, for a tunnel.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Where output is gathered; a head is written here.
    pub fn out(&mut self) -> &mut Vec<u8> {
        if self.mem.out.capacity() == 0 {
            self.mem.out = self.mem.buffers.take_out();
        }
        &mut self.mem.out
    }

    /// Gives buffers back that hold nothing.
    pub fn release(&mut self) {
        self.rest();
        self.release_out();
    }

    fn release_out(&mut self) {
        if self.mem.out.len() == self.sent && self.mem.out.capacity() > 0 {
            self.mem.buffers.give_out(std::mem::take(&mut self.mem.out));
            self.sent = 0;
        }
    }

    /// Memory that it holds.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.mem.input.capacity() + self.mem.out.capacity()
    }

    /// So many bytes the next read of the body that comes in may take.
    pub fn ceiling(&self) -> usize {
        self.ceiling
    }

    /// While waiting for the peer no memory is held to read into.
    pub fn rest(&mut self) {
        self.wanted = SMALL;
        self.mem.buffers.release(&mut self.mem.input);
    }

    /// The next body that comes in is framed so.
    pub fn begin_source(&mut self, framing: Framing) {
        self.decoder = BodyDecoder::new(framing, false);
        self.lent = 0;
        self.trailers = None;
        self.chunks_in = framing == Framing::Chunked;
        // What came with the head says how fast the peer is.
        let fast = self.mem.input.capacity() >= LARGE && self.mem.input.room().is_empty();
        self.ceiling = if fast { HUGE } else { LARGE };
    }

    /// The peer is as fast as before.
    pub fn presume_fast(&mut self) {
        self.ceiling = HUGE;
    }

    /// The next read will find so many bytes at once.
    pub fn expect(&mut self, bytes: usize) {
        self.wanted = bytes.max(SMALL);
    }

    /// The next read is of a head, and of no more than so many bytes.
    pub fn expect_head(&mut self, bytes: usize) {
        self.wanted = bytes;
    }

    /// The next body that goes out is framed so; `length` where it is announced.
    pub fn begin_sink(&mut self, encoding: Encoding, length: Option<u64>) {
        self.encoding = encoding;
        self.body_left = length.unwrap_or(u64::MAX);
        self.chunk_left = 0;
        self.finished = false;
    }

    /// From now on bytes pass as they are, both ways, until the peer ends.
    pub fn open_tunnel(&mut self) {
        self.begin_source(Framing::UntilClose);
        self.begin_sink(Encoding::Plain, None);
    }

    /// The incoming body is over and nothing of it is unread.
    pub fn source_is_done(&self) -> bool {
        self.lent == 0 && self.decoder.is_done()
    }

    /// The peer will send no more.
    pub fn is_eof(&self) -> bool {
        self.eof
    }

    /// The outgoing body was ended.
    pub fn sink_is_finished(&self) -> bool {
        self.finished
    }

    /// Bytes that the kernel has taken so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Everything queued has been handed to the kernel.
    pub fn is_flushed(&self) -> bool {
        self.sent == self.mem.out.len()
    }

    /// Reads once; `Ok(0)` is the end. Memory is taken when there is something to read, and none is held in vain.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        self.poll_fill_in_turn(cx, |_| Poll::Ready(()))
    }

    /// The same, when `turn` says so, which is asked when there is something to read.
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
                        // There may be more than fits: the peer is fast.
                        self.ceiling = HUGE;
                    }
                    break n;
                }
                Poll::Pending => {
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

    /// Memory for the next read; how many bytes of it are to be filled at most.
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

    /// A body that flows faster than a small buffer holds gets a large one, and a huge one while both peers keep up.
    fn grow_for_flow(&mut self) {
        let left = self.decoder.remaining().unwrap_or(u64::MAX);
        self.wanted = left.clamp(SMALL as u64, self.ceiling as u64) as usize;
    }
}

impl Source for H1 {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>> {
        loop {
            if self.lent > 0 {
                return Poll::Ready(Ok(BodyPiece::Data(self.lent)));
            }
            match self.decoder.step(self.mem.input.bytes())? {
                DecodeStep::Data(n) => self.lent = n,
                DecodeStep::Skip(n) => self.mem.input.consume(n),
                DecodeStep::Trailers(n) => {
                    self.trailers = Some(headers::trailer_map(&self.mem.input.bytes()[..n])?);
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
        &self.mem.input.bytes()[..self.lent]
    }

    fn consume(&mut self, n: usize) {
        self.mem.input.consume(n);
        self.lent -= n;
    }

    fn take_trailers(&mut self) -> HeaderMap {
        self.trailers.take().unwrap_or_default()
    }

    fn remaining(&self) -> Option<u64> {
        self.decoder.remaining()
    }

    fn buffered(&self) -> usize {
        self.mem.input.capacity()
    }

    fn stall(&mut self) {
        self.ceiling = LARGE;
        // Many peers may stall at a time, and each may do so for long.
        let fits = if self.mem.input.len() <= SMALL {
            SMALL
        } else {
            LARGE
        };
        self.mem.buffers.shrink(&mut self.mem.input, fits);
    }

    fn splice_source(&self) -> Option<(&TcpStream, u64)> {
        if self.ceiling < HUGE || self.lent > 0 || !self.mem.input.is_empty() {
            return None;
        }
        let left = self.decoder.is_plain()?.unwrap_or(u64::MAX);
        if left < WORTH_A_PIPE {
            return None;
        }
        Some((self.stream.plain_tcp()?, left))
    }

    fn spliced_from(&mut self, n: usize) {
        self.decoder.skip(n as u64);
    }

    fn pipe(&self) -> Option<LentPipe> {
        self.mem.buffers.pipe()
    }

    fn splice_is_slow(&mut self) {
        self.ceiling = SMALL;
    }

    #[inline]
    fn has_no_news(&self) -> bool {
        !self.eof && self.stream.has_no_news()
    }

    #[inline]
    fn pass(&mut self, to: &TcpStream) -> Result<Option<usize>, PumpError> {
        self.pass_to(to)
    }

    #[inline]
    fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.eof || !self.mem.input.is_empty() {
            return Poll::Ready(());
        }
        // What is wrong, reading meets again.
        self.stream.poll_readable(cx).map(drop)
    }

    fn rest_source(&mut self) {
        self.rest();
    }

    fn lend_chunks(&mut self) -> bool {
        if self.chunks_in {
            self.decoder = BodyDecoder::new(Framing::Chunked, true);
        }
        self.chunks_in
    }
}

/// The buffers of one connection; they go back to the shelf.
#[derive(Debug)]
pub struct Memory {
    buffers: Buffers,
    /// Bytes read and not yet used.
    pub input: Buffer,
    out: Vec<u8>,
}

impl Memory {
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
