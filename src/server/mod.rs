//! Boot and stop, listeners, connections.

pub mod conn;
pub mod gate;
mod h2;
pub mod listener;
mod request;
pub mod tls;
pub mod watch;
