//! Latencies request by request, with load and pauses that make neighbours alike.

use std::time::Duration;

use cutover::config::rollout::{GuardSpec, LatencyLimit};
use cutover::rollout::guard::{EventTally, Guard, SecondCounts, SideCounts, Thresholds};

use crate::random::Random;
use crate::report::Outcome;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Median 20 ms, σ = 0.6.
    Lognormal,
    /// From 10 ms on, α = 2.
    Pareto,
    /// 10 ms, and 3 % at 250 ms.
    Bimodal,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    Independent,
    /// AR(1) of each endpoint's log latency, 10 s, deviation 0.3.
    Endpoint,
    /// The same, and one of all endpoints, 60 s, deviation 0.5.
    EndpointAndShared,
    /// A pause of 100 to 300 ms of each endpoint every 10 s.
    Pauses,
}

#[derive(Clone, Copy, Debug)]
pub struct LatencyCase {
    pub shape: Shape,
    pub load: Load,
    /// How many times as slow the canary is.
    pub slow: f64,
    pub seconds: i64,
    pub counting: Counting,
}

/// How slow requests are counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Counting {
    /// As the reference does: by endpoint of stable, thresholds from a histogram of 64 buckets per doubling. In the first second,
    /// without a threshold, all requests are slow.
    Reference,
    /// By endpoint, thresholds from buckets as wide as those of the product's metrics.
    Endpoints,
    /// The same for stable's total only.
    Totals,
}

impl Counting {
    fn buckets_per_doubling(self) -> f64 {
        match self {
            Self::Reference => 64.0,
            Self::Endpoints | Self::Totals => 3.0,
        }
    }
}

const RATE: u64 = 500;
const SHARE: u64 = 10;
const ENDPOINTS: usize = 9;
const MEMORY: i64 = 300;
/// Logarithm of the shortest latency in ms that the histogram tells apart.
const SHORTEST: f64 = -5.0;

/// Stable's histogram on a logarithmic scale, half-life 120 s.
struct Histogram {
    buckets: Vec<f64>,
    width: f64,
}

impl Histogram {
    fn new(per_doubling: f64) -> Self {
        let width = std::f64::consts::LN_2 / per_doubling;
        Self {
            buckets: vec![0.0; (25.0 / width) as usize],
            width,
        }
    }

    fn add(&mut self, log: f64) {
        let bucket = ((log - SHORTEST) / self.width).max(0.0) as usize;
        let last = self.buckets.len() - 1;
        self.buckets[bucket.min(last)] += 1.0;
    }

    fn forget(&mut self) {
        let keep = 0.5f64.powf(1.0 / 120.0);
        self.buckets.iter_mut().for_each(|n| *n *= keep);
    }

    fn quantile(&self, q: f64) -> Option<Duration> {
        let total: f64 = self.buckets.iter().sum();
        let mut below = 0.0;
        for (bucket, n) in self.buckets.iter().enumerate() {
            if total >= 1.0 && *n > 0.0 && below + n >= q * total {
                let inside = (q * total - below) / n;
                let log = SHORTEST + self.width * (bucket as f64 + inside);
                return Some(Duration::from_secs_f64(log.exp() / 1e3));
            }
            below += n;
        }
        None
    }
}

/// The factors of one second, as logarithms, by endpoint; the canary's is the first.
struct LoadState {
    endpoints: Vec<f64>,
    shared: f64,
    /// Start and length of this second's pause.
    pauses: Vec<(f64, f64)>,
}

impl LoadState {
    fn new(random: &mut Random) -> Self {
        Self {
            endpoints: (0..=ENDPOINTS).map(|_| random.normal()).collect(),
            shared: random.normal(),
            pauses: Vec::new(),
        }
    }

    fn second(&mut self, load: Load, random: &mut Random) {
        let mut walk = |value: &mut f64, seconds: f64| {
            let a = (-1.0 / seconds).exp();
            *value = a * *value + (1.0 - a * a).sqrt() * random.normal();
        };
        if matches!(load, Load::Endpoint | Load::EndpointAndShared) {
            self.endpoints.iter_mut().for_each(|v| walk(v, 10.0));
        }
        if load == Load::EndpointAndShared {
            walk(&mut self.shared, 60.0);
        }
        self.pauses.clear();
        if load == Load::Pauses {
            self.pauses.extend((0..=ENDPOINTS).map(|_| {
                if !random.chance(0.1) {
                    return (0.0, 0.0);
                }
                let length = 0.1 + 0.2 * random.uniform();
                (random.uniform() * (1.0 - length), length)
            }));
        }
    }

    /// Logarithm of the latency in ms of a request to an endpoint.
    fn latency(&self, case: &LatencyCase, endpoint: usize, random: &mut Random) -> f64 {
        let log = draw(case.shape, random) + self.factor(case.load, endpoint);
        let Some((start, length)) = self.pauses.get(endpoint).filter(|p| p.1 > 0.0) else {
            return log;
        };
        let at = random.uniform();
        if at <= *start || at >= start + length {
            return log;
        }
        (log.exp() + 1000.0 * (start + length - at)).ln()
    }

