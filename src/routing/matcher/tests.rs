//! The semantics of conditions and patterns, and that the index finds what trying each rule in order finds.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample;

use super::super::ClientCertificate;
use super::super::fake::Fake;
use super::*;
use crate::config::spec::{Pattern, Subject};
use crate::index::VersionIx;

fn exact(text: &str) -> Pattern {
    Pattern::Exact(text.into())
}

fn rule(to: usize, when: Vec<(Subject, Vec<Pattern>)>) -> spec::RuleSpec {
    let condition = |(subject, patterns)| Condition { subject, patterns };
    spec::RuleSpec {
        when: vec![spec::Conditions::from(
            when.into_iter().map(condition).collect::<Vec<_>>(),
        )],
        to: Some(VersionIx(to)),
        ..spec::RuleSpec::default()
    }
}

/// The rule that a request matches.
fn found(matcher: &Matcher, request: &Fake) -> Option<usize> {
    matcher.find(request).map(|rule| rule.0)
}

fn matches(subject: Subject, patterns: Vec<Pattern>, request: &Fake) -> bool {
    let matcher = Matcher::new(&[rule(1, vec![(subject, patterns)])]);
    matcher.find(request).is_some()
}

#[test]
fn the_first_rule_whose_conditions_all_hold() {
    let header = || Subject::Header("x-canary".into());
    let matcher = Matcher::new(&[
        rule(
            1,
            vec![
                (header(), vec![exact("always")]),
                (Subject::Path, vec![Pattern::Glob("/api/*".into())]),
            ],
        ),
        rule(2, vec![(header(), vec![exact("always"), exact("yes")])]),
        rule(3, vec![(Subject::Method, vec![exact("POST")])]),
    ]);
    let find = |r: Fake| found(&matcher, &r);
    assert_eq!(
        find(Fake::get("/api/x").with("x-canary", "always")),
        Some(0)
    );
    assert_eq!(find(Fake::get("/x").with("x-canary", "always")), Some(1));
    assert_eq!(find(Fake::get("/api/x").with("x-canary", "yes")), Some(1));
    assert_eq!(find(Fake::get("/api/x").with("x-canary", "Always")), None);
    assert_eq!(
        find(Fake {
            method: "POST",
            ..Fake::get("/")
        }),
        Some(2)
    );
    assert_eq!(
        find(Fake {
            method: "post",
            ..Fake::get("/")
        }),
        None
    );
}

#[test]
fn any_occurrence_may_match_and_what_is_absent_never_does() {
    let header = || Subject::Header("x-user".into());
    let twice = Fake::get("/").with("x-user", "a").with("x-user", "b");
    assert!(matches(header(), vec![exact("b")], &twice));
    assert!(!matches(header(), vec![exact("a, b")], &twice));
    assert!(!matches(
        header(),
        vec![Pattern::Glob("*".into())],
        &Fake::get("/")
    ));
    assert!(matches(
        header(),
        vec![Pattern::Glob("*".into())],
        &Fake::get("/").with("x-user", "")
    ));
    let cookie = Subject::Cookie("beta".into());
    assert!(matches(
        cookie,
        vec![exact("1")],
        &Fake::get("/").with("cookie", "beta=0; beta=1")
    ));
}

#[test]
fn parameters_match_as_typed_and_as_decoded() {
    let query = || Subject::Query("q".into());
    assert!(matches(query(), vec![exact("a b")], &Fake::get("/?q=a+b")));
    assert!(matches(query(), vec![exact("a+b")], &Fake::get("/?q=a+b")));
    assert!(!matches(query(), vec![exact("a b")], &Fake::get("/?q=ab")));
    assert!(!matches(query(), vec![exact("x")], &Fake::get("/q=x")));
}

#[test]
fn regexes_search_bytes() {
    let regex = |text: &str| vec![Pattern::Regex(regex::bytes::Regex::new(text).unwrap())];
    let request = Fake::get("/users/42");
    assert!(matches(Subject::Path, regex("[0-9]+$"), &request));
    assert!(!matches(Subject::Path, regex("^[0-9]+$"), &request));
}

