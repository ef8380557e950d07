//! Which endpoints can take the request now, and who takes over for a version that has none.

use super::{Candidate, Explanation};
use crate::admin::{status, view};
use crate::proxy::Answer;
use crate::proxy::placing::instead;
use crate::snapshot::{Service, Snapshot};
use crate::upstream::View;

impl Explanation {
    /// Tells of the versions that were `chosen`, and of who takes over for them. `stays`: nobody may.
    pub(super) fn candidates(
        &mut self,
        snapshot: &Snapshot,
        service: usize,
        chosen: &[usize],
        stays: bool,
    ) {
        let live = &snapshot.services[service];
        let views: Vec<_> = live.versions.iter().map(|v| looked(&v.pool)).collect();
        let is_well = |version: usize| views[version].well() > 0;
        let (mut all, mut serving) = (chosen.to_vec(), false);
        for &version in chosen {
            let taker = match stays || is_well(version) {
                true => None,
                false => instead(live, version, is_well),
            };
            self.candidate(snapshot, service, version, taker);
            let view = &views[taker.unwrap_or(version)];
            serving |= view.tried() > 0;
            self.why
                .extend(self.state(live, version, taker, stays, &views[version]));
            if let Some(taker) = taker
                && !all.contains(&taker)
            {
                all.push(taker);
                self.candidate(snapshot, service, taker, None);
            }
            if self.version.is_some()
                && let Some(taker) = taker
            {
                self.version = Some(live.versions[taker].name.to_string());
            }
        }
        if !serving {
            self.answered(Answer::NO_ENDPOINT);
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
                one.standing()
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

    /// What follows from the state of a version's endpoints; nothing does while enough of them are well.
    fn state(
        &self,
        service: &Service,
        version: usize,
        taker: Option<usize>,
        stays: bool,
        view: &View,
    ) -> Option<String> {
        let name = &service.versions[version].name;
        if view.well() > 0 {
            return (view.tried() > view.well()).then(|| {
                format!(
                    "so few of them are well that {name} uses {} of them",
                    view.tried()
                )
            });
        }
        if let Some(taker) = taker {
            let split = &service.routing.split;
            let role = match taker {
                taker if taker == split.stable() => "stable",
                taker if split.share(taker).0 > 0 => "the canary with the largest share",
                _ => "the fallback",
            };
            let taker = &service.versions[taker].name;
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
}

/// What a worker sees now.
fn looked(pool: &crate::upstream::Pool) -> View {
    let mut view = View::default();
    view.refresh(pool);
    view
}
