//! Tells whether the status of a service may have changed, without collecting it: with a thousand services most have not.

use std::hash::{Hash, Hasher};

use xxhash_rust::xxh3::Xxh3;

use crate::admin::error_groups;
use crate::admin::rollout::{RolloutStatus, RolloutsByService};
use crate::index::ServiceIx;
use crate::snapshot::{Service, Snapshot};
use crate::telemetry::windows::StatusWindows;

/// Stands for the status of a service: where two stamps are equal, the status is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StatusStamp {
    /// Hash of the sources of those parts whose changes are reported at once.
    pub state: u64,
    /// Hash of all other sources; `None` if there is something among them that changes with time or is counted.
    pub rest: Option<u64>,
}

/// The sources of the status of services.
pub(super) struct StampSources<'a> {
    pub snapshot: &'a Snapshot,
    pub rollouts: &'a RolloutsByService,
    pub windows: &'a StatusWindows,
    /// Whether endpoints have names, whose addresses age.
    pub has_names: bool,
}

impl StampSources<'_> {
    /// The stamp of a service at this time.
    pub(super) fn stamp(&self, index: ServiceIx) -> StatusStamp {
        let service = &*self.snapshot.services[index];
        let rollout = self.rollouts.get(&*service.name);
        let mut is_steady = self.is_idle(service) && rollout.is_none();
        let (mut state, mut rest) = (Xxh3::new(), Xxh3::new());
        // The configuration, and everything that follows from it.
        self.snapshot.generation.hash(&mut state);
        rollout_state(rollout, &mut state);
        if !service.errors.is_empty() {
            is_steady = false;
            let stable = self.snapshot.spec.services[index].stable_name();
            for group in error_groups::unknown_to_stable(service, stable) {
                (group.version, group.path, group.status, group.reason).hash(&mut state);
            }
        }
        for version in &service.versions {
            version.metrics.in_flight().hash(&mut rest);
            for endpoint in version.pool.members.iter().map(|member| &member.endpoint) {
                let ejected = endpoint.state.ejected_until().is_some();
                (endpoint.state.flags(), ejected).hash(&mut state);
                is_steady &= !ejected && endpoint.state.ramp() == 1000;
                endpoint.load.apart().hash(&mut rest);
                if let Some(checks) = endpoint.state.checks() {
                    (checks.since, checks.failure).hash(&mut rest);
                }
            }
        }
        StatusStamp {
            state: state.finish(),
            rest: is_steady.then(|| rest.finish()),
        }
    }

    /// Whether nothing of the service is counted at this time.
    fn is_idle(&self, service: &Service) -> bool {
        let has_counts = service.mirror.is_some() || !service.flags.is_empty();
        let has_counts = has_counts || !service.goals.is_empty() || self.has_names;
        !has_counts && self.windows.is_idle(&service.name)
    }
}

/// Hashes the parts of a rollout whose changes are reported at once.
pub(super) fn rollout_state(rollout: Option<&RolloutStatus>, to: &mut impl Hasher) {
    let Some(rollout) = rollout else { return };
    (
        &rollout.version,
        &rollout.flag,
        &rollout.label,
        &rollout.plan,
    )
        .hash(to);
    (&rollout.state, rollout.step, rollout.steps, &rollout.share).hash(to);
    (
        &rollout.since,
        &rollout.reason,
        rollout.latched,
        &rollout.warnings,
    )
        .hash(to);
    let fleet = rollout.fleet.as_ref();
    fleet
        .map(|f| (&f.driver, f.is_driver, f.term, f.takes_part))
        .hash(to);
    let verdict = rollout.verdict.as_ref().map(|v| (&v.guard, &v.outcome));
    verdict.hash(to);
}
