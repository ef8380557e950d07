//! One registered socket: its readiness, and the tasks that wait for it.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, Waker, ready};

use rustix::event::epoll::EventFlags;
use tokio::task::coop;

use super::unsent::Unsent;

/// Bits of [`SocketState::ready`].
const READ: u8 = 1;
const WRITE: u8 = 2;
/// The peer has ended its side: reading returns what is left and then the end, and never has to wait again.
const READ_ENDED: u8 = 4;
/// Writing fails, and never has to wait again.
const WRITE_ENDED: u8 = 8;

/// The state of a registered socket, which the reactor and the [`Registered`](super::Registered) share.
#[derive(Debug)]
pub(in crate::net) struct SocketState {
    descriptor: OwnedFd,
    /// Index in [`Reactor::sockets`](super::Reactor::sockets). The kernel reports it with each event.
    index: usize,
    ready: Cell<u8>,
    /// The directions in which somebody waits: [`READ`], [`WRITE`].
    awaited: Cell<u8>,
    /// The tasks that waited last. They are kept for the next wait, which mostly is of the same task.
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
    /// The bytes of a deferred write.
    pub(super) unsent: Unsent,
}

impl SocketState {
    /// A socket with index `index`. `writable` is what is known of it already.
    pub(super) fn new(descriptor: OwnedFd, index: usize, writable: bool) -> Self {
        Self {
            descriptor,
            index,
            ready: Cell::new(if writable { WRITE } else { 0 }),
            awaited: Cell::new(0),
            reader: RefCell::default(),
            writer: RefCell::default(),
            unsent: Unsent::default(),
        }
    }

    #[inline]
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    #[inline]
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Records an event, and wakes those who waited for it.
    pub(super) fn report(&self, flags: EventFlags) {
        let any = |of: EventFlags| flags.intersects(of);
        let mut news = 0;
        if any(EventFlags::IN | EventFlags::ERR) {
            news |= READ;
        }
        if any(EventFlags::OUT | EventFlags::ERR) {
            news |= WRITE;
        }
        if any(EventFlags::RDHUP | EventFlags::HUP) {
            news |= READ_ENDED | READ;
        }
        if any(EventFlags::HUP) {
            news |= WRITE_ENDED | WRITE;
        }
        self.ready.set(self.ready.get() | news);
        let awaited = self.awaited.get();
        let woken = awaited & news;
        self.awaited.set(awaited & !woken);
        if woken & READ != 0 {
            wake(&self.reader);
        }
        if woken & WRITE != 0 {
            wake(&self.writer);
        }
    }

    /// Whether reading has to be tried: something has arrived that may not have been read yet.
    #[inline]
    pub(in crate::net) fn is_readable(&self) -> bool {
        self.ready.get() & (READ | READ_ENDED) != 0
    }

    /// Whether writing has to be tried.
    #[inline]
    pub(in crate::net) fn is_writable(&self) -> bool {
        self.ready.get() & (WRITE | WRITE_ENDED) != 0
    }

    /// Waits until [`Self::is_readable`].
    #[inline]
    pub(in crate::net) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_readable() {
            return proceed(cx);
        }
        self.wait(cx, READ, &self.reader);
        Poll::Pending
    }

    /// Waits until [`Self::is_writable`].
    #[inline]
    pub(in crate::net) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_writable() {
            return proceed(cx);
        }
        self.wait(cx, WRITE, &self.writer);
        Poll::Pending
    }

    /// Records that everything has been read: the next event says that there is more.
    #[inline]
    pub(in crate::net) fn drained(&self) {
        self.ready.set(self.ready.get() & !READ);
    }

    /// Records that the socket takes no more: the next event says that it does.
    #[inline]
    pub(in crate::net) fn filled(&self) {
        self.ready.set(self.ready.get() & !WRITE);
    }

    #[inline]
    fn wait(&self, cx: &Context<'_>, direction: u8, waker: &RefCell<Option<Waker>>) {
        self.awaited.set(self.awaited.get() | direction);
        let mut waker = waker.borrow_mut();
        match &*waker {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => *waker = Some(cx.waker().clone()),
        }
    }
}

/// Ready unless the task has used up its share of the thread: a peer that always has more must not keep others waiting.
#[inline]
fn proceed(cx: &mut Context<'_>) -> Poll<()> {
    ready!(coop::poll_proceed(cx)).made_progress();
    Poll::Ready(())
}

fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = &*waker.borrow() {
        waker.wake_by_ref();
    }
}
