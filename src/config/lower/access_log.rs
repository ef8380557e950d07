//! `[access_log]`: where, how and which requests are logged.

use std::path::PathBuf;
use std::time::Duration;

use super::{is_token, not_a_token, unknown_word};
use crate::config::access_log::{AccessLogSpec, FieldSource, LogFormat, LogTarget, LoggedField};
use crate::config::problems::Problems;
use crate::config::raw::{RawString, RawTable, RawValue};
use crate::config::share::Share;
use crate::config::suggest::{nearest, suggest};
use crate::config::units::quote;
use crate::config::value::SHORTEST;

/// The forms of an entry of `fields`.
const FORMS: &str = "\"header:NAME\", \"cookie:NAME\", \"query\" or \"query:NAME\"";

/// Header fields whose values are credentials.
const SECRET: [&str; 3] = ["authorization", "proxy-authorization", "cookie"];

/// Reads `[access_log]`.
pub(super) fn access_log(file: &mut RawTable<'_>, out: &mut Problems) -> Option<AccessLogSpec> {
    let value = file.take("access_log")?;
    if let Some(text) = value.as_text() {
        let message = "`access_log` is a table";
        let problem = out.error(value.span.clone(), message);
        problem
            .label("expected a table, found a string")
            .help(format!("write `access_log.to = {:?}`", text.value));
        return None;
    }
    let mut table = value.table("a table with `to`", out)?;
    let help = "write `to = \"/var/log/cutover/access.log\"`, \"stdout\" or \"stderr\"";
    let to = table
        .need("to", out, help)
        .and_then(|value| target(&value, out));
    let format = table
        .take("format")
        .and_then(|value| format(&value, out))
        .unwrap_or_default();
    let sample = table.take("sample").and_then(|value| value.share(out));
    let mut slow = Duration::from_secs(1);
    table.set_duration("slow", &mut slow, SHORTEST, out);
    let fields = table
        .take("fields")
        .map(|value| fields(&value, out))
        .unwrap_or_default();
    table.finish(out);
    Some(AccessLogSpec {
        to: to?,
        format,
        sample: sample.unwrap_or(Share(Share::WHOLE)),
        slow,
        fields,
    })
}

/// Reads `to`. A file has a slash in its name, so that a misspelt `stdout` doesn't become one.
fn target(value: &RawValue<'_>, out: &mut Problems) -> Option<LogTarget> {
    const WORDS: [&str; 2] = ["stdout", "stderr"];
    let text = value.text("a path, \"stdout\" or \"stderr\"", out)?;
    match text.value {
        "stdout" | "/dev/stdout" => return Some(LogTarget::Stdout),
        "stderr" | "/dev/stderr" => return Some(LogTarget::Stderr),
        _ => {}
    }
    let path = text.value;
    if path.contains('/') && !path.ends_with('/') && !path.contains('\0') {
        return Some(LogTarget::File(PathBuf::from(path)));
    }
    let message = format!("`{}` is not a target of a log", value.path);
    let word = nearest(&path.to_ascii_lowercase(), &WORDS);
    let help = match (path, word) {
        (_, Some(word)) => format!("did you mean \"{word}\"?"),
        ("-", None) => "did you mean \"stdout\"?".to_owned(),
        ("", None) => "leave `[access_log]` out to log no requests".to_owned(),
        ("off" | "none" | "false", None) => {
            "leave `[access_log]` out to log no requests".to_owned()
        }
        _ if path.starts_with("syslog") => {
            "write \"stdout\" and let the service manager pass the lines on".to_owned()
        }
        _ if path.ends_with('/') => format!("name a file in it: \"{path}access.log\""),
        _ => format!("a file has a slash in its path: \"./{path}\""),
    };
    out.error(text.span.clone(), message)
        .label("expected a path such as \"/var/log/cutover/access.log\", \"stdout\" or \"stderr\"")
        .help(help);
    None
}

