//! `[service.NAME]`: reads the services and checks that no two have the same route.

use std::collections::HashMap;
use std::hash::Hash;

use super::conflicts::RouteSpans;
use super::listeners::NamedServices;
use super::policies::Defaults;
use super::{
    answers, balance, check_name, conflicts, flags, headers, mirror, policies, proxy, rewrite,
    rollout, route, rules, split, versions,
};
use crate::config::actions::Actions;
use crate::config::flag::FlagSpec;
use crate::config::problems::{Problems, TextSpan};
use crate::config::raw::{RawString, RawTable, RawValue};
use crate::config::rollout::{RolloutSpec, RolloutSubject};
use crate::config::spec::{HostPattern, PathPattern, ServiceSpec};
use crate::config::units::quote;
use crate::index::{FlagIx, VersionIx};

/// Labels that the proxy's own metrics use, or that Prometheus adds when it scrapes.
const RESERVED_LABELS: [&str; 19] = [
    "service",
    "version",
    "status",
    "method",
    "le",
    "quantile",
    "grpc_status",
    "rule",
    "reason",
    "endpoint",
    "outcome",
    "limit",
    "state",
    "guard",
    "goal",
    "flag",
    "listener",
    "job",
    "instance",
];

/// Settings outside of a service that affect it.
pub(super) struct Around<'a> {
    /// The default of `body_bytes`.
    pub(super) body_bytes: Option<u64>,
    /// The services that listeners name.
    pub(super) named: &'a [NamedServices<'a>],
    /// Whether the fleet shares services.
    pub(super) shares: bool,
}

/// Reads all services.
pub(super) fn services(
    file: &mut RawTable<'_>,
    defaults: &Defaults,
    around: &Around<'_>,
    out: &mut Problems,
) -> Vec<ServiceSpec> {
    let (mut services, mut spans) = (Vec::new(), Vec::new());
    let Some(value) = file.take("service") else {
        if around.shares {
            out.error(0..0, "the file defines no service, and this proxy has none of its fleet")
                .label("expected `[service.NAME]`, or a copy of the fleet's services")
                .help("`cutover fleet init` puts the services of a file into etcd, and a proxy that starts keeps a copy of them in its state directory");
            return services;
        }
        out.error(0..0, "the file defines no service")
            .label("expected `[service.NAME]`")
            .help("write a service, such as\n[service.shop]\nversions = { blue = [\"10.0.1.10:8080\"] }")
            .missing("", "service");
        return services;
    };
    let Some(table) = value.table("a table: one table for each service", out) else {
        return services;
    };
    let mut any = false;
    for (name, value) in table.named() {
        any = true;
        check_name(name, &value, "service", out);
        if let Some(table) = value.table("a table: the settings of one service", out) {
            let (service, routes) = service(name, table, (defaults, around.body_bytes), out);
            services.push(service);
            spans.push(routes);
        }
    }
    if !any {
        value.empty(out);
    }
    conflicts::check(&services, &spans, around.named, out);
    services
}

fn service(
    name: &str,
    mut table: RawTable<'_>,
    (defaults, body_bytes): (&Defaults, Option<u64>),
    out: &mut Problems,
) -> (ServiceSpec, RouteSpans) {
    let before = out.len();
    let (hosts, host_spans) = hosts(&mut table, out);
    let (paths, path_spans) = paths(&mut table, out);
    // Routes that couldn't be read aren't compared with those of other services: the conflict would be noise.
    let incomplete = out.len() > before;
    let (versions, previews) = versions::versions(&mut table, out);
    let stable = split::stable(&mut table, &versions, out);
    let split::ReadSplit { split, rolling } = table
        .take("split")
        .map(|value| split::split(&value, &versions, stable.as_ref(), out))
        .unwrap_or_default();
    let goals = table
        .take("goals")
        .map(|value| rollout::goals(&value, out))
        .unwrap_or_default();
    let around = rollout::Surroundings {
        versions: &versions,
        rolling: rolling.as_ref().map(|(version, _)| *version),
        split: &split,
        goals: &goals,
    };
    let flags::ReadFlags {
        flags,
        rolling: rolling_flag,
    } = flags::flags(&mut table, out);
    let subject = subject(
        &around,
        rolling.as_ref(),
        rolling_flag.as_ref(),
        &flags,
        out,
    );
    let plan = plan(&mut table, subject.as_ref(), &around, out);
    let rolling = subject.map(|(subject, _)| subject);
    let cohort = table
        .take("cohort")
        .and_then(|value| rules::cohort(&value, name, out));
    let targets = rules::Targets {
        versions: &versions,
        none_needed: answers::has_answer(&table) && !table.has("versions"),
    };
    let rules = table
        .take("match")
        .map(|value| rules::rules(&value, targets, out))
        .unwrap_or_default();
    let mirror = mirror::mirror(&mut table, &versions, out);
    let actions = Actions {
        answer: answers::answer(&mut table, out),
        headers: defaults.headers.then(&headers::headers(&mut table, out)),
        rewrite: rewrite::rewrite(&mut table, out),
    };
    let body_bytes = self::body_bytes(&mut table, body_bytes, out);
    let mut timeouts = defaults.timeouts.clone();
    if let Some(value) = table.take("timeouts") {
        proxy::timeouts(&value, &mut timeouts, out);
    }
    let (balance, hash_by) = balance::balance(&mut table, out);
    let service = ServiceSpec {
        name: name.to_owned(),
        hosts,
        paths,
        stable: stable.map_or(VersionIx(0), |(index, _)| index),
        split,
        rolling,
        rollout: plan,
        goals,
        cohort,
        rules,
        flags,
        mirror,
        body_bytes,
        actions,
        balance,
        timeouts,
        policies: policies::policies(&mut table, &versions, defaults, out),
        hash_by,
        labels: table
            .take("labels")
            .map(|v| labels(&v, out))
            .unwrap_or_default(),
        versions,
    };
    let mut spans = RouteSpans {
        name: table.at.clone(),
        hosts: host_spans,
        paths: path_spans,
        previews,
        incomplete,
    };
    let meant = table.finish(out);
    spans.incomplete |= meant.iter().any(|key| matches!(*key, "hosts" | "paths"));
    (service, spans)
}

