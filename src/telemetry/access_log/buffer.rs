//! The buffer into which one worker formats its lines.

use std::sync::Arc;

use super::sink::{BUFFER_BYTES, LogSink};

/// A buffer is passed on when it has less room than this: enough for nearly every line, so that it hardly ever grows.
const ROOM: usize = 8 * 1024;

/// Fewer bytes than this are passed on as a copy, and the buffer is kept.
const FEW: usize = BUFFER_BYTES / 8;

/// Lines that a worker hasn't passed on yet. Dropping it passes them on.
///
/// Each worker owns one. It is passed on when it is nearly full, at each tick, and when the lines are for another sink, so a chunk
/// holds whole lines of one sink.
#[derive(Debug, Default)]
pub(crate) struct LineBuffer {
    /// The sink that the lines are for.
    sink: Option<Arc<LogSink>>,
    bytes: Vec<u8>,
    lines: u64,
}

impl LineBuffer {
    /// Adds a line for a sink, which `write` appends with its newline. Allocates only for a line that is larger than the
    /// buffer.
    pub(crate) fn add(&mut self, sink: &Arc<LogSink>, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.sink.as_ref().is_some_and(|own| Arc::ptr_eq(own, sink)) {
            self.flush();
            self.sink = Some(sink.clone());
        }
        if self.bytes.capacity() == 0 {
            self.bytes = sink.buffer();
        }
        write(&mut self.bytes);
        self.lines += 1;
        if self.bytes.len() + ROOM > BUFFER_BYTES {
            self.flush();
        }
    }

    /// Passes the lines on. To be called regularly, and before the sink changes.
    pub(crate) fn flush(&mut self) {
        if let Some((sink, bytes, lines)) = self.take() {
            sink.send(bytes, lines);
        }
    }

    /// Releases the sink and the memory. To be called when the log is turned off.
    pub(crate) fn close(&mut self) {
        self.flush();
        *self = Self::default();
    }

    /// Whether the buffer has a sink.
    pub(crate) fn is_open(&self) -> bool {
        self.sink.is_some()
    }

    fn take(&mut self) -> Option<(&Arc<LogSink>, Vec<u8>, u64)> {
        let sink = self.sink.as_ref().filter(|_| self.lines > 0)?;
        let lines = std::mem::take(&mut self.lines);
        let bytes = match self.bytes.len() {
            ..FEW => {
                let few = self.bytes.as_slice().into();
                self.bytes.clear();
                few
            }
            _ => std::mem::take(&mut self.bytes),
        };
        Some((sink, bytes, lines))
    }
}

impl Drop for LineBuffer {
    fn drop(&mut self) {
        if let Some((sink, bytes, lines)) = self.take() {
            sink.send_last(bytes, lines);
        }
    }
}
