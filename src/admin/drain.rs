//! Drains: an operator takes endpoints out, and sees what is still in flight on them.

use serde::{Deserialize, Serialize};

use crate::snapshot::Snapshot;
use crate::upstream::endpoint::flag;

/// Which endpoints of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    /// Only of this version.
    pub version: Option<String>,
    /// Only this one, as the file names it.
    pub endpoint: Option<String>,
    /// Ends the drain.
    pub undo: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// The service.
    pub service: String,
    /// Whether they are drained now.
    pub draining: bool,
    /// Each of them.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint that was meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its version.
    pub version: String,
    /// As the file names it.
    pub address: String,
    /// Requests that are still in flight.
    pub requests: u32,
    /// Streams and tunnels that are.
    pub streams: u32,
}

/// Drains what is meant, or ends that: workers see it with their next request. Saying it again changes nothing.
///
/// # Errors
/// There is no such service, version or endpoint.
pub fn drain(snapshot: &Snapshot, service: &str, wanted: &Wanted) -> Result<Drained, String> {
    let found = snapshot.services.iter().find(|s| *s.name == *service);
    let found = found.ok_or_else(|| format!("there is no service `{service}`"))?;
    let is = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|w| w == name);
    let mut endpoints = Vec::new();
    for version in &found.versions {
        if !is(&wanted.version, &version.name) {
            continue;
        }
        for member in &version.pool.members {
            let endpoint = &member.endpoint;
            if !is(&wanted.endpoint, &endpoint.name) {
                continue;
            }
            let changed = match wanted.undo {
                true => endpoint.state.lower(flag::DRAINING),
                false => endpoint.state.raise(flag::DRAINING),
            };
            if changed {
                let what = if wanted.undo {
                    "is used again"
                } else {
                    "is drained"
                };
                tracing::info!(
                    "{service} {}: {} {what}, by an operator",
                    version.name,
                    endpoint.name
                );
            }
            let (requests, streams) = endpoint.load.apart();
            endpoints.push(Endpoint {
                version: version.name.to_string(),
                address: endpoint.name.to_string(),
                requests,
                streams,
            });
        }
    }
    if endpoints.is_empty() {
        return Err(match (&wanted.version, &wanted.endpoint) {
            (Some(version), None) => format!("{service} has no version `{version}` with endpoints"),
            (_, Some(endpoint)) => format!("{service} has no endpoint `{endpoint}` there"),
            (None, None) => format!("{service} has no endpoints"),
        });
    }
    Ok(Drained {
        service: service.to_owned(),
        draining: !wanted.undo,
        endpoints,
    })
}
