//! Streams of failures, a second at a time: independent ones, and those whose failures depend on each other.

use cutover::config::rollout::GuardSpec;
use cutover::rollout::guard::{EventTally, Guard, Pairs, SecondCounts, SideCounts};

use crate::random::Random;
use crate::report::Outcome;
use crate::rivals::{FixedTest, Flagger};

/// What makes failures depend on each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Noise {
    Independent,
    /// Outages of both sides, with this many seconds between them, lasting 10 s on average, 10 to 100 % errors.
    Outages(f64),
    /// The ratio of the errors at the peak to those in the trough, and the period in seconds.
    Drift(f64, f64),
    /// Each endpoint's rate is multiplied by a gamma variable of shape ½, drawn every second.
    Gamma,
    /// Each endpoint fails 30 to 100 % for this many seconds on average, every ten minutes.
    Bursts(f64),
    /// Every two minutes a client sends this many failing requests, 50 a second, all to one side.
    Client(f64),
}

#[derive(Clone, Copy, Debug)]
pub struct ErrorCase {
    pub noise: Noise,
    pub base: f64,
    /// How many times the base the canary fails, from second `change` on.
    pub factor: f64,
    pub change: i64,
    pub rate: f64,
    pub endpoints: usize,
    /// `None`: 1 % for 5 m, 5 % for 10 m, 25 % for 10 m, 50 % for 10 m.
    pub share: Option<f64>,
    /// Seconds of stable before the rollout.
    pub memory: i64,
    pub seconds: i64,
    /// Whether failures of the canary are hidden, and stable's answers to the same requests are known.
    pub shield: bool,
}

impl ErrorCase {
    pub const AA: Self = Self {
        noise: Noise::Independent,
        base: 0.001,
        factor: 1.0,
        change: 0,
        rate: 500.0,
        endpoints: 9,
        share: None,
        memory: 1800,
        seconds: 2100,
        shield: false,
    };

    fn share(&self, t: i64) -> f64 {
        let plan = match t {
            ..0 => return 0.0,
            0..300 => 0.01,
            300..900 => 0.05,
            900..1500 => 0.25,
            _ => 0.5,
        };
        self.share.unwrap_or(plan)
    }
}

/// One second of both sides. The canary has one endpoint.
struct Second {
    canary: EventTally,
    stable: EventTally,
    endpoints: Vec<EventTally>,
    /// The canary's failures, tried on stable.
    pairs: Pairs,
}

struct Stream {
    case: ErrorCase,
    random: Random,
    /// Ends of the bursts of the canary's endpoint and stable's, and their error rates.
    bursts: Vec<(f64, f64)>,
    outage: (f64, f64),
    clients: [(f64, bool); 8],
    phase: f64,
    fraction: f64,
    endpoints: Vec<EventTally>,
}

const NEVER: f64 = -1e9;

impl Stream {
    fn new(case: ErrorCase, mut random: Random) -> Self {
        Self {
            bursts: vec![(NEVER, 0.0); case.endpoints + 1],
            outage: (NEVER, 0.0),
            clients: [(NEVER, false); 8],
            phase: random.uniform() * std::f64::consts::TAU,
            fraction: 0.0,
            endpoints: Vec::new(),
            case,
            random,
        }
    }

    /// The error rate of all endpoints in this second.
    fn base(&mut self, t: f64) -> f64 {
        match self.case.noise {
            Noise::Outages(every) => {
                if t > self.outage.0 && self.random.chance(1.0 / every) {
                    let end = t + 10.0 * self.random.exponential();
                    self.outage = (end, 0.1 + 0.9 * self.random.uniform());
                }
                if t <= self.outage.0 {
                    self.outage.1
                } else {
                    self.case.base
                }
            }
            Noise::Drift(factor, period) => {
                let turn = std::f64::consts::TAU * t / period;
                self.case.base * (factor.ln() / 2.0 * (self.phase + turn).sin()).exp()
            }
            _ => self.case.base,
        }
    }

    /// Additional failing requests of the canary and of stable.
    fn clients(&mut self, t: f64, share: f64, failures: f64) -> (u64, u64) {
        let per_second = 50.0;
        if self.random.chance(1.0 / 120.0) {
            let side = self.random.chance(share);
            if let Some(free) = self.clients.iter_mut().find(|c| c.0 < t) {
                *free = (t + failures / per_second, side);
            }
        }
        let (mut canary, mut stable) = (0, 0);
        for (end, on_canary) in &self.clients {
            if *end > t {
                let failed = (per_second * (end - t).min(1.0)) as u64;
                *(if *on_canary { &mut canary } else { &mut stable }) += failed;
            }
        }
        (canary, stable)
    }

