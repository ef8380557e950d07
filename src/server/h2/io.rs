//! The bytes of an HTTP/2 connection: those that were read already come first, all of them pass the meter.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::{Meter, Scan};
use crate::net::Stream;

/// So much of what a client still sends is read and dropped when the connection ends: a close with unread bytes would be a
/// reset, and the reset may overtake our last word.
const DRAIN: usize = 256 * 1024;

/// A connection's bytes.
#[derive(Debug)]
pub(super) struct Io {
    early: Bytes,
    stream: Stream,
    scan: Scan,
    meter: Rc<Meter>,
    shut: bool,
    drained: usize,
}

impl Io {
    /// `early` was read from `stream` already.
    pub fn new(early: Bytes, stream: Stream, meter: Rc<Meter>) -> Self {
        Self {
            early,
            stream,
            scan: Scan::new(meter.clone()),
            meter,
            shut: false,
            drained: 0,
        }
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
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
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
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    /// Ends our side, then waits (whoever drives the connection says how long) until the client has ended its own.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.shut {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.shut = true;
            this.meter.ended.set(true);
        }
        let mut rest = [0; 4096];
        while this.drained < DRAIN {
            match ready!(this.stream.poll_read_into(cx, &mut rest)) {
                Ok(n) if n > 0 => this.drained += n,
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
