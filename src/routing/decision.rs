//! Decides which version gets a request, and why. The data path and `explain` share this one function.
//!
//! [`decision`] consults in this order: preview host, match rules, session, cohort, exact split. If the chosen version has no
//! usable endpoint, the request fails over. The function is pure: a [`DecisionInput`] supplies the state that changes at run
//! time, and a [`Trace`] receives each step. The data path passes `()` as its trace, which compiles to nothing.

use super::failover::{FailoverRole, failover};
use super::sticky::Session;
use super::{CohortPoint, RequestView, ServiceRouting, Split};
use crate::index::{EndpointIx, RuleIx, VersionIx};
pub use crate::telemetry::record::Chosen;

/// The outcome of [`decision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A version gets the request.
    Forward(Choice),
    /// The proxy answers the request itself.
    Answer {
        /// The part of the service that has the answer.
        by: AnsweredBy,
        /// How the version was chosen; `None` if none was.
        chosen: Option<Chosen>,
        /// Index of the rule that matched.
        rule: Option<RuleIx>,
    },
}

/// The part of a service that has an answer of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnsweredBy {
    /// The service.
    Service,
    /// The rule with this index.
    Rule(RuleIx),
    /// The version with this index.
    Version(VersionIx),
}

/// A version that gets a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Index of the version that gets the request.
    pub version: VersionIx,
    /// Index of the endpoint that the session is bound to, if it is usable and belongs to `version`.
    pub endpoint: Option<EndpointIx>,
    /// How `version` was chosen.
    pub chosen: Chosen,
    /// Index of the rule that matched, even if its version failed over.
    pub rule: Option<RuleIx>,
    /// The valid session that the request carries.
    pub session: Option<Session>,
    /// The user's cohort point, if it decided.
    pub place: Option<CohortPoint>,
    /// Whether the response binds the session to the version and endpoint that it comes from.
    pub binds: bool,
}

/// The state at run time that a decision depends on.
pub trait DecisionInput {
    /// The valid session that the request carries; `None` if there is none or the service isn't sticky.
    fn session(&mut self, request: &impl RequestView) -> Option<Session>;
    /// The version that the session stays on; `None` if the request is decided like one without a session.
    fn follow(&mut self, session: &Session) -> Option<VersionIx>;
    /// Whether the session is bound to this version.
    fn is_on(&mut self, session: &Session, version: VersionIx) -> bool;
    /// The endpoint of this version that the session is bound to, if it is usable.
    fn endpoint(&mut self, session: &Session, version: VersionIx) -> Option<EndpointIx>;
    /// Whether the version has a usable endpoint.
    fn is_usable(&mut self, version: VersionIx) -> bool;
    /// The next version by the exact split. Advances the split, and is therefore called only if nothing else decides.
    fn next(&mut self, split: &Split) -> VersionIx;
}

/// One step of a decision. Versions and rules are indices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DecisionStep {
    /// The host is a preview host.
    Preview {
        /// The version whose preview host it is.
        version: VersionIx,
    },
    /// A rule with a version matched.
    Rule {
        /// The rule.
        rule: RuleIx,
        /// The version that the rule names.
        version: VersionIx,
    },
    /// A rule matched that names no version. Session and shares decide.
    RuleEdits {
        /// The rule.
        rule: RuleIx,
    },
    /// The proxy answers the request itself.
    Answers {
        /// The part of the service that has the answer.
        by: AnsweredBy,
    },
    /// No rule matched, or the service has none.
    NoRule,
    /// The request carries no valid session, or the service isn't sticky.
    NoSession,
    /// The session stays on its version.
    SessionStays {
        /// The session.
        session: Session,
        /// The version that the session stays on.
        version: VersionIx,
    },
    /// The session may not stay on its version; the request is decided like one without a session.
    SessionMoves {
        /// The session.
        session: Session,
    },
    /// No canary has a share, so that stable gets every request.
    Stable {
        /// The stable version.
        version: VersionIx,
    },
    /// The user's cohort point decides.
    Cohort {
        /// The key that identified the user: an index into `cohort.by`.
        key: usize,
        /// The point.
        place: CohortPoint,
        /// The version whose part of [0,1) contains the point.
        version: VersionIx,
    },
    /// The exact split decides.
    Split {
        /// The next version of the split.
        version: VersionIx,
    },
    /// The chosen version has no usable endpoint, and another one takes over.
    Failover {
        /// The version without a usable endpoint.
        from: VersionIx,
        /// The version that takes over.
        to: VersionIx,
        /// The role in which that version takes over.
        role: FailoverRole,
    },
}

