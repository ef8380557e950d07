//! Limits the response bytes that wait inside an HTTP/2 connection to be written.
//!
//! The h2 crate limits them per stream only. A peer that grants large windows to many streams and then reads slowly could make
//! us hold as much as all windows together allow. So streams also wait for room in the [`Outbox`] of their connection.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Buf;

/// While this many bytes are waiting, no stream may add more. A single piece may exceed it.
const MOST: usize = 512 * 1024;

#[derive(Debug, Default)]
struct OutboxState {
    held: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
}

/// Counts the waiting bytes of one connection. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Outbox(Rc<OutboxState>);

/// Bytes to be written. They count as waiting until the piece is dropped.
#[derive(Debug)]
pub struct OutgoingPiece {
    data: Vec<u8>,
    sent: usize,
    outbox: Outbox,
}

impl Outbox {
    /// Ready while there is room. Otherwise the task is woken when half of the bytes have been written.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.held.get() < MOST {
            return Poll::Ready(());
        }
        let mut waiting = self.0.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Copies `data` into a piece.
    pub fn piece(&self, data: &[u8]) -> OutgoingPiece {
        self.0.held.set(self.0.held.get() + data.len());
        OutgoingPiece {
            data: data.to_vec(),
            sent: 0,
            outbox: self.clone(),
        }
    }

    /// Number of bytes that wait to be written.
    pub(crate) fn held(&self) -> usize {
        self.0.held.get()
    }

    /// An empty piece, for the end of a stream.
    pub fn nothing(&self) -> OutgoingPiece {
        self.piece(&[])
    }
}

impl OutgoingPiece {
    /// Appends a copy of `data`.
    pub(crate) fn append(&mut self, data: &[u8]) {
        let held = &self.outbox.0.held;
        held.set(held.get() + data.len());
        self.data.extend_from_slice(data);
    }
}

impl Drop for OutgoingPiece {
    fn drop(&mut self) {
        let inner = &*self.outbox.0;
        let left = inner.held.get() - self.data.len();
        inner.held.set(left);
        // Not before half of it is free, so that each stream that is woken finds room for more than one piece.
        if left <= MOST / 2 && !inner.waiting.borrow().is_empty() {
            inner.waiting.take().into_iter().for_each(Waker::wake);
        }
    }
}

impl Buf for OutgoingPiece {
    fn remaining(&self) -> usize {
        self.data.len() - self.sent
    }
    fn chunk(&self) -> &[u8] {
        &self.data[self.sent..]
    }
    fn advance(&mut self, n: usize) {
        assert!(n <= self.remaining(), "advanced beyond the end");
        self.sent += n;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn streams_wait_for_room_until_half_of_it_is_written() {
        let outbox = Outbox::default();
        let woken = Arc::new(Woken::default());
        let waker = woken.clone().into();
        let mut cx = Context::from_waker(&waker);
        let mut pieces: Vec<_> = (0..8).map(|_| outbox.piece(&[7; MOST / 8])).collect();
        assert!(outbox.poll_room(&mut cx).is_pending());
        assert!(outbox.poll_room(&mut cx).is_pending());
        pieces[0].advance(MOST / 8);
        assert!(outbox.poll_room(&mut cx).is_pending(), "not yet dropped");
        pieces.truncate(5);
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        pieces.truncate(4);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1, "once");
        assert!(outbox.poll_room(&mut cx).is_ready());
        drop(pieces);
        assert_eq!(outbox.0.held.get(), 0);
    }

    #[test]
    fn a_piece_contains_what_was_added() {
        let outbox = Outbox::default();
        let mut piece = outbox.piece(b"abc");
        piece.append(b"def");
        assert_eq!(outbox.held(), 6);
        piece.advance(2);
        assert_eq!((piece.remaining(), piece.chunk()), (4, &b"cdef"[..]));
        piece.advance(4);
        assert!(!piece.has_remaining());
        drop(piece);
        assert_eq!(outbox.held(), 0);
    }
}
