//! Which version gets a request, and why: the one decision that the data path and `explain` share.
//!
//! [`decision`] asks in this order: preview host, match rule, session, cohort, exact split; a version without a usable
//! endpoint then fails over. It is pure: [`DecisionInput`] supplies what changes from moment to moment, and a [`Trace`] receives
//! each step. The data path passes `()` as its trace, which compiles to nothing.

use super::failover::{FailoverRole, failover};
use super::sticky::Session;
use super::{CohortPoint, RequestView, ServiceRouting, Split};
pub use crate::telemetry::record::Chosen;

/// The outcome of [`decision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Index of the version that gets the request.
    pub version: usize,
    /// Index of the endpoint that the session is on, if that endpoint is usable.
    pub endpoint: Option<usize>,
    /// How `version` was chosen.
    pub chosen: Chosen,
    /// Index of the rule that matched, also where its version failed over.
    pub rule: Option<usize>,
    /// The valid session that the request carries.
    pub session: Option<Session>,
    /// Whether the answer binds the session to the version and endpoint that it comes from.
    pub binds: bool,
}

/// What a decision reads beyond the compiled service.
pub trait DecisionInput {
    /// The valid session that the request carries; `None` where the service isn't sticky.
    fn session(&mut self, request: &impl RequestView) -> Option<Session>;
    /// The version that the session may stay on; `None`: it is decided like a new one.
    fn follow(&mut self, session: &Session) -> Option<usize>;
    /// Whether the session is on this version.
    fn is_on(&mut self, session: &Session, version: usize) -> bool;
    /// The usable endpoint of the version that the session is on.
    fn endpoint(&mut self, session: &Session, version: usize) -> Option<usize>;
    /// Whether the version has a usable endpoint.
    fn is_usable(&mut self, version: usize) -> bool;
    /// The next version by the exact split. Called only when nothing else decides, since it advances the split.
    fn next(&mut self, split: &Split) -> usize;
}

/// One step of a decision. Versions and rules are indices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DecisionStep {
    /// The host is a preview host.
    Preview {
        /// Of this version.
        version: usize,
    },
    /// A rule matched.
    Rule {
        /// The rule.
        rule: usize,
        /// Its version.
        version: usize,
    },
    /// No rule matched, or there is none.
    NoRule,
    /// The request carries no valid session, or the service isn't sticky.
    NoSession,
    /// The session stays.
    SessionStays {
        /// The session.
        session: Session,
        /// On this version.
        version: usize,
    },
    /// The session may not stay; the request is decided like a new one.
    SessionMoves {
        /// The session.
        session: Session,
    },
    /// No canary has a share.
    Stable {
        /// The stable version.
        version: usize,
    },
    /// The user's point decides.
    Cohort {
        /// Index into `cohort.by`.
        key: usize,
        /// The point.
        place: CohortPoint,
        /// The version whose part of [0,1) holds it.
        version: usize,
    },
    /// The exact split decides.
    Split {
        /// The version whose turn it is.
        version: usize,
    },
    /// The version decided on has no usable endpoint.
    Failover {
        /// That version.
        from: usize,
        /// The version that takes over.
        to: usize,
        /// Why this one.
        role: FailoverRole,
    },
}

/// Receives the steps of a decision.
pub trait Trace {
    /// The next step.
    fn step(&mut self, step: DecisionStep);
}

/// Ignores every step.
impl Trace for () {
    #[inline(always)]
    fn step(&mut self, _: DecisionStep) {}
}

impl Trace for Vec<DecisionStep> {
    fn step(&mut self, step: DecisionStep) {
        self.push(step);
    }
}

/// What was decided before failover.
struct Decided {
    version: usize,
    chosen: Chosen,
    rule: Option<usize>,
    /// No other version may take over.
    strict: bool,
}

impl Decided {
    fn by(chosen: Chosen, version: usize) -> Self {
        Self {
            version,
            chosen,
            rule: None,
            strict: false,
        }
    }
}

/// Decides which version gets `request`. `preview`: the version whose preview host the request names.
#[inline]
pub fn decision<R: RequestView, S: DecisionInput, T: Trace>(
    service: &ServiceRouting,
    preview: Option<usize>,
    request: &R,
    state: &mut S,
    trace: &mut T,
) -> Choice {
    // A preview host shows its version as it is: no session, no failover.
    if let Some(version) = preview {
        trace.step(DecisionStep::Preview { version });
        return Choice {
            version,
            endpoint: None,
            chosen: Chosen::Preview,
            rule: None,
            session: None,
            binds: false,
        };
    }
    let session = state.session(request);
    let decided = by_rule(service, request, trace)
        .or_else(|| by_session(session.as_ref(), state, trace))
        .unwrap_or_else(|| by_share(service, request, state, trace));
    let version = usable(service, &decided, state, trace);
    let moved = version != decided.version;
    // A session whose version is down returns to it later: an answer from another version doesn't move the session.
    let binds = decided.rule.is_none()
        && !(moved && session.is_some_and(|s| state.is_on(&s, decided.version)));
    let endpoint = session
        .filter(|s| state.is_on(s, version))
        .and_then(|s| state.endpoint(&s, version));
    Choice {
        version,
        endpoint,
        chosen: if moved {
            Chosen::Failover
        } else {
            decided.chosen
        },
        rule: decided.rule,
        session,
        binds,
    }
}

fn by_rule(
    service: &ServiceRouting,
    request: &impl RequestView,
    trace: &mut impl Trace,
) -> Option<Decided> {
    let Some((rule, version)) = service.matcher.find(request) else {
        trace.step(DecisionStep::NoRule);
        return None;
    };
    trace.step(DecisionStep::Rule { rule, version });
    Some(Decided {
        version,
        chosen: Chosen::Rule,
        rule: Some(rule),
        strict: service.strict[rule],
    })
}

fn by_session(
    session: Option<&Session>,
    state: &mut impl DecisionInput,
    trace: &mut impl Trace,
) -> Option<Decided> {
    let Some(session) = session else {
        trace.step(DecisionStep::NoSession);
        return None;
    };
    let session = *session;
    let Some(version) = state.follow(&session) else {
        trace.step(DecisionStep::SessionMoves { session });
        return None;
    };
    trace.step(DecisionStep::SessionStays { session, version });
    Some(Decided::by(Chosen::Session, version))
}

fn by_share(
    service: &ServiceRouting,
    request: &impl RequestView,
    state: &mut impl DecisionInput,
    trace: &mut impl Trace,
) -> Decided {
    let split = &service.split;
    if split.is_whole() {
        let version = split.stable();
        trace.step(DecisionStep::Stable { version });
        return Decided::by(Chosen::Split, version);
    }
    if let Some(cohort) = &service.cohort
        && let Some((key, place)) = cohort.place(request)
    {
        let version = split.at(place);
        trace.step(DecisionStep::Cohort {
            key,
            place,
            version,
        });
        return Decided::by(Chosen::Cohort, version);
    }
    let version = state.next(split);
    trace.step(DecisionStep::Split { version });
    Decided::by(Chosen::Split, version)
}

/// The version decided on, or the one that takes over because it has no usable endpoint.
fn usable(
    service: &ServiceRouting,
    decided: &Decided,
    state: &mut impl DecisionInput,
    trace: &mut impl Trace,
) -> usize {
    let from = decided.version;
    if decided.strict || state.is_usable(from) {
        return from;
    }
    let Some((to, role)) = failover(&service.split, service.fallback, from, |v| {
        state.is_usable(v)
    }) else {
        return from;
    };
    trace.step(DecisionStep::Failover { from, to, role });
    to
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
