//! Finds routes of different services that match the same requests with the same precedence, so that neither would win.

use std::collections::HashMap;

use super::listeners::NamedServices;
use super::versions::Preview;
use crate::config::problems::{Problems, TextSpan};
use crate::config::spec::{HostPattern, PathPattern, ServiceSpec};

/// A host and a path; `None` stands for any host.
type Route<'s> = (Option<&'s HostPattern>, PathPattern);

/// The spans of the parts of a service's routes.
pub(super) struct RouteSpans {
    /// The service's name.
    pub(super) name: TextSpan,
    /// Parallel to the `hosts` of the service.
    pub(super) hosts: Vec<TextSpan>,
    /// Parallel to the `paths` of the service.
    pub(super) paths: Vec<TextSpan>,
    pub(super) previews: Vec<Preview>,
    /// Whether part of `hosts` or `paths` was invalid or misspelt, so that the routes aren't known.
    pub(super) incomplete: bool,
}

/// Reports services that have the same route, once for each position in the text.
///
/// `listeners` are the services that each listener names: two services without a common listener don't compete.
pub(super) fn check(
    services: &[ServiceSpec],
    spans: &[RouteSpans],
    listeners: &[NamedServices<'_>],
    out: &mut Problems,
) {
    let has = |named: &NamedServices<'_>, service: usize| match named {
        Some(named) => named
            .iter()
            .any(|text| text.value == services[service].name),
        None => true,
    };
    // Without a valid listener the services that compete aren't known.
    let compete = |a: usize, b: usize| {
        listeners.is_empty() || listeners.iter().any(|named| has(named, a) && has(named, b))
    };
    let mut routes: HashMap<Route<'_>, Vec<(usize, TextSpan)>> = HashMap::new();
    for (index, (service, spans)) in services.iter().zip(spans).enumerate() {
        if spans.incomplete {
            continue;
        }
        // A host with several paths, or a path with several hosts, may collide more than once at the same position.
        let mut reported: Vec<(usize, TextSpan)> = Vec::new();
        for (route, at) in routes_of(service, spans) {
            let others = routes.entry(route.clone()).or_default();
            match others.iter().find(|(other, _)| compete(*other, index)) {
                Some((first, span)) => {
                    let key = (*first, at.clone());
                    if !reported.contains(&key) {
                        report(&services[*first], service, &route, at, span.clone(), out);
                        reported.push(key);
                    }
                }
                None => others.push((index, at)),
            }
        }
    }
    check_previews(services, spans, out);
}

/// Returns all routes of a service, each with its most specific span: the host, else the path, else the service.
fn routes_of<'s>(service: &'s ServiceSpec, spans: &RouteSpans) -> Vec<(Route<'s>, TextSpan)> {
    let everything = [PathPattern::Prefix(String::new())];
    let paths = if service.paths.is_empty() {
        &everything[..]
    } else {
        &service.paths
    };
    let path_span = |at: usize| spans.paths.get(at).unwrap_or(&spans.name).clone();
    let mut routes = Vec::new();
    for (p, path) in paths.iter().enumerate() {
        if service.hosts.is_empty() {
            routes.push(((None, path.clone()), path_span(p)));
        }
        for (host, span) in service.hosts.iter().zip(&spans.hosts) {
            routes.push(((Some(host), path.clone()), span.clone()));
        }
    }
    routes
}

fn report(
    first: &ServiceSpec,
    second: &ServiceSpec,
    (host, path): &Route<'_>,
    at: TextSpan,
    first_at: TextSpan,
    out: &mut Problems,
) {
    let host = host.map_or_else(|| "every host".to_owned(), show_host);
    let path = match path {
        PathPattern::Exact(path) => format!("the path {path}"),
        PathPattern::Prefix(prefix) if prefix.is_empty() => "every path".to_owned(),
        PathPattern::Prefix(prefix) => format!("{prefix}/*"),
    };
    let message = format!(
        "services `{}` and `{}` have the same route: {host}, {path}",
        first.name, second.name
    );
    out.error(at, message)
        .label("the same route again")
        .also(first_at, "first here")
        .help("give one of them different `hosts` or `paths`")
        .absence();
}

fn show_host(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Suffix(suffix) => format!("*{suffix}"),
    }
}

/// Reports preview hosts that are used twice. Such a host leads to one version of one service, whatever the path, so it can't
/// be shared with a service or another version.
fn check_previews(services: &[ServiceSpec], spans: &[RouteSpans], out: &mut Problems) {
    let mut taken: HashMap<&HostPattern, (TextSpan, String)> = HashMap::new();
    for (service, spans) in services.iter().zip(spans) {
        for (host, span) in service.hosts.iter().zip(&spans.hosts) {
            taken.entry(host).or_insert_with(|| {
                (
                    span.clone(),
                    format!("a host of service `{}`", service.name),
                )
            });
        }
    }
    for (service, spans) in services.iter().zip(spans) {
        for (version, host, span) in &spans.previews {
            let version = &service.versions[*version].name;
            if let Some((other, label)) = taken.get(host) {
                let message = format!(
                    "the preview host {} of `{}.{version}` is taken",
                    show_host(host),
                    service.name
                );
                out.error(span.clone(), message)
                    .label("expected a host that nothing else uses")
                    .also(other.clone(), label.clone());
                continue;
            }
            let label = format!("the preview of `{}.{version}`", service.name);
            taken.insert(host, (span.clone(), label));
        }
    }
}
