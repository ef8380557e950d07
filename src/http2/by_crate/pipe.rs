//! The transport that the h2 crate sees: two buffers in memory.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[derive(Debug, Default)]
struct Buffers {
    input: Vec<u8>,
    /// How much of `input` was read.
    read: usize,
    output: Vec<u8>,
    /// Number of bytes that `output` still takes.
    room: usize,
    /// The last write found no room.
    is_blocked: bool,
    /// The real transport has failed.
    failed: Option<io::ErrorKind>,
}

/// A transport in memory. A clone refers to the same buffers: one belongs to the crate's connection, one to its owner.
///
/// No wakers are kept: the owner polls the connection after each change.
#[derive(Clone, Debug, Default)]
pub(super) struct Pipe(Rc<RefCell<Buffers>>);

impl Pipe {
    /// Adds bytes that the crate reads next.
    pub(super) fn receive(&self, bytes: &[u8]) {
        self.0.borrow_mut().input.extend_from_slice(bytes);
    }

    /// Whether the crate has left input unread. It reads nothing more while its answers to control frames find no room.
    pub(super) fn has_input(&self) -> bool {
        let buffers = self.0.borrow();
        buffers.read < buffers.input.len()
    }

    /// Allows the crate to write this many bytes.
    pub(super) fn set_room(&self, room: usize) {
        let mut buffers = self.0.borrow_mut();
        buffers.room = room;
        buffers.is_blocked = false;
    }

    /// Whether the crate has more to write than there was room for.
    pub(super) fn is_blocked(&self) -> bool {
        self.0.borrow().is_blocked
    }

    /// Moves what the crate has written to the end of `out`.
    pub(super) fn take_output(&self, out: &mut Vec<u8>) {
        out.append(&mut self.0.borrow_mut().output);
    }

    /// From now on reading and writing fail.
    pub(super) fn fail(&self, kind: io::ErrorKind) {
        self.0.borrow_mut().failed = Some(kind);
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let buffers = &mut *self.0.borrow_mut();
        let unread = &buffers.input[buffers.read..];
        if unread.is_empty() {
            return match buffers.failed {
                Some(kind) => Poll::Ready(Err(kind.into())),
                None => Poll::Pending,
            };
        }
        let n = unread.len().min(into.remaining());
        into.put_slice(&unread[..n]);
        buffers.read += n;
        if buffers.read == buffers.input.len() {
            buffers.input.clear();
            buffers.read = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let buffers = &mut *self.0.borrow_mut();
        if let Some(kind) = buffers.failed {
            return Poll::Ready(Err(kind.into()));
        }
        let n = bytes.len().min(buffers.room);
        if n == 0 && !bytes.is_empty() {
            buffers.is_blocked = true;
            return Poll::Pending;
        }
        buffers.room -= n;
        buffers.output.extend_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The owner closes the real transport once it has written the output.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
