//! The effective state: a pure function of the configuration, of the state before, of the results of health checks, of the shares
//! that rollouts have reached, and of the addresses of names.
//!
//! The configuration says what is *desired*. A canary whose entry in the split is `"rollout"` has the share that its rollout has
//! reached, and so has a flag whose share is `"rollout"`. The stable gate may delay it: a new stable version, or a canary whose share rises
//! from 0, waits until one of its endpoints passes a check. Until then the old split stays in force, except that shares may fall
//! to the configured ones. A version whose names have no address waits even without checks.
//!
//! Every snapshot is built from an [`Effective`], at startup, after a reload, when the gate opens and in a takeover. Anything else
//! that should influence the split belongs here, as another argument of [`effective`].

use std::collections::HashMap;

use super::{ServiceState, Snapshot, Version};
use crate::config::Spec;
use crate::config::spec::{self, Share};
use crate::index::{ServiceIx, VersionIx};
use crate::upstream::resolve::expansion::{PoolEndpoint, expand};
use crate::upstream::resolve::record::Resolutions;

/// The effective state of all services, in the order of the specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effective {
    pub(super) services: Vec<EffectiveSplit>,
}

/// The effective split of one service. Versions are indices into the specification of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EffectiveSplit {
    /// The version that gets the traffic that the split leaves.
    pub stable: VersionIx,
    /// Shares of canaries. A canary with a share of 0 may be listed too: the order of the names in the split decides which cohorts
    /// a version gets.
    pub split: Vec<(VersionIx, Share)>,
    /// Versions whose new role or share waits until they pass a check.
    pub awaited: Vec<VersionIx>,
    /// The version whose sessions an abort or a rollback voided, and when, in seconds since the Unix epoch.
    pub voided: Option<(VersionIx, u64)>,
    /// The share of the flag that follows a rollout; 0 % without one. The gate doesn't apply to it: any version may serve its users.
    pub flag: Share,
    /// Endpoints of the versions that name hosts or services.
    pub expanded: Vec<(VersionIx, Vec<PoolEndpoint>)>,
}

/// The part of a rollout in the effective state of its service. The default is that of a rollout that has not begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RolloutShare {
    /// Share that the rollout has reached.
    pub share: Share,
    /// When an abort or a rollback voided the canary's sessions, in seconds since the Unix epoch.
    pub voided_s: Option<u64>,
}

impl EffectiveSplit {
    /// The desired split, without the gate.
    fn desired(
        service: &spec::ServiceSpec,
        rollout: RolloutShare,
        resolutions: &Resolutions,
    ) -> Self {
        let rolling = service.rolling_version();
        let versions = VersionIx::enumerate(&service.versions);
        let share = |(version, share): &(VersionIx, Share)| {
            let follows = rolling == Some(*version);
            (*version, if follows { rollout.share } else { *share })
        };
        Self {
            stable: service.stable,
            split: service.split.iter().map(share).collect(),
            awaited: Vec::new(),
            voided: rolling.zip(rollout.voided_s),
            flag: match service.rolling_flag() {
                Some(_) => rollout.share,
                None => Share(0),
            },
            expanded: versions
                .filter_map(|(ix, version)| Some((ix, expand(version, resolutions)?)))
                .collect(),
        }
    }

    /// The endpoints of a version that names hosts or services.
    pub(super) fn expanded(&self, version: VersionIx) -> Option<&[PoolEndpoint]> {
        let found = self.expanded.iter().find(|(ix, _)| *ix == version);
        found.map(|(_, endpoints)| &**endpoints)
    }

    /// The share that the split grants to a version other than stable.
    fn granted(&self, version: VersionIx) -> Share {
        let canary = self.split.iter().find(|(v, _)| *v == version);
        canary.map_or(Share(0), |(_, share)| *share)
    }
}

impl Effective {
    /// The desired state of all services, without the gate. Rollouts have not begun.
    pub(crate) fn desired(spec: &Spec, resolutions: &Resolutions) -> Self {
        let services = { spec.services.iter() }
            .map(|service| EffectiveSplit::desired(service, RolloutShare::default(), resolutions));
        Self {
            services: services.collect(),
        }
    }
}

/// Computes the effective state under `spec`.
///
/// `previous` is the state before, by service; services that it doesn't name are new. `passes` tells whether a version has an
/// endpoint that passes its checks. `rollouts` returns the state of a service's rollout, and is called for services with a
/// version or flag that follows one. `resolutions` has the addresses of names.
pub(crate) fn effective(
    spec: &Spec,
    previous: &[ServiceState],
    passes: impl Fn(&spec::ServiceSpec, &spec::VersionSpec) -> bool,
    rollouts: impl Fn(&spec::ServiceSpec) -> RolloutShare,
    resolutions: &Resolutions,
) -> Effective {
    let previous: HashMap<&str, &ServiceState> =
        previous.iter().map(|s| (s.name.as_str(), s)).collect();
    let split = |service: &spec::ServiceSpec| {
        let before = previous.get(service.name.as_str()).copied();
        let rollout = match service.rolling {
            Some(_) => rollouts(service),
            None => RolloutShare::default(),
        };
        let open = EffectiveSplit::desired(service, rollout, resolutions);
        let passes = |v: VersionIx| passes(service, &service.versions[v]);
        gated(service, open, before, passes)
    };
    Effective {
        services: spec.services.iter().map(split).collect(),
    }
}

