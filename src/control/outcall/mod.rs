//! HTTP requests to the outside: smoke checks, hooks, notifications and Prometheus queries of rollouts, and the export of spans.
//!
//! Everything here but [`spans`] and [`acme_http`], which have threads of their own, runs on the control thread, never blocks it,
//! and ends within a time limit. [`client`] sends one request to a URL; [`hooks`], [`notify`], [`prometheus`], [`spans`] and
//! [`acme_http`] are built on it. [`smoke`] asks the endpoints of a version directly, over the connections that health checks use.
//! What may be a secret in a URL (credentials, path and query) appears in no error and no log line: these name the peer as
//! `host:port`.

pub(crate) mod acme_http;
mod backoff;
mod client;
mod exchange;
mod expectation;
pub(crate) mod hooks;
pub(crate) mod notify;
pub(crate) mod prometheus;
mod retry_after;
pub(crate) mod smoke;
pub(crate) mod spans;
mod url;

#[cfg(test)]
mod fixtures;
