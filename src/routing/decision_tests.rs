//! The order of a decision, its steps, and what it does to a session.

use super::super::fake::{self, Fake};
use super::super::{FailoverRole, SplitState};
use super::*;
use crate::config::spec::{self, CohortKey, Condition, Pattern, Share, Subject};

/// v1 is stable; v2 has the share; `x-canary: always` is sent to v2, `x-canary: only` strictly so.
fn service(canary: u32, cohort: bool) -> ServiceRouting {
    let mut service = fake::service("shop", &["v1", "v2", "v3"]);
    service.split = vec![(VersionIx(1), Share(canary))];
    service.cohort = cohort.then(|| spec::CohortSpec {
        by: vec![
            CohortKey::Cookie("uid".into()),
            CohortKey::Header("x-user-id".into()),
        ],
        salt: "shop".into(),
    });
    let rule = |value: &str, strict| spec::RuleSpec {
        when: vec![
            vec![Condition {
                subject: Subject::Header("x-canary".into()),
                patterns: vec![Pattern::Exact(value.into())],
            }]
            .into(),
        ],
        to: Some(VersionIx(1)),
        strict,
        ..spec::RuleSpec::default()
    };
    service.rules = vec![rule("always", false), rule("only", true)];
    service.policies.fallback = Some(VersionIx(2));
    ServiceRouting::new(&service)
}

/// A session carries the version that it is on as its id.
#[derive(Default)]
struct Now {
    split: SplitState,
    session: Option<Session>,
    may_stay: bool,
    down: Vec<usize>,
}

impl Now {
    fn with_session(version: u64, may_stay: bool) -> Self {
        Self {
            session: Some(Session::begin(version, Some(7), 1)),
            may_stay,
            ..Self::default()
        }
    }

    fn but_down(mut self, down: &[usize]) -> Self {
        self.down = down.to_vec();
        self
    }
}

impl DecisionInput for Now {
    fn session(&mut self, _: &impl RequestView) -> Option<Session> {
        self.session
    }
    fn follow(&mut self, session: &Session) -> Option<VersionIx> {
        self.may_stay.then_some(VersionIx(session.version as usize))
    }
    fn is_on(&mut self, session: &Session, version: VersionIx) -> bool {
        session.version == version.0 as u64
    }
    fn endpoint(&mut self, session: &Session, _: VersionIx) -> Option<EndpointIx> {
        session.endpoint.map(|id| EndpointIx(id as usize))
    }
    fn is_usable(&mut self, version: VersionIx) -> bool {
        !self.down.contains(&version.0)
    }
    fn next(&mut self, split: &Split) -> VersionIx {
        split.next(&mut self.split)
    }
}

fn decide(service: &ServiceRouting, request: &Fake, now: &mut Now) -> (Choice, Vec<DecisionStep>) {
    let mut steps = Vec::new();
    let choice = forwarded(decision(service, None, request, now, &mut steps));
    (choice, steps)
}

fn forwarded(decision: Decision) -> Choice {
    match decision {
        Decision::Forward(choice) => choice,
        Decision::Answer { .. } => panic!("{decision:?}"),
    }
}

/// Returns the index of the version, how it was chosen, and the index of the rule.
fn of(choice: &Choice) -> (usize, Chosen, Option<usize>) {
    (
        choice.version.0,
        choice.chosen,
        choice.rule.map(|rule| rule.0),
    )
}

fn canary() -> Fake {
    Fake::get("/")
        .with("x-canary", "always")
        .with("cookie", "uid=1")
}

#[test]
fn a_preview_host_decides_before_everything_and_never_fails_over() {
    let mut now = Now::with_session(0, true).but_down(&[2]);
    let mut steps = Vec::new();
    let service = service(50_000, true);
    let choice = forwarded(decision(
        &service,
        Some(VersionIx(2)),
        &canary(),
        &mut now,
        &mut steps,
    ));
    assert_eq!(of(&choice), (2, Chosen::Preview, None));
    assert_eq!((choice.session, choice.binds), (None, false));
    assert_eq!(
        steps,
        [DecisionStep::Preview {
            version: VersionIx(2)
        }]
    );
}

