//! A tunnel between two connections of HTTP/1 in a task of its own.
//!
//! The future of a request is ten futures deep when its tunnel opens, with state of several KiB. If each message of each tunnel
//! woke it, a worker with many tunnels would spend more on cache misses there than on the message. So the connections move to a
//! small task, and the request only waits for its end and for deadlines.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::task::{JoinHandle, spawn_local};

use super::{HalfOpen, Moved, Tunnel};
use crate::net::TaskControl;
use crate::proxy::wire::{Sink, Source};

/// The progress of a tunnel, which the task reports to the request.
#[derive(Debug, Default)]
struct Progress {
    moved: Cell<Moved>,
    half_open: Cell<bool>,
    /// Wakes the request. Used once a side has ended, when each byte renews a deadline.
    waker: RefCell<Option<Waker>>,
}

impl Progress {
    #[inline]
    fn update(&self, tunnel: &Tunnel) {
        let moved = tunnel.moved();
        if tunnel.is_half_open() {
            let was_half_open = self.half_open.replace(true);
            if (!was_half_open || self.moved.get() != moved)
                && let Some(waker) = &*self.waker.borrow()
            {
                waker.wake_by_ref();
            }
        }
        self.moved.set(moved);
    }
}

/// The task. Dropping this ends it, and thus closes its connections.
struct Relay(JoinHandle<()>);

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs a tunnel until it has ended or its deadline has passed. `watch` must not be armed by anything else.
pub(super) async fn relay<D, U>(down: D, up: U, watch: &TaskControl) -> Moved
where
    D: Source + Sink + 'static,
    U: Source + Sink + 'static,
{
    let progress = Rc::new(Progress::default());
    let mut relay = Relay(spawn_local(run(down, up, progress.clone())));
    let mut deadline = HalfOpen::default();
    poll_fn(|cx| {
        if let Poll::Ready(joined) = Pin::new(&mut relay.0).poll(cx) {
            // A panic ends the connection as one in the request itself does.
            if let Err(error) = joined
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
            return Poll::Ready(());
        }
        let known = progress
            .waker
            .borrow()
            .as_ref()
            .is_some_and(|w| w.will_wake(cx.waker()));
        if !known {
            progress.waker.replace(Some(cx.waker().clone()));
        }
        let moved = progress.half_open.get().then(|| progress.moved.get());
        deadline.poll(cx, watch, moved)
    })
    .await;
    progress.moved.get()
}

async fn run(mut down: impl Source + Sink, mut up: impl Source + Sink, progress: Rc<Progress>) {
    let mut tunnel = Tunnel::new();
    poll_fn(|cx: &mut Context<'_>| {
        let polled = tunnel.poll(cx, &mut down, &mut up);
        progress.update(&tunnel);
        polled
    })
    .await;
}
