//! Metrics, the request record, the access log, traces and the process log's writer.
//!
//! Workers count into shards of their own ([`shard`]): one writer per shard, relaxed loads and stores, no lock, no
//! formatting, and no allocation once each counter in use exists. The [`registry`] keeps the shards across reloads. The
//! control thread sums them, for scrapes ([`render`]) and for the rates that the status shows ([`windows`]).
//!
//! [`trace`] makes spans of records, and passes them to the thread that exports them.
//!
//! [`mod@words`] has the closed sets of words that records, metrics and logs share.

pub mod access_log;
mod cells;
pub mod error_groups;
mod family;
pub(crate) mod flag_guard;
pub mod flags;
pub mod goals;
pub mod guard;
pub mod latency;
pub mod log_limit;
pub mod log_writer;
pub mod mirror;
pub mod names;
pub mod orders;
pub(crate) mod outcomes;
mod page;
pub(crate) mod process;
mod queue_progress;
pub mod record;
pub mod registry;
pub mod render;
pub(crate) mod shard;
pub mod trace;
pub mod windows;
pub(crate) mod words;
mod worker_id;

pub use log_limit::LogLimit;
pub use registry::{RuleHits, ServiceMetrics, Telemetry, VersionMetrics};
pub use shard::{ListenerShard, ServiceShard, VersionShard};
pub use worker_id::WorkerId;