    fn factor(&self, load: Load, endpoint: usize) -> f64 {
        match load {
            Load::Endpoint => 0.3 * self.endpoints[endpoint],
            Load::EndpointAndShared => 0.3 * self.endpoints[endpoint] + 0.5 * self.shared,
            Load::Independent | Load::Pauses => 0.0,
        }
    }
}

/// Logarithm of a latency in ms.
fn draw(shape: Shape, random: &mut Random) -> f64 {
    match shape {
        Shape::Lognormal => 20f64.ln() + 0.6 * random.normal(),
        Shape::Pareto => 10f64.ln() + random.exponential() / 2.0,
        Shape::Bimodal if random.chance(0.03) => 250f64.ln() + 0.25 * random.normal(),
        Shape::Bimodal => 10f64.ln() + 0.3 * random.normal(),
    }
}

/// Thresholds as logarithms of ms; unused ones are infinite.
fn logs(thresholds: &[u64], slots: usize, counting: Counting) -> Vec<f64> {
    let log = |nanos: &u64| match *nanos {
        u64::MAX if counting == Counting::Reference => f64::NEG_INFINITY,
        u64::MAX => f64::INFINITY,
        nanos => (nanos as f64 / 1e6).ln(),
    };
    thresholds.iter().take(slots).map(log).collect()
}

/// One rollout's slots in a second, by endpoint; the canary's is the first.
struct Slots {
    stable: Vec<f64>,
    canary: Vec<f64>,
    counts: Vec<Vec<EventTally>>,
}

impl Slots {
    fn new(thresholds: &Thresholds, slots: usize, counting: Counting) -> Self {
        Self {
            stable: logs(&thresholds.stable, slots, counting),
            canary: logs(&thresholds.canary, slots, counting),
            counts: vec![vec![EventTally::default(); ENDPOINTS + 1]; slots],
        }
    }

    fn add(&mut self, endpoint: usize, log: f64) {
        let thresholds = if endpoint == 0 {
            &self.canary
        } else {
            &self.stable
        };
        for (counts, threshold) in self.counts.iter_mut().zip(thresholds) {
            if *threshold < f64::INFINITY {
                counts[endpoint].requests += 1;
                counts[endpoint].events += u64::from(log > *threshold);
            }
        }
    }

    fn sides(&self, by_endpoint: bool) -> Vec<SideCounts<'_>> {
        let sum = |counts: &[EventTally]| {
            counts.iter().fold(EventTally::default(), |a, b| {
                EventTally::new(a.requests + b.requests, a.events + b.events)
            })
        };
        let side = |counts: &Vec<EventTally>| (counts[0], sum(&counts[1..]));
        let sides = self.counts.iter().map(|counts| {
            let (canary, stable) = side(counts);
            SideCounts {
                canary,
                stable,
                stable_endpoints: if by_endpoint { &counts[1..] } else { &[] },
            }
        });
        sides.collect()
    }
}

pub fn run(case: &LatencyCase, spec: &GuardSpec, mut random: Random) -> Outcome {
    let mut guard = Guard::new(spec);
    let limits = spec.latency.iter().flat_map(|latency| &latency.limits);
    let slots = limits.map(|limit| match limit {
        LatencyLimit::Absolute(_) => 1,
        LatencyLimit::Ratio(_) => 2,
    });
    let slots = slots.sum();
    let mut histogram = Histogram::new(case.counting.buckets_per_doubling());
    let mut load = LoadState::new(&mut random);
    let mut outcome = Outcome::default();
    for t in -MEMORY..case.seconds {
        let requests = if t < 0 { 0 } else { RATE / SHARE };
        let others = RATE - requests;
        let thresholds = guard.thresholds(|q| histogram.quantile(q));
        let mut counted = Slots::new(&thresholds, slots, case.counting);
        load.second(case.load, &mut random);
        histogram.forget();
        for endpoint in 0..=ENDPOINTS {
            let rest = u64::from((endpoint as u64) <= others % ENDPOINTS as u64);
            let each = others / ENDPOINTS as u64 + rest;
            let (n, slow) = if endpoint == 0 {
                (requests, case.slow.ln())
            } else {
                (each, 0.0)
            };
            for _ in 0..n {
                let log = slow + load.latency(case, endpoint, &mut random);
                counted.add(endpoint, log);
                if endpoint > 0 {
                    histogram.add(log);
                }
            }
        }
        let sides = counted.sides(case.counting != Counting::Totals);
        let counts = SecondCounts {
            errors: SideCounts {
                canary: EventTally::new(requests, 0),
                stable: EventTally::new(others, 0),
                stable_endpoints: &[EventTally::new(others / ENDPOINTS as u64, 0); ENDPOINTS],
            },
            latency: &sides,
            canary_rate: (RATE / SHARE) as f64,
            canary_endpoints: 1,
            ..SecondCounts::default()
        };
        if t < 0 {
            guard.before(&counts);
            continue;
        }
        guard.second(&counts);
        if guard.verdict().is_some() {
            outcome.guard = Some((t + 1) as f64);
            break;
        }
    }
    outcome
}
