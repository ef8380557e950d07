//! The bytes of a socket's deferred writes that the kernel has not taken yet.

use std::cell::{Cell, RefCell};
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, writev};
use rustix::net::{SendFlags, send};

use crate::net::buffer::Piece;

/// Mostly empty: the bytes of a write, and of those that followed it at once, until the kernel has taken all of them or refused the
/// rest.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    content: RefCell<Content>,
    failure: Cell<Option<Errno>>,
}

#[derive(Debug, Default)]
struct Content {
    /// Without those of the piece.
    bytes: Vec<u8>,
    piece: Option<InsertedPiece>,
}

/// A piece of a body, which would otherwise be copied.
#[derive(Debug)]
struct InsertedPiece {
    /// Number of the other bytes that come before it.
    at: usize,
    piece: Piece,
}

impl Content {
    #[inline]
    fn len(&self) -> usize {
        let inserted = self.piece.as_ref();
        self.bytes.len() + inserted.map_or(0, |inserted| inserted.piece.len())
    }

    /// One call that sends all, or as much as the kernel takes.
    #[inline]
    fn send_once(&self, socket: BorrowedFd<'_>) -> Result<usize, Errno> {
        let Some(InsertedPiece { at, piece }) = &self.piece else {
            return send(socket, &self.bytes, SendFlags::NOSIGNAL);
        };
        let (before, after) = self.bytes.split_at(*at);
        let parts = [before, piece, after].map(IoSlice::new);
        let used = if after.is_empty() { 2 } else { 3 };
        writev(socket, &parts[..used])
    }

    /// Drops the first `n` bytes, which were sent.
    fn consume(&mut self, mut n: usize) {
        if n == self.len() {
            self.bytes.clear();
            self.piece = None;
            return;
        }
        if let Some(InsertedPiece { at, piece }) = &mut self.piece {
            let before = n.min(*at);
            self.bytes.drain(..before);
            *at -= before;
            n -= before;
            if n < piece.len() {
                piece.consume(n);
                return;
            }
            n -= piece.len();
            self.piece = None;
        }
        self.bytes.drain(..n);
    }
}

impl Unsent {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        let content = self.content.borrow();
        content.bytes.is_empty() && content.piece.is_none()
    }

    /// Number of bytes.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.content.borrow().len()
    }

    /// The bytes of another write; those of the last one were sent.
    #[inline]
    pub(super) fn put(&self, bytes: Vec<u8>) {
        self.content.borrow_mut().bytes = bytes;
    }

    /// Lets `put` add the bytes of another write.
    pub(super) fn append(&self, put: impl FnOnce(&mut Vec<u8>)) {
        put(&mut self.content.borrow_mut().bytes);
    }

    /// Adds a piece behind bytes that were just put.
    #[inline]
    pub(super) fn put_piece(&self, piece: Piece) {
        let content = &mut *self.content.borrow_mut();
        content.piece = Some(InsertedPiece {
            at: content.bytes.len(),
            piece,
        });
    }

    /// Takes the memory of bytes that were sent.
    #[inline]
    pub(super) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.content.borrow_mut().bytes)
    }

    /// Why the kernel will take no more.
    #[inline]
    pub(super) fn failure(&self) -> Option<Errno> {
        self.failure.get()
    }

    /// Number of bytes that the kernel will never take.
    pub(super) fn refused(&self) -> usize {
        match self.failure.get() {
            Some(_) => self.len(),
            None => 0,
        }
    }

    /// Passes all bytes to the kernel, or as many as it takes.
    ///
    /// # Errors
    /// Those of `send(2)`, of which EAGAIN says that there is no room. Any other is returned from then on.
    pub(super) fn send_to(&self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        if let Some(error) = self.failure.get() {
            return Err(error);
        }
        let mut content = self.content.borrow_mut();
        while content.len() > 0 {
            match content.send_once(socket) {
                Ok(n) => content.consume(n),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(Errno::AGAIN),
                Err(error) => {
                    self.failure.set(Some(error));
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
