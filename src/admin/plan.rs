//! Plans a change: the document of `POST /api/v1/plan` says what a configuration would change.
//!
//! [`plan`] is pure. It compares the running generation with the one that would follow it.

use serde::{Deserialize, Serialize};

use super::history::ChangeLine;
use super::step_warnings::{self, ServiceTraffic};
use super::{Preview, capacity, shares};
use crate::config::Spec;
use crate::config::spec::{ServiceSpec, Share};
use crate::index::{FlagIx, VersionIx};
use crate::routing::{self, Split};
use crate::snapshot::{Service, Snapshot};

/// The changes that a configuration would make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlanReport {
    /// Whether the text is the running one to the byte.
    pub identical: bool,
    /// The running generation.
    pub generation: u64,
    /// Changes that concern no service.
    pub changes: Vec<ChangeLine>,
    /// Services that change, in the order of the new configuration; removed ones at the end.
    pub services: Vec<ServicePlan>,
    /// Keys that change and take effect only after a restart.
    pub restart: Vec<String>,
    /// Settings that are valid but probably not intended, rendered.
    pub warnings: Vec<String>,
}

/// The changes in one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServicePlan {
    /// Name of the service.
    pub service: String,
    /// Changes of the service, in words.
    pub changes: Vec<ChangeLine>,
    /// Users of the cohort that move; `None` if the service has no cohort before and after.
    pub moves: Option<Vec<UserMove>>,
    /// Users that gain or lose a flag, for each flag whose share changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<FlagMove>,
    /// Requests and streams in flight at this moment, by version.
    pub open: Vec<OpenWork>,
    /// Conditions that the stable gate will wait for, in words.
    pub awaits: Vec<String>,
    /// Settings that may be mistakes, in words.
    pub warnings: Vec<String>,
}

/// Users that move from one version to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserMove {
    /// The version before the change.
    pub from: String,
    /// The version after it.
    pub to: String,
    /// Share of all users that move.
    pub users: String,
}

/// Users for whom a flag is switched on or off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FlagMove {
    /// Name of the flag.
    pub flag: String,
    /// Whether the users gain the flag; else they lose it.
    pub gain: bool,
    /// Share of all users for whom the flag changes.
    pub users: String,
}

/// Requests and streams in flight on a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenWork {
    /// Name of the version.
    pub version: String,
    /// Requests in flight.
    pub requests: u32,
    /// Streams and tunnels in flight.
    pub streams: u32,
    /// The number of both on endpoints that leave the configuration. These end at the deadline of the drain.
    pub leaving: u32,
}

impl PlanReport {
    /// Whether anything would change.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.services.is_empty()
    }
}

/// Compares a generation with the running one. `warnings` are those of the text, `traffic` returns the present traffic of a service.
pub(crate) fn plan(
    preview: Preview,
    identical: bool,
    warnings: Vec<String>,
    traffic: impl Fn(&ServiceSpec) -> ServiceTraffic,
) -> PlanReport {
    let Preview {
        changes,
        running,
        next,
    } = preview;
    let (of_services, others): (Vec<_>, Vec<_>) =
        changes.into_iter().partition(|line| line.service.is_some());
    let mut services: Vec<ServicePlan> = Vec::new();
    for line in of_services {
        let name = line.service.clone().unwrap_or_default();
        match services.iter_mut().find(|s| s.service == name) {
            Some(known) => known.changes.push(line),
            None => {
                let mut service = service(&running, &next, name, &traffic);
                service.changes.push(line);
                services.push(service);
            }
        }
    }
    PlanReport {
        identical,
        generation: running.generation,
        changes: others,
        services,
        restart: restart_keys(&running.spec, &next.spec)
            .into_iter()
            .map(str::to_owned)
            .collect(),
        warnings,
    }
}

/// The changed keys that take effect only after a restart.
pub(crate) fn restart_keys(old: &Spec, new: &Spec) -> Vec<&'static str> {
    let listen = |spec: &Spec| spec.admin.as_ref().map(|a| a.listen.clone());
    let changed = [
        ("workers", old.workers != new.workers),
        ("state_dir", old.state_dir != new.state_dir),
        ("admin", listen(old) != listen(new)),
    ];
    let changed = changed.iter().filter(|(_, changed)| *changed);
    changed.map(|(key, _)| *key).collect()
}

