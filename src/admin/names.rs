//! The names of a version's endpoints in the status: their addresses, how old these are, and lookups that fail.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Context;
use crate::config::spec::VersionSpec;
use crate::upstream::resolve::name_state::NameState;
use crate::upstream::resolve::record::{LookupName, ResolvedAddress};

/// Most addresses that one line lists.
const LISTED: usize = 8;

/// A name of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NameStatus {
    /// The host, or the service after `srv:`.
    pub name: String,
    /// The addresses in use, sorted; those of a service with their ports.
    pub addresses: Vec<String>,
    /// Seconds since a lookup last succeeded; `None` if none has in this process.
    pub age_s: Option<u64>,
    /// Why the last lookup failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Seconds since lookups began to fail; `None` if they don't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_s: Option<u64>,
}

impl NameStatus {
    fn of(name: &LookupName, state: &NameState, now: Instant) -> Self {
        let seconds = |at: Instant| now.saturating_duration_since(at).as_secs();
        let failure = state.failure();
        Self {
            name: name.to_string(),
            addresses: state.addresses().iter().map(text).collect(),
            age_s: state.refreshed().map(seconds),
            failure: failure.map(|(failure, _)| failure.to_string()),
            failing_s: failure.map(|(_, since)| seconds(since)),
        }
    }

    /// Describes the name in one line: `app.internal: 10.0.0.1, 10.0.0.2 (3s ago)`.
    pub(crate) fn line(&self) -> String {
        let listed = self.addresses.iter().take(LISTED).cloned();
        let mut shown: Vec<String> = listed.collect();
        if self.addresses.len() > LISTED {
            shown.push(format!("{} more", self.addresses.len() - LISTED));
        }
        if shown.is_empty() {
            shown.push("no address".to_owned());
        }
        let mut line = format!("{}: {}", self.name, shown.join(", "));
        if let Some(age) = self.age_s {
            line += &format!(" ({} ago)", words(age));
        }
        if let Some(failure) = &self.failure {
            let since = self.failing_s.unwrap_or_default();
            line += &format!("; lookups have failed for {}: {failure}", words(since));
        }
        line
    }
}

fn words(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

fn text(found: &ResolvedAddress) -> String {
    match found.port {
        Some(port) => SocketAddr::new(found.ip, port).to_string(),
        None => found.ip.to_string(),
    }
}

/// The names of a version's endpoints, each once, in the order of the configuration.
pub(super) fn of_version(context: &Context, version: &VersionSpec) -> Vec<NameStatus> {
    let now = Instant::now();
    // The lock is not poisoned: nothing panics while it is held.
    let known = context.names.lock().expect("names lock");
    let mut all: Vec<NameStatus> = Vec::new();
    for endpoint in &version.endpoints {
        let Some(name) = LookupName::of(&endpoint.address) else {
            continue;
        };
        if let Some(state) = known.get(&name)
            && all.iter().all(|one| one.name != name.to_string())
        {
            all.push(NameStatus::of(&name, state, now));
        }
    }
    all
}

/// For every name, sorted: how many addresses it has, and whether the last lookup succeeded.
pub(super) fn series(context: &Context) -> Vec<(String, usize, bool)> {
    // The lock is not poisoned: nothing panics while it is held.
    let known = context.names.lock().expect("names lock");
    let series = known.iter().map(|(name, state)| {
        let is_successful = state.failure().is_none() && state.is_known();
        (name.to_string(), state.addresses().len(), is_successful)
    });
    let mut all: Vec<_> = series.collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_in_use_and_what_fails() {
        let mut status = NameStatus {
            name: "app.internal".into(),
            addresses: (1..=10).map(|n| format!("10.0.0.{n}")).collect(),
            age_s: Some(65),
            failure: None,
            failing_s: None,
        };
        assert!(status.line().ends_with("10.0.0.8, 2 more (1m 5s ago)"));
        status.addresses.clear();
        status.age_s = None;
        status.failure = Some("no name server answered in time".into());
        status.failing_s = Some(3);
        assert_eq!(
            status.line(),
            "app.internal: no address; lookups have failed for 3s: no name server answered in time"
        );
    }
}
