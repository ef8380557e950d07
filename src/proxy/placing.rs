//! Where in a service a request goes: by a rule, by its session, by cohort or split; and who takes over for a version that is down.

use super::Worker;
use super::headers::{Fields, Request};
use super::tries::Aim;
use crate::routing::sticky::Session;
use crate::routing::{self, Why};
use crate::snapshot::Service;

/// Where a request goes first, and what its answer does to its session.
#[derive(Debug)]
pub struct Placed {
    /// Version, endpoint, hash.
    pub aim: Aim,
    /// The session that it came with.
    pub session: Option<Session>,
    /// Whether its answer binds (or binds anew) the session to where it came from.
    pub binds: bool,
}

/// Places a request to a service. `preview`: its host names the version.
pub fn place<F: Fields>(
    worker: &Worker,
    service: &Service,
    preview: Option<usize>,
    request: &Request<'_, F>,
) -> Placed {
    let hash = service.hash.as_ref().and_then(|hash| hash.place(request));
    let aim = |version, endpoint| Aim {
        version,
        endpoint,
        key: hash.map(|(_, place)| place.0),
    };
    if let Some(version) = preview {
        return Placed {
            aim: aim(version, None),
            session: None,
            binds: false,
        };
    }
    let now_s = worker.now_s();
    let session = service
        .sessions
        .as_ref()
        .and_then(|s| s.find(service, request, now_s));
    let ruled = routing::by_rule(&service.routing, request);
    let followed = || {
        let sessions = service.sessions.as_ref()?;
        sessions.follow(service, session.as_ref()?, now_s)
    };
    let (decided, binds, strict) = match ruled {
        Some(decision) => (
            decision.version,
            false,
            is_strict(worker, service, decision.why),
        ),
        None => match followed() {
            Some(version) => (version, true, false),
            None => (worker.share_out(service, request), true, false),
        },
    };
    let version = if strict || worker.is_well(service, decided) {
        decided
    } else {
        instead(service, decided, |v| worker.is_well(service, v)).unwrap_or(decided)
    };
    // A session whose version is down for a while comes back to it: an answer from elsewhere doesn't move it.
    let stays = |s: &Session| {
        service
            .sessions
            .as_ref()
            .is_some_and(|all| all.is_on(s, decided))
    };
    let binds = binds && (version == decided || !session.as_ref().is_some_and(stays));
    let endpoint = match (&service.sessions, &session) {
        (Some(sessions), Some(session)) if sessions.is_on(session, version) => {
            sessions.endpoint(service, session, version)
        }
        _ => None,
    };
    Placed {
        aim: aim(version, endpoint),
        session,
        binds,
    }
}

fn is_strict(worker: &Worker, service: &Service, why: Why) -> bool {
    let Why::Rule(rule) = why else { return false };
    service.rule_hits.hit(worker.id, rule);
    service.strict_rules[rule]
}

/// Who takes over for a version that is down: stable, then the canary with the largest share, then the fallback; nobody when none is well.
pub fn instead(service: &Service, down: usize, is_well: impl Fn(usize) -> bool) -> Option<usize> {
    let split = &service.routing.split;
    let well = |version: &usize| *version != down && is_well(*version);
    let stable = Some(split.stable()).filter(well);
    let canary = || {
        let sharing = (0..service.versions.len())
            .filter(|v| split.share(*v).0 > 0)
            .filter(well);
        sharing.max_by_key(|v| split.share(*v))
    };
    stable
        .or_else(canary)
        .or_else(|| service.policies.fallback.filter(well))
}
