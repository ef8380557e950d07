//! server
pub mod watch;
