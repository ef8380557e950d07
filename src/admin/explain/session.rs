//! The session that a request's cookie holds, and whether it decides.

use serde::{Deserialize, Serialize};

use super::Explanation;
use crate::admin::asked::DescribedRequest;
use crate::routing::sticky::{self, Session};
use crate::snapshot::Service;

/// Where a session stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stays {
    /// On this version.
    pub version: String,
    /// On this endpoint of it, if it sticks to one that is usable.
    pub endpoint: Option<String>,
}

impl Explanation {
    /// Says why the request has no session, where the service is sticky.
    pub(super) fn no_session(&mut self, service: &Service, asked: &DescribedRequest) {
        let Some(policy) = &service.policies.sticky else {
            return;
        };
        let cookie = &policy.cookie;
        self.why.push(if !sticky::is_carried(asked, policy) {
            format!("it carries no cookie `{cookie}`: a new session")
        } else if service.sessions.is_none() {
            format!(
                "only the running proxy can read its cookie `{cookie}`: it is taken for a new session here"
            )
        } else {
            format!(
                "its cookie `{cookie}` is no session of this service (forged, of another key, or outdated): it is ignored and replaced"
            )
        });
    }

    /// Tells where the request's session stays.
    pub(super) fn session_stays(
        &mut self,
        service: &Service,
        session: &Session,
        version: usize,
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
        let place = match &endpoint {
            Some(endpoint) => format!("{name}, endpoint {endpoint}"),
            None if session.endpoint.is_some() && policy.to_endpoint => {
                format!(
                    "{name}; the endpoint that it was on is not usable or gone, another one takes it"
                )
            }
            None => name.to_string(),
        };
        let why = match service.routing.split.share(version).0 {
            0 => "by finish_sessions, though the version has no share any more",
            _ => "whatever the split says",
        };
        self.why.push(format!(
            "its cookie `{cookie}` is a session, begun {} ago and sealed {} ago, that stays {why}: on {place}",
            age(session.began_s),
            age(session.seen_s)
        ));
        self.session = Some(Stays {
            version: name.to_string(),
            endpoint,
        });
    }

    /// Says why the request's session does not stay.
    pub(super) fn session_moves(&mut self, service: &Service, session: &Session) {
        let Some(sessions) = &service.sessions else {
            return;
        };
        let mut versions = (0..service.versions.len()).filter(|v| sessions.is_on(session, *v));
        let from = versions.next().map(|v| &service.versions[v].name);
        self.why.push(match from {
        Some(name) => format!(
            "its session was on {name}, which has no share any more or whose sessions were ended: it begins anew"
        ),
        None => "its session was on a version that is gone: it begins anew".to_owned(),
        });
    }
}
