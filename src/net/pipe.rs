//! Moves bytes between sockets without copying them to user space: `splice(2)` moves the kernel's pages through a pipe.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::StreamSocket;

/// Requested capacity. The kernel counts one slot per page of it, and a slot filled from a socket may hold up to 32 KiB.
const CAPACITY: usize = 256 * 1024;
/// Most bytes moved by one call.
const MOST: u64 = 1 << 20;

/// A pipe and the number of bytes in it.
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
    /// The process is out of descriptors, or the user's limit for pipes is reached (`pipe(7)`).
    pub fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Best effort: fails beyond the user's soft limit for pipes. The default capacity works as well.
        let _ = fcntl_setpipe_size(&write, CAPACITY);
        Ok(Self {
            read,
            write,
            held: 0,
        })
    }

    /// Number of bytes in the pipe.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves up to `most` bytes from a socket into the pipe. To be called only while the pipe is empty: `splice(2)` returns EAGAIN
    /// for a full pipe as well as for an empty socket, so that the caller would wait for the wrong one.
    ///
    /// # Errors
    /// Errors of `splice(2)` on the socket.
    pub fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        from: &StreamSocket,
        most: u64,
    ) -> Poll<io::Result<usize>> {
        debug_assert_eq!(self.held, 0);
        let most = most.min(MOST) as usize;
        let taken = from.poll_read_until(cx, |from| splice_once(from, &self.write, most));
        self.held = ready!(taken)?;
        Poll::Ready(Ok(self.held))
    }

    /// Moves bytes from the pipe to a socket, as many as it takes.
    ///
    /// # Errors
    /// Errors of `splice(2)` on the socket.
    pub fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        to: &StreamSocket,
    ) -> Poll<io::Result<usize>> {
        // A pipe may hold less than the socket takes: a short write doesn't say that the socket is full.
        let given = to.poll_write_by(cx, 0, |to| splice_once(&self.read, to, self.held));
        let n = ready!(given)?;
        self.held -= n;
        Poll::Ready(Ok(n))
    }
}

fn splice_once(
    from: impl std::os::fd::AsFd,
    to: impl std::os::fd::AsFd,
    most: usize,
) -> Result<usize, Errno> {
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
            result => return result,
        }
    }
}