/// Reads `format`.
fn format(value: &RawValue<'_>, out: &mut Problems) -> Option<LogFormat> {
    let text = value.text("a word such as \"json\"", out)?;
    let found = LogFormat::parse(text.value);
    if found.is_none() {
        let known: Vec<_> = LogFormat::ALL.iter().map(|known| known.as_str()).collect();
        let problem = unknown_word(&text, &value.path, &known, out);
        match text.value {
            "common" | "clf" | "apache" | "nginx" | "ncsa" => {
                problem.help("did you mean `combined`? it is the default of nginx and Apache");
            }
            "text" | "plain" | "key=value" | "kv" => {
                problem.help("did you mean `logfmt`? it has `key=value` pairs");
            }
            "ndjson" | "jsonl" | "structured" => {
                problem.help("did you mean `json`? each line is one object");
            }
            _ => {}
        }
    }
    found
}

/// Reads `fields`.
fn fields(value: &RawValue<'_>, out: &mut Problems) -> Vec<LoggedField> {
    if value.as_list().is_some_and(|items| items.is_empty()) {
        return Vec::new();
    }
    let texts = value.texts(FORMS, out);
    let mut fields: Vec<LoggedField> = Vec::new();
    for text in &texts {
        let Some(field) = field(text, &value.path, out) else {
            continue;
        };
        // `texts` has reported duplicates. Header names may also differ in case.
        if fields.iter().any(|known| known.key == field.key) {
            let message = format!("{} is listed twice in `{}`", quote(&field.key), value.path);
            out.error(text.span.clone(), message)
                .label("again here: names of header fields have no case");
        }
        fields.push(field);
    }
    fields
}

fn field(text: &RawString<'_>, path: &str, out: &mut Problems) -> Option<LoggedField> {
    const KINDS: [&str; 3] = ["header", "cookie", "query"];
    let (kind, name) = match text.value.split_once(':') {
        Some((kind, name)) => (kind, Some(name)),
        None => (text.value, None),
    };
    let source = match (kind, name) {
        ("query", None) => FieldSource::Query,
        ("header" | "cookie", Some(name)) if !is_token(name) => {
            not_a_token(kind, name, text, out);
            return None;
        }
        ("header", Some(name)) => FieldSource::Header(name.to_ascii_lowercase()),
        ("cookie", Some(name)) => FieldSource::Cookie(name.to_owned()),
        ("query", Some(name)) if !name.is_empty() => FieldSource::Parameter(name.to_owned()),
        _ => {
            let message = format!("{} is not a value of `{path}`", quote(text.value));
            let help = match kind {
                "header" | "cookie" => format!("name one, such as \"{kind}:{}\"", example(kind)),
                "query" => "write \"query\" for the whole query".to_owned(),
                _ if name.is_none() && is_header(kind) => {
                    format!("did you mean \"header:{}\"?", kind.to_ascii_lowercase())
                }
                _ => suggest(kind, &KINDS, "the kinds are"),
            };
            out.error(text.span.clone(), message)
                .label(format!("expected {FORMS}"))
                .help(help);
            return None;
        }
    };
    let key = match &source {
        FieldSource::Header(name) => {
            warn_of_secret(text, name, out);
            format!("header:{name}")
        }
        _ => text.value.to_owned(),
    };
    Some(LoggedField { key, source })
}

fn example(kind: &str) -> &'static str {
    match kind {
        "header" => "user-agent",
        _ => "uid",
    }
}

/// Whether the word is more likely the name of a header field than a misspelt kind.
fn is_header(word: &str) -> bool {
    const KNOWN: [&str; 4] = ["referer", "accept", "origin", "via"];
    let word = word.to_ascii_lowercase();
    is_token(&word) && (word.contains('-') || KNOWN.contains(&&*word))
}

fn warn_of_secret(text: &RawString<'_>, name: &str, out: &mut Problems) {
    if !SECRET.contains(&name) {
        return;
    }
    let problem = out.warning(
        text.span.clone(),
        format!("the log would contain the credentials in {}", quote(name)),
    );
    problem.label("whoever can read the log can use them");
    if name == "cookie" {
        problem.help("name the cookies that the log needs, such as \"cookie:uid\"");
    }
}