#[test]
fn addresses_and_networks() {
    let nets = || {
        vec![
            Pattern::Net("10.0.0.0/8".parse().unwrap()),
            Pattern::Net("2001:db8::7/128".parse().unwrap()),
        ]
    };
    for (client, expected) in [
        ("10.1.2.3", true),
        ("::ffff:10.1.2.3", true),
        ("11.1.2.3", false),
        ("2001:db8::7", true),
        ("2001:db8::8", false),
    ] {
        let request = Fake {
            client: client.parse().unwrap(),
            ..Fake::get("/")
        };
        assert_eq!(matches(Subject::Ip, nets(), &request), expected, "{client}");
    }
}

#[test]
fn a_client_s_certificate_is_compared_by_subject_names_and_fingerprint() {
    let request = Fake {
        certificate: Some(ClientCertificate {
            subject: "CN=partner,O=Example".into(),
            san: vec!["DNS:partner.test".into(), "URI:spiffe://test/a".into()],
            fingerprint: "00ff".into(),
            ..ClientCertificate::default()
        }),
        ..Fake::get("/")
    };
    let glob = |text: &str| Pattern::Glob(text.into());
    for (subject, pattern, expected) in [
        (Subject::ClientSubject, exact("CN=partner,O=Example"), true),
        (Subject::ClientSubject, glob("*,O=Example"), true),
        (Subject::ClientSubject, exact("CN=partner"), false),
        (Subject::ClientSan, exact("DNS:partner.test"), true),
        (Subject::ClientSan, glob("URI:spiffe://test/*"), true),
        (Subject::ClientSan, exact("partner.test"), false),
        (Subject::ClientFingerprint, exact("00ff"), true),
        (Subject::ClientFingerprint, exact("00FF"), false),
    ] {
        let shown = format!("{subject} {pattern:?}");
        assert_eq!(
            matches(subject, vec![pattern], &request),
            expected,
            "{shown}"
        );
    }
    let nameless = Fake {
        certificate: Some(ClientCertificate::default()),
        ..Fake::get("/")
    };
    for subject in [
        Subject::ClientSubject,
        Subject::ClientSan,
        Subject::ClientFingerprint,
    ] {
        for request in [&Fake::get("/"), &nameless] {
            assert!(
                !matches(subject.clone(), vec![glob("*")], request),
                "{subject}"
            );
        }
    }
}

#[test]
fn exact_values_that_many_rules_ask_are_one_lookup() {
    let header = || Subject::Header("x-user".into());
    let user = |n: usize| rule(n, vec![(header(), vec![exact(&format!("user-{n}"))])]);
    let matcher = Matcher::new(&(0..1000).map(user).collect::<Vec<_>>());
    assert_eq!(matcher.groups.len(), 1);
    assert_eq!(matcher.groups[0].by_value.len(), 1000);
    assert!(matcher.groups[0].by_pattern.is_empty());
    let find = |name: &str| matcher.find(&Fake::get("/").with("x-user", name));
    assert_eq!(find("user-0"), Some(RuleIx(0)));
    assert_eq!(find("user-999"), Some(RuleIx(999)));
    assert_eq!(find("user-1000"), None);
}

#[test]
fn a_rule_is_filed_under_what_tells_it_from_the_others() {
    let user = |n: usize| exact(&format!("user-{n}"));
    let header = || Subject::Header("x-user".into());
    let get = || (Subject::Method, vec![exact("GET")]);
    let many: Vec<_> = (0..100)
        .map(|n| rule(n, vec![get(), (header(), vec![user(n)])]))
        .collect();
    assert_eq!(Matcher::new(&many).groups[0].subject, header());
    // A single rule shares its lookup with no other rule, so that the cheapest lookup wins.
    assert_eq!(Matcher::new(&many[..1]).groups[0].subject, Subject::Method);
}

