//! One type for every transport. The data path is compiled once, with a well-predicted branch instead of one copy per transport.
//!
//! Plain TCP has a fast path: system calls are made directly, and a short read or write is taken as a sign that the socket is
//! drained or full, which saves the call that would return EAGAIN.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::{Errno, writev};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connection, downstream or upstream.
///
/// Reading takes two steps, so that a connection that waits needs no buffer: [`Self::poll_readable`] waits, then
/// [`Self::poll_read_into`] reads. Writes over TLS are complete only after a flush ([`Self::wants_flush`]).
#[derive(Debug)]
pub enum Stream {
    /// Clear text over TCP.
    Tcp(TcpStream),
    /// Clear text over a Unix socket.
    Unix(UnixStream),
    /// TLS over TCP, as the server.
    ServerTls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// TLS over a Unix socket, as the server.
    ServerTlsUnix(Box<tokio_rustls::server::TlsStream<UnixStream>>),
    /// TLS over TCP, as the client.
    ClientTls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// Stands for a connection that was given to another task. It can only be dropped.
    Detached,
}

/// The error of every use of [`Stream::Detached`].
const DETACHED: io::ErrorKind = io::ErrorKind::NotConnected;

impl Stream {
    /// Read readiness of the underlying socket.
    fn readiness(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(s) => s.poll_read_ready(cx),
            Self::Unix(s) => s.poll_read_ready(cx),
            Self::ServerTls(s) => s.get_ref().0.poll_read_ready(cx),
            Self::ServerTlsUnix(s) => s.get_ref().0.poll_read_ready(cx),
            Self::ClientTls(s) => s.get_ref().0.poll_read_ready(cx),
            Self::Detached => Poll::Ready(Err(DETACHED.into())),
        }
    }

    /// Whether the TLS session has decrypted data that was not read yet. The first request often arrives together with the end of
    /// the handshake, and the socket doesn't become readable for it again.
    fn holds_data(&self) -> bool {
        // `wants_read` is false while there is such data, and after the peer's close_notify.
        match self {
            Self::Tcp(_) | Self::Unix(_) | Self::Detached => false,
            Self::ServerTls(s) => !s.get_ref().1.wants_read(),
            Self::ServerTlsUnix(s) => !s.get_ref().1.wants_read(),
            Self::ClientTls(s) => !s.get_ref().1.wants_read(),
        }
    }

    /// Waits until a read is likely to return data, so that no buffer is needed before. Over TLS it may become ready for a record
    /// without data.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.holds_data() {
            return Poll::Ready(Ok(()));
        }
        self.readiness(cx)
    }

    /// Reads after [`Self::poll_readable`]. 0 means the end of the stream, or that `into` is empty.
    ///
    /// Over clear-text TCP `Pending` registers no waker: the caller has to call [`Self::poll_readable`] again. Over TLS it means
    /// that a record is incomplete, and the task is woken when more of it arrives.
    #[inline]
    pub fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let Self::Tcp(s) = self {
            return read_now(s, into);
        }
        let mut buf = ReadBuf::new(into);
        match Pin::new(self).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buf.filled().len())),
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes some of `data`. The flags apply to clear-text TCP only.
    #[inline]
    pub fn poll_write_from(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
        flags: SendFlags,
    ) -> Poll<io::Result<usize>> {
        let flags = flags | SendFlags::NOSIGNAL;
        match self {
            Self::Tcp(s) => poll_send(s, cx, data.len(), |s| send(s, data, flags)),
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
            Self::Tcp(s) => {
                let len = parts.iter().map(|part| part.len()).sum();
                poll_send(s, cx, len, |s| writev(s, parts))
            }
            _ => Pin::new(self).poll_write_vectored(cx, parts),
        }
    }

    /// Whether the connection is open and nothing has arrived. Asks the kernel if the reactor has reported readability. Registers
    /// no waker.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        if let Self::Tcp(s) = self {
            let peeked = s.try_io(Interest::READABLE, || {
                Ok(recv(&*s, &mut byte, RecvFlags::PEEK)?.0)
            });
            return matches!(peeked, Err(e) if e.kind() == io::ErrorKind::WouldBlock);
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        // Over TLS this takes a byte if there is one. The connection isn't quiet then, and the callers drop it.
        self.poll_read_into(&mut cx, &mut byte).is_pending()
    }

    /// Whether the reactor has reported nothing that was not read yet. Makes no system call and registers no waker.
    #[inline]
    pub fn has_nothing_to_read(&self) -> bool {
        let known = || Ok(());
        let news = match self {
            Self::Tcp(s) => return s.try_io(Interest::READABLE, known).is_err(),
            Self::Unix(s) => s.try_io(Interest::READABLE, known),
            Self::ServerTls(s) => s.get_ref().0.try_io(Interest::READABLE, known),
            Self::ServerTlsUnix(s) => s.get_ref().0.try_io(Interest::READABLE, known),
            Self::ClientTls(s) => s.get_ref().0.try_io(Interest::READABLE, known),
            Self::Detached => return true,
        };
        news.is_err() && !self.holds_data()
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
        match self {
            Self::Tcp(s) => s.as_fd(),
            Self::Unix(s) => s.as_fd(),
            Self::ServerTls(s) => s.get_ref().0.as_fd(),
            Self::ServerTlsUnix(s) => s.get_ref().0.as_fd(),
            Self::ClientTls(s) => s.get_ref().0.as_fd(),
            // Only a tunnel detaches its connections, which are dropped when it has ended.
            Self::Detached => unreachable!("the descriptor of a detached connection"),
        }
    }

    /// The socket, if this is clear-text TCP.
    #[inline]
    pub fn plain_tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(s) => Some(s),
            _ => None,
        }
    }

    /// Whether written bytes may be buffered until a flush, as TLS records are.
    #[inline]
    pub fn wants_flush(&self) -> bool {
        !matches!(self, Self::Tcp(_) | Self::Unix(_))
    }
}

