//! Load at a fixed rate for one window of time, and what its requests saw.

use std::net::SocketAddr;
use std::time::Duration;

use crate::Result;
use crate::cases::Stage;
use crate::load::{self, Load};
use crate::report::with_range;
use crate::stats::{percentile, spread};

/// Requests a second.
pub const RATE: u32 = 2000;

/// A request that takes longer is slow, in nanoseconds.
const SLOW: u64 = 10_000_000;

/// What one window saw.
pub struct Seen {
    /// Requests above 10 ms.
    pub slow: u64,
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
        slow: (measured.latencies.len() - fast) as u64,
        slowest: percentile(&measured.latencies, 1.0) / 1e6,
        p99: percentile(&measured.latencies, 0.99) / 1e6,
        errors: measured.errors,
    })
}

/// What windows with something and windows without it saw.
pub struct Pairs {
    /// With it, one a round.
    pub with: Vec<Seen>,
    /// Without it.
    pub without: Vec<Seen>,
}

impl Pairs {
    /// Watches one window of each in every round, the one first in even rounds and the other in odd ones, so that what
    /// changes over time is the same for both.
    pub fn watch(
        rounds: usize,
        mut with: impl FnMut() -> Result<Seen>,
        mut without: impl FnMut() -> Result<Seen>,
    ) -> Result<Self> {
        let mut pairs = Self {
            with: Vec::new(),
            without: Vec::new(),
        };
        for round in 0..rounds {
            if round % 2 == 0 {
                pairs.without.push(without()?);
                pairs.with.push(with()?);
            } else {
                pairs.with.push(with()?);
                pairs.without.push(without()?);
            }
        }
        Ok(pairs)
    }

    /// Cells with and without: the median over the rounds and its range.
    pub fn medians(&self, figure: fn(&Seen) -> f64) -> [String; 2] {
        [&self.with, &self.without].map(|seen| with_range(spread(seen.iter().map(figure))))
    }

    /// Cells with and without: the sum over the rounds.
    pub fn sums(&self, figure: fn(&Seen) -> u64) -> [String; 2] {
        [&self.with, &self.without].map(|seen| seen.iter().map(figure).sum::<u64>().to_string())
    }
}
