//! Explains in sentences where a request would go, and why.
//!
//! The explanation is a pure function of a snapshot and a described request. It calls the same `routing::decision` as the
//! data path, and changes no state: neither the position of the exact split nor a session.
//!
//! * `decision`: the routing decision and its steps.
//! * `edits`: the edits of heads.
//! * `flags`: the flags that are on.
//! * `session`: the session cookie.
//! * `takeover`: endpoints and failover.

#[cfg(test)]
mod agreement_tests;
mod decision;
mod edits;
mod flags;
mod sentences;
mod session;
mod takeover;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::request::DescribedRequest;
use super::status::EndpointStatus;
use super::view;
use crate::config::spec::{self, Bind, HostPattern, PathPattern};
use crate::proxy::LocalReply;
use crate::routing::{Found, RouteTable};
use crate::snapshot::Snapshot;
pub(crate) use flags::FlagExplanation;
pub(crate) use session::SessionExplanation;

/// The version or answer that a request gets, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Explanation {
    /// The request as routed: `METHOD host/path`.
    pub request: String,
    /// Names of the listeners that would accept it.
    pub listeners: Vec<String>,
    /// Name of the service.
    pub service: Option<String>,
    /// The host and path pattern that lead to the service.
    pub route: Option<String>,
    /// The match rule that decides, numbered from 0 as in the metrics.
    pub rule: Option<usize>,
    /// The cohort point of the user, if a cohort decides.
    pub cohort: Option<CohortExplanation>,
    /// Version and endpoint of the session in the request's cookie, if the session decides.
    #[serde(default)]
    pub session: Option<SessionExplanation>,
    /// The flags of the service, if the request is forwarded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<FlagExplanation>,
    /// The version; `None` if the exact split picks one of `candidates` for each request.
    pub version: Option<String>,
    /// Versions that the request may go to, including those that take over for them.
    pub candidates: Vec<Candidate>,
    /// The proxy's own answer if the request goes to no version, such as `404 no-route`.
    pub answer: Option<String>,
    /// The steps of the decision, one sentence each.
    pub why: Vec<String>,
}

/// The cohort point of a user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CohortExplanation {
    /// The cohort key that the request has, such as `cookie:uid`.
    pub key: String,
    /// The point, in [0,1).
    #[serde(rename = "place")]
    pub point: f64,
}

/// A version that a request may go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Candidate {
    /// Name of the version.
    pub version: String,
    /// Share of the service's traffic that the version gets.
    pub share: String,
    /// Endpoints of the version. A usable one gets the request, if there is one.
    pub endpoints: Vec<EndpointStatus>,
    /// The version that takes over, if no endpoint is usable.
    #[serde(default)]
    pub instead: Option<String>,
}

/// Explains what the data path would do with a request.
pub(crate) fn explain(snapshot: &Snapshot, request: &DescribedRequest) -> Explanation {
    let mut explanation = Explanation {
        request: request.shown(),
        ..Explanation::default()
    };
    let Some(merges_slashes) = accepting_listeners(snapshot, request, &mut explanation) else {
        return explanation;
    };
    let merged = if merges_slashes {
        request.merged()
    } else {
        None
    };
    let request = merged.as_ref().unwrap_or(request);
    if merged.is_some() {
        explanation.request = request.shown();
        let merges = format!("repeated slashes are merged: {}", request.shown_path());
        explanation.why.push(merges);
    }
    let table = match explanation.listeners.first() {
        Some(listener) => snapshot.table_of(listener),
        None => &snapshot.table,
    };
    let found = table.find(&request.host, &request.path);
    if let Some(why) = ambiguity(snapshot, table, request, found) {
        explanation.set_answer(LocalReply::AMBIGUOUS_PATH);
        explanation.why.push(why);
        return explanation;
    }
    let Some(found) = found else {
        explanation.set_answer(LocalReply::NO_ROUTE);
        let (host, path) = (&request.host, request.shown_path());
        explanation.why.push(format!(
            "no service matches host {host:?} with path {path:?}"
        ));
        return explanation;
    };
    let service = &snapshot.spec.services[found.service];
    explanation.service = Some(service.name.clone());
    if found.preview.is_none() {
        explanation.explain_route(service, request);
    }
    explanation.explain_decision(snapshot, found, request);
    explanation
}

