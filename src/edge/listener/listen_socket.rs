//! Listening sockets and the connections that they accept, over TCP or Unix sockets.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::Poll;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, acceptfrom_with, recv};

use super::Socket;
use crate::net::StreamSocket;

/// A listening socket, registered with this thread.
pub(super) struct ListenSocket(StreamSocket);

/// An accepted connection.
pub(super) struct RawStream {
    pub socket: StreamSocket,
    /// The address of the peer; `None` for a Unix socket.
    pub peer: Option<SocketAddr>,
}

impl ListenSocket {
    /// Registers the socket with this thread.
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        Ok(Self(match socket {
            Socket::Tcp(listener) => StreamSocket::new(listener)?,
            Socket::Unix(listener) => StreamSocket::new(listener)?,
        }))
    }

    /// Accepts a connection.
    pub(super) async fn accept(&self) -> io::Result<RawStream> {
        RawStream::new(poll_fn(|cx| self.0.poll_read_until(cx, accept_one)).await?)
    }

    /// Accepts a connection only if one is known to be waiting.
    pub(super) fn try_accept(&self) -> Poll<io::Result<RawStream>> {
        self.0
            .poll_read_by(accept_one)
            .map(|one| RawStream::new(one?))
    }

    /// Accepts everything in the backlog and closes the socket. It asks the kernel directly, because the latest connections may not
    /// have been reported yet.
    pub(super) fn accept_rest(self, mut accepted: impl FnMut(RawStream)) -> io::Result<()> {
        while let Ok(one) = accept_one(self.0.as_fd()) {
            accepted(RawStream::new(one)?);
        }
        Ok(())
    }
}

fn accept_one(listener: BorrowedFd<'_>) -> Result<(OwnedFd, Option<SocketAddr>), Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (descriptor, peer) = acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    Ok((descriptor, peer.map(canonical)))
}

impl RawStream {
    fn new((descriptor, peer): (OwnedFd, Option<SocketAddr>)) -> io::Result<Self> {
        let socket = StreamSocket::ready(descriptor)?;
        Ok(Self { socket, peer })
    }

    /// Waits for bytes and receives them into `into`, as `recv(2)` does. Returns their number.
    pub(super) async fn receive(&self, into: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        poll_fn(|cx| {
            let receive = |socket: BorrowedFd<'_>| Ok(recv(socket, &mut *into, flags)?.0);
            self.socket.poll_read_until(cx, receive)
        })
        .await
    }
}

/// Converts IPv4-mapped IPv6 addresses, as a dual-stack socket reports them, to IPv4.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