#[test]
fn a_rule_decides_before_sessions_and_shares_and_binds_nothing() {
    for share in [0, 50_000] {
        let mut now = Now::with_session(0, true);
        let (choice, steps) = decide(&service(share, true), &canary(), &mut now);
        assert_eq!(of(&choice), (1, Chosen::Rule, Some(0)));
        assert!(!choice.binds && choice.endpoint.is_none());
        let rule = DecisionStep::Rule {
            rule: RuleIx(0),
            version: VersionIx(1),
        };
        assert_eq!(steps, [rule]);
    }
}

#[test]
fn a_rule_fails_over_unless_it_is_strict() {
    let down = || Now::default().but_down(&[1]);
    let (choice, steps) = decide(&service(0, true), &canary(), &mut down());
    assert_eq!(of(&choice), (0, Chosen::Failover, Some(0)));
    let failover = DecisionStep::Failover {
        from: VersionIx(1),
        to: VersionIx(0),
        role: FailoverRole::Stable,
    };
    assert_eq!(steps.last(), Some(&failover));
    let only = Fake::get("/").with("x-canary", "only");
    let (choice, _) = decide(&service(0, true), &only, &mut down());
    assert_eq!(of(&choice), (1, Chosen::Rule, Some(1)));
}

#[test]
fn a_session_decides_before_the_shares() {
    let service = service(0, true);
    let mut stays = Now::with_session(1, true);
    let (choice, steps) = decide(&service, &Fake::get("/"), &mut stays);
    assert_eq!(of(&choice), (1, Chosen::Session, None));
    assert!(choice.binds && choice.endpoint == Some(EndpointIx(7)));
    let session = stays.session.expect("the request has one");
    assert_eq!(
        steps,
        [
            DecisionStep::NoRule,
            DecisionStep::SessionStays {
                session,
                version: VersionIx(1)
            }
        ]
    );
    let mut moves = Now::with_session(1, false);
    let (choice, steps) = decide(&service, &Fake::get("/"), &mut moves);
    assert_eq!(of(&choice), (0, Chosen::Split, None));
    assert!(choice.binds && choice.endpoint.is_none());
    assert_eq!(steps[1], DecisionStep::SessionMoves { session });
}

#[test]
fn an_answer_from_a_takeover_does_not_move_the_session() {
    let mut now = Now::with_session(1, true).but_down(&[1]);
    let (choice, _) = decide(&service(50_000, true), &Fake::get("/"), &mut now);
    assert_eq!(of(&choice), (0, Chosen::Failover, None));
    assert!(!choice.binds && choice.endpoint.is_none());
}

#[test]
fn nothing_takes_over_where_nothing_is_usable() {
    let mut now = Now::default().but_down(&[0, 1, 2]);
    let (choice, _) = decide(&service(0, false), &Fake::get("/"), &mut now);
    assert_eq!(of(&choice), (0, Chosen::Split, None));
    let mut now = Now::default().but_down(&[0, 1]);
    let (choice, _) = decide(&service(0, false), &Fake::get("/"), &mut now);
    assert_eq!(of(&choice), (2, Chosen::Failover, None));
}

#[test]
fn stable_gets_everybody_where_no_canary_has_a_share() {
    let request = Fake::get("/").with("cookie", "uid=1");
    let (choice, steps) = decide(&service(0, true), &request, &mut Now::default());
    assert_eq!(of(&choice), (0, Chosen::Split, None));
    let expected = [
        DecisionStep::NoRule,
        DecisionStep::NoSession,
        DecisionStep::Stable {
            version: VersionIx(0),
        },
    ];
    assert_eq!(steps, expected);
}

#[test]
fn a_known_user_stays_and_does_not_advance_the_split() {
    let service = service(50_000, true);
    let (mut now, mut fresh) = (Now::default(), SplitState::default());
    let user = Fake::get("/").with("x-user-id", "42");
    let (first, steps) = decide(&service, &user, &mut now);
    let Some(&DecisionStep::Cohort {
        key: 1,
        place,
        version,
    }) = steps.last()
    else {
        panic!("no cohort in {steps:?}");
    };
    assert_eq!(
        (place.ratio() < 0.5, first.version),
        (version == VersionIx(1), version)
    );
    for _ in 0..20 {
        assert_eq!(decide(&service, &user, &mut now).0, first);
        let (choice, _) = decide(&service, &Fake::get("/"), &mut now);
        let next = service.split.next(&mut fresh);
        assert_eq!(of(&choice), (next.0, Chosen::Split, None));
    }
}