/// The reason why the path is refused as ambiguous; `None` if it isn't.
fn ambiguity(
    snapshot: &Snapshot,
    table: &RouteTable,
    request: &DescribedRequest,
    found: Option<Found>,
) -> Option<String> {
    let differs = |path: &Vec<u8>| table.find(&request.host, path) != found;
    let guards = |path: &Vec<u8>| {
        found.is_some_and(|found| {
            let routing = &snapshot.services[found.service].routing;
            routing.guards_otherwise(request, path)
        })
    };
    let readings = request.readings();
    let read_as = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
    if let Some(path) = readings.iter().find(|path| differs(path)) {
        let seen = read_as(path);
        return Some(format!(
            "ambiguous path: read as {seen:?} it matches another route"
        ));
    }
    let seen = readings.iter().find(|path| guards(path)).map(read_as)?;
    Some(format!(
        "ambiguous path: read as {seen:?} another rule matches, and one of the two answers or limits requests"
    ))
}

/// Finds the listeners that would accept the request: those of its scheme and port, or of its scheme alone if no port
/// matches. Returns whether they merge repeated slashes, or `None` if they answer the request themselves.
fn accepting_listeners(
    snapshot: &Snapshot,
    request: &DescribedRequest,
    explanation: &mut Explanation,
) -> Option<bool> {
    let scheme = if request.secure { "https" } else { "http" };
    let port = |bind: &Bind| match bind {
        Bind::Any(port) => Some(*port),
        Bind::Tcp(address) => Some(address.port()),
        Bind::Unix(_) => None,
    };
    let listeners = &snapshot.spec.listeners;
    let of_scheme: Vec<_> = listeners
        .iter()
        .filter(|l| l.certs.is_empty() != request.secure)
        .collect();
    let exact: Vec<_> = of_scheme
        .iter()
        .copied()
        .filter(|l| port(&l.bind) == Some(request.port))
        .collect();
    let accepting = if exact.is_empty() { of_scheme } else { exact };
    explanation.listeners = accepting.iter().map(|l| l.name.clone()).collect();
    let names = explanation.listeners.join(", ");
    if accepting.is_empty() {
        explanation.why.push(format!(
            "no listener accepts {scheme}; the route below applies to any listener"
        ));
        return Some(false);
    }
    explanation.why.push(match &accepting[..] {
        [one] => format!(
            "listener {names} ({}) accepts {scheme} requests",
            view::bind(&one.bind)
        ),
        _ => format!("listeners {names} accept {scheme} requests and route them alike"),
    });
    let limits = accepting.iter().filter_map(|listener| {
        let rate = view::client_rate(listener.client_limits.as_ref()?)?;
        Some(format!(
            "listener {} limits each client to {rate}",
            listener.name
        ))
    });
    explanation.why.extend(limits);
    explanation.why.extend(offers(accepting[0]));
    let redirects = accepting.iter().all(|l| l.redirect_https);
    if redirects {
        explanation.answer = Some("308 redirect-https".to_owned());
        explanation
            .why
            .push("every request is redirected to https".to_owned());
        return None;
    }
    let first = accepting[0];
    let differs = |l: &&&spec::ListenerSpec| l.merge_slashes != first.merge_slashes;
    if let Some(other) = accepting.iter().find(differs)
        && request.merged().is_some()
    {
        let (first, other) = (&first.name, &other.name);
        explanation.why.push(format!(
            "listeners {first} and {other} differ in `merge_slashes`; the route below is for {first}"
        ));
    }
    Some(first.merge_slashes)
}

/// The services that a listener offers, if it names them.
fn offers(listener: &spec::ListenerSpec) -> Option<String> {
    let names = listener.services.as_ref()?.join(", ");
    let listener = &listener.name;
    Some(format!(
        "listener {listener} offers these services only: {names}"
    ))
}

impl Explanation {
    fn set_answer(&mut self, answer: LocalReply) {
        self.answer = Some(format!("{} {}", answer.status, answer.reason));
    }

    fn explain_route(&mut self, service: &spec::ServiceSpec, request: &DescribedRequest) {
        let host = service
            .hosts
            .iter()
            .filter(|pattern| match pattern {
                HostPattern::Exact(name) => *name == request.host,
                HostPattern::Suffix(suffix) => request.host.ends_with(suffix.as_str()),
            })
            .max_by_key(|pattern| match pattern {
                HostPattern::Exact(_) => usize::MAX,
                HostPattern::Suffix(suffix) => suffix.len(),
            });
        let path = service
            .paths
            .iter()
            .filter(|pattern| match pattern {
                PathPattern::Exact(path) => path.as_bytes() == request.path,
                PathPattern::Prefix(prefix) => {
                    let rest = request.path.strip_prefix(prefix.as_bytes());
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
            "{host_kind} {host_shown} and {path_kind} {path_shown} match service {}",
            service.name
        ));
        self.route = Some(format!("{host_shown}{path_shown}"));
    }
}
