//! `[service.NAME.mirror]`: copies of requests, and the parts of responses that are compared.

use super::{is_token, split};
use crate::config::mirror::{MirrorDiff, MirrorSpec};
use crate::config::problems::Problems;
use crate::config::raw::{RawString, RawTable, RawValue};
use crate::config::spec::VersionSpec;
use crate::config::units::quote;
use crate::config::value::SHORTEST;
use crate::index::VersionIx;

/// Smallest and largest cap of a body.
const BODY_BYTES: std::ops::RangeInclusive<u64> = 1024..=16 << 20;

/// Reads `[service.NAME.mirror]`.
pub(super) fn mirror(
    table: &mut RawTable<'_>,
    versions: &[VersionSpec],
    out: &mut Problems,
) -> Option<MirrorSpec> {
    let value = table.take("mirror")?;
    let expected = "a table such as { to = \"v2\", share = \"2%\" }";
    let Some(mut table) = value.as_table() else {
        let problem = value.mistyped(expected, out);
        if let Some(name) = value.as_text() {
            problem.help(format!("write `{{ to = {} }}`", quoted(name.value)));
        }
        return None;
    };
    let help = "name the version that gets the copies: `to = \"…\"`";
    let to = table
        .need("to", out, help)
        .and_then(|value| target(&value, versions, out));
    let mut mirror = MirrorSpec::to(to.unwrap_or_default());
    if let Some(share) = table.take("share").and_then(|value| value.share(out)) {
        mirror.share = share;
    }
    if let Some(value) = table.take("methods") {
        let texts = value.texts("a method such as \"GET\"", out);
        mirror.methods = { texts.iter() }
            .filter_map(|text| method(text, out))
            .collect();
    }
    if let Some(value) = table.take("diff") {
        mirror.diff = diff(&value, out);
    }
    if let Some(value) = table.take("body_bytes")
        && let Some(bytes) = value.size(BODY_BYTES, out)
    {
        // The range ends far below the largest `usize`.
        mirror.body_bytes = bytes as usize;
    }
    table.set_count("requests", &mut mirror.requests, 1..=10_000, out);
    table.set_duration("timeout", &mut mirror.timeout, SHORTEST, out);
    if let Some(value) = table.take("credentials") {
        mirror.credentials = value.flag(out).unwrap_or(false);
    }
    if let Some(value) = table.take("bodies") {
        mirror.bodies = value.flag(out).unwrap_or(false);
        if mirror.bodies && !mirror.compares_json() {
            out.error(value.key, format!("`{}` has no effect", value.path))
                .label("bodies are kept where JSON is compared")
                .help("add \"json\" to `diff`, or leave this out");
        }
    }
    table.finish(out);
    to.map(|_| mirror)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", quote(name).trim_matches('`'))
}

/// Reads the version that gets the copies. It needs endpoints.
fn target(value: &RawValue<'_>, versions: &[VersionSpec], out: &mut Problems) -> Option<VersionIx> {
    let text = value.text("the name of a version", out)?;
    let to = split::version(&text, &value.path, versions, out)?;
    if versions[to].actions.answer.is_some() {
        let message = format!("version {} answers its requests itself", quote(text.value));
        out.error(text.span, message)
            .label("there is no endpoint to send a copy to")
            .help("name a version with endpoints");
        return None;
    }
    Some(to)
}

fn method(text: &RawString<'_>, out: &mut Problems) -> Option<String> {
    let is_upper = !text.value.bytes().any(|b| b.is_ascii_lowercase());
    if is_token(text.value) && is_upper && text.value != "CONNECT" {
        return Some(text.value.to_owned());
    }
    let message = format!("requests with method {} can't be copied", quote(text.value));
    let problem = out.error(text.span.clone(), message);
    problem.label("expected a method such as \"GET\", in capitals");
    if is_token(text.value) && !is_upper {
        problem.help(format!(
            "did you mean \"{}\"?",
            text.value.to_ascii_uppercase()
        ));
    }
    None
}

fn diff(value: &RawValue<'_>, out: &mut Problems) -> Vec<MirrorDiff> {
    let expected = "\"status\", \"header:NAME\" or \"json\"";
    // An empty list is valid: the copies then only warm up the version, or load it.
    if value.as_list().is_some_and(|items| items.is_empty()) {
        return Vec::new();
    }
    let texts = value.texts(expected, out);
    let one = |text: &RawString<'_>| match text.value.split_once(':') {
        None if text.value == "status" => Some(MirrorDiff::Status),
        None if text.value == "json" => Some(MirrorDiff::Json),
        Some(("header", name)) if is_token(name) => {
            Some(MirrorDiff::Header(name.to_ascii_lowercase()))
        }
        _ => {
            let message = format!("{} can't be compared", quote(text.value));
            let problem = out.error(text.span.clone(), message);
            problem.label(format!("expected {expected}"));
            if is_token(text.value) {
                problem.help(match text.value {
                    "body" => "JSON bodies are compared by \"json\"".to_owned(),
                    name => format!("a header field is written as \"header:{name}\""),
                });
            }
            None
        }
    };
    texts.iter().filter_map(one).collect()
}
