//! Calls of a rollout to other servers: smoke requests, hooks, notifications and queries.

use std::time::Duration;

use toml::de::DeValue;

use super::{each, method, status, word};
use crate::config::lower::{self, proxy};
use crate::config::problems::Problems;
use crate::config::raw::{RawString, RawTable, RawValue};
use crate::config::rollout::{
    Comparison, HookSpec, Hooks, Notify, NotifyFormat, QuerySpec, SmokeBody, SmokeCheck,
};
use crate::config::units::quote;
use crate::config::value::SHORTEST;

/// The shortest time between two measurements.
const SHORTEST_EVERY: Duration = Duration::from_secs(1);

/// Reads `smoke`.
pub(super) fn smoke(value: &RawValue<'_>, out: &mut Problems) -> Vec<SmokeCheck> {
    each(value)
        .iter()
        .filter_map(|item| smoke_check(item, out))
        .collect()
}

fn smoke_check(item: &RawValue<'_>, out: &mut Problems) -> Option<SmokeCheck> {
    let mut check = SmokeCheck {
        method: String::new(),
        target: String::new(),
        headers: Vec::new(),
        body: None,
        status: (200, 299),
        expect_headers: Vec::new(),
        expect_json: None,
    };
    let Some(mut table) = item.as_table() else {
        let text = item.text("a request such as \"GET /health 200\", or a table", out)?;
        request(&text, &mut check, out)?;
        return Some(check);
    };
    let help = "write `request = \"GET /health\"`";
    let found = table.need("request", out, help);
    let text = found.and_then(|v| v.text("a request such as \"GET /health\"", out));
    let good = text.is_some_and(|text| request(&text, &mut check, out).is_some());
    if let Some(value) = table.take("headers") {
        check.headers = headers(&value, out);
    }
    if let Some(value) = table.take("body") {
        check.body = Some(match value.as_text() {
            Some(text) => SmokeBody::Text(text.value.to_owned()),
            None => SmokeBody::Json(json(value.node)),
        });
    }
    if let Some(value) = table.take("expect") {
        expect(&value, &mut check, out);
    }
    table.finish(out);
    good.then_some(check)
}

/// Reads `GET /health`, or `GET /health 200`.
fn request(text: &RawString<'_>, check: &mut SmokeCheck, out: &mut Problems) -> Option<()> {
    let words: Vec<&str> = text.value.split_whitespace().collect();
    let read = match words[..] {
        [request, target] => method(request).zip(Some((target, None))),
        [request, target, expected] => {
            method(request).zip(status(expected).map(|status| (target, Some(status))))
        }
        _ => None,
    };
    let target_is_good = |target: &str| {
        target.starts_with('/') && target.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
    };
    match read {
        Some((method, (target, expected))) if target_is_good(target) => {
            (check.method, check.target) = (method, target.to_owned());
            if let Some(expected) = expected {
                check.status = expected;
            }
            Some(())
        }
        _ => {
            out.error(
                text.span.clone(),
                format!("{} is not a request", quote(text.value)),
            )
            .label("expected a method in capitals, a path, and possibly a status")
            .help("write it as \"GET /health 200\"");
            None
        }
    }
}

fn expect(value: &RawValue<'_>, check: &mut SmokeCheck, out: &mut Problems) {
    let Some(mut table) = value.table(
        "a table such as { status = 200, json = { ok = true } }",
        out,
    ) else {
        return;
    };
    if let Some(value) = table.take("status") {
        let found = match value.as_integer() {
            Some(number) => u16::try_from(number).ok().map(|n| n.to_string()),
            None => value.as_text().map(|text| text.value.to_owned()),
        };
        match found.and_then(|word| status(&word)) {
            Some(range) => check.status = range,
            None => {
                out.error(
                    value.span.clone(),
                    format!("`{}` is not a status", value.path),
                )
                .label("expected a number such as 200, or a class such as \"2xx\"");
            }
        }
    }
    if let Some(value) = table.take("headers") {
        check.expect_headers = headers(&value, out);
    }
    if let Some(value) = table.take("json") {
        check.expect_json = Some(json(value.node));
    }
    table.finish(out);
}

fn headers(value: &RawValue<'_>, out: &mut Problems) -> Vec<(String, String)> {
    let Some(table) = value.table("a table such as { accept = \"application/json\" }", out) else {
        return Vec::new();
    };
    let mut headers = Vec::new();
    for (name, value) in table.named() {
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            out.error(
                value.key.clone(),
                format!("{} is not the name of a header", quote(name)),
            )
            .label("expected letters, digits and `-`");
            continue;
        }
        let Some(text) = value.text("a string", out) else {
            continue;
        };
        if http::HeaderValue::from_str(text.value).is_err() {
            out.error(
                text.span,
                format!("the value of {} can't be sent", quote(name)),
            )
            .label("expected visible characters");
            continue;
        }
        headers.push((name.to_ascii_lowercase(), text.value.to_owned()));
    }
    headers
}

