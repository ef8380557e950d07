//! cutover: a Layer-7 reverse proxy that shifts live traffic between versions, inside the proxy.
//!
//! This crate is the control plane and the program; below it are the crates `cutover-data-plane` and `cutover-configuration`, whose
//! modules it has under their own names. Its own are listed in layers, lowest first. A module imports only from lower layers, never
//! from its own; `tests/architecture.rs` checks this. The binary calls [`cli::main`] and nothing else.

#![warn(unreachable_pub, unused_qualifications)]

/// That of the program, so that unit tests measure what runs.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[macro_use(words)]
extern crate cutover_configuration;

pub use cutover_configuration::{config, index};
pub(crate) use cutover_data_plane::{certificates, edge, net, snapshot};
pub use cutover_data_plane::{http1, http2, proxy, reason, routing, telemetry, upstream};

pub mod rollout;

pub(crate) mod admin;

pub(crate) mod control;

pub mod cli;
