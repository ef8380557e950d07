//! The byte stream of an HTTP/2 connection to an endpoint. Incoming frames are inspected before the h2 crate sees them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http2::{Flaws, Inspector, SenderRole};
use crate::net::Stream;

/// A stream that inspects incoming frames and passes all bytes on unchanged.
#[derive(Debug)]
pub(super) struct H2Io {
    stream: Stream,
    inspector: Inspector,
}

impl H2Io {
    /// Wraps a connection before its first byte. Findings go to `flaws`.
    pub(super) fn new(stream: Stream, flaws: Flaws) -> Self {
        Self {
            stream,
            inspector: Inspector::new(SenderRole::Server, flaws),
        }
    }
}

impl AsyncRead for H2Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let seen = this.inspector.see(&buf.filled()[before..], |_| {});
        // Bytes that can't be inspected must not reach the h2 crate: the connection fails.
        Poll::Ready(seen.map_err(|_| io::ErrorKind::InvalidData.into()))
    }
}

impl AsyncWrite for H2Io {
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
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
