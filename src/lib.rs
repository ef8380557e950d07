//! cutover: a Layer-7 reverse proxy in whose data path deployments happen.
//!
//! The rooms, from the ground up; a room imports only from lower floors (`tests/architecture.rs` checks it).

pub mod config;
pub mod http1;
pub mod http2;
pub mod net;
pub mod telemetry;

pub mod routing;
pub mod upstream;

pub mod snapshot;

pub mod proxy;

pub mod admin;
pub mod edge;

pub mod control;

pub mod cli;
