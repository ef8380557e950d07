//! Runs [`decision`](crate::routing::decision()) for a described request and explains its steps.
//!
//! The exact split depends on a position that advances with every request. So the decision is repeated for each version
//! that the split may pick, and the explanation lists all of them as candidates.

use super::{CohortExplanation, Explanation};
use crate::admin::request::DescribedRequest;
use crate::admin::view;
use crate::config::spec::{self, Share};
use crate::index::{RuleIx, VersionIx};
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
        self.why.extend(subject.limits(found));
        for step in &steps {
            self.explain_step(&subject, step);
        }
        if steps.iter().any(depends_on_shares) {
            self.why.extend(snapshot.awaited_of(found.service));
        }
        let by_turn = steps
            .iter()
            .any(|s| matches!(s, DecisionStep::Split { .. }));
        let candidacies: Vec<_> = if by_turn {
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
        let versions: Vec<_> = candidacies.iter().map(|c| c.taker()).collect();
        self.explain_edits((spec, live), rule, &versions, request);
    }

    /// Sets the answer that the configuration gives.
    fn set_configured(&mut self, service: &Service, by: AnsweredBy) {
        let answer = service.actions.answer(by);
        self.answer = answer.map(|answer| format!("{} {}", answer.status(), answer.word()));
    }

    /// Adds the sentence of a step, and the fields that it decides.
    fn explain_step(&mut self, subject: &Subject<'_>, step: &DecisionStep) {
        let service = subject.service;
        let sentence = match *step {
            DecisionStep::Preview { version } => subject.preview(version),
            DecisionStep::Rule { rule, version } => subject.rule(rule, version),
            DecisionStep::RuleEdits { rule } => {
                format!("{} matches, and names no version", subject.named_rule(rule))
            }
            DecisionStep::Answers { by } => subject.answers(by),
            DecisionStep::NoRule => match subject.no_rule() {
                Some(sentence) => sentence,
                None => return,
            },
            DecisionStep::NoSession => return self.no_session(service, subject.request),
            DecisionStep::SessionMoves { session } => return self.session_moves(service, &session),
            DecisionStep::SessionStays { session, version } => {
                return self.session_stays(service, &session, version, subject.now_s);
            }
            DecisionStep::Stable { version } => format!(
                "no canary has a share: {} is stable and gets all traffic",
                subject.name(version)
            ),
            DecisionStep::Cohort {
                key,
                place,
                version,
            } => {
                let cohort = subject.cohort(key, place.ratio());
                let sentence = subject.in_cohort(&cohort, version);
                self.cohort = Some(cohort);
                sentence
            }
            DecisionStep::Split { .. } => {
                self.why.extend(subject.no_cohort_key());
                subject.split()
            }
            // The candidate that fails over has a sentence of its own.
            DecisionStep::Failover { .. } => return,
        };
        self.why.push(sentence);
    }
}

/// The service and the request that a decision is about, and sentences about its steps.
struct Subject<'a> {
    spec: &'a spec::ServiceSpec,
    service: &'a Service,
    request: &'a DescribedRequest,
    now_s: u64,
}

impl Subject<'_> {
    fn name(&self, version: VersionIx) -> &str {
        &self.spec.versions[version].name
    }

    fn share(&self, version: VersionIx) -> Share {
        self.service.routing.split.share(version)
    }

    fn preview(&self, version: VersionIx) -> String {
        format!(
            "the host is a preview host of version {} of service {}: the split does not apply",
            self.name(version),
            self.spec.name
        )
    }

    fn rule(&self, rule: RuleIx, version: VersionIx) -> String {
        let (named, to) = (self.named_rule(rule), self.name(version));
        format!("{named} matches and sends it to {to}; the split does not apply")
    }

    /// The number of a rule and its conditions.
    fn named_rule(&self, rule: RuleIx) -> String {
        let when = view::when(&self.spec.rules[rule.0].when);
        format!("rule {} ({when})", rule.0 + 1)
    }

    /// The limits on clients that the request counts for, of its rule and of the service.
    fn limits(&self, found: Found) -> impl Iterator<Item = String> {
        let matcher = &self.service.routing.matcher;
        // Rules don't apply to preview hosts.
        let rule = match found.preview {
            Some(_) => None,
            None => matcher.find(self.request),
        };
        let of_rule = rule.and_then(|rule| {
            let rate = view::client_rate(self.spec.rules[rule].client_limits.as_ref()?)?;
            Some(format!(
                "{} matches and limits each client to {rate}",
                self.named_rule(rule)
            ))
        });
        let limits = self.spec.policies.client_limits.as_ref();
        let of_service = limits.and_then(view::client_rate).map(|rate| {
            let service = &self.spec.name;
            format!("service {service} limits each client to {rate}")
        });
        of_rule.into_iter().chain(of_service)
    }

    fn answers(&self, by: AnsweredBy) -> String {
        let answer = { self.service.actions.answer(by) }.map(view::answer);
        let answer = answer.unwrap_or_default();
        match by {
            AnsweredBy::Rule(rule) => {
                format!("{} matches: {answer}", self.named_rule(rule))
            }
            AnsweredBy::Service => {
                format!("service {} answers by itself: {answer}", self.spec.name)
            }
            AnsweredBy::Version(version) => {
                format!("version {} answers by itself: {answer}", self.name(version))
            }
        }
    }

    /// `None` if the service has no rules.
    fn no_rule(&self) -> Option<String> {
        match self.spec.rules.len() {
            0 => None,
            1 => Some("the only rule does not match".to_owned()),
            count => Some(format!("none of the {count} rules matches")),
        }
    }

    fn cohort(&self, key: usize, point: f64) -> CohortExplanation {
        let cohort = self.spec.cohort.as_ref();
        let key = cohort.map(|c| view::cohort_key(&c.by[key]));
        CohortExplanation {
            key: key.unwrap_or_default(),
            point,
        }
    }

    fn in_cohort(&self, cohort: &CohortExplanation, version: VersionIx) -> String {
        format!(
            "{} puts this user at cohort point {:.5}, which belongs to {} ({})",
            cohort.key,
            cohort.point,
            self.name(version),
            self.share(version)
        )
    }

    /// Why the exact split decides although the service has a cohort; `None` if it has none.
    fn no_cohort_key(&self) -> Option<String> {
        let cohort = self.spec.cohort.as_ref()?;
        let keys: Vec<_> = cohort.by.iter().map(view::cohort_key).collect();
        Some(format!(
            "it has none of the cohort's keys ({})",
            keys.join(", ")
        ))
    }

    fn split(&self) -> String {
        let shares: Vec<_> = sharing(self.service)
            .map(|v| format!("{} {}", self.name(v), self.share(v)))
            .collect();
        format!(
            "the exact split picks a version for each request: {}",
            shares.join(", ")
        )
    }
}

/// Whether the shares of the split decide in this step, so that a gate which holds them back matters.
fn depends_on_shares(step: &DecisionStep) -> bool {
    matches!(
        step,
        DecisionStep::Stable { .. } | DecisionStep::Cohort { .. } | DecisionStep::Split { .. }
    )
}

/// The versions that have a share.
fn sharing(service: &Service) -> impl Iterator<Item = VersionIx> {
    let split = &service.routing.split;
    let versions = split.versions();
    versions.filter(|v| split.share(*v) > Share(0))
}

/// The pool as a worker sees it now.
fn pool_view(pool: &crate::upstream::Pool) -> PoolView {
    let mut view = PoolView::default();
    view.refresh(pool);
    view
}
