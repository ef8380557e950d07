//! Readiness of the sockets of one thread.
//!
//! tokio's own sockets may be used by any thread, and pay for that with locks and atomic operations at each event and at each
//! wait. A connection never leaves its worker, so its readiness is plain cells here, found by an index. All sockets of a thread lie in
//! one `epoll(7)` set, and one task waits for the set as a whole: tokio sees a single descriptor that becomes readable.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use slab::Slab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::coop;

/// Most events that are taken at once.
const EVENTS: usize = 256;

/// Bits of [`Readiness::ready`].
const READ: u8 = 1;
const WRITE: u8 = 2;
/// The peer has ended its side: reading returns what is left and then the end, and never has to wait again.
const READ_ENDED: u8 = 4;
/// Writing fails, and never has to wait again.
const WRITE_ENDED: u8 = 8;

thread_local! {
    static REACTOR: Reactor = Reactor::default();
}

/// The sockets of this thread.
#[derive(Default)]
struct Reactor {
    /// Opened with the first socket.
    epoll: RefCell<Option<Arc<OwnedFd>>>,
    /// Whether [`drive`] runs. It ends with the runtime, and the next runtime of the thread starts another one.
    driven: Cell<bool>,
    sockets: RefCell<Slab<Rc<Readiness>>>,
    /// Memory for the events of one call.
    events: RefCell<Vec<Event>>,
}

/// The readiness of one socket, and the tasks that wait for it.
#[derive(Debug)]
pub(super) struct Readiness {
    /// Index in [`Reactor::sockets`]. The kernel reports it with each event.
    index: usize,
    ready: Cell<u8>,
    /// The directions in which somebody waits: [`READ`], [`WRITE`].
    awaited: Cell<u8>,
    /// The tasks that waited last. They are kept for the next wait, which mostly is of the same task.
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

/// A registered socket. Dropping it ends the registration and closes the socket.
#[derive(Debug)]
pub(super) struct Registered {
    descriptor: OwnedFd,
    readiness: Rc<Readiness>,
}

impl Registered {
    /// Registers a socket with this thread. `writable` is what is known of it already.
    ///
    /// # Errors
    /// The process is out of descriptors or memory.
    pub(super) fn new(socket: OwnedFd, writable: bool) -> io::Result<Self> {
        REACTOR.with(|reactor| reactor.register(socket, writable))
    }
}

impl AsFd for Registered {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl std::ops::Deref for Registered {
    type Target = Readiness;
    #[inline]
    fn deref(&self) -> &Readiness {
        &self.readiness
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // At the end of the thread the table may be gone already.
        let _ = REACTOR.try_with(|reactor| reactor.remove(self));
    }
}

impl Reactor {
    fn register(&self, descriptor: OwnedFd, writable: bool) -> io::Result<Registered> {
        let epoll = self.epoll()?;
        if !self.driven.get() {
            tokio::spawn(drive(watch(epoll.clone())?, Driving::begin(self)));
        }
        let mut sockets = self.sockets.borrow_mut();
        let entry = sockets.vacant_entry();
        let index = entry.key();
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&epoll, &descriptor, EventData::new_u64(index as u64), flags)?;
        let readiness = Rc::new(Readiness {
            index,
            ready: Cell::new(if writable { WRITE } else { 0 }),
            awaited: Cell::new(0),
            reader: RefCell::default(),
            writer: RefCell::default(),
        });
        entry.insert(readiness.clone());
        Ok(Registered {
            descriptor,
            readiness,
        })
    }

    fn remove(&self, socket: &Registered) {
        if let Some(epoll) = &*self.epoll.borrow() {
            // Closing the socket isn't enough: its open file lives on in other threads and processes if it is a listener's, and would
            // wake this thread for each of their connections.
            let _ = epoll::delete(epoll, &socket.descriptor);
        }
        let removed = self.sockets.borrow_mut().try_remove(socket.index);
        // Its wakers may be the last to hold a task, which may hold sockets.
        drop(removed);
    }

    fn epoll(&self) -> io::Result<Arc<OwnedFd>> {
        let mut epoll = self.epoll.borrow_mut();
        if let Some(epoll) = &*epoll {
            return Ok(epoll.clone());
        }
        let created = Arc::new(epoll::create(CreateFlags::CLOEXEC)?);
        *epoll = Some(created.clone());
        Ok(created)
    }

    /// Takes events from the kernel and reports them. Returns their number, [`EVENTS`] if there may be more.
    fn take_events(&self, epoll: &OwnedFd) -> usize {
        const AT_ONCE: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut events = self.events.borrow_mut();
        events.clear();
        events.reserve_exact(EVENTS);
        let taken = epoll::wait(epoll, spare_capacity(&mut events), Some(&AT_ONCE));
        self.report(&events);
        // Interrupted: there may be some.
        taken.map_or(EVENTS, |_| events.len())
    }

    fn report(&self, events: &[Event]) {
        let sockets = self.sockets.borrow();
        for event in events {
            // Copied: the fields of the kernel's record aren't aligned.
            let (index, flags) = (event.data.u64(), event.flags);
            if let Some(socket) = sockets.get(index as usize) {
                socket.report(flags);
            }
        }
    }
}

/// Marks the reactor of this thread as driven until it is dropped.
struct Driving;

impl Driving {
    fn begin(reactor: &Reactor) -> Self {
        reactor.driven.set(true);
        Self
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        let _ = REACTOR.try_with(|reactor| reactor.driven.set(false));
    }
}

#[expect(
    unsafe_code,
    reason = "tokio can't know that the descriptor stays open"
)]
fn watch(epoll: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the descriptor is open as long as the `Arc`, which `AsyncFd` owns, and isn't replaced by another one.
    Ok(unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) }?)
}

/// Takes events of this thread's sockets from the kernel and wakes those who wait for them, until the runtime ends.
async fn drive(set: AsyncFd<Arc<OwnedFd>>, _driving: Driving) {
    // Waiting fails only when the runtime ends.
    while let Ok(mut readable) = set.readable().await {
        if REACTOR.with(|reactor| reactor.take_events(set.get_ref())) < EVENTS {
            readable.clear_ready();
        }
    }
}

impl Readiness {
    fn report(&self, flags: EventFlags) {
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
    pub(super) fn is_readable(&self) -> bool {
        self.ready.get() & (READ | READ_ENDED) != 0
    }

    /// Whether writing has to be tried.
    #[inline]
    pub(super) fn is_writable(&self) -> bool {
        self.ready.get() & (WRITE | WRITE_ENDED) != 0
    }

    /// Waits until [`Self::is_readable`].
    #[inline]
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_readable() {
            return proceed(cx);
        }
        self.wait(cx, READ, &self.reader);
        Poll::Pending
    }

    /// Waits until [`Self::is_writable`].
    #[inline]
    pub(super) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_writable() {
            return proceed(cx);
        }
        self.wait(cx, WRITE, &self.writer);
        Poll::Pending
    }

    /// Records that everything has been read: the next event says that there is more.
    #[inline]
    pub(super) fn drained(&self) {
        self.ready.set(self.ready.get() & !READ);
    }

    /// Records that the socket takes no more: the next event says that it does.
    #[inline]
    pub(super) fn filled(&self) {
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

/// Takes the events of this thread that were not taken yet, and returns their number.
#[cfg(test)]
pub(super) fn take_events() -> usize {
    REACTOR.with(|reactor| {
        let epoll = reactor.epoll().expect("the set");
        reactor.take_events(&epoll)
    })
}
