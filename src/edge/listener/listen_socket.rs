//! Listening sockets and the connections that they accept, over TCP or Unix sockets.

use std::io;
use std::net::SocketAddr;

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::Socket;
use crate::net::Stream;

/// A listening socket, registered with the runtime of this thread.
pub(super) enum ListenSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// An accepted connection.
pub(super) enum RawStream {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl ListenSocket {
    /// Registers the socket with this thread's runtime.
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        Ok(match socket {
            Socket::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            Socket::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
        })
    }

    /// Accepts a connection.
    pub(super) async fn accept(&self) -> io::Result<RawStream> {
        match self {
            Self::Tcp(l) => l
                .accept()
                .await
                .map(|(stream, peer)| RawStream::Tcp(stream, canonical(peer))),
            Self::Unix(l) => l.accept().await.map(|(stream, _)| RawStream::Unix(stream)),
        }
    }

    /// Accepts a connection only if one is known to be waiting.
    pub(super) async fn try_accept(&self) -> Option<io::Result<RawStream>> {
        tokio::select! {
            biased;
            accepted = self.accept() => Some(accepted),
            () = std::future::ready(()) => None,
        }
    }

    /// Accepts everything in the backlog and closes the socket. It asks the kernel directly, because the reactor may not have
    /// reported the latest connections yet.
    pub(super) fn accept_rest(self, mut accepted: impl FnMut(RawStream)) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std()?;
                while let Ok((stream, peer)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    accepted(RawStream::Tcp(
                        TcpStream::from_std(stream)?,
                        canonical(peer),
                    ));
                }
            }
            Self::Unix(listener) => {
                let listener = listener.into_std()?;
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    accepted(RawStream::Unix(UnixStream::from_std(stream)?));
                }
            }
        }
        Ok(())
    }
}

impl RawStream {
    /// The address of the peer; `None` for a Unix socket.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, peer) => Some(*peer),
            Self::Unix(_) => None,
        }
    }

    /// Waits for bytes and receives them into `into`, as `recv(2)` does. Returns their number.
    pub(super) async fn receive(&self, into: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        match self {
            Self::Tcp(stream, _) => {
                let receive = || Ok(recv(stream, &mut *into, flags)?.0);
                stream.async_io(Interest::READABLE, receive).await
            }
            Self::Unix(stream) => {
                let receive = || Ok(recv(stream, &mut *into, flags)?.0);
                stream.async_io(Interest::READABLE, receive).await
            }
        }
    }
}

impl From<RawStream> for Stream {
    fn from(raw: RawStream) -> Self {
        match raw {
            RawStream::Tcp(stream, _) => Self::Tcp(stream),
            RawStream::Unix(stream) => Self::Unix(stream),
        }
    }
}

/// Converts IPv4-mapped IPv6 addresses, as a dual-stack socket reports them, to IPv4.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
