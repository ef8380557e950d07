//! cutover: a Layer-7 reverse proxy that shifts live traffic between versions, inside the proxy.
//!
//! The modules are listed in layers, lowest first. A module imports only from lower layers, never from its own;
//! `tests/architecture.rs` checks this. The binary calls [`cli::main`] and nothing else.

#![warn(unreachable_pub, unused_qualifications)]

/// That of the program, so that unit tests measure what runs.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// These two first, because the modules below use their macros.
#[macro_use]
pub mod index;
#[macro_use]
mod words;

pub mod reason;

pub(crate) mod certificates;
pub mod config;
pub mod http1;
pub mod http2;
pub(crate) mod net;
pub mod telemetry;

pub mod routing;
pub mod upstream;

pub(crate) mod snapshot;

pub mod proxy;
pub mod rollout;

pub(crate) mod admin;
pub(crate) mod edge;

pub(crate) mod control;

pub mod cli;
