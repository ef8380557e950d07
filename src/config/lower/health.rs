//! `check` and `[…health]`: active health checks.

use std::time::Duration;

use toml::de::DeValue;

use super::order::order;
use crate::config::diagnostic::Severity;
use crate::config::policy::{HealthPolicy, Probe};
use crate::config::problems::{Problems, TextSpan};
use crate::config::raw::{RawString, RawTable, RawValue};
use crate::config::suggest::suggest;
use crate::config::units::quote;
use crate::config::value::SHORTEST;

/// The shortest interval between checks. More frequent ones would be a noticeable load themselves.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

const EXPECTED: &str = "a path such as \"/ready\", or \"tcp\", \"grpc\" or \"grpc:SERVICE\"";

/// An incomplete policy: `[defaults.health]` may set the times for all services and leave the probe to each of them.
#[derive(Clone)]
pub(super) struct Draft {
    /// Whether a probe was set, and endpoints are checked.
    active: bool,
    /// The policy so far. Its probe is a placeholder unless `active`.
    health: HealthPolicy,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            active: false,
            health: HealthPolicy::new(Probe::Tcp),
        }
    }
}

/// Reads `[defaults.health]`. With a `path` it turns health checks on for every service.
pub(super) fn defaults(value: &RawValue<'_>, out: &mut Problems) -> Draft {
    let mut draft = Draft::default();
    keys(value, &mut draft, out);
    draft
}

/// Reads `check` and `[service.NAME.health]`, which override the defaults key by key.
pub(super) fn service(
    table: &mut RawTable<'_>,
    defaults: &Draft,
    out: &mut Problems,
) -> Option<HealthPolicy> {
    let mut draft = defaults.clone();
    let check = table.take("check");
    let health = table.take("health");
    let path = health.as_ref().and_then(|v| keys(v, &mut draft, out));
    if let (Some(check), Some(path)) = (&check, &path) {
        let message = format!(
            "`{}` and `{}.health.path` both set the check",
            check.path, table.path
        );
        out.error(check.key.clone(), message)
            .label("the short form")
            .also(path.clone(), "the long form")
            .help("keep one of them: `check` is enough where the default times fit");
    }
    if let Some(health) = &health
        && health.as_table().is_some()
        && check.is_none()
        && !draft.active
    {
        out.error(
            health.key.clone(),
            format!("`{}` has no `path`", health.path),
        )
        .label("expected `path` in here")
        .help("write `path = \"/ready\"` in here, or `check = \"/ready\"` in the service")
        .missing(&health.path, "path");
    }
    match check {
        // `check = false` turns off what `[defaults.health]` turned on for every service.
        Some(check) if matches!(check.node, DeValue::Boolean(false)) => draft.active = false,
        Some(check) => {
            if let Some(text) = check.text(EXPECTED, out)
                && let Some(probe) = probe(&text, out)
            {
                draft.active = true;
                draft.health.probe = probe;
            }
        }
        None => {}
    }
    draft.active.then_some(draft.health)
}

/// Reads the keys of a table over those in `draft`. Returns the span of the key `path` if it is present, even if its value is
/// invalid.
fn keys(value: &RawValue<'_>, draft: &mut Draft, out: &mut Problems) -> Option<TextSpan> {
    let mut table = value.table("a table such as { path = \"/ready\" }", out)?;
    let path = table.take("path");
    draft.active |= path.is_some();
    if let Some(path) = &path
        && let Some(text) = path.text(EXPECTED, out)
        && let Some(probe) = probe(&text, out)
    {
        draft.health.probe = probe;
    }
    let health = &mut draft.health;
    let interval = table.set_duration("interval", &mut health.interval, SHORTEST_INTERVAL, out);
    let timeout = table.set_duration("timeout", &mut health.timeout, SHORTEST, out);
    table.set_count("rise", &mut health.rise, 1..=1000, out);
    table.set_count("fall", &mut health.fall, 1..=1000, out);
    let short = ("timeout", health.timeout, timeout);
    let long = ("interval", health.interval, interval);
    if let Some(problem) = order(Severity::Warning, &table.path, short, long, out) {
        problem.label("a check without a response delays the next one");
    }
    table.finish(out);
    path.map(|path| path.key)
}

fn probe(text: &RawString<'_>, out: &mut Problems) -> Option<Probe> {
    let typed = text.value;
    let graphic = typed.bytes().all(|b| b.is_ascii_graphic());
    match typed {
        "tcp" => return Some(Probe::Tcp),
        "grpc" => return Some(Probe::Grpc(String::new())),
        _ => {}
    }
    if typed.starts_with('/') && graphic && !typed.contains('#') {
        return Some(Probe::Http(typed.to_owned()));
    }
    if let Some(service) = typed.strip_prefix("grpc:")
        && !service.is_empty()
        && graphic
    {
        return Some(Probe::Grpc(service.to_owned()));
    }
    let problem = out.error(
        text.span.clone(),
        format!("{} is not a check", quote(typed)),
    );
    if typed.starts_with('/') {
        problem
            .label("expected a path without spaces, `#` and letters that are not ASCII")
            .help("write them percent-encoded: a space is `%20`");
    } else if let Some((_, rest)) = typed.split_once("://") {
        let path = rest.find('/').map_or("/ready", |at| &rest[at..]);
        problem.label(format!("expected {EXPECTED}")).help(format!(
            "a check has no address, it goes to each endpoint: \"{path}\""
        ));
    } else {
        let nearest = suggest(typed, &["tcp", "grpc", "grpc:SERVICE"], "");
        problem.label(format!("expected {EXPECTED}"));
        if nearest.starts_with("did") {
            problem.help(nearest);
        } else if graphic && !typed.is_empty() && !typed.contains(':') {
            problem.help(format!("did you mean \"/{typed}\"?"));
        }
    }
    None
}
