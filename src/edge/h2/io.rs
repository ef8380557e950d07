//! The byte stream under the h2 crate: replays what was read before, shows all bytes to the meter, and gathers writes.
//!
//! The h2 crate flushes after every DATA frame, which would be one system call each. [`Io`]'s flush does nothing; the driver
//! flushes the [`GatheringStream`] once, when the crate has nothing more to do, so that the responses of many streams leave
//! together. The crate also reads before each stream that it returns. After the kernel has reported that there is nothing to
//! read, such reads make no system call until the driver's next round.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::{InboundScan, Meter, OutboundScan};
use crate::http2::Flaws;
use crate::net::buffer::LARGE;
use crate::net::{Buffer, Buffers, Stream};

/// Most bytes that are read and discarded while the connection closes.
const DISCARD_MAX: usize = 256 * 1024;

/// A stream with a write buffer that is flushed explicitly.
#[derive(Debug)]
pub(super) struct GatheringStream {
    stream: Stream,
    buffers: Buffers,
    out: Buffer,
    /// The kernel had nothing to read, and the task is registered to be woken when it has.
    read_blocked: bool,
}

impl GatheringStream {
    /// Lets the next read ask the kernel again. Called once a round: the round may have been caused by readable bytes.
    pub(super) fn retry_read(&mut self) {
        self.read_blocked = false;
    }

    /// Writes everything that was gathered.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.capacity() == 0 {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_drain(cx))?;
        self.buffers.release(&mut self.out);
        if self.stream.wants_flush() {
            return Pin::new(&mut self.stream).poll_flush(cx);
        }
        Poll::Ready(Ok(()))
    }

    /// Bytes that the kernel hasn't taken yet.
    pub(super) fn unsent(&self) -> usize {
        self.out.len()
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, self.out.bytes()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.consume(n);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_gather(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len: usize = slices.iter().map(|s| s.len()).sum();
        // If the data doesn't fit, what is buffered is written first. What still doesn't fit is left for the next call: the crate
        // handles partial writes.
        self.buffers.equip(&mut self.out, LARGE);
        if self.out.room().len() < len {
            ready!(self.poll_drain(cx))?;
        }
        let mut taken = 0;
        for slice in slices {
            let room = self.out.room();
            let n = slice.len().min(room.len());
            room[..n].copy_from_slice(&slice[..n]);
            self.out.filled(n);
            taken += n;
        }
        Poll::Ready(Ok(taken))
    }
}

impl Drop for GatheringStream {
    fn drop(&mut self) {
        self.out.clear();
        self.buffers.release(&mut self.out);
    }
}

/// The connection as the h2 crate reads and writes it.
#[derive(Debug)]
pub(super) struct Io {
    early: Bytes,
    transport: Rc<RefCell<GatheringStream>>,
    inbound: InboundScan,
    outbound: OutboundScan,
    meter: Rc<Meter>,
    write_closed: bool,
    discarded: usize,
}

impl Io {
    /// `early` is what was read from `stream` already. The driver keeps the second value and flushes it whenever the crate has
    /// nothing more to do.
    pub(super) fn new(
        early: Bytes,
        stream: Stream,
        buffers: Buffers,
        meter: Rc<Meter>,
        flaws: Flaws,
    ) -> (Self, Rc<RefCell<GatheringStream>>) {
        let transport = Rc::new(RefCell::new(GatheringStream {
            stream,
            buffers,
            out: Buffer::default(),
            read_blocked: false,
        }));
        let io = Self {
            early,
            transport: transport.clone(),
            inbound: InboundScan::new(meter.clone(), flaws),
            outbound: OutboundScan::new(meter.clone()),
            meter,
            write_closed: false,
            discarded: 0,
        };
        (io, transport)
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.meter.is_exhausted() {
            // No waker is registered: the driver closes the connection as soon as the crate returns to it.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if this.early.is_empty() {
            let mut transport = this.transport.borrow_mut();
            if transport.read_blocked {
                return Poll::Pending;
            }
            let polled = Pin::new(&mut transport.stream).poll_read(cx, buf);
            transport.read_blocked = polled.is_pending();
            ready!(polled)?;
        } else {
            let n = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early[..n]);
            this.early.advance(n);
        }
        this.inbound.scan(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let taken = ready!(this.transport.borrow_mut().poll_gather(cx, slices))?;
        let mut left = taken;
        for slice in slices {
            let part = &slice[..left.min(slice.len())];
            this.outbound.scan(part);
            left -= part.len();
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Lingering close: ends our side, then reads and discards until the client has ended its own. The driver limits the time.
    ///
    /// If the socket were closed with bytes unread, or if more arrived later, the kernel would answer with a reset. That makes
    /// the client drop what it has not read yet, such as our GOAWAY or the last response (RFC 9112 §9.6 describes the same).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut transport = this.transport.borrow_mut();
        if !this.write_closed {
            ready!(transport.poll_flush(cx))?;
            ready!(Pin::new(&mut transport.stream).poll_shutdown(cx))?;
            this.write_closed = true;
            this.meter.write_closed.set(true);
        }
        let mut rest = [0; 4096];
        while this.discarded < DISCARD_MAX {
            match ready!(transport.stream.poll_read_into(cx, &mut rest)) {
                Ok(n) if n > 0 => this.discarded += n,
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
