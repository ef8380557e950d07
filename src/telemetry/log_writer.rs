//! A log's writer: a bounded queue in front of a thread that alone waits for the reader of the log.
//!
//! A pipe that nobody reads blocks its writer. Neither a worker nor the control thread may stand still for
//! that: [`LogWriter::push`] drops the line when the queue is full, counts it, and returns at once.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Lines that may wait for the writer.
const QUEUED_LINES: usize = 4096;
/// Bytes that may wait for the writer; a longer line is taken when nothing else waits.
const QUEUED_BYTES: usize = 1024 * 1024;
/// Lines are written together up to this size.
const BATCH_BYTES: usize = 64 * 1024;
/// Drops are reported when the queue has been emptied, or after this time when it never is.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Lines of the process log that were dropped: `cutover_log_dropped_total{log="log"}`.
pub(crate) static PROCESS_LOG_DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines dropped so far, by the label of the log.
pub(crate) fn dropped() -> [(&'static str, u64); 1] {
    [("log", PROCESS_LOG_DROPPED.load(Relaxed))]
}

/// The writing end of a log. Cheap to share between threads.
#[derive(Debug)]
pub(crate) struct LogWriter {
    queue: SyncSender<String>,
    shared: Arc<LogQueue>,
}

#[derive(Debug)]
struct LogQueue {
    dropped: &'static AtomicU64,
    /// Bytes in the queue.
    queued_bytes: AtomicUsize,
    /// Lines that were put into the queue.
    accepted: AtomicU64,
    /// Lines that left the queue and were written, or could not be. Only the writer and [`LogWriter::flush`] lock it.
    finished: Mutex<u64>,
    has_finished: Condvar,
}

impl LogWriter {
    /// Starts the thread, which writes to `out`. `report` makes the line that says how many were dropped.
    ///
    /// # Errors
    /// The thread can't be started.
    pub(crate) fn start<O, R>(dropped: &'static AtomicU64, out: O, report: R) -> io::Result<Self>
    where
        O: AsFd + Send + 'static,
        R: Fn(u64) -> String + Send + 'static,
    {
        let (queue, lines) = sync_channel(QUEUED_LINES);
        let shared = Arc::new(LogQueue {
            dropped,
            queued_bytes: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            finished: Mutex::new(0),
            has_finished: Condvar::new(),
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

    /// Takes a line, its newline included. Never waits: without room the line is dropped and counted.
    pub(crate) fn push(&self, line: String) {
        let shared = &*self.shared;
        let size = line.len();
        let before = shared.queued_bytes.fetch_add(size, Relaxed);
        let has_room = before == 0 || before + size <= QUEUED_BYTES;
        if has_room && self.queue.try_send(line).is_ok() {
            shared.accepted.fetch_add(1, Relaxed);
        } else {
            shared.queued_bytes.fetch_sub(size, Relaxed);
            shared.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Waits until everything that was taken before is written, but no longer than `limit`; false if that was too short.
    pub(crate) fn flush(&self, limit: Duration) -> bool {
        let accepted = self.shared.accepted.load(Relaxed);
        // The writer only adds under this lock, which can't panic.
        let finished = self.shared.finished.lock().expect("finished lock");
        let waited = self
            .shared
            .has_finished
            .wait_timeout_while(finished, limit, |finished| *finished < accepted);
        !waited.expect("finished lock").1.timed_out()
    }
}

/// What the thread owns.
struct Writer<O, R> {
    lines: Receiver<String>,
    shared: Arc<LogQueue>,
    out: O,
    report: R,
    batch: String,
    /// Drops that the log has told of, and when it did last.
    reported: u64,
    reported_at: Instant,
}

impl<O: AsFd, R: Fn(u64) -> String> Writer<O, R> {
    /// Until every [`LogWriter`] is gone.
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
                // The reader has gone, or the disk is full: there is nowhere to say so but the counter.
                (Err(_), _) => drop(self.shared.dropped.fetch_add(taken, Relaxed)),
            }
            *self.shared.finished.lock().expect("finished lock") += taken;
            self.shared.has_finished.notify_all();
        }
    }

    /// Puts `first` and what else is in the queue into the batch: how many lines, and whether the queue is empty now.
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
        self.shared.queued_bytes.fetch_sub(line.len(), Relaxed);
        self.batch.push_str(line);
    }

    /// Appends a line about what was dropped since the last such line, if it is time for one; the total that it covers.
    ///
    /// A full queue is followed by a turn that empties it, so that the last drops are always reported.
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

/// Writes all of it, however long the reader takes. Also where somebody made the descriptor non-blocking: it may be
/// shared with other processes, so its mode isn't ours to change.
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
