//! Prints lines on a thread of its own. A terminal or a pager that doesn't take them must not keep the command from reading: the
//! proxy would close the connection.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel,
};
use std::time::Duration;

/// Maximum number of lines that wait to be printed.
const QUEUED_LINES: usize = 4096;

/// Longest time for the last lines to be printed.
const LAST: Duration = Duration::from_secs(1);

/// The reader of the lines has gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReaderGone;

/// A queue of lines, and the thread that prints them.
pub(super) struct Printer {
    lines: SyncSender<Vec<u8>>,
    /// Lines that were dropped and not reported yet.
    dropped: Arc<AtomicU64>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl Printer {
    /// Starts the thread. `report` is called on it with the number of dropped lines, once lines are printed again.
    ///
    /// # Errors
    /// The thread can't be started.
    pub(super) fn start(
        out: impl Write + Send + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (lines, queued) = sync_channel(QUEUED_LINES);
        let (runs, ended) = channel();
        let dropped = Arc::new(AtomicU64::new(0));
        let unreported = dropped.clone();
        std::thread::Builder::new().spawn(move || {
            // Ends when the queue has been dropped or the reader has gone.
            let _ = print(queued, out, &unreported, report);
            // Dropped only now: the queue has been dropped by then.
            drop(runs);
        })?;
        Ok(Self {
            lines,
            dropped,
            ended,
        })
    }

    /// Queues a line, with its newline, without waiting. If the queue is full, the line is dropped.
    ///
    /// # Errors
    /// The reader has gone.
    pub(super) fn print(&self, line: Vec<u8>) -> Result<(), ReaderGone> {
        match self.lines.try_send(line) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => {
                self.add_dropped(1);
                Ok(())
            }
            Err(TrySendError::Disconnected(_)) => Err(ReaderGone),
        }
    }

    /// Counts lines that were dropped elsewhere.
    pub(super) fn add_dropped(&self, lines: u64) {
        self.dropped.fetch_add(lines, Relaxed);
    }

    /// Waits until the queued lines are printed, for at most [`LAST`]. Returns whether they are.
    pub(super) fn finish(self) -> bool {
        let Self { lines, ended, .. } = self;
        drop(lines);
        // Nothing is ever sent on this channel.
        ended.recv_timeout(LAST) != Err(RecvTimeoutError::Timeout)
    }
}

fn print(
    queued: Receiver<Vec<u8>>,
    mut out: impl Write,
    dropped: &AtomicU64,
    report: impl Fn(u64),
) -> io::Result<()> {
    while let Ok(line) = queued.recv() {
        out.write_all(&line)?;
        out.flush()?;
        match dropped.swap(0, Relaxed) {
            0 => {}
            lines => report(lines),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, pipe};
    use std::sync::Mutex;

    #[test]
    fn a_reader_that_stalls_costs_lines_and_no_time() {
        const LINES: u64 = 20_000;
        let (mut reader, writer) = pipe().unwrap();
        let reported = Arc::new(Mutex::new(0));
        let into = reported.clone();
        let printer = Printer::start(writer, move |n| *into.lock().unwrap() += n).unwrap();
        for number in 0..LINES {
            let line = format!("{number:0>99}\n");
            assert_eq!(printer.print(line.into()), Ok(()));
        }
        let text = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        assert!(printer.finish());
        let lines = text.join().unwrap().lines().count() as u64;
        // Some may have been reported before the pipe was full.
        let lost = *reported.lock().unwrap();
        assert!(lost > LINES / 2, "{lost}");
        assert_eq!(lines + lost, LINES);
    }

    #[test]
    fn a_reader_that_has_gone_is_noticed() {
        let (reader, writer) = pipe().unwrap();
        let printer = Printer::start(writer, |_| {}).unwrap();
        drop(reader);
        assert_eq!(printer.print(b"line\n".to_vec()), Ok(()));
        // The thread ends, and with it the queue.
        let gone = printer.ended.recv_timeout(Duration::from_secs(20));
        assert_eq!(gone, Err(RecvTimeoutError::Disconnected));
        assert_eq!(printer.print(b"line\n".to_vec()), Err(ReaderGone));
    }

    #[test]
    fn a_reader_that_stays_stalled_is_not_waited_for() {
        let (_reader, writer) = pipe().unwrap();
        let printer = Printer::start(writer, |_| {}).unwrap();
        assert_eq!(printer.print(vec![b'x'; 1 << 20]), Ok(()));
        assert!(!printer.finish());
    }
}
