//! Load at a fixed rate for one window of time, and what its requests saw.

use std::net::SocketAddr;
use std::time::Duration;

use crate::Result;
use crate::cases::Stage;
use crate::load::{self, Load};
use crate::peers::Running;
use crate::report::with_range;
use crate::stats::{percentile, spread};
use crate::{cpu, together};

/// Requests a second.
pub const RATE: u32 = 2000;

/// Load before a window begins.
const WARM_UP: Duration = Duration::from_millis(300);

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
    /// CPU time of all threads of the proxy in microseconds per request; 0 if nobody looked.
    pub cost: f64,
}

/// Like [`watch`], and looks at what it costs the proxy.
pub fn watch_proxy(
    stage: &Stage,
    proxy: &Running,
    requests: &[Vec<u8>],
    length: Duration,
) -> Result<Seen> {
    let before = cpu::time_used(&proxy.pids);
    let mut seen = watch(stage, proxy.plain, requests, length)?;
    let used = cpu::time_used(&proxy.pids).saturating_sub(before);
    // Those of the warm-up are among them.
    let seconds = (WARM_UP + length).as_secs_f64();
    seen.cost = used as f64 / 1e3 / (f64::from(RATE) * seconds);
    Ok(seen)
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
        warm_up: WARM_UP,
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
        cost: 0.0,
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

    /// Watches both in the same window in every round, the one started first in even rounds and the other in odd ones. What else
    /// the machine does then meets both alike.
    pub fn together(
        rounds: usize,
        with: impl Fn() -> Result<Seen> + Sync,
        without: impl Fn() -> Result<Seen> + Sync,
    ) -> Result<Self> {
        let mut pairs = Self {
            with: Vec::new(),
            without: Vec::new(),
        };
        for round in 0..rounds {
            let (seen_with, seen_without) = if round % 2 == 0 {
                together::both(&with, &without)?
            } else {
                let (without, with) = together::both(&without, &with)?;
                (with, without)
            };
            pairs.with.push(seen_with);
            pairs.without.push(seen_without);
        }
        Ok(pairs)
    }

    /// A cell: the median over the rounds, and its range, of a figure with over the same without.
    pub fn ratio(&self, figure: fn(&Seen) -> f64) -> String {
        let pairs = self.with.iter().zip(&self.without);
        with_range(spread(
            pairs.map(|(with, without)| figure(with) / figure(without)),
        ))
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
