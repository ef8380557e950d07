//! Keeps the gauge of open connections correct, also when the task of a connection panics.

use crate::telemetry::ListenerShard;

/// Counts a connection in `cutover_connections` until it is dropped.
pub(super) struct ConnectionGauge<'a>(&'a ListenerShard);

impl<'a> ConnectionGauge<'a> {
    pub(super) fn enter(shard: &'a ListenerShard) -> Self {
        shard.connections(1);
        Self(shard)
    }
}

impl Drop for ConnectionGauge<'_> {
    fn drop(&mut self) {
        self.0.connections(-1);
        if std::thread::panicking() {
            self.0.panicked();
        }
    }
}
