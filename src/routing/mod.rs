//! Which service and which version a request goes to. Pure: no sockets, no clock, no runtime.
//!
//! * [`table`]: host and path to a service (or to a previewed version): the most specific wins.
//! * [`matcher`]: the rules of a service.
//! * [`split`]: exact shares. [`cohort`]: shares that follow users.
//! * [`sticky`]: sessions that stay.
//! * [`decide`]: match, then cohort or split. A preview host decides before: see [`Found::preview`].

pub mod cohort;
mod extract;
#[cfg(test)]
pub(crate) mod fake;
mod glob;
mod map;
pub mod matcher;
pub mod split;
pub mod sticky;
pub mod table;

use std::net::IpAddr;

use crate::config::spec;

pub use cohort::Cohort;
pub use matcher::Matcher;
pub use split::{Split, SplitState};
pub use table::{Found, Table};

/// What routing asks of a request. Two implementations: over an HTTP/1 head, over an HTTP/2 head.
pub trait Request {
    /// The method as typed.
    fn method(&self) -> &[u8];
    /// The host, lower case, without port or trailing dot. May be empty.
    fn host(&self) -> &str;
    /// The path with dot segments removed, without query. Begins with `/` (or is `*`).
    fn path(&self) -> &[u8];
    /// What follows the first `?`, if there is one.
    fn query(&self) -> Option<&[u8]>;
    /// Calls `see` with each value of the field of that (lower-case) name, until it returns `true`; says whether it did.
    fn any_field(&self, name: &str, see: &mut dyn FnMut(&[u8]) -> bool) -> bool;
    /// The client's address (after `trusted_proxies`).
    fn client(&self) -> IpAddr;
}

/// The routing half of one service, compiled from its [`spec::Service`].
#[derive(Debug)]
pub struct Service {
    /// Rules in order.
    pub matcher: Matcher,
    /// Where users stand, if splits follow users.
    pub cohort: Option<Cohort>,
    /// Shares by version.
    pub split: Split,
}

impl Service {
    /// Compiles what routing needs of `service`.
    pub fn new(service: &spec::Service) -> Self {
        Self {
            matcher: Matcher::new(&service.rules),
            cohort: service.cohort.as_ref().map(Cohort::new),
            split: Split::new(service.versions.len(), service.stable, &service.split),
        }
    }
}

/// Which version, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// Index into the service's versions.
    pub version: usize,
    /// What decided.
    pub why: Why,
}

/// What decided a version.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Why {
    /// The host is a preview host of the version.
    Preview,
    /// The rule of this index.
    Rule(usize),
    /// The user's place in [0,1), by the cohort key of this index.
    Cohort {
        /// Index into `cohort.by`.
        key: usize,
        /// The place.
        place: f64,
    },
    /// The exact split.
    Split,
    /// There is no canary with a share.
    Stable,
}

/// Match, then cohort or exact split. `state` is the worker's own for this service; only the exact split moves it.
pub fn decide(service: &Service, request: &impl Request, state: &mut SplitState) -> Decision {
    by_rule(service, request).unwrap_or_else(|| by_share(service, request, state))
}

/// What the first rule that matches says.
pub fn by_rule(service: &Service, request: &impl Request) -> Option<Decision> {
    service
        .matcher
        .find(request)
        .map(|(rule, version)| Decision {
            version,
            why: Why::Rule(rule),
        })
}

/// What cohort or exact split says.
pub fn by_share(service: &Service, request: &impl Request, state: &mut SplitState) -> Decision {
    if service.split.is_whole() {
        return Decision {
            version: service.split.stable(),
            why: Why::Stable,
        };
    }
    if let Some(cohort) = &service.cohort
        && let Some((key, place)) = cohort.place(request)
    {
        return Decision {
            version: service.split.at(place),
            why: Why::Cohort {
                key,
                place: place.ratio(),
            },
        };
    }
    Decision {
        version: service.split.next(state),
        why: Why::Split,
    }
}

#[cfg(test)]
mod tests {
    use super::fake::Fake;
    use super::*;
    use crate::config::spec::{CohortKey, Condition, Pattern, Share, Subject};

    fn service(canary: u32, cohort: bool) -> Service {
        let mut service = fake::service("shop", &["v1", "v2"]);
        service.split = vec![(1, Share(canary))];
        service.cohort = cohort.then(|| spec::Cohort {
            by: vec![
                CohortKey::Cookie("uid".into()),
                CohortKey::Header("x-user-id".into()),
            ],
            salt: "shop".into(),
        });
        service.rules = vec![spec::Rule {
            when: vec![Condition {
                subject: Subject::Header("x-canary".into()),
                patterns: vec![Pattern::Exact("always".into())],
            }],
            to: 1,
            strict: false,
        }];
        Service::new(&service)
    }

    #[test]
    fn a_rule_decides_before_everything_else() {
        let request = Fake::get("/")
            .with("x-canary", "always")
            .with("cookie", "uid=1");
        let rule = Decision {
            version: 1,
            why: Why::Rule(0),
        };
        for canary in [0, 50_000] {
            assert_eq!(
                decide(&service(canary, true), &request, &mut SplitState::default()),
                rule
            );
        }
    }

    #[test]
    fn without_a_share_stable_has_everybody() {
        let request = Fake::get("/").with("cookie", "uid=1");
        let stable = Decision {
            version: 0,
            why: Why::Stable,
        };
        assert_eq!(
            decide(&service(0, true), &request, &mut SplitState::default()),
            stable
        );
    }

    #[test]
    fn a_known_user_stays_and_does_not_move_the_split() {
        let service = service(50_000, true);
        let (mut state, mut fresh) = (SplitState::default(), SplitState::default());
        let by_header = Fake::get("/").with("x-user-id", "42");
        let first = decide(&service, &by_header, &mut state);
        assert!(
            matches!(first.why, Why::Cohort { key: 1, place } if (place < 0.5) == (first.version == 1))
        );
        let unknown = Fake::get("/");
        for _ in 0..20 {
            assert_eq!(decide(&service, &by_header, &mut state), first);
            let split = Decision {
                version: service.split.next(&mut fresh),
                why: Why::Split,
            };
            assert_eq!(decide(&service, &unknown, &mut state), split);
        }
    }

    #[test]
    fn without_a_cohort_the_split_is_exact() {
        let service = service(25_000, false);
        let mut state = SplitState::default();
        let request = Fake::get("/").with("cookie", "uid=1");
        let canary = (0..400).filter(|_| decide(&service, &request, &mut state).version == 1);
        assert_eq!(canary.count(), 100);
    }
}