/// Applies the stable gate to the split of one service, `open`.
///
/// Nothing waits if the service is new (`before` is `None`), or if the version that was stable has left the configuration and so
/// can't keep the traffic.
fn gated(
    desired: &spec::ServiceSpec,
    open: EffectiveSplit,
    before: Option<&ServiceState>,
    passes: impl Fn(VersionIx) -> bool,
) -> EffectiveSplit {
    let Some(before) = before else {
        return open;
    };
    let is_checked = desired.policies.health.is_some();
    let has_no_address = |v: VersionIx| open.expanded(v).is_some_and(<[_]>::is_empty);
    let ready: Vec<bool> = VersionIx::all(desired.versions.len())
        .map(|v| {
            // A version that the proxy answers for needs no endpoint.
            desired.versions[v].actions.answer.is_some()
                || !has_no_address(v) && (!is_checked || passes(v))
        })
        .collect();
    let passes = |v: VersionIx| ready[v.0];
    let held = |version: VersionIx| before.share(&desired.versions[version].name);
    match desired.version(&before.stable) {
        Some(old) if old != desired.stable && !passes(desired.stable) => {
            old_split(desired, open, old, before)
        }
        _ => rising(open, &held, &passes),
    }
}

/// The split while a new stable version is awaited: the old one, with no share above the one that the configuration has now.
///
/// Canaries whose share falls to 0 stay listed, so that the users of the other versions keep their cohorts.
fn old_split(
    desired: &spec::ServiceSpec,
    open: EffectiveSplit,
    old: VersionIx,
    before: &ServiceState,
) -> EffectiveSplit {
    let granted = |version: VersionIx| match version == desired.stable {
        true => Share(Share::WHOLE),
        false => open.granted(version),
    };
    let name = |version: VersionIx| &*desired.versions[version].name;
    let versions = VersionIx::all(desired.versions.len());
    let canaries = versions.filter(|v| *v != old && before.names(name(*v)));
    EffectiveSplit {
        stable: old,
        split: canaries
            .map(|v| (v, granted(v).min(before.share(name(v)))))
            .collect(),
        awaited: vec![desired.stable],
        voided: open.voided,
        flag: open.flag,
        expanded: open.expanded,
    }
}

/// The desired split, without the canaries that had no share before and don't pass their checks.
fn rising(
    mut open: EffectiveSplit,
    held: &dyn Fn(VersionIx) -> Share,
    passes: &dyn Fn(VersionIx) -> bool,
) -> EffectiveSplit {
    for (version, share) in &mut open.split {
        if share.0 > 0 && held(*version).0 == 0 && !passes(*version) {
            *share = Share(0);
            open.awaited.push(*version);
        }
    }
    open
}

impl Snapshot {
    /// Whether the gate holds back a version.
    #[cfg(test)]
    pub fn is_held_back(&self) -> bool {
        self.services.iter().any(|s| !s.awaited.is_empty())
    }

    /// Whether a version that the gate holds back passes its checks by now, so that the next snapshot would differ.
    pub fn can_open(&self) -> bool {
        let passes = |version: &Version| {
            let mut members = version.pool.members.iter();
            members.any(|m| m.endpoint.passes_checks())
        };
        let mut waiting = self.services.iter().flat_map(|s| {
            let versions = s.awaited.iter();
            versions.map(|v| &s.versions[*v])
        });
        waiting.any(passes)
    }

    /// Describes the versions that the gate holds back, one line each.
    pub fn awaited(&self) -> Vec<String> {
        let services = ServiceIx::all(self.services.len());
        services.flat_map(|s| self.awaited_of(s)).collect()
    }

    /// Describes the versions of one service that the gate holds back, one line each.
    pub fn awaited_of(&self, service: ServiceIx) -> Vec<String> {
        let (spec, service) = (&self.spec.services[service], &self.services[service]);
        let line = |version: &VersionIx| {
            let change = match *version == spec.stable {
                true => "becomes stable".to_owned(),
                false if spec.rolling_version() == Some(*version) => {
                    "gets its share of the rollout".to_owned()
                }
                false => format!("gets {} of the traffic", spec.share(*version)),
            };
            format!(
                "service {}: {} {change} once one of its endpoints passes its check; until then the old split stays",
                service.name, service.versions[*version].name
            )
        };
        service.awaited.iter().map(line).collect()
    }
}

#[cfg(test)]
#[path = "effective_tests.rs"]
mod tests;
