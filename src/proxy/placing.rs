//! Where in a service a request goes: [`routing::decision`] with a worker's state, and what follows from it for this request.

use super::Worker;
use super::headers::{Fields, Request};
use super::tries::Aim;
use crate::routing::sticky::Session;
use crate::routing::{self, Choice, Chosen};
use crate::snapshot::{DecisionState, Service};

/// Where a request goes first, and what its answer does to its session.
#[derive(Debug)]
pub(crate) struct Placed {
    /// Version, endpoint, hash.
    pub aim: Aim,
    /// How the version was chosen.
    pub chosen: Chosen,
    /// Index of the rule that matched, also where its version failed over.
    pub rule: Option<usize>,
    /// The session that it came with.
    pub session: Option<Session>,
    /// It pinned with its version whatever happens there: a preview host or a strict rule chose it.
    pub pinned: bool,
    /// Whether its answer binds (or binds anew) the session to where it came from.
    pub binds: bool,
}

/// Decides where a request to a service goes, and counts the rule that matched. `preview`: its host names the version.
pub(crate) fn place<F: Fields>(
    worker: &Worker,
    service: &Service,
    preview: Option<usize>,
    request: &Request<'_, F>,
) -> Placed {
    let mut state = DecisionState {
        service,
        now_s: worker.now_s(),
        usable: |version| worker.is_well(service, version),
        next: |_: &_| worker.next_by_split(service),
    };
    let choice = routing::decision(&service.routing, preview, request, &mut state, &mut ());
    let Choice {
        version,
        endpoint,
        chosen,
        rule,
        session,
        binds,
    } = choice;
    if let Some(rule) = rule {
        service.rule_hits.hit(worker.id, rule);
    }
    let hash = service.hash.as_ref().and_then(|hash| hash.place(request));
    Placed {
        aim: Aim {
            version,
            endpoint,
            key: hash.map(|(_, place)| place.0),
        },
        chosen,
        rule,
        session,
        pinned: preview.is_some() || rule.is_some_and(|rule| service.routing.strict[rule]),
        binds,
    }
}