/// One `recv(2)`, made directly: the C library's is a cancellation point, which costs as much as copying a small message.
/// `Pending` registers no waker.
#[inline]
pub(crate) fn read_now(socket: &TcpStream, into: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut short = None;
    let read = socket.try_io(Interest::READABLE, || {
        let n = recv(socket, &mut *into, RecvFlags::empty())?.0;
        if n > 0 && n < into.len() {
            // A short read has drained the socket. WouldBlock makes tokio clear its readiness, so that the next read waits for the
            // reactor instead of making a system call that returns EAGAIN. The bytes leave the closure by `short`.
            short = Some(n);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(n)
    });
    match (short, read) {
        (Some(n), _) | (None, Ok(n)) => Poll::Ready(Ok(n)),
        (None, Err(e)) if is_transient(&e) => Poll::Pending,
        (None, Err(e)) => Poll::Ready(Err(e)),
    }
}

/// One `send(2)` of some of `data`, regardless of the readiness that the reactor has recorded. 0 if the socket is full; a caller
/// that waits for room finds that out by itself.
#[inline]
pub(crate) fn send_now(socket: &TcpStream, data: &[u8]) -> io::Result<usize> {
    match send(socket, data, SendFlags::NOSIGNAL) {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        sent => Ok(sent?),
    }
}

/// Makes one call that writes at most `len` bytes. On `Pending` the task is woken when there is room.
#[inline]
fn poll_send(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    len: usize,
    call: impl Fn(&TcpStream) -> Result<usize, Errno>,
) -> Poll<io::Result<usize>> {
    loop {
        let mut part = None;
        let written = socket.try_io(Interest::WRITABLE, || {
            let n = call(socket)?;
            if n > 0 && n < len {
                // As in `read_now`: a short write has filled the socket.
                part = Some(n);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(n)
        });
        match (part, written) {
            (Some(n), _) | (None, Ok(n)) => return Poll::Ready(Ok(n)),
            (None, Err(e)) if is_transient(&e) => ready!(socket.poll_write_ready(cx))?,
            (None, Err(e)) => return Poll::Ready(Err(e)),
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

macro_rules! each {
    ($self:expr, $s:ident => $body:expr) => {
        match $self.get_mut() {
            Stream::Tcp($s) => $body,
            Stream::Unix($s) => $body,
            Stream::ServerTls($s) => $body,
            Stream::ServerTlsUnix($s) => $body,
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
