//! What is known about the fleet that the proxy belongs to: `fleet` in `/api/v1/status`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// The fleet, as this member sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FleetStatus {
    /// The fleet's name.
    pub name: String,
    /// Name of this member.
    pub member: String,
    /// Whether etcd answers and has a majority of its own members.
    pub connected: bool,
    /// The etcd member that this member is connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Seconds since etcd was last connected; absent while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone_s: Option<u64>,
    /// Why this member doesn't take part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Revision of etcd's store as of the last change of a member.
    #[serde(default)]
    pub revision: i64,
    /// Live members by name, this one included once it has joined. Outdated while this one is alone.
    #[serde(default)]
    pub members: Vec<FleetMember>,
    /// Differences between the members' configurations where they should be the same.
    #[serde(default)]
    pub disagreements: Vec<String>,
    /// The tables that the members share; absent if they share none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<SharedConfigStatus>,
}

/// The tables that the members of a fleet share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SharedConfigStatus {
    /// Key of the tables in etcd.
    pub key: String,
    /// The newest revision that this member has seen; 0 if it has seen none since it started, or the key is gone.
    pub revision: i64,
    /// Who wrote the tables in use, if that is known.
    pub by: Option<String>,
    /// Why the newest tables aren't in use.
    pub error: Option<String>,
}

/// A member of the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FleetMember {
    /// Name of the member.
    pub name: String,
    /// Version of the program that it runs.
    pub version: String,
}

/// Fingerprints of settings that must be the same on all members, by service. None of them reveals a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprints {
    /// Fingerprint of the plan of the service's rollout.
    #[serde(default)]
    pub plans: BTreeMap<String, String>,
    /// Fingerprint of the key that seals its sticky cookies.
    #[serde(default)]
    pub sticky: BTreeMap<String, String>,
    /// Fingerprint of the keys and the salt of its cohort.
    #[serde(default)]
    pub cohorts: BTreeMap<String, String>,
}

/// A member, with what it says about its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownMember {
    /// Version of the program that it runs.
    pub version: String,
    /// Distinguishes processes that have the same name one after the other.
    pub instance: String,
    pub fingerprints: Fingerprints,
}

/// The connection to etcd.
#[derive(Clone, Debug)]
pub(crate) enum FleetLink {
    /// etcd answers at this endpoint.
    Connected(String),
    /// etcd hasn't answered since this time, for this reason if it is known.
    Alone(Instant, Option<String>),
}

/// The state of the fleet, as this member knows it.
#[derive(Clone, Debug)]
pub(crate) struct FleetState {
    pub name: String,
    pub member: String,
    pub link: FleetLink,
    /// Why this member hasn't joined although etcd answers.
    pub fault: Option<String>,
    pub revision: i64,
    pub members: BTreeMap<String, KnownMember>,
    /// Fingerprints of this member's own configuration.
    pub own: Fingerprints,
    /// The tables that the members share.
    pub config: Option<SharedConfigStatus>,
}

/// The state of the fleet, which the control thread updates. `None` without `[fleet]`.
#[derive(Debug, Default)]
pub(crate) struct FleetView(Mutex<Option<FleetState>>);

impl FleetView {
    /// Replaces the state.
    pub(crate) fn set(&self, state: Option<FleetState>) {
        // The lock is not poisoned: nothing panics while it is held.
        *self.0.lock().expect("fleet lock") = state;
    }

    /// Changes the state, if there is one.
    pub(crate) fn update(&self, change: impl FnOnce(&mut FleetState)) {
        // The lock is not poisoned: nothing panics while it is held.
        if let Some(state) = self.0.lock().expect("fleet lock").as_mut() {
            change(state);
        }
    }

    /// Number of members that are known; 0 without a fleet.
    pub(crate) fn members(&self) -> usize {
        // The lock is not poisoned: nothing panics while it is held.
        let state = self.0.lock().expect("fleet lock");
        state.as_ref().map_or(0, |state| state.members.len())
    }

    /// Differences between the members' configurations where they should be the same.
    pub(crate) fn disagreements(&self) -> Vec<String> {
        // The lock is not poisoned: nothing panics while it is held.
        let state = self.0.lock().expect("fleet lock");
        state.as_ref().map_or(Vec::new(), FleetState::disagreements)
    }

