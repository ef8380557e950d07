//! One type for every transport. The data path is compiled once, with a well-predicted branch instead of one copy per transport.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::{RecvFlags, SendFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream_socket::StreamSocket;
use crate::prefetch::PrefetchPlace;

/// A connection, downstream or upstream.
///
/// Reading takes two steps, so that a connection that waits needs no buffer: [`Self::poll_readable`] waits, then
/// [`Self::poll_read_into`] reads. Writes over TLS are complete only after a flush ([`Self::wants_flush`]).
#[derive(Debug)]
pub enum Stream {
    /// Clear text.
    Clear(StreamSocket),
    /// TLS, as the server.
    ServerTls(Box<tokio_rustls::server::TlsStream<StreamSocket>>),
    /// TLS, as the client.
    ClientTls(Box<tokio_rustls::client::TlsStream<StreamSocket>>),
    /// Stands for a connection that was given to another task. It can only be dropped.
    Detached,
}

/// The error of every use of [`Stream::Detached`].
const DETACHED: io::ErrorKind = io::ErrorKind::NotConnected;

impl Stream {
    /// The underlying socket.
    #[inline]
    fn socket(&self) -> Option<&StreamSocket> {
        match self {
            Self::Clear(socket) => Some(socket),
            Self::ServerTls(tls) => Some(tls.get_ref().0),
            Self::ClientTls(tls) => Some(tls.get_ref().0),
            Self::Detached => None,
        }
    }

    /// The place of the socket's state in memory.
    pub(crate) fn place(&self) -> PrefetchPlace {
        self.socket().map(StreamSocket::place).unwrap_or_default()
    }

    /// Whether the TLS session has decrypted data that was not read yet. The first request often arrives together with the end of
    /// the handshake, and the socket doesn't become readable for it again.
    fn holds_data(&self) -> bool {
        // `wants_read` is false while there is such data, and after the peer's close_notify.
        match self {
            Self::Clear(_) | Self::Detached => false,
            Self::ServerTls(tls) => !tls.get_ref().1.wants_read(),
            Self::ClientTls(tls) => !tls.get_ref().1.wants_read(),
        }
    }

    /// Waits until a read is likely to return data, so that no buffer is needed before. Over TLS it may become ready for a record
    /// without data.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.holds_data() {
            return Poll::Ready(Ok(()));
        }
        match self.socket() {
            Some(socket) => socket.poll_read_ready(cx).map(Ok),
            None => Poll::Ready(Err(DETACHED.into())),
        }
    }

    /// Reads after [`Self::poll_readable`]. 0 means the end of the stream, or that `into` is empty.
    ///
    /// In clear text `Pending` registers no waker: the caller has to call [`Self::poll_readable`] again. Over TLS it means
    /// that a record is incomplete, and the task is woken when more of it arrives.
    #[inline]
    pub fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let Self::Clear(socket) = self {
            return socket.read_now(into);
        }
        let mut buf = ReadBuf::new(into);
        match Pin::new(self).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buf.filled().len())),
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes some of `data`. The flags apply to clear text only.
    #[inline]
    pub fn poll_write_from(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
        flags: SendFlags,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Clear(socket) => socket.poll_send(cx, data, flags),
            _ => Pin::new(self).poll_write(cx, data),
        }
    }

    /// Writes some of the bytes of `parts`, in order.
    #[inline]
    pub fn poll_write_gathered(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Clear(socket) => socket.poll_send_gathered(cx, parts),
            _ => Pin::new(self).poll_write_vectored(cx, parts),
        }
    }

    /// Whether the connection is open and nothing has arrived. Asks the kernel if an event has reported readability. Registers
    /// no waker.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        if let Self::Clear(socket) = self {
            let peek = |socket: BorrowedFd<'_>| recv(socket, &mut byte, RecvFlags::PEEK);
            return socket.poll_read_by(peek).is_pending();
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        // Over TLS this takes a byte if there is one. The connection isn't quiet then, and the callers drop it.
        self.poll_read_into(&mut cx, &mut byte).is_pending()
    }

    /// Whether no event has reported anything that was not read yet. Makes no system call and registers no waker.
    #[inline]
    pub fn has_nothing_to_read(&self) -> bool {
        match self {
            Self::Clear(socket) => !socket.is_readable(),
            _ => !self.socket().is_some_and(StreamSocket::is_readable) && !self.holds_data(),
        }
    }

    /// The IP address and port of this side; `None` for a Unix socket. A system call.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        let address = rustix::net::getsockname(self.descriptor()).ok()?;
        SocketAddr::try_from(address).ok()
    }

    /// The descriptor of the socket, for socket options.
    ///
    /// # Panics
    /// The connection was given to another task.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        // Only a tunnel detaches its connections, which are dropped when it has ended.
        let socket = self.socket().expect("the connection isn't detached");
        socket.as_fd()
    }

    /// The socket, if its bytes are those of the connection.
    #[inline]
    pub fn clear(&self) -> Option<&StreamSocket> {
        match self {
            Self::Clear(socket) => Some(socket),
            _ => None,
        }
    }

    /// Whether the kernel has yet to take bytes that were written, or has refused them.
    #[inline]
    pub(crate) fn has_unsent(&self) -> bool {
        self.socket().is_some_and(StreamSocket::has_unsent)
    }

    /// Number of bytes that were written and that the kernel has refused. Over TLS those of its records.
    pub(crate) fn refused(&self) -> usize {
        self.socket().map_or(0, StreamSocket::refused)
    }

    /// Whether written bytes may be buffered until a flush, as TLS records are.
    #[inline]
    pub fn wants_flush(&self) -> bool {
        !matches!(self, Self::Clear(_))
    }
}

macro_rules! each {
    ($self:expr, $s:ident => $body:expr) => {
        match $self.get_mut() {
            Stream::Clear($s) => $body,
            Stream::ServerTls($s) => $body,
            Stream::ClientTls($s) => $body,
            Stream::Detached => Poll::Ready(Err(DETACHED.into())),
        }
    };
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, s => Pin::new(s).poll_write(cx, buf))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, s => Pin::new(s).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_shutdown(cx))
    }
}
