//! [`routing::decision`] for a described request, and its steps in words.

use super::{CohortExplanation, Explanation};
use crate::admin::asked::DescribedRequest;
use crate::admin::view;
use crate::config::spec::{self, Share};
use crate::net::clock::wall_s;
use crate::routing::{self, Choice, Chosen, DecisionStep, Found};
use crate::snapshot::{DecisionState, Service, Snapshot};
use crate::upstream::PoolView;

/// A version that was decided on and, if it is down, the one that takes over.
#[derive(Clone, Copy)]
pub(super) struct Candidacy {
    pub(super) version: usize,
    pub(super) failover: Option<(usize, routing::FailoverRole)>,
}

impl Candidacy {
    /// Reads it off the steps of a decision.
    fn of(steps: &[DecisionStep], choice: &Choice) -> Self {
        let failover = steps.iter().find_map(|step| match *step {
            DecisionStep::Failover { from, to, role } => Some((from, to, role)),
            _ => None,
        });
        match failover {
            Some((version, to, role)) => Self {
                version,
                failover: Some((to, role)),
            },
            None => Self {
                version: choice.version,
                failover: None,
            },
        }
    }
}

impl Explanation {
    /// Makes the decision that a worker would make and tells of its steps.
    pub(super) fn decision(&mut self, snapshot: &Snapshot, found: Found, asked: &DescribedRequest) {
        let spec = &snapshot.spec.services[found.service];
        let live = &snapshot.services[found.service];
        let views: Vec<_> = live.versions.iter().map(|v| looked(&v.pool)).collect();
        let now_s = wall_s();
        // The version that the exact split picks differs from request to request, and asking must not advance the split.
        // So the decision is made once for each version whose turn it may be.
        let decide = |turn: usize| {
            let mut state = DecisionState {
                service: live,
                now_s,
                usable: |version: usize| views[version].well() > 0,
                next: |_: &_| turn,
            };
            let mut steps = Vec::new();
            let routing = &live.routing;
            let choice = routing::decision(routing, found.preview, asked, &mut state, &mut steps);
            (choice, steps)
        };
        let (choice, steps) = decide(live.routing.split.stable());
        for step in &steps {
            self.step(spec, live, asked, step, now_s);
        }
        let by_share = |s: &DecisionStep| {
            matches!(
                s,
                DecisionStep::Stable { .. }
                    | DecisionStep::Cohort { .. }
                    | DecisionStep::Split { .. }
            )
        };
        if steps.iter().any(by_share) {
            self.why.extend(snapshot.awaited_of(found.service));
        }
        let by_turn = steps
            .iter()
            .any(|s| matches!(s, DecisionStep::Split { .. }));
        let candidacies: Vec<_> = if by_turn {
            sharing(live)
                .map(|turn| {
                    let (choice, steps) = decide(turn);
                    Candidacy::of(&steps, &choice)
                })
                .collect()
        } else {
            self.version = Some(live.versions[choice.version].name.to_string());
            vec![Candidacy::of(&steps, &choice)]
        };
        let stays = choice.chosen == Chosen::Preview
            || choice.rule.is_some_and(|rule| live.routing.strict[rule]);
        self.candidates(snapshot, found.service, &candidacies, stays, &views);
    }

    fn step(
        &mut self,
        spec: &spec::ServiceSpec,
        live: &Service,
        asked: &DescribedRequest,
        step: &DecisionStep,
        now_s: u64,
    ) {
        let name = |version: usize| &*spec.versions[version].name;
        let share = |version: usize| live.routing.split.share(version);
        let sentence = match *step {
            DecisionStep::Preview { version } => format!(
                "the host is a preview host: it leads to version {} of service {}, whatever the split says",
                name(version),
                spec.name
            ),
            DecisionStep::Rule { rule, version } => {
                self.rule = Some(rule);
                let when = &spec.rules[rule].when;
                let when: Vec<_> = when.iter().map(view::condition).collect();
                let (number, when, to) = (rule + 1, when.join(" and "), name(version));
                format!("rule {number} ({when}) sends it to {to}, before the split is asked")
            }
            DecisionStep::NoRule => match spec.rules.len() {
                0 => return,
                1 => "its one rule does not match".to_owned(),
                count => format!("none of its {count} rules matches"),
            },
            DecisionStep::NoSession => return self.no_session(live, asked),
            DecisionStep::SessionMoves { session } => return self.session_moves(live, &session),
            DecisionStep::SessionStays { session, version } => {
                return self.session_stays(live, &session, version, now_s);
            }
            DecisionStep::Stable { version } => format!(
                "no canary has a share: {} is stable and gets everything",
                name(version)
            ),
            DecisionStep::Cohort {
                key,
                place,
                version,
            } => {
                let cohort = spec.cohort.as_ref();
                let key = cohort.map(|c| view::cohort_key(&c.by[key]));
                let (key, place) = (key.unwrap_or_default(), place.ratio());
                let sentence = format!(
                    "{key} puts this user at place {place:.5} of the cohort, which belongs to {} ({})",
                    name(version),
                    share(version)
                );
                self.cohort = Some(CohortExplanation { key, place });
                sentence
            }
            DecisionStep::Split { .. } => {
                if let Some(cohort) = &spec.cohort {
                    let keys: Vec<_> = cohort.by.iter().map(view::cohort_key).collect();
                    let keys = keys.join(", ");
                    self.why
                        .push(format!("it has none of the cohort's keys ({keys})"));
                }
                let shares: Vec<_> = sharing(live)
                    .map(|v| format!("{} {}", name(v), share(v)))
                    .collect();
                format!("the exact split deals requests out: {}", shares.join(", "))
            }
            // Told with the candidate that fails over.
            DecisionStep::Failover { .. } => return,
        };
        self.why.push(sentence);
    }
}

/// The versions that have a share.
fn sharing(service: &Service) -> impl Iterator<Item = usize> {
    let split = &service.routing.split;
    (0..split.versions()).filter(|v| split.share(*v) > Share(0))
}

/// What a worker sees now.
fn looked(pool: &crate::upstream::Pool) -> PoolView {
    let mut view = PoolView::default();
    view.refresh(pool);
    view
}