/// A TOML value as JSON. Dates become strings.
fn json(value: &DeValue<'_>) -> serde_json::Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix());
            number.map_or(serde_json::Value::Null, Into::into)
        }
        DeValue::Float(number) => {
            let number: f64 = number.as_str().parse().unwrap_or(f64::NAN);
            number.into()
        }
        DeValue::Boolean(flag) => (*flag).into(),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(table) => {
            let entries = table.iter();
            let entries =
                entries.map(|(key, value)| (key.get_ref().to_string(), json(value.get_ref())));
            serde_json::Value::Object(entries.collect())
        }
    }
}

/// Reads `hooks`.
pub(super) fn hooks(value: &RawValue<'_>, out: &mut Problems) -> Hooks {
    let mut hooks = Hooks::default();
    let expected = "a table such as { before_step = \"http://127.0.0.1:8088/check\" }";
    let Some(mut table) = value.table(expected, out) else {
        return hooks;
    };
    for (key, hook) in [
        ("before_rollout", &mut hooks.before_rollout),
        ("before_step", &mut hooks.before_step),
        ("before_promote", &mut hooks.before_promote),
        ("after_rollback", &mut hooks.after_rollback),
    ] {
        *hook = table.take(key).and_then(|value| one_hook(&value, out));
    }
    table.finish(out);
    hooks
}

fn one_hook(value: &RawValue<'_>, out: &mut Problems) -> Option<HookSpec> {
    let mut hook = HookSpec {
        url: String::new(),
        timeout: Duration::from_secs(30),
        retries: 2,
    };
    match value.as_table() {
        None => hook.url = url(value, out)?,
        Some(mut table) => {
            hook.url = url_of(&mut table, out)?;
            table.set_duration("timeout", &mut hook.timeout, SHORTEST, out);
            table.set_count("retries", &mut hook.retries, 0..=10, out);
            table.finish(out);
        }
    }
    Some(hook)
}

/// Reads `notify`.
pub(super) fn notify(value: &RawValue<'_>, out: &mut Problems) -> Vec<Notify> {
    let one = |item: &RawValue<'_>, out: &mut Problems| match item.as_table() {
        None => Some(Notify {
            url: url(item, out)?,
            format: NotifyFormat::default(),
        }),
        Some(mut table) => {
            let url = url_of(&mut table, out);
            let format = table.take("format");
            let format =
                format.and_then(|v| word(&v, "\"slack\" or \"plain\"", NotifyFormat::ALL, out));
            table.finish(out);
            Some(Notify {
                url: url?,
                format: format.unwrap_or_default(),
            })
        }
    };
    each(value)
        .iter()
        .filter_map(|item| one(item, out))
        .collect()
}

/// Reads `[[query]]`.
pub(super) fn queries(value: &RawValue<'_>, out: &mut Problems) -> Vec<QuerySpec> {
    let items = match value.as_table() {
        Some(_) => vec![value.clone()],
        None => value.tables(out),
    };
    items.iter().filter_map(|item| query(item, out)).collect()
}

fn query(value: &RawValue<'_>, out: &mut Problems) -> Option<QuerySpec> {
    let mut table = value.table("a table with `prometheus`, `query` and `pass`", out)?;
    let prometheus = table.need(
        "prometheus",
        out,
        "write `prometheus = \"http://127.0.0.1:9090\"`",
    );
    let prometheus = prometheus.and_then(|v| url(&v, out));
    let query = table.need("query", out, "write the PromQL expression to measure");
    let query = query
        .and_then(|v| v.text("a PromQL expression", out))
        .map(|t| t.value.to_owned());
    let pass = table.need(
        "pass",
        out,
        "write the condition, such as `pass = \"< 0.05\"`",
    );
    let pass = pass.and_then(|v| condition(&v, out));
    let (mut every, mut fails) = (Duration::from_secs(30), 3);
    table.set_duration("every", &mut every, SHORTEST_EVERY, out);
    table.set_count("fails", &mut fails, 1..=100, out);
    let token_file = table
        .take("token_file")
        .and_then(|v| proxy::file_path(&v, out));
    table.finish(out);
    Some(QuerySpec {
        prometheus: prometheus?,
        query: query?,
        pass: pass?,
        every,
        fails,
        token_file,
    })
}

/// Reads `< 0.05`.
fn condition(value: &RawValue<'_>, out: &mut Problems) -> Option<(Comparison, f64)> {
    let text = value.text("a condition such as \"< 0.05\"", out)?;
    let typed = text.value.trim();
    let end = typed
        .find(|c: char| !"<>=!".contains(c))
        .unwrap_or(typed.len());
    let number = typed[end..]
        .trim()
        .parse::<f64>()
        .ok()
        .filter(|n| n.is_finite());
    let found = Comparison::parse(&typed[..end]).zip(number);
    if found.is_none() {
        out.error(
            text.span,
            format!("{} is not a condition", quote(text.value)),
        )
        .label("expected a comparison and a number")
        .help("the comparisons are <, <=, >, >=, == and !=, as in \"< 0.05\"");
    }
    found
}

fn url_of(table: &mut RawTable<'_>, out: &mut Problems) -> Option<String> {
    let value = table.need("url", out, "write `url = \"https://…\"`")?;
    url(&value, out)
}

fn url(value: &RawValue<'_>, out: &mut Problems) -> Option<String> {
    let text = lower::url::url(value, "http://127.0.0.1:8088/check", out)?;
    Some(text.value.to_owned())
}
