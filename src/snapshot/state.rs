//! The run-time state of services, as a process passes it to its successor.
//!
//! The configuration file says what is desired. This state is the part that was in effect: the split behind the gate, and the past
//! of versions that sticky sessions depend on. The reader may be a program of another release, older or newer. So unknown fields
//! are ignored, missing ones have defaults, and the meaning of a field never changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Sessions, Snapshot};
use crate::config::spec::Share;
use crate::index::VersionIx;
use crate::routing::sticky::Past;

/// The state of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceState {
    /// Name of the service.
    pub name: String,
    /// The effective stable version.
    pub stable: String,
    /// Effective shares by version, in thousandths of a percent. Contains every share above 0 and every version that the split
    /// names.
    pub shares: BTreeMap<String, u32>,
    /// Versions whose new role or share waits for a passing check.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub awaiting: Vec<String>,
    /// Sticky sessions by version. Versions whose state is the default are left out.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sessions: BTreeMap<String, SessionState>,
}

/// The state of a version's sticky sessions. Times are in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionState {
    /// When the version lost its share; `None` while it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) left_s: Option<u64>,
    /// Sessions that began at this time or earlier are void.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) voided_s: Option<u64>,
}

impl SessionState {
    fn of(past: &Past) -> Self {
        Self {
            left_s: past.left_s,
            voided_s: past.voided_s,
        }
    }
}

impl Snapshot {
    /// The state of all services, for a successor or for the next generation.
    pub fn state(&self) -> Vec<ServiceState> {
        let mut states = Vec::with_capacity(self.services.len());
        for service in &self.services {
            let split = &service.routing.split;
            let name = |version: VersionIx| service.versions[version].name.to_string();
            let shares = VersionIx::all(service.versions.len())
                .filter(|v| split.share(*v).0 > 0 || split.is_named(*v))
                .map(|v| (name(v), split.share(v).0));
            let pasts = service.sessions.iter().flat_map(Sessions::pasts);
            let sessions = VersionIx::all(service.versions.len())
                .zip(pasts)
                .map(|(v, past)| (name(v), SessionState::of(past)))
                .filter(|(_, state)| *state != SessionState::default());
            states.push(ServiceState {
                name: service.name.to_string(),
                // A service that answers its requests itself may have no versions.
                stable: { service.versions.get(split.stable().0) }
                    .map_or_else(String::new, |v| v.name.to_string()),
                shares: shares.collect(),
                awaiting: service.awaited.iter().map(|v| name(*v)).collect(),
                sessions: sessions.collect(),
            });
        }
        states
    }
}

impl ServiceState {
    /// The effective share of a version; 0 for unknown versions.
    pub(super) fn share(&self, version: &str) -> Share {
        Share(self.shares.get(version).copied().unwrap_or(0))
    }

    /// Whether the split named the version, even with a share of 0.
    pub(super) fn names(&self, version: &str) -> bool {
        self.shares.contains_key(version)
    }

    /// The past of a version, `None` if it is unknown. A version with a share but no entry in `sessions` has the default past: it
    /// has had a share all along.
    pub(super) fn past(&self, version: &str, id: u64) -> Option<Past> {
        let recorded = self.sessions.get(version).copied();
        let has_share = self.share(version).0 > 0;
        let state = recorded.or(has_share.then(SessionState::default))?;
        Some(Past {
            id,
            left_s: state.left_s,
            voided_s: state.voided_s,
        })
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