/// The version or the flag that follows the rollout, and the span of its share. Reports an error if both follow it.
fn subject(
    around: &rollout::Surroundings<'_>,
    version: Option<&(VersionIx, TextSpan)>,
    flag: Option<&(FlagIx, TextSpan)>,
    flags: &[FlagSpec],
    out: &mut Problems,
) -> Option<(RolloutSubject, TextSpan)> {
    if let (Some((version, at)), Some((flag, also))) = (version, flag) {
        let message = format!(
            "flag `{}` and version `{}` both follow a rollout",
            flags[*flag].name, around.versions[*version].name
        );
        out.error(also.clone(), message)
            .label("a second one")
            .also(at.clone(), "the first one")
            .help("a service has one rollout at a time; give one of them a share");
    }
    let version = version.map(|(version, at)| (RolloutSubject::Version(*version), at.clone()));
    version.or_else(|| flag.map(|(flag, at)| (RolloutSubject::Flag(*flag), at.clone())))
}

/// Reads the plan of rollouts. `rolling` is the subject that follows one, and the span of its share.
fn plan(
    table: &mut RawTable<'_>,
    rolling: Option<&(RolloutSubject, TextSpan)>,
    around: &rollout::Surroundings<'_>,
    out: &mut Problems,
) -> Option<RolloutSpec> {
    let plan = match (table.take("rollout"), rolling) {
        (Some(value), _) => rollout::rollout(&value, around, out),
        (None, Some((_, at))) => {
            rollout::missing(table, at.clone(), out);
            None
        }
        (None, None) => None,
    };
    if let Some(plan) = &plan {
        rollout::shares_fit(table, &plan.steps, around, out);
    }
    if let Some((RolloutSubject::Version(version), at)) = rolling
        && let version = &around.versions[*version]
        && version.actions.answer.is_some()
    {
        let message = format!(
            "version `{}` follows a rollout, but answers its requests itself",
            version.name
        );
        out.error(at.clone(), message)
            .label("a rollout compares what endpoints answer")
            .help("give it a share, or take `respond` out of the version");
    }
    plan
}

/// Reads `body_bytes`, which overrides the limit of the proxy; `"none"` lifts it.
fn body_bytes(table: &mut RawTable<'_>, default: Option<u64>, out: &mut Problems) -> Option<u64> {
    let Some(value) = table.take("body_bytes") else {
        return default;
    };
    match value.as_text() {
        Some(text) if text.value == "none" => None,
        _ => value.size(0..=i64::MAX as u64, out),
    }
}

fn hosts(table: &mut RawTable<'_>, out: &mut Problems) -> (Vec<HostPattern>, Vec<TextSpan>) {
    patterns(
        table.take("hosts"),
        "a host such as \"shop.example.com\"",
        route::host,
        out,
    )
}

fn paths(table: &mut RawTable<'_>, out: &mut Problems) -> (Vec<PathPattern>, Vec<TextSpan>) {
    patterns(
        table.take("paths"),
        "a path such as \"/v1/*\"",
        route::path,
        out,
    )
}

/// Reads patterns and their spans. Two that are written differently but mean the same are duplicates too.
fn patterns<P: Clone + Eq + Hash>(
    value: Option<RawValue<'_>>,
    expected: &str,
    read: fn(&RawString<'_>, &mut Problems) -> Option<P>,
    out: &mut Problems,
) -> (Vec<P>, Vec<TextSpan>) {
    let (mut found, mut spans): (Vec<P>, Vec<TextSpan>) = (Vec::new(), Vec::new());
    let mut known: HashMap<P, TextSpan> = HashMap::new();
    let Some(value) = value else {
        return (found, spans);
    };
    for text in value.texts(expected, out) {
        let Some(pattern) = read(&text, out) else {
            continue;
        };
        if let Some(first) = known.get(&pattern) {
            out.error(
                text.span,
                format!("{} is listed twice in `{}`", quote(text.value), value.path),
            )
            .label("again here")
            .also(first.clone(), "first here");
            continue;
        }
        known.insert(pattern.clone(), text.span.clone());
        found.push(pattern);
        spans.push(text.span);
    }
    (found, spans)
}

/// Reads `labels`, sorted by name. The names follow the data model of Prometheus, where `__` is reserved.
fn labels(value: &RawValue<'_>, out: &mut Problems) -> Vec<(String, String)> {
    let Some(table) = value.table("a table such as { team = \"shop\" }", out) else {
        return Vec::new();
    };
    let mut labels = Vec::new();
    for (name, value) in table.named() {
        let form = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.starts_with("__");
        let why = if RESERVED_LABELS.contains(&name) {
            "the proxy's own metrics use this label"
        } else if !form {
            "expected letters, digits and `_`, beginning with a letter"
        } else {
            ""
        };
        if !why.is_empty() {
            let message = format!("{} can't be the name of a label", quote(name));
            out.error(value.key.clone(), message).label(why);
        }
        if let Some(text) = value.text("a string", out) {
            labels.push((name.to_owned(), text.value.to_owned()));
        }
    }
    labels.sort();
    labels
}
