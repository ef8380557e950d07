//! The settings of a listener that its connections depend on.

use std::sync::Arc;

use ipnet::IpNet;

use crate::net::ListenerId;
use crate::proxy::via::Via;
use crate::telemetry::ListenerShard;

/// The listener's settings at the time a connection was accepted. They hold for the life of the connection.
#[derive(Debug)]
pub(crate) struct ListenerInfo {
    /// A number that the listener keeps across reloads.
    pub id: ListenerId,
    /// The name in `[listen.NAME]`.
    pub name: String,
    /// Whether HTTP/1.1 is offered.
    pub h1: bool,
    /// Whether HTTP/2 is offered.
    pub h2: bool,
    /// Whether every request is answered by a redirect to https.
    pub redirect_https: bool,
    /// Peers whose `X-Forwarded-*` fields are trusted.
    pub trusted: Vec<IpNet>,
    /// Whether repeated slashes in a path are merged.
    pub merge_slashes: bool,
    /// The value added to `Via` (RFC 9110 §7.6.3).
    pub via: Option<Via>,
    /// The listener's metrics, one shard per worker.
    pub metrics: Arc<[ListenerShard]>,
}
