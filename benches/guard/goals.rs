//! Conversions, independent of each other.

use cutover::config::rollout::GuardSpec;
use cutover::rollout::guard::{EventTally, Guard, SecondCounts, SideCounts};

use crate::random::Random;
use crate::report::Outcome;

#[derive(Clone, Copy, Debug)]
pub struct GoalCase {
    /// Stable's conversions per request.
    pub base: f64,
    /// The canary's, as a multiple.
    pub factor: f64,
    pub share: f64,
    pub seconds: i64,
}

const RATE: f64 = 500.0;
const ENDPOINTS: u64 = 9;

pub fn run(case: &GoalCase, spec: &GuardSpec, mut random: Random) -> Outcome {
    let mut guard = Guard::new(spec);
    let mut outcome = Outcome::default();
    let requests = (case.share * RATE).round() as u64;
    let each = (RATE as u64 - requests) / ENDPOINTS;
    for t in -300..case.seconds {
        let endpoints: Vec<EventTally> = (0..ENDPOINTS)
            .map(|_| EventTally::new(each, random.binomial(each, case.base)))
            .collect();
        let n = if t < 0 { 0 } else { requests };
        let conversions = random.binomial(n, case.base * case.factor);
        let stable = endpoints.iter().map(|e| e.events).sum();
        let goals = [SideCounts {
            canary: EventTally::new(n, conversions),
            stable: EventTally::new(each * ENDPOINTS, stable),
            stable_endpoints: &endpoints,
        }];
        let counts = SecondCounts {
            errors: SideCounts {
                canary: EventTally::new(n, 0),
                stable: EventTally::new(each * ENDPOINTS, 0),
                stable_endpoints: &[],
            },
            goals: &goals,
            canary_rate: requests as f64,
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
