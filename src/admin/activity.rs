//! The activity of an admin connection: enforces the write timeout, and tells the listener which connection to close when
//! it must make room.
//!
//! [`Observed`] wraps the stream and records when bytes move; the service marks when a response is being made. From both,
//! [`Activity::stalled_since`] tells whether the connection waits for its client or for the proxy. The fields are read and
//! written on one thread and order no other memory, so relaxed atomics suffice.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A connection fails if its client reads no byte of a pending response for this long.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The state of one connection, shared between its task and its listener.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    /// When a byte was last read or written, in milliseconds since `opened`.
    moved_ms: AtomicU64,
    answering: AtomicBool,
    /// Whether a response was made on it.
    answered: AtomicBool,
    streaming: AtomicBool,
    blocked: AtomicBool,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            moved_ms: AtomicU64::new(0),
            answering: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            streaming: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
        })
    }

    /// Since when the connection has waited for its client. `None` while the client waits for the proxy: for a response that
    /// is being made, or for the next event of a stream.
    pub(super) fn stalled_since(&self) -> Option<Instant> {
        let blocked = self.blocked.load(Ordering::Relaxed);
        if self.answering.load(Ordering::Relaxed) || self.is_streaming() && !blocked {
            return None;
        }
        let moved = Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        Some(self.opened + moved)
    }

    /// Whether the client waits for an answer, or is about to ask for its first one. A connection that is kept alive after an
    /// answer, and a stream, wait for nothing.
    pub(super) fn owes_answer(&self) -> bool {
        let is_set = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let has_answered = is_set(&self.answered) && !is_set(&self.answering);
        !self.is_streaming() && (!has_answered || is_set(&self.blocked))
    }

    /// Whether the response is an event stream, which has no time limit.
    pub(super) fn is_streaming(&self) -> bool {
        self.streaming.load(Ordering::Relaxed)
    }

    /// Marks the response as an event stream.
    pub(super) fn mark_streaming(&self) {
        self.streaming.store(true, Ordering::Relaxed);
    }

    /// Marks a response as being made until the guard is dropped.
    pub(super) fn begin_response(&self) -> ActiveRequest<'_> {
        self.answering.store(true, Ordering::Relaxed);
        ActiveRequest(self)
    }

    fn moved(&self) {
        let ms = self.opened.elapsed().as_millis() as u64;
        self.moved_ms.store(ms, Ordering::Relaxed);
    }
}

/// Marks a response as being made, from its creation until it is dropped.
#[derive(Debug)]
pub(super) struct ActiveRequest<'a>(&'a Activity);

impl Drop for ActiveRequest<'_> {
    fn drop(&mut self) {
        // The client could not read before the response was made, so its stall time starts now.
        self.0.moved();
        self.0.answered.store(true, Ordering::Relaxed);
        self.0.answering.store(false, Ordering::Relaxed);
    }
}

/// A stream that records its activity, and whose writes fail with `TimedOut` if the peer reads nothing for
/// [`WRITE_TIMEOUT`].
#[derive(Debug)]
pub(super) struct Observed<S> {
    inner: S,
    activity: Arc<Activity>,
    /// Set while a write is pending.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Observed<S> {
    pub(super) fn new(inner: S, activity: Arc<Activity>) -> Self {
        Self {
            inner,
            activity,
            deadline: None,
        }
    }

    /// Records the result of a write. A pending write fails once the deadline has passed.
    fn record_write(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.deadline = None;
            self.activity.blocked.store(false, Ordering::Relaxed);
            self.activity.moved();
            return written;
        }
        self.activity.blocked.store(true, Ordering::Relaxed);
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client stopped reading the response",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.activity.moved();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.record_write(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, bytes);
        this.record_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    // Flushing and shutting down a socket never block, so neither needs the deadline.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
