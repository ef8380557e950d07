//! Users who differ: some are broken, some are busy, and all requests of one go to the same side.

use cutover::config::rollout::GuardSpec;
use cutover::rollout::guard::{EventTally, Guard, SecondCounts, SideCounts};

use crate::random::Random;
use crate::report::Outcome;

#[derive(Clone, Copy, Debug)]
pub struct UserCase {
    pub users: usize,
    /// Share of broken users, and how often their requests fail.
    pub broken: (f64, f64),
    /// How often those of the others fail.
    pub base: f64,
    /// Deviation of the logarithm of a user's activity.
    pub activity: f64,
    pub share: f64,
    /// Additional error rate of the canary.
    pub extra: f64,
    /// Seconds for which a further event of a user's cell doesn't count.
    pub once: i64,
    /// Whether the events are conversions and not errors. Users then differ in how often they convert, too.
    pub converts: bool,
}

const RATE: usize = 500;
const SECONDS: i64 = 600;
const CELLS: usize = 4096;

struct User {
    events: f64,
    on_canary: bool,
    cell: usize,
}

pub fn run(case: &UserCase, spec: &GuardSpec, mut random: Random) -> Outcome {
    let mut activity = 0.0;
    let mut until = Vec::with_capacity(case.users);
    let users: Vec<User> = (0..case.users)
        .map(|_| {
            activity += (case.activity * random.normal()).exp();
            until.push(activity);
            let broken = random.chance(case.broken.0);
            let position = random.uniform();
            let mut events = if broken { case.broken.1 } else { case.base };
            if case.converts {
                // Deviation 1 of the logarithm, around the same mean.
                events = (events * (random.normal() - 0.5).exp()).min(1.0);
            }
            User {
                events,
                on_canary: position < case.share,
                cell: (position * CELLS as f64) as usize,
            }
        })
        .collect();
    let mut counted = vec![-1_000_000; CELLS];
    let mut guard = Guard::new(spec);
    let mut outcome = Outcome::default();
    for t in 0..SECONDS {
        let mut sides = [EventTally::default(); 2];
        for _ in 0..RATE {
            let at = random.uniform() * activity;
            let user = &users[until.partition_point(|end| *end < at).min(users.len() - 1)];
            let side = &mut sides[usize::from(user.on_canary)];
            side.requests += 1;
            let extra = if user.on_canary { case.extra } else { 0.0 };
            let events = 1.0 - (1.0 - user.events) * (1.0 - extra);
            if random.chance(events) && t - counted[user.cell] >= case.once {
                side.events += 1;
                counted[user.cell] = t;
            }
        }
        let events = SideCounts {
            canary: sides[1],
            stable: sides[0],
            // Endpoints without requests: burstiness isn't learnt, so that the counting is seen alone.
            stable_endpoints: &[EventTally::default(); 2],
        };
        let mut counts = SecondCounts {
            canary_rate: case.share * RATE as f64,
            canary_endpoints: 1,
            ..SecondCounts::default()
        };
        let goals = [events];
        if case.converts {
            counts.goals = &goals;
        } else {
            counts.errors = events;
        }
        guard.second(&counts);
        if guard.verdict().is_some() {
            outcome.guard = Some((t + 1) as f64);
            break;
        }
    }
    outcome
}
