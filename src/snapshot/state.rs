//! The run-time state of services that a process passes to its successor.
//!
//! A configuration file says what is desired; this says what was in effect: the split behind the gate, and since when versions
//! have no share. It is written by one program and read by another, possibly of another version: unknown fields are ignored,
//! missing ones have defaults, and fields keep their meaning for ever.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Sessions, Snapshot};
use crate::config::spec::Share;
use crate::routing::sticky::Past;

/// What one service's successor continues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceState {
    /// The service.
    pub(crate) name: String,
    /// The version that is stable in effect.
    pub(crate) stable: String,
    /// Effective shares by version, in thousandths of a percent: those above 0, and of every version that the split names.
    pub(crate) shares: BTreeMap<String, u32>,
    /// Versions whose new share waits for their first passing check.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) awaiting: Vec<String>,
    /// By version, where there is something to know.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) sessions: BTreeMap<String, SessionState>,
}

/// What is known of a version's sticky sessions. Times are in seconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SessionState {
    /// Since when the version has no share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) left_s: Option<u64>,
    /// Sessions that began until then are void.
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
    /// What a successor continues, by service.
    pub(crate) fn state(&self) -> Vec<ServiceState> {
        let mut states = Vec::with_capacity(self.services.len());
        for service in &self.services {
            let split = &service.routing.split;
            let name = |version: usize| service.versions[version].name.to_string();
            let shares = (0..service.versions.len())
                .filter(|v| split.share(*v).0 > 0 || split.is_named(*v))
                .map(|v| (name(v), split.share(v).0));
            let pasts = service.sessions.iter().flat_map(Sessions::pasts);
            let sessions = pasts
                .enumerate()
                .map(|(v, past)| (name(v), SessionState::of(past)))
                .filter(|(_, state)| *state != SessionState::default());
            states.push(ServiceState {
                name: service.name.to_string(),
                stable: name(split.stable()),
                shares: shares.collect(),
                awaiting: service.awaited.iter().map(|v| name(*v)).collect(),
                sessions: sessions.collect(),
            });
        }
        states
    }
}

impl ServiceState {
    /// The effective share of a version; 0 for one that was not there.
    pub(super) fn share(&self, version: &str) -> Share {
        Share(self.shares.get(version).copied().unwrap_or(0))
    }

    /// Whether the split named the version, at whatever share.
    pub(super) fn names(&self, version: &str) -> bool {
        self.shares.contains_key(version)
    }

    /// `None` if nothing is known of the version. One that has a share and no entry under `sessions` has had one all along.
    pub(super) fn past(&self, version: &str, id: u64) -> Option<Past> {
        let told = self.sessions.get(version).copied();
        let has_share = self.share(version).0 > 0;
        let state = told.or(has_share.then(SessionState::default))?;
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
