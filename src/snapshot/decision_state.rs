//! What a routing decision reads of a compiled service at one moment.

use super::Service;
use crate::routing::sticky::Session;
use crate::routing::{DecisionInput, RequestView, Split};

/// [`DecisionInput`] of one service. `usable` and `next` differ between a worker, which has a view of each pool and a position in
/// the exact split, and `explain`, which must not move anything.
#[derive(Debug)]
pub(crate) struct DecisionState<'a, U, N> {
    /// The service.
    pub service: &'a Service,
    /// Seconds since the epoch.
    pub now_s: u64,
    /// Whether a version has a usable endpoint.
    pub usable: U,
    /// The next version by the exact split.
    pub next: N,
}

impl<U: FnMut(usize) -> bool, N: FnMut(&Split) -> usize> DecisionInput for DecisionState<'_, U, N> {
    fn session(&mut self, request: &impl RequestView) -> Option<Session> {
        let sessions = self.service.sessions.as_ref()?;
        sessions.find(self.service, request, self.now_s)
    }

    fn follow(&mut self, session: &Session) -> Option<usize> {
        let sessions = self.service.sessions.as_ref()?;
        sessions.follow(self.service, session, self.now_s)
    }

    fn is_on(&mut self, session: &Session, version: usize) -> bool {
        let sessions = self.service.sessions.as_ref();
        sessions.is_some_and(|all| all.is_on(session, version))
    }

    fn endpoint(&mut self, session: &Session, version: usize) -> Option<usize> {
        let sessions = self.service.sessions.as_ref()?;
        sessions.endpoint(self.service, session, version)
    }

    fn is_usable(&mut self, version: usize) -> bool {
        (self.usable)(version)
    }

    fn next(&mut self, split: &Split) -> usize {
        (self.next)(split)
    }
}
