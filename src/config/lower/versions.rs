//! `[service.NAME.versions]`: the versions of a service, as lists of endpoints or as tables.

use super::endpoints::endpoints;
use super::upstream_tls::upstream_tls;
use super::{answers, headers};
use super::{check_name, route, split, unknown_word};
use crate::config::actions::Actions;
use crate::config::problems::{Problems, TextSpan};
use crate::config::raw::{RawTable, RawValue};
use crate::config::spec::{HostPattern, ProxyProtocol, Scheme, VersionSpec};
use crate::config::units::quote;
use crate::config::value::SHORTEST;

/// A preview host: the version's index, the pattern and its span.
pub(super) type Preview = (usize, HostPattern, TextSpan);

/// Keys that have an effect only on a service with versions.
const NEED_VERSIONS: [&str; 8] = [
    "stable",
    "split",
    "rollout",
    "fallback",
    "goals",
    "sticky",
    "finish_sessions",
    "shield",
];

/// Reads `[service.NAME.versions]`. A service that answers its requests itself may have none.
pub(super) fn versions(
    service: &mut RawTable<'_>,
    out: &mut Problems,
) -> (Vec<VersionSpec>, Vec<Preview>) {
    let (mut versions, mut previews) = (Vec::new(), Vec::new());
    let help = "write `versions = { blue = [\"10.0.1.10:8080\"] }`";
    if answers::has_answer(service) && !service.has("versions") {
        // Only makes the key known, so that it is among the suggestions.
        service.take("versions");
        for (name, value) in service.named().filter(|(n, _)| NEED_VERSIONS.contains(n)) {
            out.error(value.key, format!("`{}` has no effect", value.path))
                .label("the service has no versions")
                .help(format!("{help} as well, or leave out `{name}`"))
                .absence();
        }
        return (versions, previews);
    }
    let Some(value) = service.need("versions", out, help) else {
        return (versions, previews);
    };
    let Some(table) = value.table(
        "a table: a name and a list of endpoints for each version",
        out,
    ) else {
        return (versions, previews);
    };
    for (name, value) in table.named() {
        if !may_be_version(name, &value) && split::report_stray_key(name, &value, &table, out) {
            continue;
        }
        check_name(name, &value, "version", out);
        let mut version = VersionSpec {
            slow_start: None,
            name: name.to_owned(),
            label: None,
            endpoints: Vec::new(),
            max_share: None,
            preview: Vec::new(),
            actions: Actions::default(),
            tls: None,
            proxy_protocol: None,
        };
        match value.as_table() {
            Some(table) => detailed(table, versions.len(), &mut version, &mut previews, out),
            None => version.endpoints = endpoints(&value, out),
        }
        versions.push(version);
    }
    if versions.is_empty() {
        value.empty(out);
    }
    (versions, previews)
}

/// Returns whether the value has the form of a version. A version may have the name of a key; otherwise the key is meant.
fn may_be_version(name: &str, value: &RawValue<'_>) -> bool {
    if let Some(table) = value.as_table() {
        return table.has("endpoints") || table.has("respond");
    }
    let Some(items) = value.as_list() else {
        return false;
    };
    // `hosts` and `paths` are lists of strings too, but only endpoints have a port.
    let has_port = |item: &RawValue<'_>| item.as_text().is_some_and(|t| t.value.contains(':'));
    !matches!(name, "hosts" | "paths") || items.iter().any(has_port)
}

/// Reads `[service.NAME.versions.NAME]`.
fn detailed(
    mut table: RawTable<'_>,
    index: usize,
    version: &mut VersionSpec,
    previews: &mut Vec<Preview>,
    out: &mut Problems,
) {
    if let Some(label) = table.take("label") {
        version.label = label
            .text("a string such as \"1.4.2\"", out)
            .map(|t| t.value.to_owned());
    }
    version.actions.answer = answers::of_version(&mut table, out);
    version.actions.headers = headers::headers(&mut table, out);
    // A version that answers its requests itself needs no endpoints.
    let listed = match table.has("respond") {
        true => table.take("endpoints"),
        false => table.need("endpoints", out, "write `endpoints = [\"10.0.1.10:8080\"]`"),
    };
    if let Some(value) = listed {
        version.endpoints = endpoints(&value, out);
    }
    if let Some(value) = table.take("max_share")
        && let Some(share) = value.share(out)
    {
        if share.0 == 0 {
            out.error(value.span, format!("`{}` allows no traffic", value.path))
                .label("expected more than 0%")
                .help("leave it out for no limit, or take the version out of `split`");
        }
        version.max_share = Some(share);
    }
    if let Some(value) = table.take("preview") {
        for text in value.texts("a host such as \"green.shop.example.com\"", out) {
            if let Some(pattern) = route::host(&text, out) {
                version.preview.push(pattern.clone());
                previews.push((index, pattern, text.span));
            }
        }
    }
    if let Some(value) = table.take("slow_start") {
        version.slow_start = value.duration(SHORTEST, out);
    }
    if let Some(value) = table.take("tls") {
        version.tls = upstream_tls(&value, out);
        check_tls(&value, version, out);
    }
    if let Some(value) = table.take("proxy_protocol") {
        version.proxy_protocol = proxy_protocol(&value, version, out);
    }
    table.finish(out);
}

/// Reads `proxy_protocol`.
fn proxy_protocol(
    value: &RawValue<'_>,
    version: &VersionSpec,
    out: &mut Problems,
) -> Option<ProxyProtocol> {
    let text = value.text("\"v1\" or \"v2\"", out)?;
    let word = ProxyProtocol::parse(text.value);
    if word.is_none() {
        unknown_word(&text, &value.path, &["v1", "v2"], out);
        return None;
    }
    if let Some(endpoint) = version.endpoints.iter().find(|e| e.scheme == Scheme::H2c) {
        let message = format!(
            "`{}` can't be used with {}",
            value.path,
            quote(&endpoint.to_string())
        );
        out.error(text.span, message)
            .label("the header names the one client of a connection, and HTTP/2 connections are shared by many")
            .help(format!(
                "write {} for HTTP/1.1, or leave this out: the client's address is in `X-Forwarded-For`",
                quote(&endpoint.address.to_string())
            ));
        return None;
    }
    word
}

/// Reports TLS settings of a version without endpoints that speak TLS.
fn check_tls(value: &RawValue<'_>, version: &VersionSpec, out: &mut Problems) {
    let has_tls = { version.endpoints.iter() }.any(|endpoint| endpoint.scheme == Scheme::Https);
    // Where the endpoints are missing or invalid, that is reported already.
    if has_tls || version.endpoints.is_empty() {
        return;
    }
    out.error(value.key.clone(), format!("`{}` has no effect", value.path))
        .label("no endpoint of this version speaks TLS")
        .help(format!(
            "write \"https://{}\", or leave it out",
            version.endpoints[0].address
        ));
}
