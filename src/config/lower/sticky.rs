//! `[…sticky]` and `finish_sessions`: sessions that stay on their version or endpoint.

use std::time::Duration;

use toml::de::DeValue;

use super::order::order;
use super::{is_token, proxy, unknown_word};
use crate::config::diagnostic::Severity;
use crate::config::policy::Sticky;
use crate::config::problems::{Problems, TextSpan};
use crate::config::raw::{RawTable, RawValue};
use crate::config::units::quote;

/// The shortest lifetime of a session: `Max-Age` of a cookie counts seconds (RFC 6265 section 5.2.2).
const SHORTEST: Duration = Duration::from_secs(1);

/// Reads `[defaults.sticky]`, which turns sticky sessions on for every service.
pub(super) fn defaults(value: &RawValue<'_>, out: &mut Problems) -> Option<Sticky> {
    let mut sticky = Sticky::new(true);
    keys(value, &mut sticky, out);
    Some(sticky)
}

/// Reads `[service.NAME.sticky]` and `finish_sessions`. The latter needs a cookie to recognise sessions, so it turns on sticky
/// sessions (to the version) unless they are configured.
pub(super) fn service(
    table: &mut RawTable<'_>,
    defaults: Option<&Sticky>,
    out: &mut Problems,
) -> (Option<Sticky>, Option<Duration>) {
    let written = table.take("finish_sessions");
    let finish = written.as_ref().and_then(|v| v.duration(SHORTEST, out));
    let value = table.take("sticky");
    let mut off = None;
    let sticky = match &value {
        // `sticky = false` turns off what `[defaults.sticky]` turned on for every service.
        Some(value) if matches!(value.node, DeValue::Boolean(false)) => {
            off = Some(value.span.clone());
            None
        }
        Some(value) => {
            let mut sticky = defaults.cloned().unwrap_or_else(|| Sticky::new(true));
            keys(value, &mut sticky, out);
            Some(sticky)
        }
        None if finish.is_some() => Some(defaults.cloned().unwrap_or_else(|| Sticky::new(false))),
        None => defaults.cloned(),
    };
    if let (Some(written), Some(finish)) = (&written, finish) {
        check_finish(written, finish, sticky.as_ref(), off, out);
    }
    (sticky, finish)
}

/// Checks that `finish_sessions` isn't combined with `sticky = false`, and doesn't exceed the lifetime of a session.
fn check_finish(
    written: &RawValue<'_>,
    finish: Duration,
    sticky: Option<&Sticky>,
    off: Option<TextSpan>,
    out: &mut Problems,
) {
    if let Some(off) = off {
        let message = format!("`{}` needs sticky sessions", written.path);
        out.error(written.key.clone(), message)
            .label("sessions are recognised by their cookie")
            .also(off, "sticky sessions are turned off here")
            .help("remove one of the two");
    }
    if let Some(sticky) = sticky
        && finish > sticky.max_life
    {
        let most = humantime::format_duration(sticky.max_life);
        let message = format!("`{}` is longer than a session can last", written.path);
        out.warning(written.span.clone(), message)
            .label(format!("`sticky.max_life` is {most}"));
    }
}

/// Reads the keys of a table over those in `result`.
fn keys(value: &RawValue<'_>, result: &mut Sticky, out: &mut Problems) {
    let Some(mut table) = value.table("a table such as { to = \"version\" }", out) else {
        return;
    };
    if let Some(cookie) = table.take("cookie")
        && let Some(text) = cookie.text("the name of a cookie", out)
    {
        if !is_token(text.value) {
            let message = format!("{} can't be the name of a cookie", quote(text.value));
            out.error(text.span.clone(), message)
                .label("expected letters, digits, `-` and `_`");
        }
        result.cookie = text.value.to_owned();
    }
    if let Some(to) = table.take("to")
        && let Some(text) = to.text("\"endpoint\" or \"version\"", out)
    {
        match text.value {
            "endpoint" => result.to_endpoint = true,
            "version" => result.to_endpoint = false,
            _ => {
                unknown_word(&text, &to.path, &["endpoint", "version"], out);
            }
        }
    }
    let idle = table.set_duration("idle", &mut result.idle, SHORTEST, out);
    let max_life = table.set_duration("max_life", &mut result.max_life, SHORTEST, out);
    let short = ("idle", result.idle, idle);
    let long = ("max_life", result.max_life, max_life);
    if let Some(problem) = order(Severity::Error, &table.path, short, long, out) {
        problem.label("a session ends after `max_life` even if it is in use");
    }
    if let Some(file) = table.take("key_file") {
        result.key_file = proxy::file_path(&file, out);
    }
    table.finish(out);
}
