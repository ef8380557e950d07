//! Where a request would go, and why, in words. Pure: it reads a snapshot and moves nothing in it.

#[cfg(test)]
mod agreement_tests;
mod decision;
mod session;
mod takeover;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::asked::DescribedRequest;
use super::status::EndpointStatus;
use super::view;
use crate::config::spec::{self, Bind, HostPattern, PathPattern};
use crate::proxy::LocalReply;
use crate::snapshot::Snapshot;
pub(crate) use session::Stays;

/// Where a request goes, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Explanation {
    /// `METHOD host path`, as routed.
    pub request: String,
    /// The listeners that would take it.
    pub listeners: Vec<String>,
    /// The service.
    pub service: Option<String>,
    /// The host and path pattern that lead there.
    pub route: Option<String>,
    /// The match rule that decides, counted from 0 as in the metrics.
    pub rule: Option<usize>,
    /// The user's place, where a cohort decides.
    pub cohort: Option<CohortExplanation>,
    /// Where the session of its cookie stays, where that decides.
    #[serde(default)]
    pub session: Option<Stays>,
    /// The version; `None` where the exact split picks one of `candidates` for each request.
    pub version: Option<String>,
    /// Versions that the request may go to, those that take over for them included.
    pub candidates: Vec<Candidate>,
    /// Our own answer, where the request goes nowhere: `404 no-route`.
    pub answer: Option<String>,
    /// The way there, a sentence a step.
    pub why: Vec<String>,
}

/// Where a user stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CohortExplanation {
    /// The key that is present: `cookie:uid`.
    pub key: String,
    /// In [0,1).
    pub place: f64,
}

/// A version that a request may go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Candidate {
    /// Its name.
    pub version: String,
    /// Its share of the service's traffic.
    pub share: String,
    /// One of these gets the request, as long as one of them is usable.
    pub endpoints: Vec<EndpointStatus>,
    /// The version that takes over now, because none of these is usable.
    #[serde(default)]
    pub instead: Option<String>,
}

/// Follows a request through a snapshot.
pub(crate) fn explain(snapshot: &Snapshot, asked: &DescribedRequest) -> Explanation {
    let mut told = Explanation {
        request: asked.shown(),
        ..Explanation::default()
    };
    let Some(merges_slashes) = arrive(snapshot, asked, &mut told) else {
        return told;
    };
    let merged = if merges_slashes { asked.merged() } else { None };
    let asked = merged.as_ref().unwrap_or(asked);
    if merged.is_some() {
        told.request = asked.shown();
        let merges = format!("repeated slashes are merged: {}", asked.shown_path());
        told.why.push(merges);
    }
    let found = snapshot.table.find(&asked.host, &asked.path);
    let elsewhere = |seen: &Vec<u8>| snapshot.table.find(&asked.host, seen) != found;
    if let Some(seen) = asked.readings().into_iter().find(elsewhere) {
        told.answered(LocalReply::AMBIGUOUS_PATH);
        let seen = String::from_utf8_lossy(&seen);
        told.why.push(format!(
            "read as {seen:?} the path leads to another route: refused"
        ));
        return told;
    }
    let Some(found) = found else {
        told.answered(LocalReply::NO_ROUTE);
        let (host, path) = (&asked.host, asked.shown_path());
        told.why
            .push(format!("no service takes host {host:?} with path {path:?}"));
        return told;
    };
    let service = &snapshot.spec.services[found.service];
    told.service = Some(service.name.clone());
    if found.preview.is_none() {
        told.route(service, asked);
    }
    told.decision(snapshot, found, asked);
    told
}

/// Which listeners take it, and whether they merge repeated slashes; `None` where the way ends there.
fn arrive(snapshot: &Snapshot, asked: &DescribedRequest, told: &mut Explanation) -> Option<bool> {
    let scheme = if asked.secure { "https" } else { "http" };
    let port = |bind: &Bind| match bind {
        Bind::Any(port) => Some(*port),
        Bind::Tcp(address) => Some(address.port()),
        Bind::Unix(_) => None,
    };
    let listeners = &snapshot.spec.listeners;
    let speaking: Vec<_> = listeners
        .iter()
        .filter(|l| l.certs.is_empty() != asked.secure)
        .collect();
    let exact: Vec<_> = speaking
        .iter()
        .copied()
        .filter(|l| port(&l.bind) == Some(asked.port))
        .collect();
    let taking = if exact.is_empty() { speaking } else { exact };
    told.listeners = taking.iter().map(|l| l.name.clone()).collect();
    let names = told.listeners.join(", ");
    if taking.is_empty() {
        told.why.push(format!(
            "no listener speaks {scheme}; the route below is what any listener would take"
        ));
        return Some(false);
    }
    told.why.push(match &taking[..] {
        [one] => format!(
            "listener {names} ({}) takes {scheme} requests",
            view::bind(&one.bind)
        ),
        _ => format!("listeners {names} take {scheme} requests and route them alike"),
    });
    let redirects = taking.iter().all(|l| l.redirect_https);
    if redirects {
        told.answer = Some("308 redirect-https".to_owned());
        told.why
            .push("it answers every request with a redirect to https".to_owned());
        return None;
    }
    let first = taking[0];
    let unlike = |l: &&&spec::ListenerSpec| l.merge_slashes != first.merge_slashes;
    if let Some(other) = taking.iter().find(unlike)
        && asked.merged().is_some()
    {
        let (first, other) = (&first.name, &other.name);
        told.why.push(format!(
            "listeners {first} and {other} differ in `merge_slashes`; the route below is that of {first}"
        ));
    }
    Some(first.merge_slashes)
}

impl Explanation {
    fn answered(&mut self, answer: LocalReply) {
        self.answer = Some(format!("{} {}", answer.status, answer.reason));
    }

    fn route(&mut self, service: &spec::ServiceSpec, asked: &DescribedRequest) {
        let host = service
            .hosts
            .iter()
            .filter(|pattern| match pattern {
                HostPattern::Exact(name) => *name == asked.host,
                HostPattern::Suffix(suffix) => asked.host.ends_with(suffix.as_str()),
            })
            .max_by_key(|pattern| match pattern {
                HostPattern::Exact(_) => usize::MAX,
                HostPattern::Suffix(suffix) => suffix.len(),
            });
        let path = service
            .paths
            .iter()
            .filter(|pattern| match pattern {
                PathPattern::Exact(path) => path.as_bytes() == asked.path,
                PathPattern::Prefix(prefix) => {
                    let rest = asked.path.strip_prefix(prefix.as_bytes());
                    rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
                }
            })
            .max_by_key(|pattern| match pattern {
                PathPattern::Exact(_) => usize::MAX,
                PathPattern::Prefix(prefix) => prefix.len(),
            });
        let (host_shown, host_kind) = match host {
            Some(pattern @ HostPattern::Exact(_)) => (view::host(pattern), "exact host"),
            Some(pattern @ HostPattern::Suffix(_)) => (view::host(pattern), "wildcard host"),
            None => ("*".to_owned(), "any host"),
        };
        let (path_shown, path_kind) = match path {
            Some(pattern @ PathPattern::Exact(_)) => (view::path(pattern), "exact path"),
            Some(pattern @ PathPattern::Prefix(_)) => (view::path(pattern), "path prefix"),
            None => ("/*".to_owned(), "any path"),
        };
        self.why.push(format!(
            "{host_kind} {host_shown} and {path_kind} {path_shown} lead to service {}",
            service.name
        ));
        self.route = Some(format!("{host_shown}{path_shown}"));
    }
}
