//! Starts the exporter that a configuration asks for, and keeps it as long as the configuration does.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::time::timeout;

use super::outcall::spans::{SpanExporter, SpanReceiver};
use crate::config::Spec;
use crate::telemetry::trace::sink::{SpanCounts, TraceSink};

/// The receiver in use; none if the configuration has no `[trace]`.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenTraces(Option<(SpanReceiver, Arc<TraceSink>)>);

impl OpenTraces {
    /// Starts the exporter of a configuration. If its receiver is the one of this exporter, that continues.
    ///
    /// An exporter that no configuration names any more exports its queued spans, and ends.
    ///
    /// # Errors
    /// The thread can't be started.
    pub(super) fn next(&self, spec: &Spec, counts: &Arc<SpanCounts>) -> io::Result<Self> {
        let Some(wanted) = &spec.trace else {
            return Ok(Self(None));
        };
        let wanted = SpanReceiver {
            url: wanted.otlp.clone(),
            fields: wanted.headers.clone(),
        };
        if let Some((receiver, _)) = &self.0
            && *receiver == wanted
        {
            return Ok(self.clone());
        }
        let sink = start(&wanted, counts)?;
        Ok(Self(Some((wanted, sink))))
    }

    /// The sink of the spans.
    pub(super) fn sink(&self) -> Option<&Arc<TraceSink>> {
        self.0.as_ref().map(|(_, sink)| sink)
    }

    /// Waits up to `limit` until the queued spans have been exported.
    pub(super) async fn flush(&self, limit: Duration) {
        if let Some(sink) = self.sink()
            && timeout(limit, sink.flush()).await.is_err()
        {
            tracing::warn!("the last spans could not be exported in time");
        }
    }
}

/// Starts an exporter on a thread of its own: encoding many spans must not delay the control thread.
fn start(receiver: &SpanReceiver, counts: &Arc<SpanCounts>) -> io::Result<Arc<TraceSink>> {
    let (sink, queue) = TraceSink::new(counts.clone());
    let exporter = SpanExporter::new(receiver);
    let mut runtime = Builder::new_current_thread();
    runtime.enable_all();
    std::thread::Builder::new()
        .name("traces".into())
        .spawn(move || match runtime.build_local(LocalOptions::default()) {
            Ok(runtime) => runtime.block_on(exporter.run(queue)),
            Err(error) => tracing::error!(%error, "no spans can be exported"),
        })?;
    Ok(sink)
}
