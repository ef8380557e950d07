//! What waits inside an HTTP/2 connection until it is written. It is counted for the connection as a whole, so that a peer that grants large
//! windows to many streams and then reads slowly doesn't make us hold all that they let through.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Buf;

/// With so many bytes waiting no stream gets to put in more; one piece may go beyond.
const MOST: usize = 512 * 1024;

#[derive(Debug, Default)]
struct OutboxState {
    held: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
}

/// One connection's count. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Outbox(Rc<OutboxState>);

/// Bytes on their way out; counted until they are written or given up.
#[derive(Debug)]
pub struct OutgoingPiece {
    data: Vec<u8>,
    sent: usize,
    outbox: Outbox,
}

impl Outbox {
    /// Ready while there is room.
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

    /// A copy of these bytes.
    pub fn piece(&self, data: &[u8]) -> OutgoingPiece {
        self.0.held.set(self.0.held.get() + data.len());
        OutgoingPiece {
            data: data.to_vec(),
            sent: 0,
            outbox: self.clone(),
        }
    }

    /// Bytes that wait to be written.
    pub(crate) fn held(&self) -> usize {
        self.0.held.get()
    }

    /// Nothing, for the end of a stream.
    pub fn nothing(&self) -> OutgoingPiece {
        self.piece(&[])
    }
}

impl OutgoingPiece {
    /// Puts a copy of these bytes behind what it holds.
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
        // Halfway, so that those that wait find room for more than one piece.
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
        assert!(n <= self.remaining(), "beyond the end");
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
    fn those_that_find_it_full_wait_until_half_of_it_is_written() {
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
    fn a_piece_is_what_was_put_in() {
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
