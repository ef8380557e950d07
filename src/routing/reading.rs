//! A request as it would be seen with another path.

use std::net::IpAddr;

use super::{ClientCertificate, RequestView, ServiceRouting};
use crate::index::RuleIx;

/// A request with another path. Everything else is unchanged.
struct WithPath<'a, R> {
    request: &'a R,
    path: &'a [u8],
}

impl<R: RequestView> RequestView for WithPath<'_, R> {
    fn method(&self) -> &[u8] {
        self.request.method()
    }
    fn host(&self) -> &str {
        self.request.host()
    }
    fn path(&self) -> &[u8] {
        self.path
    }
    fn query(&self) -> Option<&[u8]> {
        self.request.query()
    }
    fn any_field(&self, name: &str, see: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.request.any_field(name, see)
    }
    fn client(&self) -> IpAddr {
        self.request.client()
    }
    fn certificate(&self) -> Option<&ClientCertificate> {
        self.request.certificate()
    }
}

impl ServiceRouting {
    /// Whether a rule that answers or limits requests matches the request, or would match it with `path`, but not both. Such a
    /// rule may refuse requests for a path, and forwarding another spelling of that path would bypass it.
    pub fn guards_otherwise(&self, request: &impl RequestView, path: &[u8]) -> bool {
        if !self.rules.iter().any(|rule| rule.guards) {
            return false;
        }
        let as_sent = self.matcher.find(request);
        let as_read = self.matcher.find(&WithPath { request, path });
        let guards = |rule: Option<RuleIx>| rule.is_some_and(|rule| self.rules[rule].guards);
        as_sent != as_read && (guards(as_sent) || guards(as_read))
    }
}
