//! Explains which endpoints can get the request now, and which version takes over for one without usable endpoints.

use super::decision::Candidacy;
use super::{Candidate, Explanation};
use crate::admin::status;
use crate::index::{ServiceIx, VersionIx};
use crate::proxy::LocalReply;
use crate::snapshot::{Service, Snapshot};
use crate::upstream::PoolView;

impl Explanation {
    /// Adds the versions that may get the request, and those that take over for them. `no_failover`: no other version may
    /// take over, because a preview host or a strict rule chose the version.
    pub(super) fn add_candidates(
        &mut self,
        snapshot: &Snapshot,
        service: ServiceIx,
        chosen: &[Candidacy],
        no_failover: bool,
        views: &[PoolView],
    ) {
        if chosen.is_empty() {
            return;
        }
        let live = &snapshot.services[service];
        let answers = |version: VersionIx| live.routing.version_answers(version);
        let mut added: Vec<VersionIx> = chosen.iter().map(|c| c.version).collect();
        let mut answered = false;
        for candidacy in chosen {
            let version = candidacy.version;
            let taker = candidacy.failover.map(|(taker, _)| taker);
            self.add_candidate(snapshot, service, version, taker);
            let view = &views[taker.unwrap_or(version).0];
            answered |= view.eligible() > 0 || answers(taker.unwrap_or(version));
            self.why
                .extend(consequence(live, candidacy, no_failover, &views[version.0]));
            if let Some(taker) = taker
                && !added.contains(&taker)
            {
                added.push(taker);
                self.add_candidate(snapshot, service, taker, None);
            }
        }
        if !answered {
            self.set_answer(LocalReply::NO_ENDPOINT);
        }
    }

    fn add_candidate(
        &mut self,
        snapshot: &Snapshot,
        service: ServiceIx,
        version: VersionIx,
        taker: Option<VersionIx>,
    ) {
        let live = &snapshot.services[service];
        let name = &live.versions[version].name;
        let answers = live.routing.version_answers(version);
        let endpoints = status::endpoints(&live.versions[version], live.policies.health.is_some());
        let usable = endpoints.iter().filter(|e| e.is_usable()).count();
        let balance = snapshot.spec.services[service].balance.as_str();
        self.why.push(match &endpoints[..] {
            _ if answers => format!("{name} answers by itself, without its endpoints"),
            [] => format!("{name} has no endpoints"),
            [one] if usable == 1 => format!("{name} has one endpoint, {}", one.address),
            [one] => format!(
                "{name} has one endpoint, {}, which is not usable: {}",
                one.address,
                one.state(std::time::SystemTime::now())
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

/// Explains the consequence of the state of a version's endpoints: panic mode, failover or an error. `None` if enough of the
/// endpoints are usable.
fn consequence(
    service: &Service,
    candidacy: &Candidacy,
    no_failover: bool,
    view: &PoolView,
) -> Option<String> {
    let name = &service.versions[candidacy.version].name;
    if service.routing.version_answers(candidacy.version) {
        return None;
    }
    if view.usable() > 0 {
        return (view.eligible() > view.usable()).then(|| {
            format!(
                "too few are usable (panic threshold): {name} uses {} of them",
                view.eligible()
            )
        });
    }
    if let Some((taker, role)) = candidacy.failover {
        let (taker, role) = (&service.versions[taker].name, role.label());
        return Some(format!(
            "{name} has no usable endpoint: {taker}, {role}, takes over"
        ));
    }
    let why = match no_failover {
        true => "no other version may take over",
        false => "no other version has one",
    };
    let then = match (&service.policies.wait, view.eligible()) {
        (Some(wait), _) => {
            let longest = humantime::format_duration(wait.longest);
            format!("requests wait for up to {longest}")
        }
        (None, 0) => "the request is answered with 503".to_owned(),
        (None, count) => format!("panic mode tries {count} of its endpoints"),
    };
    Some(format!("{name} has no usable endpoint, and {why}: {then}"))
}
