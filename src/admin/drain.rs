//! Drains by an operator: which endpoints a request selects, when it is refused, and the report of what is in flight on them.
//!
//! The control thread carries the drain out.

use serde::{Deserialize, Serialize};

use crate::index::VersionIx;
use crate::snapshot::{Service, Snapshot, Version};
use crate::upstream::Endpoint;
use crate::upstream::endpoint::flag;

/// The body of a drain request: which endpoints of a service to drain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DrainRequest {
    /// Drain only this version.
    pub version: Option<String>,
    /// Drain only this endpoint, as the configuration names it.
    pub endpoint: Option<String>,
    /// End the drain instead.
    pub undo: bool,
    /// Drain even if no endpoint of the service is left to answer.
    pub force: bool,
}

impl DrainRequest {
    fn selects(&self, version: &Version, endpoint: &Endpoint) -> bool {
        let is = |filter: &Option<String>, name: &str| filter.as_ref().is_none_or(|f| f == name);
        // A name selects all of its addresses.
        let is_named = is(&self.endpoint, &endpoint.name) || is(&self.endpoint, endpoint.host());
        is(&self.version, &version.name) && is_named
    }
}

/// The response to a drain request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrainReport {
    /// Name of the service.
    pub service: String,
    /// Whether the endpoints are drained now.
    pub draining: bool,
    /// The endpoints that the request selects.
    pub endpoints: Vec<DrainTarget>,
}

/// An endpoint that a drain request selects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrainTarget {
    /// Name of the version that the endpoint belongs to.
    pub version: String,
    /// Address of the endpoint, as the configuration names it.
    pub address: String,
    /// Requests in flight.
    pub requests: u32,
    /// Streams and tunnels in flight.
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

/// Why a drain request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DrainRefused {
    /// The service, version or endpoint does not exist.
    Unknown(String),
    /// No endpoint of the service would be left to answer, and `force` is not set.
    Last(String),
}

/// The endpoints that a request selects, each with its version.
#[derive(Debug)]
pub(crate) struct DrainSelection<'a> {
    /// The service of the endpoints.
    pub service: &'a Service,
    /// The endpoints, at least one.
    pub endpoints: Vec<(&'a Version, &'a Endpoint)>,
}

impl<'a> DrainSelection<'a> {
    /// Selects endpoints of a service.
    ///
    /// # Errors
    /// See [`DrainRefused`].
    pub(crate) fn of(
        snapshot: &'a Snapshot,
        service: &str,
        request: &DrainRequest,
    ) -> Result<Self, DrainRefused> {
        let found = snapshot.services.iter().find(|s| *s.name == *service);
        let found = found
            .ok_or_else(|| DrainRefused::Unknown(format!("there is no service `{service}`")))?;
        let selected: Vec<(&'a Version, &'a Endpoint)> = found
            .versions
            .iter()
            .flat_map(|version| {
                version
                    .pool
                    .members
                    .iter()
                    .map(move |m| (version, &*m.endpoint))
            })
            .filter(|(version, endpoint)| request.selects(version, endpoint))
            .collect();
        if selected.is_empty() {
            return Err(DrainRefused::Unknown(
                match (&request.version, &request.endpoint) {
                    (Some(version), None) => {
                        format!("service {service} has no version `{version}` with endpoints")
                    }
                    (Some(version), Some(endpoint)) => {
                        format!("version {version} of {service} has no endpoint `{endpoint}`")
                    }
                    (None, Some(endpoint)) => {
                        format!("service {service} has no endpoint `{endpoint}`")
                    }
                    (None, None) => format!("service {service} has no endpoints"),
                },
            ));
        }
        if !request.undo && !request.force {
            outage(found, request).map_or(Ok(()), |why| Err(DrainRefused::Last(why)))?;
        }
        Ok(Self {
            service: found,
            endpoints: selected,
        })
    }

    /// Reports what is in flight on the endpoints. `draining` says whether they are drained now.
    pub(crate) fn report(&self, draining: bool) -> DrainReport {
        let targets = self.endpoints.iter();
        DrainReport {
            service: self.service.name.to_string(),
            draining,
            endpoints: targets.map(|(v, e)| DrainTarget::of(v, e)).collect(),
        }
    }
}

/// Says why the drain would leave the service without an endpoint to answer. `None` if one is left, or if none answers
/// already and the drain makes no difference.
fn outage(service: &Service, request: &DrainRequest) -> Option<String> {
    let name = &service.name;
    if request.version.is_none() && request.endpoint.is_none() {
        return Some(format!(
            "draining every version of {name} would leave nothing to answer requests; name a version, or use --force"
        ));
    }
    let answered = service
        .routing
        .version_answers
        .iter()
        .any(|answers| *answers);
    if service.routing.answers || answered {
        return None;
    }
    // Only versions that get traffic or may take over count. Others get no requests even if they are healthy.
    let split = &service.routing.split;
    let all = VersionIx::enumerate(&service.versions);
    let serving = all.filter(|(at, _)| {
        let fallback = service.policies.fallback == Some(*at);
        split.share(*at).0 > 0 || *at == split.stable() || fallback
    });
    let (mut usable, mut undrained) = (Remaining::default(), Remaining::default());
    for (_, version) in serving {
        for endpoint in version.pool.members.iter().map(|m| &*m.endpoint) {
            let flags = endpoint.state.flags();
            let taken = request.selects(version, endpoint);
            if flags & flag::DRAINING == 0 {
                undrained.count(taken);
            }
            if flags & !flag::SUSPECT == 0 {
                usable.count(taken);
            }
        }
    }
    // If no endpoint is usable, the panic threshold puts all undrained ones back in use, so those count instead.
    let left = if usable.is_empty() { undrained } else { usable };
    if left.kept > 0 || left.taken == 0 {
        return None;
    }
    let others = service
        .versions
        .iter()
        .filter(|v| request.version.as_deref() != Some(&*v.name) && v.pool.counts().usable > 0);
    let others: Vec<&str> = others.map(|v| &*v.name).collect();
    let hint = match &others[..] {
        [] => String::new(),
        names => format!(
            " (usable, but without a share and not the fallback: {})",
            names.join(", ")
        ),
    };
    let what = match (&request.version, &request.endpoint) {
        (_, Some(endpoint)) => format!("endpoint {endpoint}"),
        (version, None) => version.clone().unwrap_or_default(),
    };
    Some(format!(
        "draining {what} would leave nothing of {name} to answer requests{hint}; shift the traffic first, or use --force"
    ))
}

/// Numbers of endpoints that a drain takes out and leaves.
#[derive(Clone, Copy, Debug, Default)]
struct Remaining {
    taken: usize,
    kept: usize,
}

impl Remaining {
    fn count(&mut self, taken: bool) {
        let counter = if taken {
            &mut self.taken
        } else {
            &mut self.kept
        };
        *counter += 1;
    }

    fn is_empty(self) -> bool {
        self.taken + self.kept == 0
    }
}
