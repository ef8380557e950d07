//! Bytes on their way out of an HTTP/1 connection: gathered where they are few, written from where they lie where they are many.

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use rustix::net::SendFlags;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use super::{Encoding, H1};
use crate::http1::framing::chunk_head;
use crate::proxy::headers;
use crate::proxy::wire::{Sink, WireError};

/// Bytes up to this many are gathered with what else is to be written; more are written from where they lie.
const GATHER: usize = 16 * 1024;
/// The same for the end of a body: nothing follows that could be gathered with it, so only what is cheaper to copy than to point at.
const GATHER_LAST: usize = 2 * 1024;

impl H1 {
    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        flags: SendFlags,
    ) -> Poll<Result<(), WireError>> {
        while self.sent < self.mem.out.len() {
            let data = &self.mem.out[self.sent..];
            let n = ready!(self.stream.poll_write_from(cx, data, flags))?;
            self.advance(n)?;
        }
        self.mem.out.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, n: usize) -> Result<(), WireError> {
        if n == 0 {
            return Err(WireError::Io(std::io::ErrorKind::WriteZero.into()));
        }
        self.sent += n;
        self.written += n as u64;
        Ok(())
    }

    /// Writes what is gathered, then `data[..n]`, then (where that ends a chunk) its line end, with one call.
    fn poll_write_through(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
        tail: &'static [u8],
    ) -> Poll<Result<usize, WireError>> {
        loop {
            let held = self.mem.out.len() - self.sent;
            if held == 0 && tail.is_empty() {
                let n = ready!(self.stream.poll_write_from(cx, data, SendFlags::empty()))?;
                if n == 0 {
                    return Poll::Ready(Err(WireError::Io(std::io::ErrorKind::WriteZero.into())));
                }
                self.written += n as u64;
                return Poll::Ready(Ok(n));
            }
            let slices = [
                IoSlice::new(&self.mem.out[self.sent..]),
                IoSlice::new(data),
                IoSlice::new(tail),
            ];
            let used = if tail.is_empty() { 2 } else { 3 };
            let n = ready!(self.stream.poll_write_gathered(cx, &slices[..used]))?;
            if n == 0 {
                return Poll::Ready(Err(WireError::Io(std::io::ErrorKind::WriteZero.into())));
            }
            self.written += n as u64;
            if n < held {
                self.sent += n;
                continue;
            }
            self.mem.out.clear();
            self.sent = 0;
            let taken = (n - held).min(data.len());
            if taken == data.len() {
                let of_tail = n - held - taken;
                self.mem.out.extend_from_slice(&tail[of_tail..]);
            }
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
        }
    }

    fn put_chunk_head(&mut self, size: usize) {
        let mut text = [0; 18];
        let line = chunk_head(size as u64, &mut text);
        self.out().extend_from_slice(line);
    }
}

impl Sink for H1 {
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, WireError>> {
        let framed = self.encoding == Encoding::Chunks;
        if framed && self.chunk_left == 0 {
            self.put_chunk_head(data.len());
            self.chunk_left = data.len();
        }
        let part = if framed {
            &data[..data.len().min(self.chunk_left)]
        } else {
            data
        };
        let tail: &[u8] = if framed && part.len() == self.chunk_left {
            b"\r\n"
        } else {
            b""
        };
        let gather = if self.body_left == part.len() as u64 {
            GATHER_LAST
        } else {
            GATHER
        };
        let taken = if self.mem.out.len() - self.sent + part.len() <= gather {
            let out = self.out();
            out.extend_from_slice(part);
            out.extend_from_slice(tail);
            part.len()
        } else {
            ready!(self.poll_write_through(cx, part, tail))?
        };
        if framed {
            self.chunk_left -= taken;
        }
        self.body_left = self.body_left.saturating_sub(taken as u64);
        Poll::Ready(Ok(taken))
    }

    fn poll_finish(
        &mut self,
        cx: &mut Context<'_>,
        trailers: Option<&HeaderMap>,
    ) -> Poll<Result<(), WireError>> {
        if !self.finished {
            self.finished = true;
            if self.encoding != Encoding::Plain {
                self.out().extend_from_slice(b"0\r\n");
                if let Some(map) = trailers {
                    headers::put_map(&mut self.mem.out, map);
                }
                self.mem.out.extend_from_slice(b"\r\n");
            }
        }
        self.poll_flush(cx)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        ready!(self.poll_drain(cx, SendFlags::empty()))?;
        if self.stream.wants_flush() {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn wants_chunks(&self) -> bool {
        self.encoding == Encoding::Chunks
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.stream)
            .poll_shutdown(cx)
            .map_err(WireError::Io)
    }

    fn inlet(&self) -> Option<&TcpStream> {
        let plain = self.encoding == Encoding::Plain;
        self.stream.clear_tcp().filter(|_| plain)
    }

    fn poll_clear(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.poll_drain(cx, SendFlags::MORE)
    }

    fn rest_sink(&mut self) {
        self.release_out();
    }

    fn gave(&mut self, n: usize) {
        self.written += n as u64;
        self.body_left = self.body_left.saturating_sub(n as u64);
    }

    fn take_chunks(&mut self) {
        self.encoding = Encoding::FramedChunks;
    }
}
