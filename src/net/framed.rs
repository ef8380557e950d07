//! The transport of a connection with frames: reads into a pooled buffer, and keeps an incomplete frame there.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;
use tokio::io::AsyncWrite;

use super::buffer::{LARGE, SMALL};
use super::{Buffer, Buffers, Stream};

/// Most bytes that are read and discarded while the connection closes.
const DISCARD_MAX: usize = 256 * 1024;

/// A stream, and the bytes read from it that weren't used yet.
///
/// Owned by the task of an HTTP/2 connection, on either side. The codec sees bytes only in [`Self::receive`] and says how many of
/// them made up whole frames; the rest of a frame stays in front of the next read.
#[derive(Debug)]
pub(crate) struct FramedStream {
    stream: Stream,
    buffers: Buffers,
    input: Buffer,
    /// The last read filled the buffer, so that a larger one is worthwhile.
    reads_much: bool,
    /// Bytes that TLS has encrypted may still wait for the socket.
    unflushed: bool,
    write_closed: bool,
    discarded: usize,
}

impl FramedStream {
    /// Wraps `stream`. `input` holds the bytes that were already read from it.
    pub(crate) fn new(stream: Stream, buffers: Buffers, input: Buffer) -> Self {
        Self {
            stream,
            buffers,
            input,
            reads_much: false,
            unflushed: false,
            write_closed: false,
            discarded: 0,
        }
    }

    /// Closes the transport and returns its memory to the pool.
    pub(crate) fn detach(&mut self) {
        self.stream = Stream::Detached;
        self.input.clear();
        self.buffers.release(&mut self.input);
    }

    /// The pool of buffers.
    pub(crate) fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// Whether a part of a frame waits for the rest.
    pub(crate) fn has_unused(&self) -> bool {
        !self.input.is_empty()
    }

    /// Passes the bytes that were read and not used yet to `receive`, which returns how many of them it has used.
    pub(crate) fn receive(&mut self, receive: impl FnOnce(&[u8]) -> usize) {
        let used = receive(self.input.bytes());
        self.input.consume(used);
        // Mostly all bytes were used. Otherwise the rest of the frame needs room.
        match self.input.is_empty() {
            true => self.buffers.release(&mut self.input),
            false => self.input.compact(),
        }
    }

    /// Reads once. Ready with the number of bytes, 0 at the end of the stream, of which [`Self::receive`] then has to be called.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_readable(cx))?;
            let size = if self.reads_much { LARGE } else { SMALL };
            self.buffers.equip(&mut self.input, size);
            if self.input.len() == self.input.capacity() {
                // The largest frame and its header don't fit into a small buffer.
                self.buffers.equip(&mut self.input, LARGE);
            }
            let room = self.input.room();
            let len = room.len();
            match self.stream.poll_read_into(cx, room) {
                Poll::Ready(Ok(n)) => {
                    self.input.filled(n);
                    self.reads_much = n == len;
                    return Poll::Ready(Ok(n));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.reads_much = false;
                    self.buffers.release(&mut self.input);
                    if self.stream.wants_flush() {
                        return Poll::Pending;
                    }
                    // No waker was registered: readiness has been cleared, so that this ends in `poll_readable`.
                }
            }
        }
    }

    /// Writes some of `data` with one call.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(self.stream.poll_write_from(cx, data, SendFlags::empty()))?;
        self.unflushed = self.stream.wants_flush();
        match n {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            n => Poll::Ready(Ok(n)),
        }
    }

    /// Passes the bytes that TLS holds to the kernel.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends this side of the connection, after the bytes that TLS holds were sent.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.write_closed {
            ready!(self.poll_flush(cx))?;
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.write_closed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Lingering close: ends this side, then reads and discards until the peer has ended its own. The caller limits the time.
    ///
    /// If the socket were closed with bytes unread, or if more arrived later, the kernel would answer with a reset. That makes
    /// the peer drop bytes that it has not read yet, such as GOAWAY or the last response (RFC 9112 §9.6 describes the same).
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_shutdown(cx))?;
        while self.discarded < DISCARD_MAX {
            match ready!(self.poll_read(cx)) {
                Ok(n) if n > 0 => self.discarded += n,
                _ => break,
            }
            self.receive(<[u8]>::len);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for FramedStream {
    fn drop(&mut self) {
        self.detach();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::spawn_local;
    use tokio::time::timeout;

    use super::*;
    use crate::net::fixtures::tcp_pair;

    #[test]
    fn a_connection_that_closes_hears_at_once_that_its_peer_has_closed_too() {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .expect("a runtime");
        runtime.block_on(async {
            let (near, mut far) = tcp_pair().await;
            let mut framed = FramedStream::new(near, Buffers::new(), Buffer::default());
            // A task of its own is polled only when it was woken.
            let closing = spawn_local(async move {
                let closed = poll_fn(|cx| framed.poll_close(cx)).await;
                (closed.is_ok(), framed.discarded)
            });
            // Bytes that nobody asked for, and the end once they have been read.
            far.write_all(&[7; 100_000]).await.expect("sent");
            let mut end = [0; 1];
            let ended = far.read(&mut end).await;
            assert_eq!(ended.expect("the end of this side"), 0);
            far.shutdown().await.expect("its end");
            let closed = timeout(Duration::from_secs(5), closing).await;
            assert_eq!(closed.expect("in time").expect("no panic"), (true, 100_000));
        });
    }
}
