//! Counts a connection while it is open.

use crate::telemetry::ListenerShard;

/// A connection that counts in `cutover_connections`.
pub(super) struct CountedConnection<'a>(&'a ListenerShard);

impl<'a> CountedConnection<'a> {
    pub(super) fn enter(shard: &'a ListenerShard) -> Self {
        shard.connections(1);
        Self(shard)
    }
}

impl Drop for CountedConnection<'_> {
    fn drop(&mut self) {
        self.0.connections(-1);
        if std::thread::panicking() {
            self.0.panicked();
        }
    }
}
