//! `[…retry]`: which failures are retried, and how often.

use super::unknown_word;
use crate::config::policy::{Retry, RetryOn};
use crate::config::problems::Problems;
use crate::config::raw::{RawString, RawValue};
use crate::config::suggest::suggest;
use crate::config::units::quote;
use crate::config::value::SHORTEST;

const EXPECTED: &str = "\"connect\", \"reset\", \"timeout\" or a status such as \"503\"";

/// The maximum of `body_bytes`. Every request in flight may use this much memory.
const LARGEST_BODY: u64 = 16 << 20;

/// Reads the keys of a table over those in `result`.
pub(super) fn retry(value: &RawValue<'_>, result: &mut Retry, out: &mut Problems) {
    let Some(mut table) = value.table("a table such as { tries = 2 }", out) else {
        return;
    };
    table.set_count("tries", &mut result.tries, 1..=10, out);
    if let Some(on) = table.take("on") {
        result.on = causes(&on, out);
    }
    if let Some(methods) = table.take("methods")
        && let Some(text) = methods.text("\"idempotent\" or \"all\"", out)
    {
        match text.value {
            "idempotent" => result.all_methods = false,
            "all" => result.all_methods = true,
            _ => {
                unknown_word(&text, &methods.path, &["idempotent", "all"], out);
            }
        }
    }
    table.set_thousandths("budget", &mut result.budget, out);
    if let Some(per_try) = table.take("per_try") {
        result.per_try = match per_try.as_text() {
            // Lets a service remove the limit that `[defaults.retry]` sets.
            Some(text) if text.value == "none" => None,
            _ => per_try.duration(SHORTEST, out),
        };
    }
    if let Some(body) = table.take("body_bytes")
        && let Some(bytes) = body.size(0..=LARGEST_BODY, out)
    {
        result.body_bytes = bytes as usize;
    }
    table.finish(out);
}

/// Reads `on`. An empty list turns retries off.
fn causes(value: &RawValue<'_>, out: &mut Problems) -> RetryOn {
    let mut on = RetryOn {
        connect: false,
        reset: false,
        timeout: false,
        statuses: Vec::new(),
    };
    if value.as_list().is_some_and(|items| items.is_empty()) {
        return on;
    }
    for text in value.texts(EXPECTED, out) {
        match text.value {
            "connect" => on.connect = true,
            "reset" => on.reset = true,
            "timeout" => on.timeout = true,
            _ => on.statuses.extend(status(&text, &value.path, out)),
        }
    }
    on.statuses.sort_unstable();
    on
}

fn status(text: &RawString<'_>, path: &str, out: &mut Problems) -> Option<u16> {
    let number = text.value.len() == 3 && text.value.bytes().all(|b| b.is_ascii_digit());
    let Some(status) = text.value.parse().ok().filter(|_| number) else {
        let message = format!("{} is not a value of `{path}`", quote(text.value));
        let problem = out.error(text.span.clone(), message);
        problem.label(format!("expected {EXPECTED}"));
        let nearest = suggest(text.value, &["connect", "reset", "timeout"], "");
        if text.value.eq_ignore_ascii_case("5xx") {
            problem.help("name each of them, such as \"502\", \"503\", \"504\"");
        } else if nearest.starts_with("did") {
            problem.help(nearest);
        }
        return None;
    };
    if !(500..=599).contains(&status) {
        let message = format!("a response with {} is never retried", quote(text.value));
        out.error(text.span.clone(), message)
            .label("expected a status from 500 to 599")
            .help("other statuses are about the request, not about the endpoint");
        return None;
    }
    Some(status)
}
