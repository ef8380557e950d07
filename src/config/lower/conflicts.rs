//! Two routes that match the same requests with the same precedence: nobody could say which one wins.

use std::collections::HashMap;

use super::service::Places;
use crate::config::problems::{Problems, TextSpan};
use crate::config::spec::{HostPattern, PathPattern, ServiceSpec};

/// `None` = any host.
type Route<'s> = (Option<&'s HostPattern>, PathPattern);

/// Says which services collide, once for each place.
pub(super) fn check(services: &[ServiceSpec], places: &[Places], out: &mut Problems) {
    let mut routes: HashMap<Route<'_>, (usize, TextSpan)> = HashMap::new();
    for (index, (service, places)) in services.iter().zip(places).enumerate() {
        if places.doubtful {
            continue;
        }
        let mut said: Vec<(usize, TextSpan)> = Vec::new();
        for (route, at) in of_service(service, places) {
            match routes.get(&route) {
                Some((first, place)) => {
                    let key = (*first, at.clone());
                    if !said.contains(&key) {
                        collide(&services[*first], service, &route, at, place.clone(), out);
                        said.push(key);
                    }
                }
                None => {
                    routes.insert(route, (index, at));
                }
            }
        }
    }
    previews(services, places, out);
}

/// All routes of a service with the place that says most about each.
fn of_service<'s>(service: &'s ServiceSpec, places: &Places) -> Vec<(Route<'s>, TextSpan)> {
    let everything = [PathPattern::Prefix(String::new())];
    let paths = if service.paths.is_empty() {
        &everything[..]
    } else {
        &service.paths
    };
    let path_place = |at: usize| places.paths.get(at).unwrap_or(&places.name).clone();
    let mut routes = Vec::new();
    for (p, path) in paths.iter().enumerate() {
        if service.hosts.is_empty() {
            routes.push(((None, path.clone()), path_place(p)));
        }
        for (host, place) in service.hosts.iter().zip(&places.hosts) {
            routes.push(((Some(host), path.clone()), place.clone()));
        }
    }
    routes
}

fn collide(
    first: &ServiceSpec,
    second: &ServiceSpec,
    (host, path): &Route<'_>,
    at: TextSpan,
    place: TextSpan,
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
        .also(place, "first here")
        .help("give one of them other `hosts` or `paths`")
        .absence();
}

fn show_host(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Suffix(suffix) => format!("*{suffix}"),
    }
}

/// A preview host leads to one version of one service, whatever the path: nothing else may have it.
fn previews(services: &[ServiceSpec], places: &[Places], out: &mut Problems) {
    let mut taken: HashMap<&HostPattern, (TextSpan, String)> = HashMap::new();
    for (service, places) in services.iter().zip(places) {
        for (host, place) in service.hosts.iter().zip(&places.hosts) {
            taken.entry(host).or_insert_with(|| {
                (
                    place.clone(),
                    format!("service `{}` answers for it", service.name),
                )
            });
        }
    }
    for (service, places) in services.iter().zip(places) {
        for (version, host, place) in &places.previews {
            let version = &service.versions[*version].name;
            if let Some((other, label)) = taken.get(host) {
                let message = format!(
                    "the preview host {} of `{}.{version}` is taken",
                    show_host(host),
                    service.name
                );
                out.error(place.clone(), message)
                    .label("expected a host of its own")
                    .also(other.clone(), label.clone());
                continue;
            }
            let label = format!("the preview of `{}.{version}`", service.name);
            taken.insert(host, (place.clone(), label));
        }
    }
}
