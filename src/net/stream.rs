//! One type for every kind of byte stream: a branch that predicts well instead of a copy of the data path for each kind.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::{Errno, writev};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
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

    /// Reads into the initialised `into`, after [`Self::poll_readable`]; 0 is the end of the stream (or an empty `into`).
    /// Pending over TLS: a record isn't whole, and the task is woken when more of it comes. Else nobody is woken: ask again
    /// whether it is readable.
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

    /// Writes some of `data`. Flags are for clear text over TCP, for the rest they mean nothing.
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

    /// Writes some of what lies in these places.
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

    /// Nothing has arrived as far as the reactor knows, or else as the kernel says. Nobody is woken when something does.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        if let Self::Tcp(s) = self {
            let peeked = s.try_io(Interest::READABLE, || {
                Ok(recv(&*s, &mut byte, RecvFlags::PEEK)?.0)
            });
            return matches!(peeked, Err(e) if e.kind() == io::ErrorKind::WouldBlock);
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.poll_read_into(&mut cx, &mut byte).is_pending()
    }

    /// Nothing has come that the reactor knows of and nobody took. Asks nobody, and nobody is woken when something does.
    #[inline]
    pub fn has_no_news(&self) -> bool {
        let known = || Ok(());
        let news = match self {
            Self::Tcp(s) => return s.try_io(Interest::READABLE, known).is_err(),
            Self::Unix(s) => s.try_io(Interest::READABLE, known),
            Self::ServerTls(s) => s.get_ref().0.try_io(Interest::READABLE, known),
            Self::ServerTlsUnix(s) => s.get_ref().0.try_io(Interest::READABLE, known),
            Self::ClientTls(s) => s.get_ref().0.try_io(Interest::READABLE, known),
        };
        news.is_err() && !self.holds_data()
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

    /// The socket, where its bytes are the peer's as they are.
    #[inline]
    pub fn plain_tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(s) => Some(s),
            _ => None,
        }
    }

    /// Whether bytes are held back until a flush (TLS records).
    #[inline]
    pub fn wants_flush(&self) -> bool {
        !matches!(self, Self::Tcp(_) | Self::Unix(_))
    }
}

/// One `recv`, made by ourselves: the C library's is a cancellation point, which costs as much as a small copy.
/// Pending: nobody is woken.
#[inline]
pub(crate) fn read_now(socket: &TcpStream, into: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut short = None;
    let read = socket.try_io(Interest::READABLE, || {
        let n = recv(socket, &mut *into, RecvFlags::empty())?.0;
        if n > 0 && n < into.len() {
            // That was all. The reactor tells when there is more: no other call is needed to learn that there is nothing.
            short = Some(n);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(n)
    });
    match (short, read) {
        (Some(n), _) | (None, Ok(n)) => Poll::Ready(Ok(n)),
        (None, Err(e)) if is_passing(&e) => Poll::Pending,
        (None, Err(e)) => Poll::Ready(Err(e)),
    }
}

/// One `send` of some of `data`, whatever the reactor thinks of it; 0 where there is no room: whoever waits for that finds out again.
#[inline]
pub(crate) fn send_now(socket: &TcpStream, data: &[u8]) -> io::Result<usize> {
    match send(socket, data, SendFlags::NOSIGNAL) {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        sent => Ok(sent?),
    }
}

/// One call that writes `len` bytes or fewer; whoever has to wait is woken when there is room.
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
                part = Some(n);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(n)
        });
        match (part, written) {
            (Some(n), _) | (None, Ok(n)) => return Poll::Ready(Ok(n)),
            (None, Err(e)) if is_passing(&e) => ready!(socket.poll_write_ready(cx))?,
            (None, Err(e)) => return Poll::Ready(Err(e)),
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
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
