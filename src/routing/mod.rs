//! Which service and which version a request goes to. Pure: no sockets, no clock, no runtime.
//!
//! * [`table`]: host and path to a service (or to a previewed version): the most specific wins.
//! * [`matcher`]: the rules of a service.
//! * [`split`]: exact shares. [`cohort`]: shares that follow users.
//! * [`sticky`]: sessions that stay.
//! * [`decision`]: the order in which they are asked. [`failover`]: who takes over for a version that is down.

pub(crate) mod cohort;
pub(crate) mod decision;
mod extract;
pub(crate) mod failover;
#[cfg(test)]
pub(crate) mod fake;
mod glob;
mod layout;
mod map;
pub(crate) mod matcher;
pub(crate) mod split;
pub mod sticky;
pub(crate) mod table;

use std::net::IpAddr;

use crate::config::spec;

pub use cohort::{Cohort, CohortPoint};
pub use decision::{Choice, Chosen, DecisionInput, DecisionStep, Trace, decision};
pub use failover::{FailoverRole, effective_shares};
pub use matcher::Matcher;
pub use split::{CohortMove, Split, SplitState, moves, users_moved};
pub use table::{Found, RouteTable};

/// What routing asks of a request. Two implementations: over an HTTP/1 head, over an HTTP/2 head.
pub trait RequestView {
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

/// The routing half of one service, compiled from its [`spec::ServiceSpec`].
#[derive(Debug)]
pub struct ServiceRouting {
    /// Rules in order.
    pub matcher: Matcher,
    /// For each rule: whether what it matches never goes to another version.
    pub strict: Box<[bool]>,
    /// Where users stand, if splits follow users.
    pub cohort: Option<Cohort>,
    /// Shares by version.
    pub split: Split,
    /// The version that takes over when every version with a share is down.
    pub fallback: Option<usize>,
}

impl ServiceRouting {
    /// Compiles what routing needs of `service`.
    pub fn new(service: &spec::ServiceSpec) -> Self {
        let names: Vec<&str> = service.versions.iter().map(|v| &*v.name).collect();
        Self {
            matcher: Matcher::new(&service.rules),
            strict: service.rules.iter().map(|rule| rule.strict).collect(),
            cohort: service.cohort.as_ref().map(Cohort::new),
            split: Split::new(&names, service.stable, &service.split),
            fallback: service.policies.fallback,
        }
    }
}
