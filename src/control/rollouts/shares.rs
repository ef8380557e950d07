//! The shares that rollouts have reached, as the publisher compiles them into snapshots.

use std::collections::HashMap;

use crate::config::spec::ServiceSpec;
use crate::rollout::plan::fingerprint;
use crate::snapshot::RolloutShare;

/// The share that each rollout has reached, by service.
#[derive(Debug, Default)]
pub(crate) struct SharesInForce(HashMap<String, PlannedShare>);

#[derive(Debug)]
struct PlannedShare {
    /// Fingerprint of the plan that the share belongs to.
    plan: String,
    reached: RolloutShare,
}

impl SharesInForce {
    /// Sets the share that the rollout of a service has reached under the plan with this fingerprint.
    pub(crate) fn set(&mut self, service: &str, plan: &str, reached: RolloutShare) {
        let plan = plan.to_owned();
        let share = PlannedShare { plan, reached };
        self.0.insert(service.to_owned(), share);
    }

    /// The share that the rollout of this service has reached. It is zero if the plan has changed since: a new version of the
    /// canary, a new label or new steps start from zero.
    pub(crate) fn of(&self, service: &ServiceSpec) -> RolloutShare {
        match self.0.get(&service.name) {
            Some(known) if fingerprint(service).as_ref() == Some(&known.plan) => known.reached,
            _ => RolloutShare::default(),
        }
    }
}
