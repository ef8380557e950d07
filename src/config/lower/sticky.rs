//! `[…sticky]` and `finish_sessions`: sessions that stay.

use std::time::Duration;

use toml::de::DeValue;

use super::policies::order;
use super::{is_token, proxy, unknown_word};
use crate::config::diagnostic::Severity;
use crate::config::policy::Sticky;
use crate::config::problems::{Problems, TextSpan};
use crate::config::raw::{RawTable, RawValue};
use crate::config::units::quote;

/// Cookies count in seconds.
const SHORTEST: Duration = Duration::from_secs(1);

/// `[defaults.sticky]`: sessions stay in every service.
pub(super) fn defaults(value: &RawValue<'_>, out: &mut Problems) -> Option<Sticky> {
    let mut sticky = Sticky::new(true);
    keys(value, &mut sticky, out);
    Some(sticky)
}

/// `[service.NAME.sticky]` and `finish_sessions`, which brings a cookie of its own if nothing is said about it.
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
        // So that one service can be without what `[defaults.sticky]` gives to all.
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

/// Sessions can finish only if they are known, and for as long as they live.
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
            .label("a session is known only by its cookie")
            .also(off, "there are none here")
            .help("take out one of the two");
    }
    if let Some(sticky) = sticky
        && finish > sticky.max_life
    {
        let most = humantime::format_duration(sticky.max_life);
        let message = format!("`{}` is longer than any session lives", written.path);
        out.warning(written.span.clone(), message)
            .label(format!("`sticky.max_life` is {most}"));
    }
}

/// The keys of a table go over what is in `result`.
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
        problem.label("a session ends with its life, seen or not");
    }
    if let Some(file) = table.take("key_file") {
        result.key_file = proxy::file_path(&file, out);
    }
    table.finish(out);
}
