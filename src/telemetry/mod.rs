//! What is counted, and how it is shown.
//!
//! Workers write into shards of their own: one writer per shard, relaxed loads and stores, no lock, no allocation after
//! warm-up, no formatting. The control thread adds the shards up ([`render`], [`windows`]).

pub(crate) mod latency;
pub(crate) mod log_limit;
pub(crate) mod log_writer;
pub mod names;
pub(crate) mod process;
pub mod record;
pub(crate) mod registry;
pub mod render;
pub(crate) mod shard;
pub(crate) mod windows;
pub(crate) mod words;

pub use log_limit::LogLimit;
pub use registry::{RuleHits, ServiceMetrics, Telemetry, VersionMetrics};
pub use shard::{ListenerShard, ServiceShard, VersionShard};
