//! The stable gate: a new stable, or a canary that rises from 0, waits until its version has an endpoint that passes its
//! check; until then the old split stays, lowered where the file lowers it.
//!
//! [`of`] is pure; [`Snapshot::hold_back`] applies it before a snapshot is published.

use super::{Service, Snapshot};
use crate::config::spec::{self, Share};
use crate::routing::Split;
use crate::upstream::Pool;
use crate::upstream::endpoint::flag;

/// Shares as they are in effect, and who is waited for. Versions are indices of the desired service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Effective {
    /// Gets what the split leaves.
    pub stable: usize,
    /// Canaries that have a share or are named in the split that cohorts are laid out by.
    pub split: Vec<(usize, Share)>,
    /// Versions whose stead or share waits for their first pass.
    pub awaited: Vec<usize>,
}

/// What was in effect before, by name: indices may have changed.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    /// The stable version.
    pub stable: &'a str,
    /// The share of a version; 0 for one that was not there.
    pub share: &'a dyn Fn(&str) -> Share,
    /// Whether the split named a version, at whatever share.
    pub named: &'a dyn Fn(&str) -> bool,
}

/// What is to be in effect now. Services that aren't checked, and new ones (`before` is `None`), wait for nothing; nor is
/// anything waited for when the version that would have to stay has left the file.
pub(super) fn of(
    desired: &spec::ServiceSpec,
    before: Option<Before<'_>>,
    passes: impl Fn(usize) -> bool,
) -> Effective {
    let open = Effective {
        stable: desired.stable,
        split: desired.split.clone(),
        awaited: Vec::new(),
    };
    let (Some(_), Some(before)) = (&desired.policies.health, before) else {
        return open;
    };
    let held = |version: usize| (before.share)(&desired.versions[version].name);
    let stayed = desired
        .versions
        .iter()
        .position(|v| v.name == before.stable);
    match stayed {
        Some(old) if old != desired.stable && !passes(desired.stable) => {
            old_split(desired, old, before)
        }
        _ => rising(open, &held, &passes),
    }
}

/// The new stable is waited for: the old one stays, and so do the shares, as far as the file grants them. Canaries that
/// fall to 0 stay in the split, so that the users of the others keep their places.
fn old_split(desired: &spec::ServiceSpec, old: usize, before: Before<'_>) -> Effective {
    let granted = |version: usize| {
        if version == desired.stable {
            return Share(Share::WHOLE);
        }
        let canary = desired.split.iter().find(|(v, _)| *v == version);
        canary.map_or(Share(0), |(_, share)| *share)
    };
    let name = |version: usize| &*desired.versions[version].name;
    let canaries = (0..desired.versions.len()).filter(|v| *v != old && (before.named)(name(*v)));
    Effective {
        stable: old,
        split: canaries
            .map(|v| (v, granted(v).min((before.share)(name(v)))))
            .collect(),
        awaited: vec![desired.stable],
    }
}

/// Canaries that had nothing and don't pass go on having nothing.
fn rising(
    mut open: Effective,
    held: &dyn Fn(usize) -> Share,
    passes: &dyn Fn(usize) -> bool,
) -> Effective {
    for (version, share) in &mut open.split {
        if share.0 > 0 && held(*version).0 == 0 && !passes(*version) {
            *share = Share(0);
            open.awaited.push(*version);
        }
    }
    open
}

impl Service {
    /// Holds back what has to wait, after what was in effect before.
    pub(super) fn hold_back(&mut self, spec: &spec::ServiceSpec, before: Option<Before<'_>>) {
        let effective = of(spec, before, |v| passes(&self.versions[v].pool));
        if !effective.awaited.is_empty() {
            let names: Vec<&str> = spec.versions.iter().map(|v| &*v.name).collect();
            self.routing.split = Split::new(&names, effective.stable, &effective.split);
        }
        self.awaited = effective.awaited;
    }
}

impl Snapshot {
    /// Before it is published after `previous`: holds back what has to wait. True if anything waits.
    pub fn hold_back(&mut self, previous: &Snapshot) -> bool {
        for (spec, service) in self.spec.services.iter().zip(&mut self.services) {
            let old = previous.services.iter().find(|s| s.name == service.name);
            let known = |name: &str| {
                let versions = &old?.versions;
                let version = versions.iter().position(|v| *v.name == *name)?;
                Some((&old?.routing.split, version))
            };
            let share = |name: &str| known(name).map_or(Share(0), |(split, v)| split.share(v));
            let named = |name: &str| known(name).is_some_and(|(split, v)| split.is_named(v));
            let before = old.map(|old| Before {
                stable: &old.versions[old.routing.split.stable()].name,
                share: &share,
                named: &named,
            });
            service.hold_back(spec, before);
        }
        self.is_held_back()
    }

    /// Something waits for a check to pass.
    pub fn is_held_back(&self) -> bool {
        self.services.iter().any(|s| !s.awaited.is_empty())
    }

    /// Whether one of those that are waited for passes now.
    pub fn can_open(&self) -> bool {
        let passing = |v: &usize, s: &Service| passes(&s.versions[*v].pool);
        self.services
            .iter()
            .any(|s| s.awaited.iter().any(|v| passing(v, s)))
    }

    /// A line for each version that is waited for.
    pub fn awaited(&self) -> Vec<String> {
        let services = 0..self.services.len();
        services.flat_map(|s| self.awaited_of(s)).collect()
    }

    /// A line for each version of this service that is waited for.
    pub fn awaited_of(&self, service: usize) -> Vec<String> {
        let (spec, service) = (&self.spec.services[service], &self.services[service]);
        let line = |version: &usize| {
            let wish = match *version == spec.stable {
                true => "becomes stable".to_owned(),
                false => format!("gets {} of the traffic", spec_share(spec, *version)),
            };
            format!(
                "service {}: {} {wish} once one of its endpoints passes its check; until then the old split stays",
                service.name, service.versions[*version].name
            )
        };
        service.awaited.iter().map(line).collect()
    }
}

fn spec_share(spec: &spec::ServiceSpec, version: usize) -> Share {
    let canary = spec.split.iter().find(|(v, _)| *v == version);
    canary.map_or(Share(0), |(_, share)| *share)
}

/// One of its endpoints passes its checks.
fn passes(pool: &Pool) -> bool {
    let fails = flag::UNPROVEN | flag::DOWN;
    let mut members = pool.members.iter();
    members.any(|m| m.endpoint.state.flags() & fails == 0)
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
