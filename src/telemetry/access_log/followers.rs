//! The followers of the access log, such as `cutover logs`.
//!
//! Each worker has a list of followers, which it compares with the shared one once a tick, and passes the lines that a
//! follower asked for to a bounded channel of its own. A follower that reads too slowly loses lines, and learns how many.

use std::mem;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Maximum number of followers.
const FOLLOWERS: usize = 16;
/// Maximum number of chunks in a follower's channel.
const QUEUED_CHUNKS: usize = 128;
/// A worker passes lines on when it has this many bytes of them.
const CHUNK_BYTES: usize = 32 * 1024;

/// The lines that a follower asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FollowFilter {
    /// Only requests to this service.
    pub service: Option<String>,
    /// Only requests that failed.
    pub failed: bool,
    /// Only requests that were sent to another version than stable.
    pub canary: bool,
}

/// The properties of a line that filters check.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineFacts<'a> {
    /// Name of the service; empty if no route matched.
    pub service: &'a str,
    /// Whether the request failed.
    pub failed: bool,
    /// Whether the request was sent to another version than stable.
    pub canary: bool,
}

impl FollowFilter {
    /// Whether the follower gets this line.
    pub(crate) fn wants(&self, line: LineFacts<'_>) -> bool {
        let named = |service: &String| *service == line.service;
        self.service.as_ref().is_none_or(named)
            && (!self.failed || line.failed)
            && (!self.canary || line.canary)
    }
}

/// All followers.
///
/// The control thread, on which the admin API runs, adds and removes them; workers copy the list when its version has changed. A
/// subscription that was dropped may thus still get lines for a tick, into a channel without a receiver.
#[derive(Debug, Default)]
pub struct Followers {
    /// Increases with each subscription that begins or ends.
    version: AtomicU64,
    list: Mutex<Vec<Arc<Follower>>>,
    /// Number of subscriptions that haven't been dropped.
    open: AtomicUsize,
}

/// A follower as workers see it.
#[derive(Debug)]
struct Follower {
    filter: FollowFilter,
    lines: mpsc::Sender<Bytes>,
    lost: Arc<AtomicU64>,
}

/// A follower's end of its channel. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    followers: Arc<Followers>,
    chunks: mpsc::Receiver<Bytes>,
    lost: Arc<AtomicU64>,
}

impl Followers {
    /// Adds a follower; `None` if there are too many.
    pub fn subscribe(self: &Arc<Self>, filter: FollowFilter) -> Option<Subscription> {
        let (sender, chunks) = mpsc::channel(QUEUED_CHUNKS);
        let lost = Arc::new(AtomicU64::new(0));
        // The lock is not poisoned: nothing panics while it is held.
        let mut list = self.list.lock().expect("followers lock");
        if list.len() == FOLLOWERS {
            return None;
        }
        list.push(Arc::new(Follower {
            filter,
            lines: sender,
            lost: lost.clone(),
        }));
        self.version.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
        Some(Subscription {
            followers: self.clone(),
            chunks,
            lost,
        })
    }

    /// Ends all subscriptions: each yields the chunks in its channel, and then ends. Returns when all of them have been dropped,
    /// or after `limit`. To be called when the workers have ended.
    pub async fn close(&self, limit: Duration) {
        // The lock is not poisoned; see `Followers::subscribe`.
        self.list.lock().expect("followers lock").clear();
        let deadline = Instant::now() + limit;
        while self.open.load(Relaxed) > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Subscription {
    /// The next chunk of whole lines; `None` at the end. Cancel safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.chunks.recv().await
    }

    /// Number of lines that were lost since the last call.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Relaxed)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // The lock is not poisoned; see `Followers::subscribe`.
        let mut list = self.followers.list.lock().expect("followers lock");
        list.retain(|follower| !Arc::ptr_eq(&follower.lost, &self.lost));
        self.followers.version.fetch_add(1, Relaxed);
        self.followers.open.fetch_sub(1, Relaxed);
    }
}

/// A worker's list of followers, with the lines that it hasn't passed on yet. Dropping it passes them on.
#[derive(Debug, Default)]
pub(crate) struct FollowerBuffers {
    version: u64,
    buffers: Vec<FollowerBuffer>,
}

#[derive(Debug)]
struct FollowerBuffer {
    follower: Arc<Follower>,
    bytes: Vec<u8>,
    lines: u64,
}

impl FollowerBuffers {
    /// Whether nobody follows.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// Passes all lines on and takes over changes of the list. To be called once a tick.
    pub(crate) fn refresh(&mut self, followers: &Followers) {
        self.buffers.iter_mut().for_each(FollowerBuffer::flush);
        let version = followers.version.load(Relaxed);
        if version == self.version {
            return;
        }
        // The lock is not poisoned; see `Followers::subscribe`. It is held for a moment, and only when a follower comes or goes.
        let list = followers.list.lock().expect("followers lock");
        self.version = version;
        self.buffers = { list.iter() }
            .map(|follower| FollowerBuffer {
                follower: follower.clone(),
                bytes: Vec::new(),
                lines: 0,
            })
            .collect();
    }

    /// Adds a line for each follower that wants it. `write` is called once, if there is one.
    pub(crate) fn add(&mut self, facts: LineFacts<'_>, write: impl FnOnce(&mut Vec<u8>)) {
        let mut wanted = { self.buffers.iter_mut() }.filter(|b| b.follower.filter.wants(facts));
        let Some(first) = wanted.next() else {
            return;
        };
        let start = first.bytes.len();
        write(&mut first.bytes);
        // Copied before the first one counts its line, which may empty its buffer.
        for other in wanted {
            other.bytes.extend_from_slice(&first.bytes[start..]);
            other.count_line();
        }
        first.count_line();
    }
}

impl FollowerBuffer {
    fn count_line(&mut self) {
        self.lines += 1;
        if self.bytes.len() >= CHUNK_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let lines = mem::take(&mut self.lines);
        if lines == 0 {
            return;
        }
        let chunk = mem::take(&mut self.bytes).into();
        if self.follower.lines.try_send(chunk).is_err() {
            self.follower.lost.fetch_add(lines, Relaxed);
        }
    }
}

impl Drop for FollowerBuffer {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
#[path = "followers_tests.rs"]
mod tests;
