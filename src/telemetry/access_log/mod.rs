//! The access log: one line for each request, formatted from its record.
//!
//! A worker formats lines into a buffer of its own ([`buffer`]) and passes full buffers to one writer thread
//! ([`mod@writer`]) through a bounded queue. It never waits for that thread: if the queue is full, the lines are dropped and
//! counted. The thread writes to the [`sink`] that a buffer belongs to, whose [`output`] is a file, which it reopens when
//! it was renamed, or a pipe, which it doesn't let stop it.
//!
//! [`line`](mod@line) defines the content of a line, [`json`], [`logfmt`] and [`combined`] are its formats. [`followers`] receive
//! lines as well, independent of the log that is configured.

pub(crate) mod buffer;
pub(crate) mod combined;
mod escape;
pub mod followers;
pub(crate) mod json;
pub(crate) mod line;
pub(crate) mod logfmt;
pub mod output;
pub(crate) mod places;
pub mod sink;
pub(crate) mod timestamp;
mod writer;

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use followers::Followers;
use output::LogOutput;
use sink::{LogSink, QUEUED_CHUNKS, SharedState, WriterMessage};

/// The access log of the process. Its writer thread starts with the first sink and ends when the log and all sinks have
/// been dropped.
#[derive(Debug, Default)]
pub struct AccessLog {
    shared: Arc<SharedState>,
    queue: Mutex<Option<SyncSender<WriterMessage>>>,
    followers: Arc<Followers>,
}

impl AccessLog {
    /// Creates a sink for an output.
    ///
    /// # Errors
    /// The writer thread can't be started.
    pub fn sink(&self, output: LogOutput) -> io::Result<Arc<LogSink>> {
        // The lock is not poisoned: nothing panics while it is held.
        let mut queue = self.queue.lock().expect("queue lock");
        let queue = match &*queue {
            Some(queue) => queue.clone(),
            None => {
                let (sender, messages) = sync_channel(QUEUED_CHUNKS);
                writer::start(messages, self.shared.clone())?;
                queue.insert(sender).clone()
            }
        };
        let sink = Arc::new(LogSink::new(output, queue, self.shared.clone()));
        sink.check_now();
        Ok(sink)
    }

    /// Returns the followers of the log.
    pub fn followers(&self) -> &Arc<Followers> {
        &self.followers
    }

    /// Number of lines that were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.shared.dropped()
    }

    /// Waits up to `limit` until all lines that were queued so far are written; returns false if `limit` passed first.
    pub fn flush(&self, limit: Duration) -> bool {
        self.shared.flush(limit)
    }
}

#[cfg(test)]
mod tests;
