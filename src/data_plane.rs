//! The data plane of cutover: what carries a request, and what it reads.
//!
//! The modules are listed in layers, lowest first. A module imports only from lower layers, never from its own;
//! `tests/architecture.rs` checks this. Below them is the crate `cutover-configuration`, above them `cutover`.

#![warn(unreachable_pub, unused_qualifications)]

/// That of the program, so that unit tests measure what runs.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[macro_use(words, indexed_by)]
extern crate cutover_configuration;

pub(crate) use cutover_configuration::{config, index};

mod prefetch;
pub mod reason;

pub mod certificates;
pub mod http1;
pub mod http2;
pub mod net;
pub mod telemetry;

pub mod routing;
pub mod upstream;

pub mod snapshot;

pub mod proxy;

pub mod edge;
