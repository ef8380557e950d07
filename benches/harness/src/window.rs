//! Load at a fixed rate for one window of time, and what its requests saw.

use std::net::SocketAddr;
use std::time::Duration;

use crate::Result;
use crate::cases::Stage;
use crate::load::{self, Load};
use crate::stats::percentile;

/// Requests a second.
pub const RATE: u32 = 2000;

/// A request that takes longer is slow, in nanoseconds.
const SLOW: u64 = 10_000_000;

/// What one window saw.
pub struct Seen {
    /// Requests above 10 ms.
    pub slow: usize,
    /// The slowest, in milliseconds.
    pub slowest: f64,
    /// In milliseconds.
    pub p99: f64,
    /// Requests without a whole answer.
    pub errors: u64,
}

/// Sends the requests in turn, [`RATE`] in a second.
pub fn watch(
    stage: &Stage,
    target: SocketAddr,
    requests: &[Vec<u8>],
    length: Duration,
) -> Result<Seen> {
    let load = Load {
        target,
        connections: stage.bench.connections,
        request: Vec::new(),
        body: 1024,
        tls: None,
        fresh: false,
        rate: Some(RATE),
        warm_up: Duration::from_millis(300),
        length,
    };
    let mut measured = load::run_spread(&load, requests, |_| {})?;
    measured.latencies.sort_unstable();
    let fast = measured.latencies.partition_point(|&took| took <= SLOW);
    Ok(Seen {
        slow: measured.latencies.len() - fast,
        slowest: percentile(&measured.latencies, 1.0) / 1e6,
        p99: percentile(&measured.latencies, 0.99) / 1e6,
        errors: measured.errors,
    })
}