/// The plan of a service without its change lines.
fn service(
    running: &Snapshot,
    next: &Snapshot,
    name: String,
    traffic: impl Fn(&ServiceSpec) -> ServiceTraffic,
) -> ServicePlan {
    let at = |spec: &Spec| spec.service(&name);
    let (before, after) = (at(&running.spec), at(&next.spec));
    let before = before.map(|s| (&running.spec.services[s], &*running.services[s]));
    let mut plan = ServicePlan {
        changes: Vec::new(),
        moves: None,
        flags: Vec::new(),
        open: before.map_or_else(Vec::new, |(_, live)| open(live, next, &name)),
        awaits: Vec::new(),
        warnings: Vec::new(),
        service: name,
    };
    if let Some(index) = after {
        let spec = &next.spec.services[index];
        plan.awaits = next.awaited_of(index);
        plan.warnings = capacity::warnings(spec, &shares::desired(spec));
        if let Some((old, live)) = before {
            plan.warnings
                .extend(step_warnings::warnings(spec, || traffic(old)));
            plan.flags = flag_moves((old, live), spec);
            plan.moves = moves((old, &live.routing.split), spec, &mut plan.warnings);
        }
    }
    plan
}

/// The users that move between the split in force and the one that the configuration asks for.
fn moves(
    (old, in_force): (&ServiceSpec, &Split),
    new: &ServiceSpec,
    warnings: &mut Vec<String>,
) -> Option<Vec<UserMove>> {
    let (was, is) = (old.cohort.as_ref()?, new.cohort.as_ref()?);
    if was != is {
        let what = "`cohort` changes, which gives every user a new place: any of them may move";
        warnings.push(what.to_owned());
        return None;
    }
    let names: Vec<&str> = new.versions.iter().map(|v| v.name.as_str()).collect();
    let desired = Split::new(&names, new.stable, &new.split);
    let name = |version: VersionIx| &old.versions[version].name;
    let same = |version: VersionIx| new.version(name(version));
    let moves = routing::moves(in_force, &desired, same);
    Some(
        moves
            .iter()
            .filter(|m| m.users > Share(0))
            .map(|m| UserMove {
                from: name(m.from).clone(),
                to: new.versions[m.to].name.clone(),
                users: m.users.to_string(),
            })
            .collect(),
    )
}

/// The users that gain or lose flags. A user's point for a flag stays, so that nobody gains a flag whose share falls. A flag that
/// begins to follow a rollout has no users at first. One that follows it already keeps those that it has.
fn flag_moves((old, live): (&ServiceSpec, &Service), new: &ServiceSpec) -> Vec<FlagMove> {
    if old.cohort.is_some() && new.cohort.is_some() && old.cohort != new.cohort {
        return Vec::new(); // A warning says that any user may move.
    }
    let find = |service: &ServiceSpec, name: &str| {
        let at = service.flags.iter().position(|flag| flag.name == name);
        at.map(FlagIx)
    };
    let in_force = |at: FlagIx| live.routing.flags[at].share;
    let wanted = |name: &str, before: Share| match find(new, name) {
        Some(at) if new.rolling_flag() == Some(at) => {
            let follows = |was: FlagIx| old.rolling_flag() == Some(was);
            find(old, name)
                .filter(|was| follows(*was))
                .map_or(Share(0), |_| before)
        }
        Some(at) => new.flags[at].share,
        None => Share(0),
    };
    let gone = old
        .flags
        .iter()
        .filter(|flag| !new.flags.iter().any(|now| now.name == flag.name));
    let all = new.flags.iter().chain(gone);
    let moves = all.filter_map(|flag| {
        let before = find(old, &flag.name).map_or(Share(0), in_force);
        let after = wanted(&flag.name, before);
        (before != after).then(|| FlagMove {
            flag: flag.name.clone(),
            gain: after > before,
            users: Share(before.0.abs_diff(after.0)).to_string(),
        })
    });
    moves.collect()
}

/// The requests and streams in flight on the versions of a service. Versions without any are left out.
fn open(live: &Service, next: &Snapshot, name: &str) -> Vec<OpenWork> {
    let after = next.services.iter().find(|s| &*s.name == name);
    let stays = |version: &str, endpoint: &str| {
        let versions = after.iter().flat_map(|s| &s.versions);
        let mut members = versions
            .filter(|v| &*v.name == version)
            .flat_map(|v| &v.pool.members);
        members.any(|m| &*m.endpoint.name == endpoint)
    };
    let of = |version: &crate::snapshot::Version| {
        let mut work = OpenWork {
            version: version.name.to_string(),
            requests: 0,
            streams: 0,
            leaving: 0,
        };
        for member in &version.pool.members {
            let (requests, streams) = member.endpoint.load.apart();
            work.requests += requests;
            work.streams += streams;
            if !stays(&version.name, &member.endpoint.name) {
                work.leaving += requests + streams;
            }
        }
        work
    };
    let all = live.versions.iter().map(of);
    all.filter(|work| work.requests + work.streams > 0)
        .collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
