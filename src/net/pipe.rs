//! Bytes from socket to socket without a copy: the kernel hands its pages on by way of a pipe (`splice(2)`).

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Wanted capacity, in bytes as the kernel counts them: one slot for each page's worth, and a slot may hold up to 32 KiB.
const CAPACITY: usize = 256 * 1024;
/// Most bytes of one call.
const MOST: u64 = 1 << 20;

/// A pipe, and how much is in it.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An empty pipe.
    ///
    /// # Errors
    /// No descriptors are left, or the user has too many pipes.
    pub fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // What the user may not have, it does without.
        let _ = fcntl_setpipe_size(&write, CAPACITY);
        Ok(Self {
            read,
            write,
            held: 0,
        })
    }

    /// Bytes in it.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes up to `most` bytes from a socket. Call it only while nothing is held: a full pipe looks like an empty socket.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        most: u64,
    ) -> Poll<io::Result<usize>> {
        debug_assert_eq!(self.held, 0);
        let most = most.min(MOST) as usize;
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || shove(from, &self.write, most)) {
                Ok(n) => {
                    self.held = n;
                    return Poll::Ready(Ok(n));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    /// Gives what it holds, or some of it, to a socket.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_give(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            match to.try_io(Interest::WRITABLE, || shove(&self.read, to, self.held)) {
                Ok(n) => {
                    self.held -= n;
                    return Poll::Ready(Ok(n));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    ready!(to.poll_write_ready(cx))?;
                }
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

fn shove(
    from: impl std::os::fd::AsFd,
    to: impl std::os::fd::AsFd,
    most: usize,
) -> io::Result<usize> {
    loop {
        match splice(
            &from,
            None,
            &to,
            None,
            most,
            SpliceFlags::MOVE | SpliceFlags::NONBLOCK,
        ) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}
