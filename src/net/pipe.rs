//! Moves bytes between sockets without copying them to user space: `splice(2)` moves the kernel's pages through a pipe.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

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

    /// One call that moves up to `most` bytes from a socket into the pipe. To be made only while the pipe is empty: `splice(2)` returns
    /// EAGAIN for a full pipe as well as for an empty socket, so that the caller would wait for the wrong one.
    ///
    /// # Errors
    /// Those of `splice(2)`.
    pub(super) fn take(&mut self, from: BorrowedFd<'_>, most: u64) -> Result<usize, Errno> {
        debug_assert_eq!(self.held, 0);
        self.held = splice_once(from, &self.write, most.min(MOST) as usize)?;
        Ok(self.held)
    }

    /// One call that moves bytes from the pipe to a socket, as many as it takes.
    ///
    /// # Errors
    /// Those of `splice(2)`.
    pub(super) fn give(&mut self, to: BorrowedFd<'_>) -> Result<usize, Errno> {
        let given = splice_once(&self.read, to, self.held)?;
        self.held -= given;
        Ok(given)
    }
}

fn splice_once(from: impl AsFd, to: impl AsFd, most: usize) -> Result<usize, Errno> {
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
