//! The mirror of a service in `/api/v1/status`, and the document of `/api/v1/services/{service}/mirror`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::index::ServiceIx;
use crate::snapshot::Snapshot;
use crate::telemetry::mirror::{KEPT_DIFFERENCES, MirrorDifference};

/// Number of differences in the status.
const IN_STATUS: usize = 5;

/// Outcomes and differences of the copies of a service's requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MirrorStatus {
    /// The version that gets the copies.
    pub to: String,
    /// Share of the requests that are copied.
    pub share: String,
    /// Number of selected requests by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Number of differences by kind, the most frequent first.
    pub kinds: Vec<KindStatus>,
    /// The latest differences, the newest first.
    pub differences: Vec<DifferenceStatus>,
}

/// The number of responses that differed in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KindStatus {
    /// `status`, `header:NAME`, `json:PATH`; `other` for those beyond the number that is counted apart.
    pub kind: String,
    /// Number of copies.
    pub count: u64,
}

/// A copy whose response differed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DifferenceStatus {
    /// `x-request-id` of the request and its copy.
    pub id: String,
    /// When the response to the copy was complete, RFC 3339.
    pub at: String,
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The version that served the user.
    pub version: String,
    /// The endpoint that served the copy.
    pub endpoint: String,
    /// The differences between the responses.
    pub findings: Vec<FindingStatus>,
    /// The JSON bodies, if they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bodies: Option<BodiesStatus>,
}

/// One difference between two responses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FindingStatus {
    /// Kind of the difference, as in [`KindStatus`].
    pub kind: String,
    /// Value in the response to the user.
    pub live: String,
    /// Value in the response to the copy.
    pub copy: String,
}

/// The bodies of both responses, without secrets and cut to 4 KiB each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BodiesStatus {
    /// Body of the response to the user.
    pub live: String,
    /// Body of the response to the copy.
    pub copy: String,
}

impl MirrorStatus {
    /// The mirror of a service with its latest differences; `None` if it has none.
    pub(super) fn brief(snapshot: &Snapshot, service: ServiceIx) -> Option<Self> {
        Self::of(snapshot, service, IN_STATUS)
    }

    /// The mirror of the service with this name, with all differences that are kept.
    ///
    /// # Errors
    /// A message that says why there is none.
    pub(super) fn full(snapshot: &Snapshot, service: &str) -> Result<Self, String> {
        let mut services = ServiceIx::enumerate(&snapshot.spec.services);
        let Some((at, _)) = services.find(|(_, spec)| spec.name == service) else {
            return Err(format!("there is no service {service:?}"));
        };
        Self::of(snapshot, at, KEPT_DIFFERENCES)
            .ok_or_else(|| format!("service {service:?} has no mirror"))
    }

    fn of(snapshot: &Snapshot, service: ServiceIx, most: usize) -> Option<Self> {
        let target = snapshot.services[service.0].mirror.as_ref()?;
        let versions = &snapshot.spec.services[service].versions;
        let outcomes = target.log.outcomes();
        let kinds = target.log.kinds().into_iter();
        let differences = target.log.latest(most);
        Some(Self {
            to: versions[target.spec.to].name.clone(),
            share: target.spec.share.to_string(),
            outcomes: outcomes
                .map(|(outcome, count)| (outcome.to_string(), count))
                .collect(),
            kinds: kinds
                .map(|(kind, count)| KindStatus { kind, count })
                .collect(),
            differences: differences.iter().map(|d| difference(d)).collect(),
        })
    }
}

fn difference(found: &MirrorDifference) -> DifferenceStatus {
    let findings = found.findings.iter().map(|finding| FindingStatus {
        kind: finding.kind.clone(),
        live: finding.live.clone(),
        copy: finding.copy.clone(),
    });
    let bodies = found.bodies.as_ref().map(|(live, copy)| BodiesStatus {
        live: live.clone(),
        copy: copy.clone(),
    });
    DifferenceStatus {
        id: found.id.clone(),
        at: humantime::format_rfc3339_millis(found.at).to_string(),
        method: found.method.clone(),
        path: found.path.clone(),
        version: found.version.clone(),
        endpoint: found.endpoint.clone(),
        findings: findings.collect(),
        bodies,
    }
}
