//! Drains of endpoints: carries out the requests of operators, and saves and restores drains for a successor.
//!
//! A drain is a flag of the endpoint's shared state, so workers see it with their next request, without a new snapshot. It
//! survives reloads, because endpoint states do.

use std::collections::HashSet;

use super::handover::EndpointName;
use crate::admin::drain::{DrainRefused, DrainReport, DrainRequest, DrainSelection};
use crate::snapshot::Snapshot;
use crate::upstream::endpoint::{Endpoint, flag};

/// Drains the endpoints that a request selects, or ends their drain. The call is idempotent.
///
/// # Errors
/// See [`DrainRefused`]; no endpoint has changed then.
pub(super) fn drain(
    snapshot: &Snapshot,
    service: &str,
    request: &DrainRequest,
) -> Result<DrainReport, DrainRefused> {
    let selection = DrainSelection::of(snapshot, service, request)?;
    for (version, endpoint) in &selection.endpoints {
        let (changed, what) = match request.undo {
            true => (
                endpoint.state.lower(flag::DRAINING),
                "endpoint drain ended by operator",
            ),
            false => (
                endpoint.state.raise(flag::DRAINING),
                "endpoint drained by operator",
            ),
        };
        if changed {
            let version = &version.name;
            tracing::info!(service, %version, endpoint = %endpoint.name, "{what}");
        }
    }
    Ok(selection.report(!request.undo))
}

/// The endpoints that operators are draining.
pub(super) fn draining(snapshot: &Snapshot) -> Vec<EndpointName> {
    let mut all = Vec::new();
    each_endpoint(snapshot, |name, endpoint| {
        if endpoint.state.flags() & flag::DRAINING != 0 {
            all.push(name.map(str::to_owned));
        }
    });
    all
}

/// Sets the drains to exactly these endpoints: those that operators were draining in the predecessor.
pub(super) fn set_draining(snapshot: &Snapshot, draining: &[EndpointName]) {
    let draining: HashSet<[&str; 3]> = draining
        .iter()
        .map(|d| d.each_ref().map(|s| &**s))
        .collect();
    each_endpoint(snapshot, |name, endpoint| {
        match draining.contains(&name) {
            true => endpoint.state.raise(flag::DRAINING),
            false => endpoint.state.lower(flag::DRAINING),
        };
    });
}

fn each_endpoint<'a>(snapshot: &'a Snapshot, mut visit: impl FnMut([&'a str; 3], &Endpoint)) {
    for service in &snapshot.services {
        for version in &service.versions {
            for member in &version.pool.members {
                let name = [&*service.name, &*version.name, &*member.endpoint.name];
                visit(name, &member.endpoint);
            }
        }
    }
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
