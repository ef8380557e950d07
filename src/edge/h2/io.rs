//! The bytes of an HTTP/2 connection: those that were read already come first, all of them pass the meter; what is written is gathered.
//!
//! The h2 crate flushes after every frame of data, one system call each. Here a flush does nothing: whoever drives the connection
//! flushes once, when the crate has nothing more to do, so that the answers of many streams leave together. The crate also tries to
//! read before each stream that it hands out: here that costs nothing once the kernel had nothing more.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::{Meter, Scan, Sent};
use crate::http2::Flaws;
use crate::net::buffer::LARGE;
use crate::net::{Buffer, Buffers, Stream};

/// So much of what a client still sends is read and dropped when the connection ends: a close with unread bytes would be a
/// reset, and the reset may overtake our last word.
const DRAIN: usize = 256 * 1024;

/// A connection and what is to be written to it.
#[derive(Debug)]
pub(super) struct GatheringStream {
    stream: Stream,
    buffers: Buffers,
    out: Buffer,
    /// The kernel had nothing more to read, and will say when it has.
    dry: bool,
}

impl GatheringStream {
    /// From now on reading is worth a try again.
    pub(super) fn look_again(&mut self) {
        self.dry = false;
    }

    /// Hands everything gathered to the kernel.
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

    /// Bytes that the kernel hasn't taken.
    pub(super) fn waiting(&self) -> usize {
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

/// A connection's bytes, as the h2 crate sees them.
#[derive(Debug)]
pub(super) struct Io {
    early: Bytes,
    pipe: Rc<RefCell<GatheringStream>>,
    scan: Scan,
    sent: Sent,
    meter: Rc<Meter>,
    shut: bool,
    drained: usize,
}

impl Io {
    /// `early` was read from `stream` already. The pipe is for whoever drives the connection, to be flushed whenever that has nothing more to do.
    pub(super) fn new(
        early: Bytes,
        stream: Stream,
        buffers: Buffers,
        meter: Rc<Meter>,
        flaws: Flaws,
    ) -> (Self, Rc<RefCell<GatheringStream>>) {
        let pipe = Rc::new(RefCell::new(GatheringStream {
            stream,
            buffers,
            out: Buffer::default(),
            dry: false,
        }));
        let io = Self {
            early,
            pipe: pipe.clone(),
            scan: Scan::new(meter.clone(), flaws),
            sent: Sent::new(meter.clone()),
            meter,
            shut: false,
            drained: 0,
        };
        (io, pipe)
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.meter.is_over() {
            // Nothing more is read; whoever drives the connection ends it as soon as it waits.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if this.early.is_empty() {
            let mut pipe = this.pipe.borrow_mut();
            if pipe.dry {
                return Poll::Pending;
            }
            let polled = Pin::new(&mut pipe.stream).poll_read(cx, buf);
            pipe.dry = polled.is_pending();
            ready!(polled)?;
        } else {
            let n = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early[..n]);
            this.early.advance(n);
        }
        this.scan.see(&buf.filled()[before..]);
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
        let taken = ready!(this.pipe.borrow_mut().poll_gather(cx, slices))?;
        let mut left = taken;
        for slice in slices {
            let part = &slice[..left.min(slice.len())];
            this.sent.see(part);
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

    /// Ends our side, then waits (whoever drives the connection says how long) until the client has ended its own.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut pipe = this.pipe.borrow_mut();
        if !this.shut {
            ready!(pipe.poll_flush(cx))?;
            ready!(Pin::new(&mut pipe.stream).poll_shutdown(cx))?;
            this.shut = true;
            this.meter.ended.set(true);
        }
        let mut rest = [0; 4096];
        while this.drained < DRAIN {
            match ready!(pipe.stream.poll_read_into(cx, &mut rest)) {
                Ok(n) if n > 0 => this.drained += n,
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
