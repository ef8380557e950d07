//! The sticky sessions of one service at run time.
//!
//! Cookies name versions and endpoints by keyed ids, which are computed here once per snapshot. Each version also has a [`Past`]
//! (when it lost its share, and which sessions were voided), which decides whether a session may stay on it. The rules and the
//! cookie format are in [`crate::routing::sticky`].

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::Service;
use crate::config::policy;
use crate::index::{EndpointIx, VersionIx};
use crate::routing::sticky::{self, Follow, Past, SealingKey, Session};
use crate::routing::{self};

/// Sealing keys by key file. `None` is the key that the proxy keeps in its state directory.
pub type Keys = HashMap<Option<PathBuf>, Arc<SealingKey>>;

/// The sticky sessions of one service.
#[derive(Debug)]
pub struct Sessions {
    /// The policy in the configuration.
    pub policy: policy::Sticky,
    key: Arc<SealingKey>,
    pasts: Vec<Past>,
    /// Ids of endpoints, by version and by member of its pool.
    endpoints: Vec<Vec<u64>>,
}

impl Sessions {
    /// Creates the sessions of a compiled service; `None` if it has no sticky policy or its key is missing. `past` returns the past
    /// of a version, by name and by id.
    pub(super) fn new(
        service: &Service,
        keys: &Keys,
        now_s: u64,
        past: impl Fn(&str, u64) -> Option<Past>,
    ) -> Option<Self> {
        let policy = service.policies.sticky.clone()?;
        let key = keys.get(&policy.key_file)?.clone();
        let pasts = service.versions.iter().enumerate().map(|(index, version)| {
            let id = sticky::version_id(&key, &service.name, &version.name);
            let share = service.routing.split.share(VersionIx(index));
            match past(&version.name, id) {
                Some(past) => past.next(share, now_s),
                None => Past::new(id, share, now_s),
            }
        });
        let pasts = pasts.collect();
        let endpoints = service.versions.iter().map(|version| {
            let members = version.pool.members.iter();
            members
                .map(|m| sticky::endpoint_id(&key, &service.name, &m.endpoint.name))
                .collect()
        });
        let endpoints = endpoints.collect();
        Some(Self {
            policy,
            key,
            pasts,
            endpoints,
        })
    }

    /// Voids the sessions of a version that began until `now_s`, as an abort or a rollback does.
    pub(super) fn void(&mut self, version: VersionIx, now_s: u64) {
        let past = &mut self.pasts[version.0];
        *past = past.void(now_s);
    }

    /// The key that seals the cookies.
    pub(super) fn key(&self) -> &Arc<SealingKey> {
        &self.key
    }

    /// The past of each version, in the order of the spec.
    pub(super) fn pasts(&self) -> &[Past] {
        &self.pasts
    }

    /// Finds the session in a request's cookies, if it has a valid one of this service.
    pub fn find(
        &self,
        service: &Service,
        request: &impl routing::RequestView,
        now_s: u64,
    ) -> Option<Session> {
        sticky::find(&self.key, &service.name, request, now_s, &self.policy)
    }

    /// The version that the session stays on. `None` if the request must be routed like one without a session.
    pub fn follow(&self, service: &Service, session: &Session, now_s: u64) -> Option<VersionIx> {
        let finish = service.policies.finish_sessions;
        match sticky::follow(session, &service.routing.split, &self.pasts, finish, now_s) {
            Follow::Stay { version } => Some(version),
            Follow::Move => None,
        }
    }

    /// Whether the session is on this version.
    pub fn is_on(&self, session: &Session, version: VersionIx) -> bool {
        self.pasts[version.0].id == session.version
    }

    /// The member of the version's pool that the session is bound to, if that endpoint is usable.
    pub fn endpoint(
        &self,
        service: &Service,
        session: &Session,
        version: VersionIx,
    ) -> Option<EndpointIx> {
        let wanted = session.endpoint.filter(|_| self.policy.to_endpoint)?;
        let member = self.endpoints[version.0]
            .iter()
            .position(|id| *id == wanted)
            .map(EndpointIx)?;
        let pool = &service.versions[version].pool;
        pool.members[member]
            .endpoint
            .state
            .is_usable()
            .then_some(member)
    }

    /// The `Set-Cookie` value for a response from this member of this version. `None` if the client's cookie is still good.
    pub fn cookie(
        &self,
        service: &Service,
        session: Option<&Session>,
        (version, member): (VersionIx, EndpointIx),
        now_s: u64,
        secure: bool,
    ) -> Option<String> {
        let endpoint = self
            .policy
            .to_endpoint
            .then(|| self.endpoints[version.0][member.0]);
        let next = match session {
            Some(session) if self.is_on(session, version) => {
                if session.endpoint == endpoint
                    && !sticky::needs_refresh(session, now_s, &self.policy)
                {
                    return None;
                }
                session.seen(endpoint, now_s)
            }
            _ => Session::begin(self.pasts[version.0].id, endpoint, now_s),
        };
        let value = sticky::seal(&self.key, &service.name, &next);
        let lasts = sticky::lasts(&next, now_s, &self.policy);
        Some(sticky::set_cookie(
            &self.policy.cookie,
            &value,
            lasts,
            secure,
        ))
    }
}
