//! The data plane's host: worker threads, their listeners, TLS, and the connections of clients.
//!
//! * [`workers`], [`worker`]: the threads that serve. [`listener`], [`inherit`]: their sockets. [`admission`]: how many connections
//!   the process accepts.
//! * [`tls`]: towards clients. [`connection`]: one connection over HTTP/1, request by request. [`h2`]: the same over HTTP/2.
//!   [`request`]: a head as the data path reads it.
//! * [`closed`]: connections of listeners that are gone. [`counted`]: connections as metrics count them.

pub mod admission;
mod closed;
pub mod connection;
mod counted;
mod h2;
pub mod inherit;
pub mod listener;
mod request;
pub mod tls;
pub mod worker;
pub mod workers;
