//! Which endpoints can take the request now, and who takes over for a version that has none.

use super::decision::Candidacy;
use super::{Candidate, Explanation};
use crate::admin::{status, view};
use crate::proxy::LocalReply;
use crate::snapshot::{Service, Snapshot};
use crate::upstream::PoolView;

impl Explanation {
    /// Tells of the versions that may get the request, and of those that take over for them. `stays`: no other version may
    /// take over.
    pub(super) fn candidates(
        &mut self,
        snapshot: &Snapshot,
        service: usize,
        chosen: &[Candidacy],
        stays: bool,
        views: &[PoolView],
    ) {
        let live = &snapshot.services[service];
        let mut all: Vec<usize> = chosen.iter().map(|c| c.version).collect();
        let mut serving = false;
        for candidacy in chosen {
            let version = candidacy.version;
            let taker = candidacy.failover.map(|(taker, _)| taker);
            self.candidate(snapshot, service, version, taker);
            let view = &views[taker.unwrap_or(version)];
            serving |= view.tried() > 0;
            self.why
                .extend(state(live, candidacy, stays, &views[version]));
            if let Some(taker) = taker
                && !all.contains(&taker)
            {
                all.push(taker);
                self.candidate(snapshot, service, taker, None);
            }
        }
        if !serving {
            self.answered(LocalReply::NO_ENDPOINT);
        }
    }

    fn candidate(
        &mut self,
        snapshot: &Snapshot,
        service: usize,
        version: usize,
        taker: Option<usize>,
    ) {
        let live = &snapshot.services[service];
        let name = &live.versions[version].name;
        let endpoints = status::endpoints(&live.versions[version], live.policies.health.is_some());
        let usable = endpoints.iter().filter(|e| e.is_usable()).count();
        let balance = view::balance(snapshot.spec.services[service].balance);
        self.why.push(match &endpoints[..] {
            [] => format!("{name} has no endpoint"),
            [one] if usable == 1 => format!("{name} has one endpoint, {}", one.address),
            [one] => format!(
                "{name} has one endpoint, {}, and cannot use it: {}",
                one.address,
                one.standing(std::time::SystemTime::now())
            ),
            all if usable == all.len() => {
                format!("{name} has {usable} endpoints, chosen by {balance}")
            }
            all => format!(
                "{name} has {} endpoints, {usable} of them usable now, chosen by {balance}",
                all.len()
            ),
        });
        self.candidates.push(Candidate {
            version: name.to_string(),
            share: snapshot.share(service, version).to_string(),
            endpoints,
            instead: taker.map(|taker| live.versions[taker].name.to_string()),
        });
    }
}

/// What follows from the state of a version's endpoints; nothing does while enough of them are well.
fn state(service: &Service, candidacy: &Candidacy, stays: bool, view: &PoolView) -> Option<String> {
    let name = &service.versions[candidacy.version].name;
    if view.well() > 0 {
        return (view.tried() > view.well()).then(|| {
            format!(
                "so few of them are well that {name} uses {} of them",
                view.tried()
            )
        });
    }
    if let Some((taker, role)) = candidacy.failover {
        let (taker, role) = (&service.versions[taker].name, role.label());
        return Some(format!(
            "{name} has no usable endpoint: {taker}, {role}, takes over"
        ));
    }
    let why = match stays {
        true => "no other version may take over here".to_owned(),
        false => "no other version is well".to_owned(),
    };
    let then = match view.tried() {
        0 => "such a request is answered 503".to_owned(),
        some => format!("{some} of its endpoints are tried all the same"),
    };
    Some(format!("{name} has no usable endpoint, and {why}: {then}"))
}