#[test]
fn without_a_cohort_the_split_is_exact() {
    let (service, mut now) = (service(25_000, false), Now::default());
    let request = Fake::get("/").with("cookie", "uid=1");
    let canary =
        (0..400).filter(|_| decide(&service, &request, &mut now).0.version == VersionIx(1));
    assert_eq!(canary.count(), 100);
}

/// Returns the part that answers a request, and the steps of the decision.
fn answered(
    service: &ServiceRouting,
    preview: Option<VersionIx>,
    request: &Fake,
) -> (Option<AnsweredBy>, Vec<DecisionStep>) {
    let mut steps = Vec::new();
    let decision = decision(service, preview, request, &mut Now::default(), &mut steps);
    match decision {
        Decision::Forward(_) => (None, steps),
        Decision::Answer { by, .. } => (Some(by), steps),
    }
}

#[test]
fn an_answer_of_the_service_leaves_out_preview_hosts_and_rules_with_a_version() {
    let mut service = service(50_000, true);
    service.answers = true;
    let (by, steps) = answered(&service, None, &Fake::get("/"));
    let by_service = AnsweredBy::Service;
    assert_eq!(by, Some(by_service));
    assert_eq!(steps, [DecisionStep::Answers { by: by_service }]);
    assert_eq!(answered(&service, None, &canary()).0, None);
    assert_eq!(
        answered(&service, Some(VersionIx(1)), &Fake::get("/")).0,
        None
    );
}

#[test]
fn an_answer_of_a_rule_goes_before_everything_else() {
    let mut service = service(50_000, true);
    (service.rules[0].to, service.rules[0].answers) = (None, true);
    assert_eq!(
        answered(&service, None, &canary()).0,
        Some(AnsweredBy::Rule(RuleIx(0)))
    );
    assert_eq!(answered(&service, None, &Fake::get("/")).0, None);
    service.answers = true;
    assert_eq!(
        answered(&service, None, &canary()).0,
        Some(AnsweredBy::Rule(RuleIx(0)))
    );
}

#[test]
fn a_version_that_answers_is_always_usable_also_to_take_over() {
    let mut service = service(0, false);
    service.version_answers = [false, false, true].into();
    let mut steps = Vec::new();
    let mut now = Now::default().but_down(&[0, 1, 2]);
    let decision = decision(&service, None, &Fake::get("/"), &mut now, &mut steps);
    let expected = Decision::Answer {
        by: AnsweredBy::Version(VersionIx(2)),
        chosen: Some(Chosen::Failover),
        rule: None,
    };
    assert_eq!(decision, expected);
    assert_eq!(
        answered(&service, Some(VersionIx(2)), &Fake::get("/")).0,
        Some(AnsweredBy::Version(VersionIx(2)))
    );
}

#[test]
fn a_path_that_a_rule_answers_is_guarded_in_every_spelling() {
    let mut spec = fake::service("shop", &["v1"]);
    spec.rules = vec![spec::RuleSpec {
        when: vec![
            vec![Condition {
                subject: Subject::Path,
                patterns: vec![Pattern::Glob("/admin/*".into())],
            }]
            .into(),
        ],
        ..spec::RuleSpec::default()
    }];
    let mut service = ServiceRouting::new(&spec);
    let request = Fake::get("/%61dmin/x");
    assert!(
        !service.guards_otherwise(&request, b"/admin/x"),
        "it does not refuse"
    );
    service.rules[0].guards = true;
    assert!(service.guards_otherwise(&request, b"/admin/x"));
    assert!(!service.guards_otherwise(&request, b"/other/x"));
    assert!(service.guards_otherwise(&Fake::get("/admin/x"), b"/x"));
}
