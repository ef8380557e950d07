//! Boot and stop, listeners, connections.

pub mod conn;
mod h2;
mod request;
pub mod tls;
pub mod watch;
