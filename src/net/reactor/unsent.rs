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
        if self.bytes.is_empty() {
            return send(socket, piece, SendFlags::NOSIGNAL);
        }
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

    /// Lets `put` add the bytes of another write. They are moved to a piece that ends what is unsent, if it has room.
    pub(super) fn append(&self, put: impl FnOnce(&mut Vec<u8>)) {
        let Content { bytes, piece } = &mut *self.content.borrow_mut();
        let is_behind = bytes.is_empty();
        put(bytes);
        if is_behind
            && let Some(InsertedPiece { piece, .. }) = piece
            && piece.append(bytes)
        {
            bytes.clear();
        }
    }

    /// Adds a piece behind bytes that were just put. They are moved to it, if it has room: what lies in one place is sent more cheaply.
    #[inline]
    pub(super) fn put_piece(&self, mut piece: Piece) {
        let content = &mut *self.content.borrow_mut();
        if piece.prepend(&content.bytes) {
            content.bytes.clear();
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Buffers, fixtures};

    /// `before`, a piece and `after`.
    fn content(before: &[u8], piece: &[u8], after: &[u8]) -> Content {
        Content {
            bytes: [before, after].concat(),
            piece: Some(InsertedPiece {
                at: before.len(),
                piece: fixtures::piece(&Buffers::new(), piece),
            }),
        }
    }

    fn all(content: &Content) -> Vec<u8> {
        let Some(InsertedPiece { at, piece }) = &content.piece else {
            return content.bytes.clone();
        };
        [&content.bytes[..*at], piece, &content.bytes[*at..]].concat()
    }

    /// Head, body and end of a message are sent from one piece of memory, unless the head is larger than the room before the body.
    #[test]
    fn a_piece_takes_up_what_is_sent_around_it() {
        for (head, parts) in [(b"head".to_vec(), 0), (vec![b'h'; 4096], 4096 + 3)] {
            let unsent = Unsent::default();
            unsent.put(head.clone());
            unsent.put_piece(fixtures::piece(&Buffers::new(), b"body"));
            for part in ["e", "nd"] {
                unsent.append(|bytes| bytes.extend_from_slice(part.as_bytes()));
            }
            let content = unsent.content.borrow();
            assert_eq!(all(&content), [&head[..], b"bodyend"].concat());
            assert_eq!(content.bytes.len(), parts, "beside the piece");
        }
    }

    #[test]
    fn what_the_kernel_left_is_the_rest_in_order() {
        for (before, after) in [("abc", "fgh"), ("", "fgh"), ("abc", "")] {
            let text = format!("{before}de{after}");
            for first in 0..=text.len() {
                for second in 0..=text.len() - first {
                    let mut content = content(before.as_bytes(), b"de", after.as_bytes());
                    content.consume(first);
                    content.consume(second);
                    assert_eq!(all(&content), &text.as_bytes()[first + second..]);
                    assert_eq!(content.len(), text.len() - first - second);
                }
            }
        }
    }
}
