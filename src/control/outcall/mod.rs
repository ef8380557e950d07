//! HTTP requests that rollouts make to the outside: smoke checks, hooks, notifications and Prometheus queries.
//!
//! Everything here runs on the control thread, never blocks it, and ends within a time limit. [`client`] sends one request to a
//! URL; [`hooks`], [`notify`] and [`prometheus`] are built on it. [`smoke`] asks the endpoints of a version directly, over the
//! connections that health checks use. What may be a secret in a URL (credentials, path and query) appears in no error and no log
//! line: they name the peer as `host:port`.

mod backoff;
mod client;
mod exchange;
mod expectation;
pub(crate) mod hooks;
pub(crate) mod notify;
pub(crate) mod prometheus;
pub(crate) mod smoke;
mod url;

#[cfg(test)]
mod fixtures;
