//! The counters of a service's flags.

use std::sync::Arc;

use super::Service;
use crate::config::flag::FlagSpec;
use crate::config::spec;
use crate::index::FlagIx;
use crate::telemetry::Telemetry;
use crate::telemetry::flag_guard::FlagGuard;
use crate::telemetry::flags::FlagCounter;
use crate::telemetry::goals::GoalCounter;
use crate::telemetry::record::FlagState;

/// The counters of one flag.
#[derive(Debug)]
pub struct FlagMetrics {
    /// Requests by state.
    pub requests: Arc<FlagCounter>,
    /// For each goal of the service: the conversions by state.
    pub goals: Box<[[Arc<GoalCounter>; FlagState::COUNT]]>,
}

impl FlagMetrics {
    /// Looks up the counters of all flags of a service, in their order.
    pub(super) fn all(service: &spec::ServiceSpec, telemetry: &Telemetry) -> Box<[Self]> {
        let of = |flag: &FlagSpec| Self {
            requests: telemetry.flag(&service.name, &flag.name),
            goals: { service.goals.iter() }
                .map(|goal| telemetry.flag_goal(&service.name, &flag.name, &goal.name))
                .collect(),
        };
        service.flags.iter().map(of).collect()
    }
}

/// The flag of a service that follows a rollout.
#[derive(Debug)]
pub struct RollingFlag {
    /// The flag.
    pub flag: FlagIx,
    name: Box<str>,
    /// The counts that the guard compares.
    pub guard: Arc<FlagGuard>,
}

impl RollingFlag {
    /// The flag of this service, if one follows a rollout. Its counters are those of the running generation, if they are the same flag's.
    pub(super) fn of(
        spec: &spec::ServiceSpec,
        running: Option<&Service>,
        telemetry: &Telemetry,
    ) -> Option<Self> {
        let flag = spec.rolling_flag()?;
        let name = &spec.flags[flag].name;
        let known = running
            .and_then(|service| service.rolling_flag.as_ref())
            .filter(|rolling| *rolling.name == **name);
        Some(Self {
            flag,
            name: name.as_str().into(),
            guard: known.map_or_else(|| telemetry.flag_guard(), |known| known.guard.clone()),
        })
    }
}
