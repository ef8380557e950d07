//! The counters of a service's flags.

use std::sync::Arc;

use crate::config::spec;
use crate::telemetry::Telemetry;
use crate::telemetry::flags::FlagCounter;
use crate::telemetry::goals::GoalCounter;
use crate::telemetry::record::FlagState;

/// The counters of one flag.
#[derive(Debug)]
pub(crate) struct FlagMetrics {
    /// Requests by state.
    pub requests: Arc<FlagCounter>,
    /// For each goal of the service: the conversions by state.
    pub goals: Box<[[Arc<GoalCounter>; FlagState::COUNT]]>,
}

impl FlagMetrics {
    /// Looks up the counters of all flags of a service, in their order.
    pub(super) fn all(service: &spec::ServiceSpec, telemetry: &Telemetry) -> Box<[Self]> {
        let of = |flag: &crate::config::flag::FlagSpec| Self {
            requests: telemetry.flag(&service.name, &flag.name),
            goals: { service.goals.iter() }
                .map(|goal| telemetry.flag_goal(&service.name, &flag.name, &goal.name))
                .collect(),
        };
        service.flags.iter().map(of).collect()
    }
}
