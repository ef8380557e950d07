//! Readiness of the sockets of one thread.
//!
//! tokio's own sockets may be used by any thread, and pay for that with locks and atomic operations at each event and at each
//! wait. A connection never leaves its worker, so its readiness is plain cells here, found by an index. All sockets of a thread lie in
//! one `epoll(7)` set, and one task waits for the set as a whole: tokio sees a single descriptor that becomes readable. The same task
//! sends what others have deferred ([`deferred`]).

mod deferred;
mod socket;
mod unsent;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use slab::Slab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) use self::deferred::DEFERRED_MOST;
use self::deferred::DeferredSends;
use self::socket::SocketState;
use crate::prefetch::prefetch_all;

/// Most events that are taken at once.
const EVENTS: usize = 256;
/// Events at once after which more are looked for without being told of them. With fewer, a look would often be in vain.
const MANY: usize = 16;
/// How often in a row that is done. Then the runtime gets to look for timers and others.
const LOOKS: u32 = 4;
/// How many events ahead of its own the CPU is asked for a socket's state.
const AHEAD: usize = 3;
/// With up to this many sockets their states are in the CPU's caches anyway.
const FEW_SOCKETS: usize = 512;

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
    sockets: RefCell<Slab<Rc<SocketState>>>,
    deferred: DeferredSends,
    /// Looks in a row for events that nobody told of.
    looks: Cell<u32>,
    /// Memory for the events of one call.
    events: RefCell<Vec<Event>>,
}

/// A registered socket. Dropping it ends the registration and closes the socket.
#[derive(Debug)]
pub(super) struct Registered(Rc<SocketState>);

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
        self.0.descriptor()
    }
}

impl std::ops::Deref for Registered {
    type Target = SocketState;
    #[inline]
    fn deref(&self) -> &SocketState {
        &self.0
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.send_the_rest();
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
        let socket = Rc::new(SocketState::new(descriptor, index, writable));
        entry.insert(socket.clone());
        Ok(Registered(socket))
    }

    fn remove(&self, socket: &Registered) {
        if let Some(epoll) = &*self.epoll.borrow() {
            // Closing the socket isn't enough: its open file lives on in other threads and processes if it is a listener's, and would
            // wake this thread for each of their connections.
            let _ = epoll::delete(epoll, socket);
        }
        let removed = self.sockets.borrow_mut().try_remove(socket.index());
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
        self.deferred.set_events(events.len());
        self.report(&events);
        // Interrupted: there may be some.
        taken.map_or(EVENTS, |_| events.len())
    }

    /// Whether to look for events without being told of them, which saves a system call: where many sockets had some, others have some
    /// by now.
    #[inline]
    fn may_look_at_once(&self) -> bool {
        let looks = self.looks.get();
        let may = self.deferred.events() >= MANY && looks < LOOKS;
        self.looks.set(if may { looks + 1 } else { 0 });
        may
    }

    fn report(&self, events: &[Event]) {
        let sockets = self.sockets.borrow();
        // Copied: the fields of the kernel's record aren't aligned.
        let socket_of = |event: &Event| sockets.get({ event.data.u64() } as usize);
        let ahead = match sockets.len() {
            ..=FEW_SOCKETS => &[],
            _ => events.get(AHEAD..).unwrap_or_default(),
        };
        let mut ahead = ahead.iter();
        for event in events {
            if let Some(later) = ahead.next().and_then(socket_of) {
                prefetch_all(&**later);
            }
            let flags = event.flags;
            if let Some(socket) = socket_of(event) {
                socket.report(flags);
                if socket.awaits_room() {
                    self.deferred.add(socket);
                }
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
        let _ = REACTOR.try_with(|reactor| {
            reactor.driven.set(false);
            reactor.deferred.stop();
        });
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

/// Takes events of this thread's sockets from the kernel and wakes those who wait for them, and sends what was deferred, until the
/// runtime ends.
async fn drive(set: AsyncFd<Arc<OwnedFd>>, _driving: Driving) {
    poll_fn(|cx| {
        REACTOR.with(|reactor| {
            reactor.deferred.set_driver(cx.waker());
            reactor.send_deferred();
            if reactor.may_look_at_once() && reactor.take_events(set.get_ref()) > 0 {
                // Runs after the tasks that were woken.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // Waiting fails only when the runtime ends.
            let Ok(mut readable) = ready!(set.poll_read_ready(cx)) else {
                return Poll::Ready(());
            };
            let is_all = reactor.take_events(set.get_ref()) < EVENTS;
            if is_all {
                readable.clear_ready();
            }
            // The tasks that were woken run first, and defer what they send.
            if !is_all || !reactor.deferred.is_empty() || set.poll_read_ready(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
    })
    .await;
}

/// Sends what was deferred on this thread. For tasks that are about to do something that takes long.
#[inline]
pub(crate) fn send_deferred() {
    REACTOR.with(Reactor::send_deferred);
}

/// Makes this thread defer writes until it takes events.
#[cfg(test)]
pub(crate) fn pretend_busy() {
    REACTOR.with(|reactor| reactor.deferred.set_events(EVENTS));
}

/// Takes the events of this thread that were not taken yet, and returns their number.
#[cfg(test)]
pub(super) fn take_events() -> usize {
    REACTOR.with(|reactor| {
        let epoll = reactor.epoll().expect("the set");
        reactor.take_events(&epoll)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_looks_for_events_a_few_times_before_it_waits() {
        let reactor = Reactor::default();
        let looks = || (0..2 * LOOKS + 2).filter(|_| reactor.may_look_at_once());
        assert_eq!(looks().count(), 0);
        reactor.deferred.set_events(MANY);
        let in_row: Vec<_> = looks().collect();
        let expected = (0..LOOKS).chain(LOOKS + 1..2 * LOOKS + 1);
        assert!(in_row.into_iter().eq(expected));
        reactor.deferred.set_events(MANY - 1);
        assert_eq!(looks().count(), 0);
    }
}
