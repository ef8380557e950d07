//! Runs [`decision`](crate::routing::decision()) for a described request and explains its steps.
//!
//! The exact split depends on a position that advances with every request. So the decision is repeated for each version
//! that the split may pick, and the explanation lists all of them as candidates.

use super::sentences::{Subject, sharing};
use super::{CohortExplanation, Explanation};
use crate::admin::request::DescribedRequest;
use crate::index::VersionIx;
use crate::net::clock::wall_s;
use crate::routing::{self, AnsweredBy, Chosen, Decision, DecisionStep, Found};
use crate::snapshot::{DecisionState, Service, Snapshot};
use crate::upstream::PoolView;

/// A version that was decided on and, if it is down, the version that takes over.
#[derive(Clone, Copy)]
pub(super) struct Candidacy {
    pub(super) version: VersionIx,
    pub(super) failover: Option<(VersionIx, routing::FailoverRole)>,
}

impl Candidacy {
    /// Derives the candidacy from the steps of a decision; `None` if it is about no version.
    fn of(steps: &[DecisionStep], decision: &Decision) -> Option<Self> {
        let decided = match *decision {
            Decision::Forward(choice) => choice.version,
            Decision::Answer {
                by: AnsweredBy::Version(version),
                ..
            } => version,
            Decision::Answer { .. } => return None,
        };
        let failover = steps.iter().find_map(|step| match *step {
            DecisionStep::Failover { from, to, role } => Some((from, to, role)),
            _ => None,
        });
        Some(match failover {
            Some((version, to, role)) => Self {
                version,
                failover: Some((to, role)),
            },
            None => Self {
                version: decided,
                failover: None,
            },
        })
    }
}

impl Candidacy {
    /// The version that gets the request.
    pub(super) fn taker(self) -> VersionIx {
        self.failover.map_or(self.version, |(taker, _)| taker)
    }
}

impl Explanation {
    /// Makes the decision that a worker would make, and explains its steps and candidates.
    pub(super) fn explain_decision(
        &mut self,
        snapshot: &Snapshot,
        found: Found,
        request: &DescribedRequest,
    ) {
        let spec = &snapshot.spec.services[found.service];
        let live = &snapshot.services[found.service];
        let views: Vec<_> = live.versions.iter().map(|v| pool_view(&v.pool)).collect();
        let now_s = wall_s();
        // `turn` is the version that the exact split picks. The real split must not be asked: that would advance it.
        let decide = |turn: VersionIx| {
            let mut state = DecisionState {
                service: live,
                now_s,
                usable: |version: VersionIx| views[version.0].usable() > 0,
                next: |_: &_| turn,
            };
            let mut steps = Vec::new();
            let routing = &live.routing;
            let decision =
                routing::decision(routing, found.preview, request, &mut state, &mut steps);
            (decision, steps)
        };
        let (decision, steps) = decide(live.routing.split.stable());
        let subject = Subject {
            spec,
            service: live,
            request,
            now_s,
        };
        self.explain_steps(snapshot, found, &subject, &steps);
        let is_split = |step: &DecisionStep| matches!(step, DecisionStep::Split { .. });
        let candidacies: Vec<_> = if steps.iter().any(is_split) {
            sharing(live)
                .filter_map(|turn| {
                    let (decision, steps) = decide(turn);
                    Candidacy::of(&steps, &decision)
                })
                .collect()
        } else {
            if let Decision::Answer { by, .. } = decision {
                self.set_configured(live, by);
            }
            let only = Candidacy::of(&steps, &decision);
            self.version = only.map(|one| live.versions[one.taker()].name.to_string());
            only.into_iter().collect()
        };
        let (chosen, rule) = match decision {
            Decision::Forward(choice) => (Some(choice.chosen), choice.rule),
            Decision::Answer { chosen, rule, .. } => (chosen, rule),
        };
        let no_failover = chosen == Some(Chosen::Preview)
            || rule.is_some_and(|rule| live.routing.is_strict(rule));
        self.rule = rule.map(|rule| rule.0);
        self.add_candidates(snapshot, found.service, &candidacies, no_failover, &views);
        if let Decision::Forward(_) = decision {
            self.explain_flags(spec, &live.routing, request);
        }
        let versions: Vec<_> = candidacies.iter().map(|c| c.taker()).collect();
        self.explain_edits((spec, live), rule, &versions, request);
    }

    /// Explains the limits on clients, each step, and what holds shares back.
    fn explain_steps(
        &mut self,
        snapshot: &Snapshot,
        found: Found,
        subject: &Subject<'_>,
        steps: &[DecisionStep],
    ) {
        self.why.extend(subject.limits(found));
        for step in steps {
            self.explain_step(subject, step);
        }
        if steps.iter().any(depends_on_shares) {
            self.why.extend(snapshot.awaited_of(found.service));
        }
    }

    /// Sets the answer that the configuration gives by itself.
    fn set_configured(&mut self, service: &Service, by: AnsweredBy) {
        let answer = service.actions.answer(by);
        self.answer = answer.map(|answer| format!("{} {}", answer.status(), answer.word()));
    }

    /// Adds the sentence of a step, and the fields that it decides.
    fn explain_step(&mut self, subject: &Subject<'_>, step: &DecisionStep) {
        let service = subject.service;
        match *step {
            DecisionStep::Preview { version } => self.why.push(subject.preview(version)),
            DecisionStep::Rule { rule, version } => self.why.push(subject.rule(rule, version)),
            DecisionStep::RuleEdits { rule } => self.why.push(subject.rule_edits(rule)),
            DecisionStep::Answers { by } => self.why.push(subject.answers(by)),
            DecisionStep::NoRule => self.why.extend(subject.no_rule()),
            DecisionStep::NoSession => self.no_session(service, subject.request),
            DecisionStep::SessionMoves { session } => self.session_moves(service, &session),
            DecisionStep::SessionStays { session, version } => {
                self.session_stays(service, &session, version, subject.now_s);
            }
            DecisionStep::Stable { version } => self.why.push(subject.stable(version)),
            DecisionStep::Cohort {
                key,
                place,
                version,
            } => self.in_cohort(subject, subject.cohort(key, place.ratio()), version),
            DecisionStep::Split { .. } => {
                self.why.extend(subject.no_cohort_key());
                self.why.push(subject.split());
            }
            // The candidate that fails over has a sentence of its own.
            DecisionStep::Failover { .. } => {}
        }
    }

    fn in_cohort(&mut self, subject: &Subject<'_>, cohort: CohortExplanation, version: VersionIx) {
        self.why.push(subject.in_cohort(&cohort, version));
        self.cohort = Some(cohort);
    }
}

/// Whether the shares of the split decide in this step, so that a gate which holds them back matters.
fn depends_on_shares(step: &DecisionStep) -> bool {
    matches!(
        step,
        DecisionStep::Stable { .. } | DecisionStep::Cohort { .. } | DecisionStep::Split { .. }
    )
}

/// The pool as a worker sees it now.
fn pool_view(pool: &crate::upstream::Pool) -> PoolView {
    let mut view = PoolView::default();
    view.refresh(pool);
    view
}
