//! Versions.

use super::endpoints::endpoints;
use super::{check_name, route};
use crate::config::problems::{Problems, Span};
use crate::config::raw::Table;
use crate::config::spec::{HostPattern, Version};
use crate::config::value::SHORTEST;

/// A preview host: the version's index, the pattern, its place.
pub(super) type Preview = (usize, HostPattern, Span);

/// `[service.NAME.versions]`
pub(super) fn versions(
    service: &mut Table<'_>,
    out: &mut Problems,
) -> (Vec<Version>, Vec<Preview>) {
    let (mut versions, mut previews) = (Vec::new(), Vec::new());
    let help = "write `versions = { blue = [\"10.0.1.10:8080\"] }`";
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
        check_name(name, &value, "version", out);
        let mut version = Version {
            slow_start: None,
            name: name.to_owned(),
            label: None,
            endpoints: Vec::new(),
            preview: Vec::new(),
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

/// `[service.NAME.versions.NAME]`
fn detailed(
    mut table: Table<'_>,
    index: usize,
    version: &mut Version,
    previews: &mut Vec<Preview>,
    out: &mut Problems,
) {
    if let Some(label) = table.take("label") {
        version.label = label
            .text("a string such as \"1.4.2\"", out)
            .map(|t| t.value.to_owned());
    }
    if let Some(value) = table.need("endpoints", out, "write `endpoints = [\"10.0.1.10:8080\"]`") {
        version.endpoints = endpoints(&value, out);
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
    table.finish(out);
}
