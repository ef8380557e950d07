//! cutover: a Layer-7 reverse proxy in whose data path deployments happen.
//!
//! The rooms, from the ground up; a room imports only from lower floors (`tests/architecture.rs` checks it).

#![warn(unreachable_pub, unused_qualifications)]

pub mod config;
pub mod http1;
pub(crate) mod http2;
pub(crate) mod net;
pub mod telemetry;

pub mod routing;
pub mod upstream;

pub(crate) mod snapshot;

pub mod proxy;

pub(crate) mod admin;
pub(crate) mod edge;

pub(crate) mod control;

pub mod cli;
