//! A sink: one output of the access log, and the queue to the thread that writes it.
//!
//! Each buffer of lines names its sink. After a change of the configuration, lines that were formatted before therefore
//! still go to the output that they were formatted for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::output::{LogOutput, Written};
use crate::telemetry::queue_progress::QueueProgress;

/// Maximum number of queued chunks.
pub(super) const QUEUED_CHUNKS: usize = 1024;
/// Maximum number of queued bytes. A larger chunk is accepted only into an empty queue.
const QUEUED_BYTES: usize = 8 << 20;
/// Capacity of a buffer of lines.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;
/// Maximum number of empty buffers that are kept.
const SPARES: usize = 64;
/// Time for which a worker that ends waits for room in the queue.
const PATIENCE: Duration = Duration::from_millis(500);
/// Time for which it waits for the writer before it checks for room again.
const ROOM_POLL: Duration = Duration::from_millis(20);

/// A message to the writer thread.
#[derive(Debug)]
pub(super) enum WriterMessage {
    /// Write these lines.
    Lines(LogChunk),
    /// Check this sink, which is new or has to be reopened.
    Check(Weak<LogSink>),
}

/// Whole lines for a sink.
#[derive(Debug)]
pub(super) struct LogChunk {
    pub(super) sink: Arc<LogSink>,
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
}

/// State shared by the sinks, the workers and the writer thread. One for all sinks, since there is one queue.
#[derive(Debug)]
pub(super) struct SharedState {
    dropped: AtomicU64,
    /// Progress of the chunks in the queue.
    progress: QueueProgress,
    /// Empty buffers, for reuse.
    spares: Mutex<Vec<Vec<u8>>>,
}

impl Default for SharedState {
    fn default() -> Self {
        Self {
            dropped: AtomicU64::new(0),
            progress: QueueProgress::new(QUEUED_BYTES),
            spares: Mutex::default(),
        }
    }
}

impl SharedState {
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Counts lines that are lost.
    pub(super) fn drop_lines(&self, lines: u64) {
        self.dropped.fetch_add(lines, Relaxed);
    }

    /// Waits until the queued chunks are written; see [`super::AccessLog::flush`].
    pub(super) fn flush(&self, limit: Duration) -> bool {
        self.progress.flush(limit)
    }

    /// Called by the writer thread when it is done with a chunk.
    pub(super) fn finish(&self, mut bytes: Vec<u8>) {
        self.progress.taken(bytes.len());
        self.progress.finish(1);
        // Copies of a few lines, and buffers that a huge line has grown, aren't worth keeping.
        if (BUFFER_BYTES..=2 * BUFFER_BYTES).contains(&bytes.capacity())
            && let Ok(mut spares) = self.spares.lock()
            && spares.len() < SPARES
        {
            bytes.clear();
            spares.push(bytes);
        }
    }

    /// Returns an empty buffer. Doesn't wait for the lock: the caller is a worker.
    fn spare(&self) -> Vec<u8> {
        let spare = self.spares.try_lock().ok().and_then(|mut all| all.pop());
        spare.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
    }
}

/// An output of the access log.
///
/// The snapshots that log to it hold it, and so do the buffers and chunks with its lines. The writer thread writes to it, workers
/// only queue for it. When the configuration names another output, this one goes on until its last line is written and the last of
/// its holders is gone.
#[derive(Debug)]
pub struct LogSink {
    /// Only the writer thread locks it.
    output: Mutex<LogOutput>,
    queue: SyncSender<WriterMessage>,
    shared: Arc<SharedState>,
    /// Whether the configuration no longer names the sink. Queued lines are still written, unless nobody reads them.
    retired: AtomicBool,
    /// Whether the file has to be reopened.
    reopen: AtomicBool,
}

impl LogSink {
    pub(super) fn new(
        output: LogOutput,
        queue: SyncSender<WriterMessage>,
        shared: Arc<SharedState>,
    ) -> Self {
        Self {
            output: Mutex::new(output),
            queue,
            shared,
            retired: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
        }
    }

    /// Gives up lines that wait for a reader. To be called when another sink has taken its place.
    pub fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    /// Makes the writer thread reopen the file, as SIGUSR1 asks for. Without effect on other outputs.
    pub fn reopen(self: &Arc<Self>) {
        self.reopen.store(true, Relaxed);
        self.check_now();
    }

    /// Makes the writer thread check this sink. If the queue is full, it does so with the next lines.
    pub(super) fn check_now(self: &Arc<Self>) {
        let _ = self
            .queue
            .try_send(WriterMessage::Check(Arc::downgrade(self)));
    }

    /// Returns an empty buffer for lines.
    pub(super) fn buffer(&self) -> Vec<u8> {
        self.shared.spare()
    }

    /// Queues lines without waiting. If the queue is full, they are dropped and counted.
    pub(super) fn send(self: &Arc<Self>, bytes: Vec<u8>, lines: u64) {
        if self.try_send(bytes, lines).is_err() {
            self.shared.drop_lines(lines);
        }
    }

    /// Like [`Self::send`], but waits up to [`PATIENCE`] for room. For a worker that ends.
    pub(super) fn send_last(self: &Arc<Self>, mut bytes: Vec<u8>, lines: u64) {
        let start = Instant::now();
        loop {
            match self.try_send(bytes, lines) {
                Ok(()) => return,
                Err(_) if start.elapsed() >= PATIENCE => return self.shared.drop_lines(lines),
                Err(back) => bytes = back,
            }
            self.shared.progress.wait_for_one(ROOM_POLL);
        }
    }

    /// # Errors
    /// The bytes, if the queue is full.
    fn try_send(self: &Arc<Self>, bytes: Vec<u8>, lines: u64) -> Result<(), Vec<u8>> {
        let send = |bytes| {
            let sink = self.clone();
            let chunk = LogChunk { sink, bytes, lines };
            match self.queue.try_send(WriterMessage::Lines(chunk)) {
                Ok(()) => Ok(()),
                Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                    match message {
                        WriterMessage::Lines(chunk) => Err(chunk.bytes),
                        // Not possible: the message is the one that was to be sent.
                        WriterMessage::Check(_) => Ok(()),
                    }
                }
            }
        };
        self.shared.progress.queue(bytes.len(), bytes, send)
    }

    /// Writes whole lines, on the writer thread.
    pub(super) fn write(&self, bytes: &[u8], now: Instant) -> Written {
        let retired = || self.retired.load(Relaxed);
        // The lock is not poisoned: a panic of the writer thread, which alone holds it, ends the thread.
        let mut output = self.output.lock().expect("output lock");
        output.refresh(now, self.reopen.swap(false, Relaxed));
        output.write(bytes, now, &retired)
    }

    /// Reopens the file if it was renamed or has to be, on the writer thread.
    pub(super) fn refresh(&self, now: Instant) {
        // As in `write`.
        let mut output = self.output.lock().expect("output lock");
        output.refresh(now, self.reopen.swap(false, Relaxed));
    }
}