    fn second(&mut self, second: i64) -> Second {
        let (t, case) = (second as f64, self.case);
        let share = case.share(second);
        self.fraction += share * case.rate;
        let requests = self.fraction.floor();
        self.fraction -= requests;
        let requests = requests as u64;
        let others = (case.rate - requests as f64 + 0.5) as u64;
        let base = self.base(t);
        let gamma = case.noise == Noise::Gamma;
        let factors: Vec<f64> = (0..if gamma { case.endpoints + 1 } else { 0 })
            .map(|_| self.random.gamma(0.5) / 0.5)
            .collect();
        if let Noise::Bursts(length) = case.noise {
            for burst in &mut self.bursts {
                if t > burst.0 && self.random.chance(1.0 / 600.0) {
                    let end = t + length * self.random.exponential();
                    *burst = (end, 0.3 + 0.7 * self.random.uniform());
                }
            }
        }
        let clients = match case.noise {
            Noise::Client(failures) => self.clients(t, share, failures),
            _ => (0, 0),
        };
        let (each, rest) = (
            others / case.endpoints as u64,
            others % case.endpoints as u64,
        );
        self.endpoints.clear();
        for endpoint in 0..=case.endpoints {
            let canary = endpoint == 0;
            let extra = u64::from(!canary && (endpoint as u64) <= rest);
            let n = if canary { requests } else { each + extra };
            let mut p = base * factors.get(endpoint).unwrap_or(&1.0);
            if canary && second >= case.change {
                p *= case.factor;
            }
            if t <= self.bursts[endpoint].0 {
                p = p.max(self.bursts[endpoint].1);
            }
            self.endpoints
                .push(EventTally::new(n, self.random.binomial(n, p.min(1.0))));
        }
        let mut pairs = Pairs::default();
        if case.shield {
            let own = self.endpoints[0].events;
            // What fails for the client's fault fails on stable as well.
            pairs.tried = own + clients.0;
            pairs.failed = self.random.binomial(own, base) + clients.0;
        }
        // All requests of failing clients fail; stable's go to its first endpoint.
        for (endpoint, failed) in [(0, clients.0), (1, clients.1)] {
            self.endpoints[endpoint].requests += failed;
            self.endpoints[endpoint].events += failed;
        }
        let endpoints = self.endpoints[1..].to_vec();
        let sum = |of: fn(&EventTally) -> u64| endpoints.iter().map(of).sum();
        Second {
            canary: self.endpoints[0],
            stable: EventTally::new(sum(|t| t.requests), sum(|t| t.events)),
            endpoints,
            pairs,
        }
    }
}

/// Runs one rollout. Times count from the change on.
pub fn run(case: &ErrorCase, spec: &GuardSpec, random: Random) -> Outcome {
    let mut stream = Stream::new(*case, random);
    let mut guard = Guard::new(spec);
    let mut flagger = Flagger::default();
    // The canary with all of the traffic has as many endpoints as stable.
    let alone = case.share == Some(1.0);
    let share = case.share.filter(|_| !alone).unwrap_or(0.1);
    let mut fixed = FixedTest::new(case.base, share);
    let mut fixed_done = false;
    let mut outcome = Outcome::default();
    for t in -case.memory..case.seconds {
        let second = stream.second(t);
        let counts = SecondCounts {
            errors: SideCounts {
                canary: second.canary,
                stable: second.stable,
                stable_endpoints: &second.endpoints,
            },
            canary_rate: case.share(t) * case.rate,
            canary_endpoints: if alone { case.endpoints } else { 1 },
            pairs: second.pairs,
            alone: alone && t >= 0,
            ..SecondCounts::default()
        };
        if t < 0 {
            guard.before(&counts);
            continue;
        }
        let at = (t + 1 - case.change) as f64;
        if outcome.guard.is_none() {
            guard.second(&counts);
            outcome.guard = guard.verdict().map(|_| at);
        }
        if outcome.flagger.is_none() && flagger.second(second.canary) {
            outcome.flagger = Some(at);
        }
        if !fixed_done && let Some(failed) = fixed.second(second.canary, second.stable) {
            fixed_done = true;
            outcome.fixed = failed.then_some(at);
        }
        if outcome.guard.is_some() && outcome.flagger.is_some() && fixed_done {
            break;
        }
    }
    outcome
}
