//! The rules of one service.
//!
//! All conditions of a rule must hold. A condition holds when any of its patterns takes any of the values: a field, cookie
//! or parameter that occurs several times has several. What is absent has none, so that not even `*` takes it.
//! A query parameter's value is compared as typed and as decoded.

use std::net::IpAddr;

use super::{Request, extract, glob};
use crate::config::spec::{self, Pattern, Subject};

/// Compiled rules.
#[derive(Debug, Default)]
pub struct Matcher {
    rules: Box<[Rule]>,
}

#[derive(Debug)]
struct Rule {
    when: Box<[spec::Condition]>,
    to: usize,
}

impl Matcher {
    /// Compiles the rules.
    pub fn new(rules: &[spec::Rule]) -> Self {
        let rules = rules.iter().map(|rule| {
            let mut when = rule.when.clone();
            // What is cheap to look at first: most requests fail there.
            when.sort_by_key(|condition| cost(&condition.subject));
            Rule {
                when: when.into(),
                to: rule.to,
            }
        });
        Self {
            rules: rules.collect(),
        }
    }

    /// The first rule whose conditions all hold: its index and its version.
    ///
    /// Budget: 2,400 instructions (`just instructions`: match_rules).
    #[inline]
    pub fn find(&self, request: &impl Request) -> Option<(usize, usize)> {
        let holds = |rule: &Rule| rule.when.iter().all(|condition| holds(condition, request));
        let index = self.rules.iter().position(holds)?;
        Some((index, self.rules[index].to))
    }
}

fn cost(subject: &Subject) -> u8 {
    match subject {
        Subject::Method | Subject::Ip => 0,
        Subject::Path => 1,
        Subject::Header(_) => 2,
        Subject::Query(_) => 3,
        Subject::Cookie(_) => 4,
    }
}

fn holds(condition: &spec::Condition, request: &impl Request) -> bool {
    let takes = |value: &[u8]| condition.patterns.iter().any(|p| takes(p, value));
    match &condition.subject {
        Subject::Header(name) => request.any_field(name, &mut |value| takes(value)),
        Subject::Cookie(name) => extract::any_cookie(request, name.as_bytes(), takes),
        Subject::Query(name) => extract::any_parameter(request, name.as_bytes(), |raw| {
            takes(raw) || (extract::is_encoded(raw) && takes(&extract::decoded(raw)))
        }),
        Subject::Path => takes(request.path()),
        Subject::Method => takes(request.method()),
        Subject::Ip => {
            // An IPv4 client on an IPv6 socket is an IPv4 client.
            let client = request.client().to_canonical();
            condition.patterns.iter().any(|p| contains(p, client))
        }
    }
}

fn takes(pattern: &Pattern, value: &[u8]) -> bool {
    match pattern {
        Pattern::Exact(text) => text.as_bytes() == value,
        Pattern::Glob(text) => glob::matches(text.as_bytes(), value),
        Pattern::Regex(regex) => regex.is_match(value),
        // Only beside `ip`, which has no bytes.
        Pattern::Net(_) => false,
    }
}

fn contains(pattern: &Pattern, client: IpAddr) -> bool {
    matches!(pattern, Pattern::Net(net) if net.contains(&client))
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    fn exact(text: &str) -> Pattern {
        Pattern::Exact(text.into())
    }

    fn rule(to: usize, when: Vec<(Subject, Vec<Pattern>)>) -> spec::Rule {
        let condition = |(subject, patterns)| spec::Condition { subject, patterns };
        spec::Rule {
            when: when.into_iter().map(condition).collect(),
            to,
            strict: false,
        }
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
        let find = |r: Fake| matcher.find(&r);
        assert_eq!(
            find(Fake::get("/api/x").with("x-canary", "always")),
            Some((0, 1))
        );
        assert_eq!(
            find(Fake::get("/x").with("x-canary", "always")),
            Some((1, 2))
        );
        assert_eq!(
            find(Fake::get("/api/x").with("x-canary", "yes")),
            Some((1, 2))
        );
        assert_eq!(find(Fake::get("/api/x").with("x-canary", "Always")), None);
        assert_eq!(
            find(Fake {
                method: "POST",
                ..Fake::get("/")
            }),
            Some((2, 3))
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
}
