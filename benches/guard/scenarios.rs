//! The scenarios, with the figures of an independent implementation in C of the same formulas and streams.

use cutover::config::rollout::GuardSpec;

use crate::error_cases::{before_and_after, detection, false_alarms, hidden_failures};
use crate::errors::{self, ErrorCase};
use crate::goals::{self, GoalCase};
use crate::latency::{self, LatencyCase};
use crate::latency_cases::latencies;
use crate::random::Random;
use crate::report::{Outcome, Reference};
use crate::user_cases::{conversions, users_who_differ};
use crate::users::{self, UserCase};

pub enum Case {
    Errors(ErrorCase),
    Users(UserCase),
    Latency(LatencyCase),
    Goals(GoalCase),
}

pub struct Scenario {
    /// The table that it belongs to.
    pub table: &'static str,
    pub name: String,
    pub rollouts: u64,
    pub case: Case,
    pub spec: GuardSpec,
    pub reference: Reference,
}

impl Scenario {
    pub fn run(&self, random: Random) -> Outcome {
        match &self.case {
            Case::Errors(case) => errors::run(case, &self.spec, random),
            Case::Users(case) => users::run(case, &self.spec, random),
            Case::Latency(case) => latency::run(case, &self.spec, random),
            Case::Goals(case) => goals::run(case, &self.spec, random),
        }
    }
}

pub const AA: &str = "False alarms by errors";
pub const USERS: &str = "False alarms by users who differ";
pub const ERRORS: &str = "Time to detection by errors";
pub const LATENCY_AA: &str = "False alarms by latency";
pub const LATENCY: &str = "Time to detection by latency";
pub const GOALS: &str = "Goals";
pub const HIDDEN: &str = "Hidden failures, tried on stable";
pub const ALONE: &str = "Before and after: 100% at once";

pub fn all() -> Vec<Scenario> {
    let mut all = false_alarms();
    all.extend(users_who_differ());
    all.extend(detection());
    all.extend(latencies());
    all.extend(conversions());
    all.extend(hidden_failures());
    all.extend(before_and_after());
    all
}
