//! The degree to which stable's events come in bursts, learnt from its endpoints.
//!
//! Independent requests make counts vary by their mean. Where stable's endpoints vary more than that around each other, a
//! canary's endpoint will too, without being worse. The excess at blocks of 1, 10 and 60 s tells how many events come as one
//! within a second (quasi-likelihood, McCullagh and Nelder 1989) and for how many seconds a burst lasts.

use serde::{Deserialize, Serialize};

use super::counts::EventTally;
use super::exact;

/// Block lengths in seconds.
const SCALES: [u64; 3] = [1, 10, 60];
/// Half-life of the memory, in seconds.
const HALF_LIFE: f64 = 3600.0;
/// Half-life of stable's mean, which only counts if there are no endpoints to compare, in seconds.
const MEAN_HALF_LIFE: f64 = 600.0;
/// Standard errors by which an excess must exceed zero to count.
const CERTAIN: f64 = 2.0;
/// Nats that a second may add while stable is calm.
const CEILING: f64 = 3.0;
/// Factor of safety on the length of bursts.
const SAFETY: f64 = 3.0;

/// The bounds of the evidence of one second. They depend on the past only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Brakes {
    /// η, the inverse of the mean size of a cluster of events: evidence is divided by the size.
    pub(super) power: f64,
    /// C, in nats: 3 spread over the length of a burst.
    pub(super) ceiling: f64,
}

impl Brakes {
    /// The same power without a ceiling, for processes that must not be asymmetric.
    pub(super) fn without_ceiling(self) -> Self {
        Self {
            power: self.power,
            ceiling: f64::INFINITY,
        }
    }
}

/// Overdispersion of one event on stable, at three block lengths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Burstiness {
    seconds: u64,
    scales: Vec<Scale>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Scale {
    /// The running block, by endpoint.
    block: Vec<EventTally>,
    #[serde(with = "exact")]
    excess: f64,
    #[serde(with = "exact")]
    expected: f64,
    #[serde(with = "exact")]
    variance: f64,
    /// Stable's mean rate, once known.
    #[serde(with = "exact")]
    mean: f64,
    /// Number of blocks that the mean is made of. A given mean counts as many.
    blocks: u64,
}

impl Burstiness {
    /// With `mean`, stable's rate is taken as known to begin with.
    pub(super) fn new(mean: Option<f64>) -> Self {
        let scale = Scale {
            block: Vec::new(),
            excess: 0.0,
            expected: 0.0,
            variance: 0.0,
            mean: mean.unwrap_or(0.0),
            blocks: if mean.is_some() { u64::MAX / 2 } else { 0 },
        };
        Self {
            seconds: 0,
            scales: vec![scale; SCALES.len()],
        }
    }

    /// Adds a second of stable, by endpoint.
    pub(super) fn add(&mut self, endpoints: &[EventTally]) {
        self.add_blocks(endpoints, 1.0);
    }

    /// Adds a second of stable's total over `endpoints` endpoints.
    ///
    /// The excess of a sum of independent endpoints is that of one endpoint divided by their number, so it counts as many
    /// times.
    pub(super) fn add_total(&mut self, total: EventTally, endpoints: usize) {
        self.add_blocks(&[total], endpoints.max(1) as f64);
    }

    fn add_blocks(&mut self, endpoints: &[EventTally], summed: f64) {
        self.seconds = self.seconds.saturating_add(1);
        for (scale, length) in self.scales.iter_mut().zip(SCALES) {
            // Endpoints came or went: the running block can't be attributed any more.
            if scale.block.len() != endpoints.len() {
                scale.block.clear();
                scale.block.resize(endpoints.len(), EventTally::default());
            }
            for (sum, tally) in scale.block.iter_mut().zip(endpoints) {
                sum.add(*tally);
            }
            if self.seconds.is_multiple_of(length) {
                scale.close(length as f64, summed);
            }
        }
    }

    /// Returns the brakes for a canary's endpoint that gets `rate` requests a second.
    ///
    /// φ_s = 1 + max(0, excess − 2·se)/expected · ρ s, η = 1/φ₁, L = max φ/φ₁, C = 3/(1 + 3(L−1)).
    pub(super) fn brakes(&self, rate: f64) -> Brakes {
        let mut phi = self.scales.iter().zip(SCALES).map(|(scale, length)| {
            let certain = (scale.excess - CERTAIN * scale.variance.sqrt()).max(0.0);
            let per_request = if scale.expected > 0.0 {
                certain / scale.expected
            } else {
                0.0
            };
            1.0 + per_request * rate * length as f64
        });
        let first = phi.next().unwrap_or(1.0);
        let length = phi.fold(first, f64::max) / first;
        Brakes {
            power: 1.0 / first,
            ceiling: CEILING / (1.0 + SAFETY * (length - 1.0)),
        }
    }
}

impl Scale {
    fn close(&mut self, length: f64, summed: f64) {
        let keep = 0.5f64.powf(length / HALF_LIFE);
        let events: f64 = self.block.iter().map(|t| t.events as f64).sum();
        let requests: f64 = self.block.iter().map(|t| t.requests as f64).sum();
        if requests > 0.0 {
            // A single endpoint can only be compared with its own past, and the first block has none.
            if self.block.len() > 1 {
                self.compare_endpoints(keep, events, requests);
            } else if self.blocks > 0 {
                self.compare_with_mean(keep, events, requests, summed);
            }
            self.blocks = self.blocks.saturating_add(1);
            // A mean of few blocks weighs them equally.
            let forget = 1.0 - 0.5f64.powf(length / MEAN_HALF_LIFE);
            let weight = forget.max(1.0 / self.blocks as f64);
            self.mean += (events / requests - self.mean) * weight;
        }
        self.block.fill(EventTally::default());
    }

    /// Excess over multinomial noise, given the block's total, so that outages and drift of all endpoints cancel.
    fn compare_endpoints(&mut self, keep: f64, events: f64, requests: f64) {
        let (mut spread, mut squares) = (0.0, 0.0);
        for tally in &self.block {
            let fraction = tally.requests as f64 / requests;
            squares += fraction * fraction;
            spread += (tally.events as f64 - fraction * events).powi(2);
        }
        let rest = 1.0 - squares;
        let freedom = (self.block.len() - 1) as f64;
        self.excess = keep * self.excess + spread - events * rest;
        self.expected = keep * self.expected + events * requests * squares * rest;
        self.variance =
            keep * keep * self.variance + (2.0 * events * events + events) * rest * rest / freedom;
    }

    /// Excess over Poisson noise around the mean so far, of the sum of all endpoints.
    fn compare_with_mean(&mut self, keep: f64, events: f64, requests: f64, summed: f64) {
        let mean = self.mean * requests;
        self.excess = keep * self.excess + summed * ((events - mean).powi(2) - events);
        self.expected = keep * self.expected + events * requests;
        self.variance = keep * keep * self.variance + summed * summed * (2.0 * mean * mean + mean);
    }
}