/// Receives the steps of a decision.
pub trait Trace {
    /// Called for each step, in order.
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

/// The decision before failover.
struct Decided {
    version: VersionIx,
    chosen: Chosen,
    /// Whether failover is ruled out.
    strict: bool,
    place: Option<CohortPoint>,
}

impl Decided {
    fn by(chosen: Chosen, version: VersionIx) -> Self {
        Self {
            version,
            chosen,
            strict: false,
            place: None,
        }
    }
}

/// Decides which version gets `request`. `preview` is the version whose preview host the request named, if any.
#[inline]
pub fn decision<R: RequestView, S: DecisionInput, T: Trace>(
    service: &ServiceRouting,
    preview: Option<VersionIx>,
    request: &R,
    state: &mut S,
    trace: &mut T,
) -> Decision {
    // A preview host shows its version as it is, without session and failover.
    if let Some(version) = preview {
        trace.step(DecisionStep::Preview { version });
        let choice = Choice {
            version,
            endpoint: None,
            chosen: Chosen::Preview,
            rule: None,
            session: None,
            place: None,
            binds: false,
        };
        return of_version(service, choice, trace);
    }
    let rule = service.matcher.find(request);
    if let Some(by) = answered_by(service, rule, trace) {
        return Decision::Answer {
            by,
            chosen: matches!(by, AnsweredBy::Rule(_)).then_some(Chosen::Rule),
            rule,
        };
    }
    let choice = choose(service, rule, request, state, trace);
    of_version(service, choice, trace)
}

/// The answer of the matching rule, or of the service unless the rule names a version.
#[inline]
fn answered_by(
    service: &ServiceRouting,
    rule: Option<RuleIx>,
    trace: &mut impl Trace,
) -> Option<AnsweredBy> {
    let target = rule.map(|rule| (rule, service.rules[rule]));
    let by = match target {
        Some((rule, target)) if target.answers => AnsweredBy::Rule(rule),
        Some((_, target)) if target.to.is_some() => return None,
        _ if service.answers => AnsweredBy::Service,
        _ => return None,
    };
    trace.step(DecisionStep::Answers { by });
    Some(by)
}

/// The decision for the chosen version: it gets the request, unless the proxy answers for it.
#[inline]
fn of_version(service: &ServiceRouting, choice: Choice, trace: &mut impl Trace) -> Decision {
    if !service.version_answers(choice.version) {
        return Decision::Forward(choice);
    }
    let by = AnsweredBy::Version(choice.version);
    trace.step(DecisionStep::Answers { by });
    Decision::Answer {
        by,
        chosen: Some(choice.chosen),
        rule: choice.rule,
    }
}

/// Chooses a version by the matching rule, the session or the shares, and applies failover.
#[inline]
fn choose<R: RequestView, S: DecisionInput, T: Trace>(
    service: &ServiceRouting,
    rule: Option<RuleIx>,
    request: &R,
    state: &mut S,
    trace: &mut T,
) -> Choice {
    let session = state.session(request);
    let decided = by_rule(service, rule, trace)
        .or_else(|| by_session(session.as_ref(), state, trace))
        .unwrap_or_else(|| by_share(service, request, state, trace));
    let version = after_failover(service, &decided, state, trace);
    let moved = version != decided.version;
    // A rule's choice says nothing about the user's other requests. And while a session's version is down, responses of the
    // version that took over don't rebind it, so that the user returns when it is up again.
    let binds = decided.chosen != Chosen::Rule
        && !(moved
            && session
                .as_ref()
                .is_some_and(|s| state.is_on(s, decided.version)));
    let endpoint = session
        .as_ref()
        .filter(|s| state.is_on(s, version))
        .and_then(|s| state.endpoint(s, version));
    Choice {
        version,
        endpoint,
        chosen: if moved {
            Chosen::Failover
        } else {
            decided.chosen
        },
        rule,
        session,
        place: decided.place,
        binds,
    }
}

fn by_rule(
    service: &ServiceRouting,
    rule: Option<RuleIx>,
    trace: &mut impl Trace,
) -> Option<Decided> {
    let Some(rule) = rule else {
        trace.step(DecisionStep::NoRule);
        return None;
    };
    let Some(version) = service.rules[rule].to else {
        trace.step(DecisionStep::RuleEdits { rule });
        return None;
    };
    trace.step(DecisionStep::Rule { rule, version });
    Some(Decided {
        version,
        chosen: Chosen::Rule,
        strict: service.is_strict(rule),
        place: None,
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
        return Decided {
            place: Some(place),
            ..Decided::by(Chosen::Cohort, version)
        };
    }
    let version = state.next(split);
    trace.step(DecisionStep::Split { version });
    Decided::by(Chosen::Split, version)
}

/// Applies failover: the chosen version if it has a usable endpoint, else the one that takes over. If none does the choice
/// stands, and the request is answered as for a version that is down.
fn after_failover(
    service: &ServiceRouting,
    decided: &Decided,
    state: &mut impl DecisionInput,
    trace: &mut impl Trace,
) -> VersionIx {
    let from = decided.version;
    let mut is_usable = |version| service.version_answers(version) || state.is_usable(version);
    if decided.strict || is_usable(from) {
        return from;
    }
    let Some((to, role)) = failover(&service.split, service.fallback, from, is_usable) else {
        return from;
    };
    trace.step(DecisionStep::Failover { from, to, role });
    to
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
