//! server
pub mod tls;
pub mod watch;
