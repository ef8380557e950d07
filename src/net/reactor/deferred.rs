//! Small writes that are passed to the kernel together, once the tasks that are ready have run.
//!
//! Sending leaves little of our code in the CPU's caches, and serving a request little of the kernel's. A worker with many requests at
//! hand uses less CPU time if it first does its part of all of them and then sends in a row. One with little to do sends at once.
//!
//! To its task a deferred write is one that the kernel has taken. If the kernel takes less, the next write waits for room or returns
//! the error, as it would behind a full send buffer.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker, ready};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use super::socket::SocketState;
use super::{REACTOR, Reactor};
use crate::net::buffer::Piece;

/// Most writes that are deferred at a time: more would only delay the first of them.
const AT_MOST: usize = 32;
/// Fewest events at once for which writes are deferred: with fewer tasks at work nothing is gained, and a write would wait in vain.
const WORTHWHILE: usize = 4;
/// Most bytes of a write that is deferred, together with those that follow it. More are sent at once: that takes longer than what
/// deferring saves.
pub(crate) const DEFERRED_MOST: usize = 16 * 1024;
/// Vectors that grew beyond this capacity are not kept.
const SPARE_BYTES: usize = 64 * 1024;

/// The deferred writes of a thread.
#[derive(Default)]
pub(super) struct DeferredSends {
    /// Indices of the sockets, in the order of the writes.
    sockets: RefCell<Vec<usize>>,
    /// How many events were taken at once the last time.
    events: Cell<usize>,
    /// Wakes the task that sends; `None` if there is none.
    driver: RefCell<Option<Waker>>,
    /// Memory of earlier writes.
    spare: RefCell<Vec<Vec<u8>>>,
}

impl DeferredSends {
    /// Whether there are none.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.sockets.borrow().is_empty()
    }

    /// Records how many events were taken at once.
    #[inline]
    pub(super) fn set_events(&self, number: usize) {
        self.events.set(number);
    }

    /// How many events were taken at once the last time.
    #[inline]
    pub(super) fn events(&self) -> usize {
        self.events.get()
    }

    /// Sets the task that sends.
    pub(super) fn set_driver(&self, waker: &Waker) {
        let mut driver = self.driver.borrow_mut();
        match &*driver {
            Some(known) if known.will_wake(waker) => {}
            _ => *driver = Some(waker.clone()),
        }
    }

    /// From now on writes aren't deferred.
    pub(super) fn stop(&self) {
        self.driver.take();
    }

    /// Adds a socket with unsent bytes.
    #[inline]
    pub(super) fn add(&self, socket: &SocketState) {
        self.sockets.borrow_mut().push(socket.index());
    }

    /// The memory of an earlier write, empty.
    #[inline]
    fn take_spare(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    #[inline]
    fn give_spare(&self, mut memory: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < AT_MOST && memory.capacity() <= SPARE_BYTES {
            memory.clear();
            spare.push(memory);
        }
    }
}

impl Reactor {
    /// Sends what was deferred.
    #[inline]
    pub(super) fn send_deferred(&self) {
        if !self.deferred.is_empty() {
            self.send_all_deferred();
        }
    }

    fn send_all_deferred(&self) {
        let mut due = self.deferred.sockets.take();
        let sockets = self.sockets.borrow();
        for index in due.drain(..) {
            // A socket that was dropped in the meantime has sent its bytes then.
            if let Some(socket) = sockets.get(index)
                && let Some(memory) = socket.send_deferred()
            {
                self.deferred.give_spare(memory);
            }
        }
        // Nothing was added meanwhile: sending only wakes tasks.
        self.deferred.sockets.replace(due);
    }

    /// Whether writes to `socket` can be deferred.
    #[inline]
    fn can_defer(&self, socket: &SocketState) -> bool {
        self.deferred.events() >= WORTHWHILE
            && socket.is_writable()
            && self.deferred.driver.borrow().is_some()
    }

    #[inline]
    fn defer(&self, socket: &SocketState, len: usize, put: impl FnOnce(&mut Vec<u8>)) -> bool {
        if !self.can_defer(socket) {
            return false;
        }
        if socket.has_unsent() {
            return socket.append(len, put);
        }
        let mut bytes = self.deferred.take_spare();
        put(&mut bytes);
        socket.unsent.put(bytes);
        self.enqueue(socket);
        true
    }

    fn defer_piece(&self, socket: &SocketState, before: &mut Vec<u8>, piece: Piece) {
        let mut bytes = self.deferred.take_spare();
        std::mem::swap(&mut bytes, before);
        socket.unsent.put(bytes);
        socket.unsent.put_piece(piece);
        self.enqueue(socket);
    }

