//! The way of spans from the workers to the thread that exports them.
//!
//! A worker collects spans in a buffer of its own and passes them on every tick. The number of waiting spans is limited, for the
//! worker and for the process; further ones are dropped and counted. No worker waits for the receiver.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use tokio::sync::{Notify, mpsc, oneshot};

use super::otlp::OtlpSpan;
use crate::telemetry::words::SpanOutcome;

/// Spans that may wait in a worker, between two ticks.
const WORKER_SPANS: usize = 4096;
/// Spans that may wait for the exporter. A span takes about 2 KiB.
pub(crate) const QUEUED_SPANS: usize = 16_384;

/// Counts spans by outcome, over all receivers of the process.
#[derive(Debug, Default)]
pub struct SpanCounts([AtomicU64; SpanOutcome::COUNT]);

impl SpanCounts {
    pub(crate) fn add(&self, outcome: SpanOutcome, spans: usize) {
        self.0[outcome.index()].fetch_add(spans as u64, Relaxed);
    }

    /// The spans that have ended like this.
    pub fn get(&self, outcome: SpanOutcome) -> u64 {
        self.0[outcome.index()].load(Relaxed)
    }
}

/// A message to the exporter.
#[derive(Debug)]
pub enum ExporterMessage {
    /// Export these spans.
    Spans(Vec<OtlpSpan>),
    /// Export the spans queued before this message, with one attempt, then answer.
    Flush(oneshot::Sender<()>),
}

/// The queue of the thread that exports spans.
///
/// Snapshots with this receiver hold it, and workers' buffers until their next tick. The exporter ends when the last holder has
/// dropped it. The channel has no bound of its own: `queued` counts the spans in it, because a batch may hold any number.
#[derive(Debug)]
pub struct TraceSink {
    queue: mpsc::UnboundedSender<ExporterMessage>,
    queued: Arc<AtomicUsize>,
    hurry: Arc<Notify>,
    counts: Arc<SpanCounts>,
}

/// The exporter's end of a [`TraceSink`].
#[derive(Debug)]
pub struct SpanQueue {
    /// What workers send.
    pub messages: mpsc::UnboundedReceiver<ExporterMessage>,
    /// Notified when somebody waits for a flush.
    pub hurry: Arc<Notify>,
    queued: Arc<AtomicUsize>,
    counts: Arc<SpanCounts>,
}

impl TraceSink {
    /// Creates a sink and the queue that its exporter reads.
    pub fn new(counts: Arc<SpanCounts>) -> (Arc<Self>, SpanQueue) {
        let (queue, messages) = mpsc::unbounded_channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let hurry = Arc::new(Notify::new());
        let sink = Self {
            queue,
            queued: queued.clone(),
            hurry: hurry.clone(),
            counts: counts.clone(),
        };
        let queue = SpanQueue {
            messages,
            hurry,
            queued,
            counts,
        };
        (Arc::new(sink), queue)
    }

    /// Queues spans without waiting. If there is no room for them, they are dropped and counted.
    fn send(&self, spans: Vec<OtlpSpan>) {
        let count = spans.len();
        // The limit applies to the queue of all workers. Two of them may exceed it together by a batch, which is harmless.
        if self.queued.load(Relaxed) + count > QUEUED_SPANS {
            return self.counts.add(SpanOutcome::Dropped, count);
        }
        self.queued.fetch_add(count, Relaxed);
        // The exporter has ended. `queued` stays too high, which doesn't matter: no later spans would be accepted anyway.
        if self.queue.send(ExporterMessage::Spans(spans)).is_err() {
            self.counts.add(SpanOutcome::Dropped, count);
        }
    }

    /// Asks the exporter to export the queued spans. The receiver gets a message when that is done, or an error if the exporter
    /// has ended.
    pub fn flush(&self) -> oneshot::Receiver<()> {
        let (done, is_done) = oneshot::channel();
        // If the exporter has ended, `done` is dropped here, which the caller sees.
        let _ = self.queue.send(ExporterMessage::Flush(done));
        self.hurry.notify_one();
        is_done
    }
}

impl SpanQueue {
    /// Counts the end of spans that were received.
    pub fn finish(&self, outcome: SpanOutcome, spans: usize) {
        self.queued.fetch_sub(spans, Relaxed);
        self.counts.add(outcome, spans);
    }
}

/// Spans that a worker hasn't passed on yet. Dropping it passes them on.
#[derive(Debug, Default)]
pub struct SpanBuffer {
    sink: Option<Arc<TraceSink>>,
    spans: Vec<OtlpSpan>,
}

impl SpanBuffer {
    /// Adds the spans of a request.
    pub fn add(&mut self, sink: &Arc<TraceSink>, spans: Vec<OtlpSpan>) {
        if !self.sink.as_ref().is_some_and(|own| Arc::ptr_eq(own, sink)) {
            self.flush();
            self.sink = Some(sink.clone());
        }
        if self.spans.len() + spans.len() > WORKER_SPANS {
            return sink.counts.add(SpanOutcome::Dropped, spans.len());
        }
        self.spans.extend(spans);
    }

    /// Passes the spans on, and releases the sink, so that its exporter ends once no configuration names it.
    pub fn flush(&mut self) {
        if let Some(sink) = self.sink.take() {
            sink.send(std::mem::take(&mut self.spans));
        }
    }
}

impl Drop for SpanBuffer {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(count: usize) -> Vec<OtlpSpan> {
        vec![OtlpSpan::default(); count]
    }

    fn received(queue: &mut SpanQueue) -> usize {
        let mut count = 0;
        while let Ok(ExporterMessage::Spans(spans)) = queue.messages.try_recv() {
            count += spans.len();
        }
        count
    }

    #[test]
    fn spans_are_passed_on_at_a_flush_and_at_the_end() {
        let counts = Arc::new(SpanCounts::default());
        let (sink, mut queue) = TraceSink::new(counts.clone());
        let mut buffer = SpanBuffer::default();
        buffer.add(&sink, spans(2));
        assert_eq!(received(&mut queue), 0);
        buffer.flush();
        assert_eq!(received(&mut queue), 2);
        buffer.add(&sink, spans(3));
        drop(buffer);
        assert_eq!(received(&mut queue), 3);
        queue.finish(SpanOutcome::Exported, 5);
        assert_eq!(counts.get(SpanOutcome::Exported), 5);
        assert_eq!(counts.get(SpanOutcome::Dropped), 0);
    }

    #[test]
    fn what_exceeds_the_limits_is_dropped_and_counted() {
        let counts = Arc::new(SpanCounts::default());
        let (sink, mut queue) = TraceSink::new(counts.clone());
        let mut buffer = SpanBuffer::default();
        buffer.add(&sink, spans(WORKER_SPANS));
        buffer.add(&sink, spans(1));
        assert_eq!(counts.get(SpanOutcome::Dropped), 1);
        for _ in 0..QUEUED_SPANS / WORKER_SPANS {
            buffer.flush();
            buffer.add(&sink, spans(WORKER_SPANS));
        }
        buffer.flush();
        let dropped = 1 + WORKER_SPANS as u64;
        assert_eq!(counts.get(SpanOutcome::Dropped), dropped);
        assert_eq!(received(&mut queue), QUEUED_SPANS);
        // Room again, once the exporter is done with some.
        queue.finish(SpanOutcome::Exported, 10);
        buffer.add(&sink, spans(10));
        buffer.flush();
        assert_eq!(received(&mut queue), 10);
        assert_eq!(counts.get(SpanOutcome::Dropped), dropped);
    }
}