    /// The state as the API shows it.
    pub(crate) fn status(&self, now: Instant) -> Option<FleetStatus> {
        // The lock is not poisoned: nothing panics while it is held.
        let state = self.0.lock().expect("fleet lock");
        state.as_ref().map(|state| state.status(now))
    }
}

impl FleetState {
    fn disagreements(&self) -> Vec<String> {
        disagreements(&self.own, &self.member, &self.members)
    }

    fn status(&self, now: Instant) -> FleetStatus {
        let (endpoint, alone, error) = match &self.link {
            FleetLink::Connected(endpoint) => (Some(endpoint.clone()), None, None),
            FleetLink::Alone(since, error) => (None, Some(*since), error.clone()),
        };
        let members = { self.members.iter() }.map(|(name, member)| FleetMember {
            name: name.clone(),
            version: member.version.clone(),
        });
        FleetStatus {
            name: self.name.clone(),
            member: self.member.clone(),
            connected: alone.is_none(),
            endpoint,
            alone_s: alone.map(|since| now.saturating_duration_since(since).as_secs()),
            error: error.or_else(|| self.fault.clone()),
            revision: self.revision,
            members: members.collect(),
            disagreements: self.disagreements(),
            config: self.config.clone(),
        }
    }
}

/// The name of a compared setting, and its fingerprints by service.
type Aspect = (&'static str, fn(&Fingerprints) -> &BTreeMap<String, String>);

/// Lists the settings that other members have differently. A service that they don't have isn't compared.
fn disagreements(
    own: &Fingerprints,
    own_name: &str,
    members: &BTreeMap<String, KnownMember>,
) -> Vec<String> {
    let mut found = Vec::new();
    let aspects: [Aspect; 3] = [
        ("rollout plan", |f| &f.plans),
        ("sticky key", |f| &f.sticky),
        ("cohort", |f| &f.cohorts),
    ];
    for (aspect, of) in aspects {
        for (service, fingerprint) in of(own) {
            let differs = |(name, member): &(&String, &KnownMember)| {
                let other = of(&member.fingerprints).get(service);
                *name != own_name && other.is_some_and(|other| other != fingerprint)
            };
            let others: Vec<_> = { members.iter() }
                .filter(differs)
                .map(|(name, _)| name.as_str())
                .collect();
            if !others.is_empty() {
                let others = others.join(", ");
                found.push(format!("service {service}: other {aspect} on {others}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn prints(plan: &str, sticky: &str) -> Fingerprints {
        let one = |value: &str| BTreeMap::from([("shop".to_owned(), value.to_owned())]);
        Fingerprints {
            plans: one(plan),
            sticky: one(sticky),
            ..Fingerprints::default()
        }
    }

    fn member(fingerprints: Fingerprints) -> KnownMember {
        KnownMember {
            version: "0.1.0".to_owned(),
            instance: "1".to_owned(),
            fingerprints,
        }
    }

    fn state() -> FleetState {
        let members = [
            ("a", prints("p", "k")),
            ("b", prints("p", "k")),
            ("c", prints("q", "k")),
            ("d", prints("q", "l")),
        ];
        let members = members.map(|(name, prints)| (name.to_owned(), member(prints)));
        FleetState {
            name: "front".to_owned(),
            member: "a".to_owned(),
            link: FleetLink::Connected("http://127.0.0.1:2379".to_owned()),
            fault: None,
            revision: 7,
            members: BTreeMap::from(members),
            own: prints("p", "k"),
            config: None,
        }
    }

    #[test]
    fn members_that_differ_are_named_with_what_differs() {
        let status = state().status(Instant::now());
        assert_eq!(
            status.disagreements,
            [
                "service shop: other rollout plan on c, d",
                "service shop: other sticky key on d",
            ]
        );
    }

    #[test]
    fn a_service_that_another_member_lacks_is_no_disagreement() {
        let mut state = state();
        state.members.clear();
        let other = member(Fingerprints::default());
        state.members.insert("b".to_owned(), other);
        assert!(state.status(Instant::now()).disagreements.is_empty());
    }

    #[test]
    fn a_lost_connection_counts_from_when_it_was_lost() {
        let since = Instant::now();
        let mut state = state();
        state.link = FleetLink::Alone(since, Some("refused".to_owned()));
        let status = state.status(since + Duration::from_secs(42));
        assert!(!status.connected);
        assert_eq!((status.alone_s, status.endpoint), (Some(42), None));
        assert_eq!(status.error.as_deref(), Some("refused"));
    }
}
