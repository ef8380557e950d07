//! Traces: the ids of a request's spans, the spans themselves, and their way to the exporter.
//!
//! [`context`] reads and writes `traceparent`, [`request`] holds the ids of a running request, [`span`] makes spans of its
//! record when it has ended, in the messages of [`otlp`]. [`sink`] is the bounded queue to the thread that exports them.

pub(crate) mod context;
pub mod otlp;
pub(crate) mod request;
pub mod sink;
pub(crate) mod span;
