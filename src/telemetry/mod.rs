//! What is counted, and how it is shown.
//!
//! Workers write into shards of their own: one writer per shard, relaxed loads and stores, no lock, no allocation after
//! warm-up, no formatting. The control thread adds the shards up ([`render`], [`windows`]).

pub mod latency;
pub mod log_limit;
pub mod log_writer;
pub mod names;
pub mod process;
pub mod record;
pub mod registry;
pub mod render;
pub mod shard;
pub mod windows;
pub mod words;

pub use log_limit::LogLimit;
pub use registry::{RuleHits, ServiceMetrics, Telemetry, VersionMetrics};
pub use shard::{ListenerShard, ServiceShard, VersionShard};
