//! Counts a connection while it is open.

use crate::telemetry::ListenerShard;

/// A connection that counts in `cutover_connections`.
pub(super) struct Counted<'a>(&'a ListenerShard);

impl<'a> Counted<'a> {
    pub(super) fn enter(shard: &'a ListenerShard) -> Self {
        shard.connections(1);
        Self(shard)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections(-1);
        if std::thread::panicking() {
            self.0.panicked();
        }
    }
}
