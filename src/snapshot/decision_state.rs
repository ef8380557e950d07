//! The view of a compiled service that a routing decision reads.

use super::Service;
use crate::index::{EndpointIx, VersionIx};
use crate::routing::sticky::Session;
use crate::routing::{DecisionInput, RequestView, Split};

/// The [`DecisionInput`] of one service at one moment.
///
/// `usable` and `next` are closures because their callers differ: a worker has its own view of each pool and a position in the
/// exact split; `explain` must not advance either.
#[derive(Debug)]
pub struct DecisionState<'a, U, N> {
    /// The service that decides.
    pub service: &'a Service,
    /// The current time in seconds since the Unix epoch.
    pub now_s: u64,
    /// Whether a version has a usable endpoint.
    pub usable: U,
    /// Returns the next version of the exact split, for requests that have no cohort.
    pub next: N,
}

impl<U: FnMut(VersionIx) -> bool, N: FnMut(&Split) -> VersionIx> DecisionInput
    for DecisionState<'_, U, N>
{
    fn session(&mut self, request: &impl RequestView) -> Option<Session> {
        let sessions = self.service.sessions.as_ref()?;
        sessions.find(self.service, request, self.now_s)
    }

    fn follow(&mut self, session: &Session) -> Option<VersionIx> {
        let sessions = self.service.sessions.as_ref()?;
        sessions.follow(self.service, session, self.now_s)
    }

    fn is_on(&mut self, session: &Session, version: VersionIx) -> bool {
        let sessions = self.service.sessions.as_ref();
        sessions.is_some_and(|all| all.is_on(session, version))
    }

    fn endpoint(&mut self, session: &Session, version: VersionIx) -> Option<EndpointIx> {
        let sessions = self.service.sessions.as_ref()?;
        sessions.endpoint(self.service, session, version)
    }

    fn is_usable(&mut self, version: VersionIx) -> bool {
        (self.usable)(version)
    }

    fn next(&mut self, split: &Split) -> VersionIx {
        (self.next)(split)
    }
}
