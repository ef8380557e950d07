//! Drains: an operator takes endpoints out, and sees what is still in flight on them.

use serde::{Deserialize, Serialize};

use crate::snapshot::{Service, Snapshot, Version};
use crate::upstream::Endpoint;
use crate::upstream::endpoint::flag;

/// Which endpoints of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Wanted {
    /// Only of this version.
    pub version: Option<String>,
    /// Only this one, as the file names it.
    pub endpoint: Option<String>,
    /// Ends the drain.
    pub undo: bool,
    /// Even if nothing of the service answers then.
    pub force: bool,
}

impl Wanted {
    fn names(&self, version: &Version, endpoint: &Endpoint) -> bool {
        let is = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|w| w == name);
        is(&self.version, &version.name) && is(&self.endpoint, &endpoint.name)
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Drained {
    /// The service.
    pub service: String,
    /// Whether they are drained now.
    pub draining: bool,
    /// Each of them.
    pub endpoints: Vec<DrainTarget>,
}

/// An endpoint that was meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrainTarget {
    /// Its version.
    pub version: String,
    /// As the file names it.
    pub address: String,
    /// Requests that are still in flight.
    pub requests: u32,
    /// Streams and tunnels that are.
    pub streams: u32,
}

impl DrainTarget {
    fn of(version: &Version, endpoint: &Endpoint) -> Self {
        let (requests, streams) = endpoint.load.apart();
        Self {
            version: version.name.to_string(),
            address: endpoint.name.to_string(),
            requests,
            streams,
        }
    }
}

/// Why nothing was drained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DrainRefused {
    /// There is no such service, version or endpoint.
    Unknown(String),
    /// Nothing of the service would answer any more, and `force` was not given.
    Last(String),
}

/// Drains what is meant, or ends that: workers see it with their next request. Saying it again changes nothing.
///
/// # Errors
/// See [`DrainRefused`]; nothing has changed then.
pub(crate) fn drain(
    snapshot: &Snapshot,
    service: &str,
    wanted: &Wanted,
) -> Result<Drained, DrainRefused> {
    let found = snapshot.services.iter().find(|s| *s.name == *service);
    let found =
        found.ok_or_else(|| DrainRefused::Unknown(format!("there is no service `{service}`")))?;
    let meant: Vec<(&Version, &Endpoint)> = found
        .versions
        .iter()
        .flat_map(|version| {
            version
                .pool
                .members
                .iter()
                .map(move |m| (version, &*m.endpoint))
        })
        .filter(|(version, endpoint)| wanted.names(version, endpoint))
        .collect();
    if meant.is_empty() {
        return Err(DrainRefused::Unknown(
            match (&wanted.version, &wanted.endpoint) {
                (Some(version), None) => {
                    format!("{service} has no version `{version}` with endpoints")
                }
                (_, Some(endpoint)) => format!("{service} has no endpoint `{endpoint}` there"),
                (None, None) => format!("{service} has no endpoints"),
            },
        ));
    }
    if !wanted.undo && !wanted.force {
        outage(found, wanted).map_or(Ok(()), |why| Err(DrainRefused::Last(why)))?;
    }
    for (version, endpoint) in &meant {
        mark(found, version, endpoint, wanted.undo);
    }
    Ok(Drained {
        service: service.to_owned(),
        draining: !wanted.undo,
        endpoints: meant.iter().map(|(v, e)| DrainTarget::of(v, e)).collect(),
    })
}

fn mark(service: &Service, version: &Version, endpoint: &Endpoint, undo: bool) {
    let (changed, what) = match undo {
        true => (
            endpoint.state.lower(flag::DRAINING),
            "drain ended by an operator",
        ),
        false => (
            endpoint.state.raise(flag::DRAINING),
            "drained by an operator",
        ),
    };
    if changed {
        let (service, version) = (&service.name, &version.name);
        tracing::info!(%service, %version, endpoint = %endpoint.name, "{what}");
    }
}

/// Why the drain would leave nothing of the service that answers; `None`: something would, or nothing does already and
/// the drain takes nothing more away.
fn outage(service: &Service, wanted: &Wanted) -> Option<String> {
    let name = &service.name;
    if wanted.version.is_none() && wanted.endpoint.is_none() {
        return Some(format!(
            "draining every version of {name} would leave nothing that answers; say which version, or force it (--force)"
        ));
    }
    // Versions that get traffic or take over. The others answer nobody, however well they are.
    let split = &service.routing.split;
    let serving = service.versions.iter().enumerate().filter(|(at, _)| {
        let fallback = service.policies.fallback == Some(*at);
        split.share(*at).0 > 0 || *at == split.stable() || fallback
    });
    let (mut answering, mut undrained) = (Left::default(), Left::default());
    for (_, version) in serving {
        for endpoint in version.pool.members.iter().map(|m| &*m.endpoint) {
            let flags = endpoint.state.flags();
            let taken = wanted.names(version, endpoint);
            if flags & flag::DRAINING == 0 {
                undrained.count(taken);
            }
            if flags & !flag::SUSPECT == 0 {
                answering.count(taken);
            }
        }
    }
    // Where no endpoint is well, the last ones are used in panic: they count instead.
    let left = if answering.is_empty() {
        undrained
    } else {
        answering
    };
    if left.stay > 0 || left.taken == 0 {
        return None;
    }
    let others = service
        .versions
        .iter()
        .filter(|v| wanted.version.as_deref() != Some(&*v.name) && v.pool.census().well > 0);
    let others: Vec<&str> = others.map(|v| &*v.name).collect();
    let hint = match &others[..] {
        [] => String::new(),
        names => format!(
            " ({} would answer, but has no share and is not the fallback)",
            names.join(", ")
        ),
    };
    let what = match (&wanted.version, &wanted.endpoint) {
        (_, Some(endpoint)) => format!("endpoint {endpoint}"),
        (version, None) => version.clone().unwrap_or_default(),
    };
    Some(format!(
        "draining {what} would leave nothing of {name} that answers{hint}; shift the traffic first, or force it (--force)"
    ))
}

/// Endpoints that a drain takes, and those that stay.
#[derive(Clone, Copy, Debug, Default)]
struct Left {
    taken: usize,
    stay: usize,
}

impl Left {
    fn count(&mut self, taken: bool) {
        let counter = if taken {
            &mut self.taken
        } else {
            &mut self.stay
        };
        *counter += 1;
    }

    fn is_empty(self) -> bool {
        self.taken + self.stay == 0
    }
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
