//! Placement of a request in its service: runs [`routing::decision()`] with the worker's state and
//! turns the result into the target of the first try.

use super::Worker;
use super::headers::{Fields, Request};
use super::judged::User;
use crate::config::actions::Answer;
use crate::index::{EndpointIx, RuleIx, VersionIx};
use crate::routing::sticky::Session;
use crate::routing::{self, AnsweredBy, Choice, Chosen, Decision};
use crate::snapshot::{DecisionState, Service};

/// The target of the first try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aim {
    /// Index of the version in its service.
    pub version: VersionIx,
    /// Index of the session's endpoint in the version's pool.
    pub endpoint: Option<EndpointIx>,
    /// The request's hash, for `balance = "hash"`.
    pub key: Option<u64>,
}

/// The target of the first try, and the effect of the response on the session.
#[derive(Debug)]
pub struct Placed {
    /// Version, endpoint and hash of the first try.
    pub aim: Aim,
    /// How the version was chosen.
    pub chosen: Chosen,
    /// Index of the rule that matched, also where its version failed over.
    pub rule: Option<RuleIx>,
    /// The session of the request.
    pub session: Option<Session>,
    /// Whether the request must not leave its version, because a preview host or a strict rule chose it.
    pub pinned: bool,
    /// Sender of the request, as far as the decision found out.
    pub user: User,
    /// Whether the response (re)binds the session to the endpoint that sent it.
    pub binds: bool,
}

/// The treatment of a request by its service.
#[derive(Debug)]
pub enum Placement<'s> {
    /// The request is forwarded.
    Forward(Placed),
    /// The proxy answers it.
    Answer(Answered<'s>),
}

/// An answer that the configuration gives to a request.
#[derive(Debug)]
pub struct Answered<'s> {
    /// The answer that the configuration defines.
    pub answer: &'s Answer,
    /// Index of the version that has the answer, if a version has it.
    pub version: Option<VersionIx>,
    /// How the version was chosen, if one was.
    pub chosen: Option<Chosen>,
    /// Index of the rule that matched.
    pub rule: Option<RuleIx>,
}

impl Placement<'_> {
    /// How the version was chosen, and the index of the rule that matched.
    #[inline]
    pub(super) fn decided(&self) -> (Option<Chosen>, Option<RuleIx>) {
        match self {
            Self::Forward(placed) => (Some(placed.chosen), placed.rule),
            Self::Answer(answered) => (answered.chosen, answered.rule),
        }
    }
}

/// Chooses what happens to a request. `preview` is the version that the host names, if it is a
/// preview host.
pub fn place<'s, F: Fields>(
    worker: &Worker,
    service: &'s Service,
    preview: Option<VersionIx>,
    request: &Request<'_, F>,
) -> Placement<'s> {
    let mut state = DecisionState {
        service,
        now_s: worker.now_s(),
        usable: |version| worker.has_healthy_endpoint(service, version),
        next: |_: &_| worker.next_by_split(service),
    };
    let choice = match routing::decision(&service.routing, preview, request, &mut state, &mut ()) {
        Decision::Forward(choice) => choice,
        Decision::Answer { by, chosen, rule } => {
            // The decision and the answers are compiled from the same specification.
            let answer = service.actions.answer(by).expect("decided on");
            return Placement::Answer(Answered {
                answer,
                version: match by {
                    AnsweredBy::Version(version) => Some(version),
                    AnsweredBy::Service | AnsweredBy::Rule(_) => None,
                },
                chosen,
                rule,
            });
        }
    };
    let Choice {
        version,
        endpoint,
        chosen,
        rule,
        session,
        binds,
        place,
    } = choice;
    let hash = service.hash.as_ref().and_then(|hash| hash.place(request));
    Placement::Forward(Placed {
        aim: Aim {
            version,
            endpoint,
            key: hash.map(|(_, place)| place.0),
        },
        chosen,
        rule,
        user: match (place, session) {
            (Some(place), _) => User::Cohort(place.0),
            (None, Some(session)) => User::Session(session.holder()),
            (None, None) => User::Anyone,
        },
        session,
        pinned: preview.is_some() || rule.is_some_and(|rule| service.routing.is_strict(rule)),
        binds,
    })
}
