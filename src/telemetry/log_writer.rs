//! The log writer: a bounded queue, and a thread that writes the queued lines.
//!
//! A write to a pipe that nobody reads blocks. Workers and the control thread must never block on the log, so only the
//! writer's thread does: [`LogWriter::push`] returns at once, and if the queue is full it drops the line and counts it.
//! A line in the log reports the number of dropped lines once there is room again.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::queue_progress::QueueProgress;

/// Maximum number of queued lines.
const QUEUED_LINES: usize = 4096;
/// Maximum number of queued bytes. A longer line is accepted only into an empty queue.
const QUEUED_BYTES: usize = 1024 * 1024;
/// Lines are combined into writes of about this many bytes.
const BATCH_BYTES: usize = 64 * 1024;
/// Dropped lines are reported when the queue is empty, or after this time if it never is.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Dropped lines of the process log: `cutover_log_dropped_total{log="log"}`.
pub static PROCESS_LOG_DROPPED: AtomicU64 = AtomicU64::new(0);

/// Returns the number of dropped lines by the `log` label.
pub(crate) fn dropped() -> [(&'static str, u64); 1] {
    [("log", PROCESS_LOG_DROPPED.load(Relaxed))]
}

/// Handle for writing to a log, shared by all threads.
///
/// The thread ends when the last handle is dropped.
#[derive(Debug)]
pub struct LogWriter {
    queue: SyncSender<String>,
    shared: Arc<LogQueue>,
}

#[derive(Debug)]
struct LogQueue {
    dropped: &'static AtomicU64,
    /// Progress of the lines in the queue.
    progress: QueueProgress,
}

impl LogWriter {
    /// Starts the thread that writes to `out`.
    ///
    /// `report` formats the line that reports a number of dropped lines; `dropped` counts them.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub fn start<O, R>(dropped: &'static AtomicU64, out: O, report: R) -> io::Result<Self>
    where
        O: AsFd + Send + 'static,
        R: Fn(u64) -> String + Send + 'static,
    {
        let (queue, lines) = sync_channel(QUEUED_LINES);
        let shared = Arc::new(LogQueue {
            dropped,
            progress: QueueProgress::new(QUEUED_BYTES),
        });
        let writer = Writer {
            reported: dropped.load(Relaxed),
            reported_at: Instant::now(),
            shared: shared.clone(),
            batch: String::with_capacity(BATCH_BYTES),
            lines,
            out,
            report,
        };
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || writer.run())?;
        Ok(Self { queue, shared })
    }

    /// Queues a line, which must include its newline. Never blocks: if the queue is full, the line is dropped and counted.
    pub fn push(&self, line: String) {
        let shared = &*self.shared;
        let send = |line| match self.queue.try_send(line) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(line) | TrySendError::Disconnected(line)) => Err(line),
        };
        if shared.progress.queue(line.len(), line, send).is_err() {
            shared.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Waits up to `limit` until all lines accepted so far are written; returns false if `limit` passed first.
    pub fn flush(&self, limit: Duration) -> bool {
        self.shared.progress.flush(limit)
    }
}

/// State of the writer's thread.
struct Writer<O, R> {
    lines: Receiver<String>,
    shared: Arc<LogQueue>,
    out: O,
    report: R,
    batch: String,
    /// Number of dropped lines that the log has reported, and the time of the last report.
    reported: u64,
    reported_at: Instant,
}

impl<O: AsFd, R: Fn(u64) -> String> Writer<O, R> {
    /// Writes until every [`LogWriter`] has been dropped.
    fn run(mut self) {
        while let Ok(first) = self.lines.recv() {
            let (taken, is_empty) = self.gather(&first);
            let reports = self.report_drops(is_empty);
            let written = write_all(&self.out, self.batch.as_bytes());
            self.batch.clear();
            match (written, reports) {
                (Ok(()), Some(dropped)) => {
                    self.reported = dropped;
                    self.reported_at = Instant::now();
                }
                (Ok(()), None) => {}
                // The reader is gone or the disk is full: only the counter can report it.
                (Err(_), _) => drop(self.shared.dropped.fetch_add(taken, Relaxed)),
            }
            self.shared.progress.finish(taken);
        }
    }

    /// Fills the batch with `first` and further queued lines. Returns the number of lines, and whether the queue is empty.
    fn gather(&mut self, first: &str) -> (u64, bool) {
        let mut taken = 1;
        self.take(first);
        while self.batch.len() < BATCH_BYTES {
            match self.lines.try_recv() {
                Ok(line) => self.take(&line),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return (taken, true),
            }
            taken += 1;
        }
        (taken, false)
    }

    fn take(&mut self, line: &str) {
        self.shared.progress.taken(line.len());
        self.batch.push_str(line);
    }

    /// Appends a report of lines dropped since the previous report, if one is due. Returns the total that it covers.
    ///
    /// Lines are dropped only while the queue is full, and a full queue is followed by a turn that empties it, so the
    /// last drops are always reported.
    fn report_drops(&mut self, is_empty: bool) -> Option<u64> {
        let dropped = self.shared.dropped.load(Relaxed);
        let is_due = is_empty || self.reported_at.elapsed() >= REPORT_EVERY;
        if dropped == self.reported || !is_due {
            return None;
        }
        self.batch.push_str(&(self.report)(dropped - self.reported));
        Some(dropped)
    }
}

/// Writes all bytes, blocking for as long as the reader takes.
///
/// Works on a non-blocking descriptor as well. Standard output may be shared with other processes, and `O_NONBLOCK`
/// belongs to the open file description, so the mode is neither known nor ours to change.
fn write_all(out: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&out, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut waits = [PollFd::new(&out, PollFlags::OUT)];
                match poll(&mut waits, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "log_writer_tests.rs"]
mod tests;
