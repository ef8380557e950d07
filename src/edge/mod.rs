//! The data plane's host: worker threads, their listeners, TLS, and the connections of clients.
//!
//! * [`workers`], [`worker`]: the threads that serve. [`listener`], [`inherit`]: their sockets. [`admission`]: how many connections
//!   the process accepts.
//! * [`tls`]: towards clients. [`connection`]: one connection over HTTP/1, request by request. [`h2`]: the same over HTTP/2.
//!   [`request`]: a head as the data path reads it.
//! * [`closed`]: connections of listeners that are gone. [`counted`]: connections as metrics count them.

pub(crate) mod admission;
mod closed;
pub(crate) mod connection;
mod counted;
mod h2;
pub(crate) mod inherit;
pub(crate) mod listener;
mod request;
pub(crate) mod tls;
pub(crate) mod worker;
pub(crate) mod workers;
