//! One type for every kind of byte stream: a branch that predicts well instead of a copy of the data path for each kind.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connection, downstream or upstream.
#[derive(Debug)]
pub enum Stream {
    /// Clear text over TCP.
    Tcp(TcpStream),
    /// Clear text over a Unix socket.
    Unix(UnixStream),
    /// TLS, we are the server.
    ServerTls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// TLS over a Unix listener, we are the server.
    ServerTlsUnix(Box<tokio_rustls::server::TlsStream<UnixStream>>),
    /// TLS, we are the client.
    ClientTls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Stream {
    /// The kernel's socket under it.
    fn readiness(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(s) => s.poll_read_ready(cx),
            Self::Unix(s) => s.poll_read_ready(cx),
            Self::ServerTls(s) => s.get_ref().0.poll_read_ready(cx),
            Self::ServerTlsUnix(s) => s.get_ref().0.poll_read_ready(cx),
            Self::ClientTls(s) => s.get_ref().0.poll_read_ready(cx),
        }
    }

    /// Whether TLS holds something for the reader already: the first request often comes with the end of the handshake.
    fn holds_data(&self) -> bool {
        // A session wants no more records while it has data that nobody took, or when the peer has ended it.
        match self {
            Self::Tcp(_) | Self::Unix(_) => false,
            Self::ServerTls(s) => !s.get_ref().1.wants_read(),
            Self::ServerTlsUnix(s) => !s.get_ref().1.wants_read(),
            Self::ClientTls(s) => !s.get_ref().1.wants_read(),
        }
    }

    /// Waits until reading is worth a buffer. For TLS it may wake for a record that holds no data.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.holds_data() {
            return Poll::Ready(Ok(()));
        }
        self.readiness(cx)
    }

    /// Reads into the initialised `into`; 0 is the end of the stream (or an empty `into`).
    #[inline]
    pub fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(into);
        match Pin::new(self).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buf.filled().len())),
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The socket, to ask the kernel about it.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(s) => s.as_fd(),
            Self::Unix(s) => s.as_fd(),
            Self::ServerTls(s) => s.get_ref().0.as_fd(),
            Self::ServerTlsUnix(s) => s.get_ref().0.as_fd(),
            Self::ClientTls(s) => s.get_ref().0.as_fd(),
        }
    }

    /// Whether bytes are held back until a flush (TLS records).
    #[inline]
    pub fn wants_flush(&self) -> bool {
        !matches!(self, Self::Tcp(_) | Self::Unix(_))
    }
}

macro_rules! each {
    ($self:expr, $s:ident => $body:expr) => {
        match $self.get_mut() {
            Stream::Tcp($s) => $body,
            Stream::Unix($s) => $body,
            Stream::ServerTls($s) => $body,
            Stream::ServerTlsUnix($s) => $body,
            Stream::ClientTls($s) => $body,
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
        bufs: &[io::IoSlice<'_>],
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