#[test]
fn rules_that_fail_after_their_lead_held_hide_none_that_follow() {
    let path = || (Subject::Path, vec![exact("/x")]);
    let other = |n: usize| {
        (
            Subject::Cookie(format!("c{n}")),
            vec![Pattern::Glob("*".into())],
        )
    };
    for count in 0..3 * INDEXED_TRIES {
        let mut rules: Vec<_> = (0..count)
            .map(|n| rule(n, vec![path(), other(n)]))
            .collect();
        rules.push(rule(77, vec![path()]));
        rules.push(rule(78, vec![path()]));
        let first = found(&Matcher::new(&rules), &Fake::get("/x"));
        assert_eq!(first, Some(count));
    }
}

/// The reference: each rule tried by itself, in order.
fn one_by_one(rules: &[spec::RuleSpec], request: &Fake) -> Option<usize> {
    rules.iter().position(|rule| {
        rule.when.iter().any(|conditions| {
            conditions.all.iter().all(|c| holds(c, request))
                && !conditions.none.iter().any(|c| holds(c, request))
        })
    })
}

const TEXTS: [&str; 6] = ["a", "b", "/a", "/a b", "GET", "ab"];

fn any_condition() -> impl Strategy<Value = (Subject, Vec<Pattern>)> {
    let text = prop_oneof![
        8 => sample::select(&TEXTS[..]).prop_map(exact),
        1 => Just(Pattern::Glob("*a".into())),
        1 => Just(Pattern::Glob("/?*".into())),
        1 => Just(Pattern::Regex(regex::bytes::Regex::new("b$").unwrap())),
    ];
    let nets = ["10.0.0.1/32", "10.0.0.0/30", "::ffff:10.0.0.1/128", "::/0"];
    let net = sample::select(nets.to_vec()).prop_map(|n| Pattern::Net(n.parse().unwrap()));
    let subject = sample::select(vec![
        Subject::Header("x-a".into()),
        Subject::Header("x-b".into()),
        Subject::Cookie("c".into()),
        Subject::Query("q".into()),
        Subject::Path,
        Subject::Method,
    ]);
    prop_oneof![
        6 => (subject, vec(text, 1..3)),
        1 => (Just(Subject::Ip), vec(net, 1..3)),
    ]
}

fn any_request() -> impl Strategy<Value = Fake> {
    let targets = ["/a", "/b", "/a?q=a&q=%2fa+b", "/ab?q=b&q=ab"];
    let field = (
        sample::select(vec!["x-a", "x-b"]),
        sample::select(&TEXTS[..]),
    );
    let cookie = sample::select(vec!["c=a", "c=b; c=ab", "d=a"]).prop_map(|c| ("cookie", c));
    let client = sample::select(vec![
        "10.0.0.1",
        "10.0.0.2",
        "::ffff:10.0.0.1",
        "::1",
        "192.0.2.1",
    ]);
    (
        sample::select(vec!["GET", "POST"]),
        sample::select(targets.to_vec()),
        vec(prop_oneof![3 => field, 1 => cookie], 0..5),
        client,
    )
        .prop_map(|(method, target, fields, client)| Fake {
            method,
            target,
            fields: fields.into_iter().map(|(n, v)| (n, v.into())).collect(),
            client: client.parse().unwrap(),
            certificate: None,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_rule_found_is_the_first_of_all_asked_one_by_one(
        whens in vec(vec((vec(any_condition(), 0..3), vec(any_condition(), 0..2)), 1..3), 0..16),
        requests in vec(any_request(), 8),
    ) {
        let conditions = |all: Vec<_>| all.into_iter().map(|(subject, patterns)| Condition { subject, patterns });
        let rules: Vec<_> = whens.into_iter().map(|alternatives| spec::RuleSpec {
            when: alternatives.into_iter().map(|(all, none)| spec::Conditions {
                all: conditions(all).collect(),
                none: conditions(none).collect(),
            }).collect(),
            ..spec::RuleSpec::default()
        }).collect();
        let matcher = Matcher::new(&rules);
        for request in requests {
            prop_assert_eq!(found(&matcher, &request), one_by_one(&rules, &request), "{:?}", request);
        }
    }
}
