//! The sending side of an HTTP/1 connection. Small writes are collected in the output buffer, large
//! ones go to the kernel directly, together with what is in the buffer (`writev`).

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use rustix::net::SendFlags;
use tokio::io::AsyncWrite;

use super::{Encoding, H1};
use crate::http1::Reject;
use crate::http1::framing::chunk_head;
use crate::net::{DEFERRED_MOST, StreamSocket};
use crate::proxy::headers;
use crate::proxy::wire::{Sink, Source, WireError};
use crate::reason::Reason;

/// The output buffer collects writes up to this many bytes in all: as many as can be deferred.
const GATHER: usize = DEFERRED_MOST;

/// Fewest bytes that are taken with their memory: to copy fewer of them costs as little.
const WORTHWHILE: usize = 4 * 1024;

impl H1 {
    /// Writes the output buffer to the kernel.
    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        flags: SendFlags,
    ) -> Poll<Result<(), WireError>> {
        let len = self.mem.out.len();
        if self.sent == 0
            && len > 0
            && flags.is_empty()
            && let Some(socket) = self.stream.clear()
            && socket.defer_all(&mut self.mem.out)
        {
            self.written += len as u64;
            return Poll::Ready(Ok(()));
        }
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

    /// Writes the output buffer, `data` and `tail` (the line end of a chunk, or empty) with one
    /// system call, and returns how many bytes of `data` were written. A `tail` that the kernel
    /// didn't take is left in the output buffer.
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
            // The kernel takes bytes in order, so nothing of `data` was written.
            if n < held {
                self.sent += n;
                continue;
            }
            self.mem.out.clear();
            self.sent = 0;
            let taken = (n - held).min(data.len());
            // Only once all of `data` is out may its end follow.
            if taken == data.len() {
                let of_tail = n - held - taken;
                self.mem.out.extend_from_slice(&tail[of_tail..]);
            }
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
        }
    }

    /// Counts `n` body bytes against the announced length, if there is one.
    fn count_out(&mut self, n: usize) {
        if self.body_left != u64::MAX {
            self.body_left -= n as u64;
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
        if data.len() as u64 > self.body_left {
            // The peer would read surplus bytes as the start of the next message: response
            // splitting. Sources enforce their own framing, but this check doesn't rely on it.
            return Poll::Ready(Err(WireError::Bad(Reject::bad(Reason::BeyondFraming))));
        }
        let framed = self.encoding == Encoding::Chunks;
        // The size is announced before any of the bytes are taken. A caller whose write was pending or partial has to offer the
        // rest of them again, as `Source::poll_piece` guarantees.
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
        let taken = if self.mem.out.len() - self.sent + part.len() <= GATHER {
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
        self.count_out(taken);
        Poll::Ready(Ok(taken))
    }

    fn take_over(&mut self, len: usize, source: &mut impl Source) -> bool {
        if len < WORTHWHILE || len as u64 > self.body_left || self.encoding == Encoding::Chunks {
            return false;
        }
        let held = self.mem.out.len();
        let Some(socket) = self.stream.clear() else {
            return false;
        };
        if self.sent > 0 || !socket.can_defer(held + len) {
            return false;
        }
        let Some(piece) = source.take_piece() else {
            return false;
        };
        socket.defer_with(&mut self.mem.out, piece);
        self.written += (held + len) as u64;
        self.count_out(len);
        true
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

    fn splice_sink(&self) -> Option<(&StreamSocket, u64)> {
        let open = self.encoding == Encoding::Plain && self.body_left > 0;
        let socket = self.stream.clear().filter(|_| open)?;
        Some((socket, self.body_left))
    }

    fn poll_clear(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.poll_drain(cx, SendFlags::MORE)
    }

    fn release_output(&mut self) {
        self.release_empty_out();
    }

    fn spliced_to(&mut self, n: usize) {
        self.written += n as u64;
        self.count_out(n);
    }

    fn accept_chunk_framing(&mut self) {
        self.encoding = Encoding::FramedChunks;
    }
}

#[cfg(test)]
#[path = "take_over_tests.rs"]
mod take_over_tests;
#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::http1::Framing;
    use crate::net::Buffers;
    use crate::net::fixtures::tcp_pair;
    use crate::net::pretend_busy;
    use crate::proxy::body::Flow;
    use crate::proxy::wire::PumpError;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        runtime.block_on(future)
    }

    fn is_refused(result: &Result<(), PumpError>) -> bool {
        matches!(result, Err(PumpError::Sink(WireError::Bad(_))))
    }

    /// Sends `sent` bytes into a sink with the announced length `length`. Returns what was received
    /// at the other end, and how the flow ended.
    async fn pump(sent: usize, length: u64, fast: bool) -> (Vec<u8>, Result<(), PumpError>) {
        let ((near, mut origin), (far, mut client)) = (tcp_pair().await, tcp_pair().await);
        let sending = async move {
            let _ = origin.write_all(&vec![b'x'; sent]).await;
        };
        let reading = async move {
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.expect("bytes");
            got
        };
        let moving = async move {
            let buffers = Buffers::new();
            let mut source = H1::new(near, buffers.clone());
            source.begin_source(Framing::UntilClose);
            if fast {
                source.presume_fast();
            }
            let mut sink = H1::new(far, buffers);
            sink.begin_sink(Encoding::Plain, Some(length));
            let mut flow = Flow::default();
            poll_fn(|cx| flow.poll(cx, &mut source, &mut sink)).await
        };
        let ((), got, result) = tokio::join!(sending, reading, moving);
        (got, result)
    }

    #[test]
    fn no_byte_is_sent_beyond_the_announced_length() {
        for (sent, length, fast) in [(1, 0, false), (5, 4, false), (3_000_000, 1_000_000, true)] {
            let (got, result) = block_on(pump(sent, length, fast));
            assert!(is_refused(&result), "{sent} {length}: {result:?}");
            assert!(got.len() as u64 <= length, "{} of {length}", got.len());
        }
    }

    /// A request that the kernel has refused has not been sent, and may be sent on another connection.
    #[test]
    fn what_the_kernel_refuses_was_not_written() {
        block_on(async {
            let (near, far) = tcp_pair().await;
            let mut near = H1::new(near, Buffers::new());
            near.begin_sink(Encoding::Plain, Some(0));
            near.out().extend_from_slice(b"abc");
            pretend_busy();
            let flush = poll_fn(|cx| near.poll_finish(cx, None)).await;
            assert!(flush.is_ok());
            assert_eq!((near.written(), near.is_flushed()), (3, false));
            tokio::task::yield_now().await;
            assert_eq!((near.written(), near.is_flushed()), (3, true));
            far.set_zero_linger().expect("the option");
            drop(far);
            // The reset has arrived by now.
            near.out().extend_from_slice(b"abcd");
            pretend_busy();
            let flush = poll_fn(|cx| near.poll_flush(cx)).await;
            assert!(flush.is_ok());
            tokio::task::yield_now().await;
            assert_eq!((near.written(), near.is_flushed()), (3, false));
        });
    }

    #[test]
    fn a_body_of_the_announced_length_is_sent() {
        for (sent, fast) in [(0, false), (5, false), (3_000_000, true)] {
            let (got, result) = block_on(pump(sent, sent as u64, fast));
            assert!(result.is_ok(), "{sent}: {result:?}");
            assert_eq!(got.len(), sent);
        }
    }
}
