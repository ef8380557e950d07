//! Chooses the service and the version of a request. Everything here is pure: no sockets, no clock, no runtime.
//!
//! The route [`table`] maps host and path to a service, or to one of its versions for a preview host. Within the service
//! [`decision()`] consults, in this order, the match rules ([`matcher`]), the sticky session ([`sticky`]), the user's cohort
//! ([`cohort`]) and the exact [`split`], and hands over to another version when the chosen one is down ([`failover`]).

mod client_certificate;
pub(crate) mod client_limit;
pub(crate) mod cohort;
pub(crate) mod decision;
mod extract;
pub(crate) mod failover;
#[cfg(test)]
pub(crate) mod fake;
pub mod flags;
mod layout;
mod map;
pub(crate) mod matcher;
mod reading;
pub mod redirect;
pub mod rewrite;
pub(crate) mod split;
pub mod sticky;
pub(crate) mod table;

use std::net::IpAddr;

use crate::config::spec;
use crate::index::{RuleIx, VersionIx};
use crate::prefetch::PrefetchList;

pub use client_certificate::ClientCertificate;
pub use cohort::{Cohort, CohortPoint};
pub use decision::{
    AnsweredBy, Choice, Chosen, Decision, DecisionInput, DecisionStep, Trace, decision,
};
pub(crate) use extract::{any_cookie, any_parameter};
pub use failover::{FailoverRole, effective_shares};
pub use flags::{Flag, FlagDecision, FlagReason, FlagSet};
pub use matcher::Matcher;
pub use split::{CohortMove, Split, SplitState, moves, users_moved};
pub use table::{Found, RouteTable};

/// A request as routing reads it. Implemented for the heads of HTTP/1 and HTTP/2.
pub trait RequestView {
    /// The method as sent; methods are case-sensitive (RFC 9110 section 9.1).
    fn method(&self) -> &[u8];
    /// The host in lower case, without port and trailing dot. Empty if the request has none.
    fn host(&self) -> &str;
    /// The path without query and with dot segments removed (RFC 3986 section 5.2.4). Begins with `/`, or is `*`.
    fn path(&self) -> &[u8];
    /// The query: everything after the first `?`, if there is one.
    fn query(&self) -> Option<&[u8]>;
    /// Calls `see` with each value of the field `name`, which is in lower case, until it returns `true`; returns whether it
    /// did.
    fn any_field(&self, name: &str, see: &mut dyn FnMut(&[u8]) -> bool) -> bool;
    /// The client's address, as determined with `trusted_proxies`.
    fn client(&self) -> IpAddr;
    /// The certificate that the client has presented, if it has.
    fn certificate(&self) -> Option<&ClientCertificate>;
}

/// The routing part of one service, compiled from its [`spec::ServiceSpec`].
///
/// A part of the compiled service: immutable and shared by all workers. The position in the exact split, which each request
/// advances, is the worker's own; see [`SplitState`].
#[derive(Debug)]
pub struct ServiceRouting {
    /// The match rules, in order.
    pub matcher: Matcher,
    /// The target of each rule.
    pub rules: Box<[RuleTarget]>,
    /// Whether the proxy answers the requests of the service itself.
    pub answers: bool,
    /// For each version, whether the proxy answers its requests itself. Empty if it does so for none.
    pub version_answers: Box<[bool]>,
    /// The cohort, if the split is by user instead of by request.
    pub cohort: Option<Cohort>,
    /// The flags, sorted by name.
    pub flags: Box<[Flag]>,
    /// Names of the flags, in the same order.
    pub flag_names: Box<[Box<str>]>,
    /// The share of each version.
    pub split: Split,
    /// The version that takes over when every version with a share is down.
    pub fallback: Option<VersionIx>,
}

impl ServiceRouting {
    /// Adds what most requests need, besides the value itself.
    pub(crate) fn add_to(&self, list: &mut PrefetchList) {
        self.matcher.add_to(list);
        self.split.add_to(list);
    }
}

/// The target of a match rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleTarget {
    /// The version that gets the requests, if the rule names one.
    pub to: Option<VersionIx>,
    /// Whether the requests never fail over to another version.
    pub strict: bool,
    /// Whether the proxy answers the requests itself.
    pub answers: bool,
    /// Whether another spelling of a path must not lead past the rule, because it answers or limits requests.
    pub guards: bool,
}

indexed_by!(RuleIx: RuleTarget);
indexed_by!(crate::index::FlagIx: Flag);

impl RuleTarget {
    fn of(rule: &spec::RuleSpec) -> Self {
        Self {
            to: rule.to,
            strict: rule.strict,
            answers: rule.actions.answer.is_some(),
            guards: rule.actions.answer.is_some() || rule.client_limits.is_some(),
        }
    }
}

impl ServiceRouting {
    /// Compiles the routing part of `service`.
    pub fn new(service: &spec::ServiceSpec) -> Self {
        let names: Vec<&str> = service.versions.iter().map(|v| &*v.name).collect();
        let version_answers = { service.versions.iter() }.map(|v| v.actions.answer.is_some());
        let version_answers: Box<[bool]> = version_answers.collect();
        Self {
            matcher: Matcher::new(&service.rules),
            rules: service.rules.iter().map(RuleTarget::of).collect(),
            answers: service.actions.answer.is_some(),
            version_answers: match version_answers.contains(&true) {
                true => version_answers,
                false => Box::default(),
            },
            cohort: service.cohort.as_ref().map(Cohort::new),
            flags: service.flags.iter().map(Flag::new).collect(),
            flag_names: { service.flags.iter() }
                .map(|flag| flag.name.as_str().into())
                .collect(),
            split: Split::new(&names, service.stable, &service.split),
            fallback: service.policies.fallback,
        }
    }

    /// Whether the proxy answers the requests of this version itself.
    #[inline]
    pub fn version_answers(&self, version: VersionIx) -> bool {
        self.version_answers
            .get(version.0)
            .copied()
            .unwrap_or(false)
    }

    /// Whether the requests that this rule matches never fail over to another version.
    pub fn is_strict(&self, rule: RuleIx) -> bool {
        self.rules[rule].strict
    }
}
