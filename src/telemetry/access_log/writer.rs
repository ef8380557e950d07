//! The thread that writes the access log.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::sink::{LogChunk, LogSink, SharedState, WriterMessage};

/// Interval at which a sink without lines is checked for a renamed file.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Shortest time between two warnings about lines that can't be written.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The state of the writer thread, the only thread that waits for an output.
struct LogThread {
    messages: Receiver<WriterMessage>,
    shared: Arc<SharedState>,
    /// The sink that was used last. Weak, because a sink holds a sender: the thread would keep its own queue open, and never end.
    sink: Weak<LogSink>,
    /// Number of lines lost since the last warning, and the time of that warning.
    lost: u64,
    warned: Option<Instant>,
}

/// Starts the thread. It ends when all senders have been dropped.
///
/// # Errors
/// The thread can't be started.
pub(super) fn start(messages: Receiver<WriterMessage>, shared: Arc<SharedState>) -> io::Result<()> {
    let thread = LogThread {
        messages,
        shared,
        sink: Weak::new(),
        lost: 0,
        warned: None,
    };
    std::thread::Builder::new()
        .name("access-log".into())
        .spawn(move || thread.run())?;
    Ok(())
}

impl LogThread {
    fn run(mut self) {
        loop {
            match self.messages.recv_timeout(CHECK_EVERY) {
                Ok(WriterMessage::Lines(chunk)) => self.write(chunk),
                Ok(WriterMessage::Check(sink)) => {
                    self.sink = sink;
                    self.check();
                }
                Err(RecvTimeoutError::Timeout) => self.check(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn write(&mut self, chunk: LogChunk) {
        let LogChunk { sink, bytes, lines } = chunk;
        let now = Instant::now();
        let written = sink.write(&bytes, now);
        let lost = written.lost.min(lines);
        if lost > 0 {
            self.shared.drop_lines(lost);
            self.lost += lost;
        }
        self.warn(written.error, now);
        self.sink = Arc::downgrade(&sink);
        self.shared.finish(bytes);
    }

    fn check(&self) {
        if let Some(sink) = self.sink.upgrade() {
            sink.refresh(Instant::now());
        }
    }

    /// Warns of lines that can't be written, and logs when they can be written again.
    fn warn(&mut self, error: Option<io::Error>, now: Instant) {
        let is_due = |at: Instant| now.duration_since(at) >= WARN_EVERY;
        match error {
            Some(error) if self.warned.is_none_or(is_due) => {
                tracing::warn!(%error, dropped = self.lost, "access log can't be written, lines are dropped");
                self.lost = 0;
                self.warned = Some(now);
            }
            // The lines before the warning were reported with it. Nothing has been lost since, so there is nothing to add.
            None if self.warned.is_some() && self.lost == 0 => {}
            None if self.warned.is_some_and(is_due) => {
                tracing::info!(dropped = self.lost, "access log is written again");
                self.lost = 0;
                self.warned = None;
            }
            _ => {}
        }
    }
}
