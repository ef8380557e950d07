//! A stream socket of this thread, over TCP or a Unix socket.
//!
//! System calls are made directly, and a short read or write is taken as a sign that the socket is drained or full, which saves the
//! call that would return EAGAIN.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use rustix::io::{Errno, writev};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, recv,
    send, shutdown, socket_with, sockopt,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffer::Piece;
use super::pipe::Pipe;
use super::reactor::{self, Registered};
use crate::prefetch::PrefetchPlace;

/// A connected or a listening socket that doesn't block. It stays on the thread that registered it.
#[derive(Debug)]
pub struct StreamSocket(Registered);

impl StreamSocket {
    /// Registers a connected or a listening socket with this thread, and makes it non-blocking.
    ///
    /// # Errors
    /// The process is out of descriptors or memory.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(socket: impl Into<OwnedFd>) -> io::Result<Self> {
        let descriptor = socket.into();
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        Self::ready(descriptor)
    }

    /// Like [`Self::new`], of a socket that is non-blocking already.
    pub(crate) fn ready(descriptor: OwnedFd) -> io::Result<Self> {
        Registered::new(descriptor, true).map(Self)
    }

    /// Connects to a TCP port.
    ///
    /// # Errors
    /// Those of `connect(2)`.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let descriptor = stream_socket(family)?;
        match rustix::net::connect(&descriptor, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let socket = Self(Registered::new(descriptor, false)?);
        poll_fn(|cx| socket.poll_write_ready(cx)).await;
        sockopt::socket_error(&socket)??;
        Ok(socket)
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// Those of `connect(2)`, of which EAGAIN says that the backlog of the other side is full.
    pub fn connect_unix(path: &Path) -> io::Result<Self> {
        let descriptor = stream_socket(AddressFamily::UNIX)?;
        rustix::net::connect(&descriptor, &SocketAddrUnix::new(path)?)?;
        Self::ready(descriptor)
    }

    /// The place of its state in memory.
    pub(super) fn place(&self) -> PrefetchPlace {
        PrefetchPlace::of(&*self.0)
    }

    /// Waits until reading has to be tried.
    #[inline]
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_readable(cx)
    }

    /// Waits until writing has to be tried.
    #[inline]
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_writable(cx)
    }

    /// Whether an event has said that there is something to read, which wasn't read yet. No system call.
    #[inline]
    pub fn is_readable(&self) -> bool {
        self.0.is_readable()
    }

    /// Makes a call that reads, unless it is known to find nothing. `Pending` registers no waker, but makes
    /// [`Self::poll_read_ready`] wait.
    ///
    /// # Errors
    /// Those of the call.
    #[inline]
    pub fn poll_read_by<T>(
        &self,
        call: impl FnOnce(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Poll<io::Result<T>> {
        if !self.0.is_readable() {
            return Poll::Pending;
        }
        match call(self.0.as_fd()) {
            Ok(done) => Poll::Ready(Ok(done)),
            Err(Errno::AGAIN) => {
                self.0.drained();
                match self.0.failure() {
                    Some(error) => Poll::Ready(Err(error.into())),
                    None => Poll::Pending,
                }
            }
            Err(Errno::INTR) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    /// Makes a call that reads whenever the socket is ready for one, until it has found something.
    ///
    /// # Errors
    /// Those of the call.
    pub(crate) fn poll_read_until<T>(
        &self,
        cx: &mut Context<'_>,
        mut call: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.poll_read_ready(cx));
            if let Poll::Ready(done) = self.poll_read_by(&mut call) {
                return Poll::Ready(done);
            }
        }
    }

    /// One `recv(2)`, unless it is known to find nothing. `Pending` is that of [`Self::poll_read_by`].
    #[inline]
    pub(crate) fn read_now(&self, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let most = into.len();
        let read = self.poll_read_by(|socket| Ok(recv(socket, into, RecvFlags::empty())?.0));
        if let Poll::Ready(Ok(n)) = read
            && n > 0
            && n < most
        {
            // A short read has drained the socket: the next one waits instead of making a call that returns EAGAIN.
            self.0.drained();
        }
        read
    }

    /// Sends some of `data`, or defers that, whatever is known of the socket. 0 if it is full; a caller that waits for room finds
    /// that out by itself.
    #[inline]
    pub(crate) fn send_now(&self, data: &[u8]) -> io::Result<usize> {
        if self.defer(&[IoSlice::new(data)], data.len()) {
            return Ok(data.len());
        }
        let cx = &mut Context::from_waker(Waker::noop());
        if self.0.poll_sent(cx)?.is_pending() {
            return Ok(0);
        }
        match send(self, data, SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            sent => Ok(sent?),
        }
    }

    /// Writes all of `data` once the tasks that are ready have run, and leaves other memory in its place. `false` if that has to
    /// wait for room, or if there is too much of it: nothing was done then.
    #[inline]
    pub(crate) fn defer_all(&self, data: &mut Vec<u8>) -> bool {
        let len = data.len();
        self.0.defer(len, |memory| match memory.is_empty() {
            true => std::mem::swap(memory, data),
            false => memory.append(data),
        })
    }

    /// Whether [`Self::defer_with`] can defer `len` bytes.
    #[inline]
    pub(crate) fn can_defer(&self, len: usize) -> bool {
        self.0.can_defer(len)
    }

    /// As [`Self::defer_all`], of `data` and then `piece`, which isn't copied. Only valid if [`Self::can_defer`].
    pub(crate) fn defer_with(&self, data: &mut Vec<u8>, piece: Piece) {
        self.0.defer_piece(data, piece);
    }

    /// As [`Self::defer_all`], of bytes that are copied. `len` is their number.
    #[inline]
    fn defer(&self, parts: &[IoSlice<'_>], len: usize) -> bool {
        let put =
            |memory: &mut Vec<u8>| parts.iter().for_each(|part| memory.extend_from_slice(part));
        self.0.defer(len, put)
    }

    /// Whether the kernel has yet to take bytes that were written, or has refused them.
    #[inline]
    pub(crate) fn has_unsent(&self) -> bool {
        self.0.has_unsent()
    }

    /// Number of bytes that were written and that the kernel has refused.
    pub(crate) fn refused(&self) -> usize {
        self.0.refused()
    }

    /// Makes one call that writes at most `len` bytes. On `Pending` the task is woken when there is room.
    #[inline]
    pub fn poll_write_by(
        &self,
        cx: &mut Context<'_>,
        len: usize,
        mut call: impl FnMut(BorrowedFd<'_>) -> Result<usize, Errno>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.0.poll_sent(cx))?;
        // What was deferred must not wait for a large write.
        reactor::send_deferred();
        loop {
            if !self.0.is_writable() {
                ready!(self.poll_write_ready(cx));
            }
            match call(self.0.as_fd()) {
                Ok(n) => {
                    if n > 0 && n < len {
                        // As in `read_now`: a short write has filled the socket.
                        self.0.filled();
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(Errno::AGAIN) => self.0.filled(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Writes some of `data`.
    #[inline]
    pub(crate) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        data: &[u8],
        flags: SendFlags,
    ) -> Poll<io::Result<usize>> {
        if flags.is_empty() && self.defer(&[IoSlice::new(data)], data.len()) {
            return Poll::Ready(Ok(data.len()));
        }
        let flags = flags | SendFlags::NOSIGNAL;
        self.poll_write_by(cx, data.len(), |socket| send(socket, data, flags))
    }

    /// Writes some of the bytes of `parts`, in order.
    #[inline]
    pub(crate) fn poll_send_gathered(
        &self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = parts.iter().map(|part| part.len()).sum();
        if self.defer(parts, len) {
            return Poll::Ready(Ok(len));
        }
        self.poll_write_by(cx, len, |socket| writev(socket, parts))
    }

    /// Moves up to `most` bytes that have arrived into an empty pipe.
    ///
    /// # Errors
    /// Those of `splice(2)`.
    pub(crate) fn poll_splice_to(
        &self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        most: u64,
    ) -> Poll<io::Result<usize>> {
        self.poll_read_until(cx, |socket| pipe.take(socket, most))
    }

    /// Moves bytes from a pipe to the socket, as many as it takes.
    ///
    /// # Errors
    /// Those of `splice(2)`.
    pub(crate) fn poll_splice_from(
        &self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        // A pipe may hold less than the socket takes: a short write doesn't say that the socket is full.
        self.poll_write_by(cx, 0, |socket| pipe.give(socket))
    }
}

/// A new socket that doesn't block and isn't inherited by other programs.
fn stream_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(family, SocketType::STREAM, flags, None)
}

impl AsFd for StreamSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsyncRead for StreamSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_read_ready(cx));
            if let Poll::Ready(read) = self.read_now(buf.initialize_unfilled()) {
                buf.advance(read?);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for StreamSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, buf, SendFlags::empty())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send_gathered(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_sent(cx))?;
        Poll::Ready(match shutdown(&*self, Shutdown::Write) {
            // The peer has reset the connection: there is nothing left to end.
            Err(Errno::NOTCONN) => Ok(()),
            done => Ok(done?),
        })
    }
}

#[cfg(test)]
#[path = "stream_socket_tests.rs"]
mod tests;
