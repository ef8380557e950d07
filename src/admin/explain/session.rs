//! Explains the session in a request's cookie, and whether it decides the version.

use serde::{Deserialize, Serialize};

use super::Explanation;
use crate::admin::request::DescribedRequest;
use crate::index::VersionIx;
use crate::routing::sticky::{self, Session};
use crate::snapshot::Service;

/// The version and endpoint on which a session stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionExplanation {
    /// Name of the version.
    pub version: String,
    /// Address of the endpoint, if the session sticks to one and that is usable.
    pub endpoint: Option<String>,
}

impl Explanation {
    /// Explains why the request has no session. Adds nothing if the service is not sticky.
    pub(super) fn no_session(&mut self, service: &Service, request: &DescribedRequest) {
        let Some(policy) = &service.policies.sticky else {
            return;
        };
        let cookie = &policy.cookie;
        self.why.push(if !sticky::is_carried(request, policy) {
            format!("it has no cookie `{cookie}`: a new session begins")
        } else if service.sessions.is_none() {
            format!(
                "only the running proxy can read its cookie `{cookie}`: treated as a new session here"
            )
        } else {
            format!(
                "its cookie `{cookie}` is no session of this service (forged, sealed with another key, or expired): ignored and replaced"
            )
        });
    }

    /// Explains where the request's session stays.
    pub(super) fn session_stays(
        &mut self,
        service: &Service,
        session: &Session,
        version: VersionIx,
        now_s: u64,
    ) {
        let (Some(policy), Some(sessions)) = (&service.policies.sticky, &service.sessions) else {
            return;
        };
        let cookie = &policy.cookie;
        let name = &service.versions[version].name;
        let member = sessions.endpoint(service, session, version);
        let members = &service.versions[version].pool.members;
        let endpoint = member.map(|m| members[m].endpoint.name.to_string());
        let age = |since_s: u64| {
            let age = std::time::Duration::from_secs(now_s.saturating_sub(since_s));
            humantime::format_duration(age).to_string()
        };
        let destination = match &endpoint {
            Some(endpoint) => format!("{name}, endpoint {endpoint}"),
            None if session.endpoint.is_some() && policy.to_endpoint => {
                format!("{name}; its endpoint is gone or not usable, so another one is chosen")
            }
            None => name.to_string(),
        };
        let why = match service.routing.split.share(version).0 {
            0 => "by finish_sessions, though the version no longer has a share",
            _ => "whatever the split says",
        };
        self.why.push(format!(
            "its cookie `{cookie}` is a session, begun {} ago and sealed {} ago, that stays {why}: on {destination}",
            age(session.began_s),
            age(session.seen_s)
        ));
        self.session = Some(SessionExplanation {
            version: name.to_string(),
            endpoint,
        });
    }

    /// Explains why the request's session does not stay on its version.
    pub(super) fn session_moves(&mut self, service: &Service, session: &Session) {
        let Some(sessions) = &service.sessions else {
            return;
        };
        let mut versions =
            VersionIx::all(service.versions.len()).filter(|v| sessions.is_on(session, *v));
        let from = versions.next().map(|v| &service.versions[v].name);
        self.why.push(match from {
        Some(name) => format!(
            "its session was on {name}, which no longer has a share or whose sessions were ended: a new session begins"
        ),
        None => "its session was on a version that no longer exists: a new session begins".to_owned(),
        });
    }
}