    #[inline]
    fn enqueue(&self, socket: &SocketState) {
        let deferred = &self.deferred;
        if deferred.is_empty()
            && let Some(driver) = &*deferred.driver.borrow()
        {
            // It runs after the tasks that are ready now.
            driver.wake_by_ref();
        }
        deferred.add(socket);
        if deferred.sockets.borrow().len() >= AT_MOST {
            self.send_all_deferred();
        }
    }
}

impl SocketState {
    /// Defers a write of the `len` bytes that `put` adds to a vector. `false` if the write can't be deferred: nothing was done then.
    #[inline]
    pub(in crate::net) fn defer(&self, len: usize, put: impl FnOnce(&mut Vec<u8>)) -> bool {
        len <= DEFERRED_MOST && REACTOR.with(|reactor| reactor.defer(self, len, put))
    }

    /// Whether a write of `len` bytes can be deferred, and would be the first one.
    #[inline]
    pub(in crate::net) fn can_defer(&self, len: usize) -> bool {
        len <= DEFERRED_MOST
            && !self.has_unsent()
            && REACTOR.with(|reactor| reactor.can_defer(self))
    }

    /// Defers a write of `before`, in whose place it leaves other memory, and `piece`. Only valid if [`Self::can_defer`].
    #[inline]
    pub(in crate::net) fn defer_piece(&self, before: &mut Vec<u8>, piece: Piece) {
        debug_assert!(self.can_defer(before.len() + piece.len()));
        REACTOR.with(|reactor| reactor.defer_piece(self, before, piece));
    }

    /// Adds a write to one that is still to be sent. `false` if that makes it too large, or if the kernel has refused it.
    #[inline]
    fn append(&self, len: usize, put: impl FnOnce(&mut Vec<u8>)) -> bool {
        let fits = self.unsent.len() + len <= DEFERRED_MOST && self.failure().is_none();
        if fits {
            self.unsent.append(put);
        }
        fits
    }

    /// Whether the kernel has yet to take bytes of a deferred write, or has refused them.
    #[inline]
    pub(in crate::net) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Number of bytes of a deferred write that the kernel has refused.
    pub(in crate::net) fn refused(&self) -> usize {
        self.unsent.refused()
    }

    /// The error of a deferred write.
    #[inline]
    pub(in crate::net) fn failure(&self) -> Option<Errno> {
        self.unsent.failure()
    }

    /// Waits until the kernel has taken all bytes of a deferred write.
    #[inline]
    pub(in crate::net) fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<Result<(), Errno>> {
        if !self.has_unsent() {
            return Poll::Ready(Ok(()));
        }
        self.poll_rest_sent(cx)
    }

    #[cold]
    fn poll_rest_sent(&self, cx: &mut Context<'_>) -> Poll<Result<(), Errno>> {
        loop {
            match self.send_unsent() {
                Ok(()) => {
                    // Mostly the connection needs no memory for long.
                    let memory = self.unsent.take();
                    REACTOR.with(|reactor| reactor.deferred.give_spare(memory));
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::AGAIN) => ready!(self.poll_writable(cx)),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Whether unsent bytes wait for room, and there is some.
    #[inline]
    pub(super) fn awaits_room(&self) -> bool {
        self.may_send() && self.is_writable()
    }

    /// Whether there are bytes that the kernel may still take.
    #[inline]
    fn may_send(&self) -> bool {
        self.has_unsent() && self.failure().is_none()
    }

    /// Passes unsent bytes to the kernel, as many as it takes. Returns their memory if it took all.
    fn send_deferred(&self) -> Option<Vec<u8>> {
        if !self.may_send() {
            return None;
        }
        match self.send_unsent() {
            Ok(()) => Some(self.unsent.take()),
            Err(Errno::AGAIN) => None,
            Err(_) => {
                // The next read or write returns the error.
                self.report(EventFlags::ERR);
                None
            }
        }
    }

    /// As [`Self::send_deferred`], of a socket that is about to be closed.
    pub(super) fn send_the_rest(&self) {
        // A failure says that the peer has stopped reading, or is gone.
        let _ = self.send_unsent();
    }

    /// # Errors
    /// Those of [`Unsent::send_to`](super::unsent::Unsent::send_to).
    fn send_unsent(&self) -> Result<(), Errno> {
        let sent = self.unsent.send_to(self.descriptor());
        if let Err(Errno::AGAIN) = sent {
            self.filled();
        }
        sent
    }
}

#[cfg(test)]
#[path = "deferred_tests.rs"]
mod tests;
