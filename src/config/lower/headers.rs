//! `headers`: edits of the fields of requests and responses.

use super::is_token;
use crate::config::actions::{FieldEdits, HeaderEdits};
use crate::config::problems::Problems;
use crate::config::raw::{RawString, RawTable, RawValue};
use crate::config::template::{Placeholder, Template};
use crate::config::units::quote;

/// The head that is edited.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Head {
    Request,
    Response,
}

/// Fields that concern the connection or the framing of a message (RFC 9110 sections 7.6.1 and 8.6, RFC 9112 section 6), and the
/// outcome of a gRPC call.
const PROTOCOL: [&str; 12] = [
    "connection",
    "content-length",
    "grpc-message",
    "grpc-status",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
];

/// Reads `headers` of the defaults, a service, a version or a rule.
pub(super) fn headers(table: &mut RawTable<'_>, out: &mut Problems) -> HeaderEdits {
    let mut edits = HeaderEdits::default();
    let Some(value) = table.take("headers") else {
        return edits;
    };
    let Some(mut table) = value.table("a table with `request` and `response`", out) else {
        return edits;
    };
    if let Some(value) = table.take("request") {
        edits.request = fields(&value, Head::Request, out);
    }
    if let Some(value) = table.take("response") {
        edits.response = fields(&value, Head::Response, out);
    }
    table.finish(out);
    edits
}

fn fields(value: &RawValue<'_>, head: Head, out: &mut Problems) -> FieldEdits {
    let mut edits = FieldEdits::default();
    let Some(mut table) = value.table("a table with `set`, `add` and `remove`", out) else {
        return edits;
    };
    let set = { table.take("set") }.map(|value| values(&value, head, false, out));
    let add = { table.take("add") }.map(|value| values(&value, head, true, out));
    if let Some(value) = table.take("remove") {
        for text in value.texts("a field name such as \"x-real-ip\"", out) {
            let named = (text.value, text.span.clone());
            let Some(name) = name(named, head, out) else {
                continue;
            };
            if set.iter().flatten().any(|(n, _)| *n == name) {
                out.error(
                    text.span,
                    format!("{} is set and removed", quote(text.value)),
                )
                .label("`set` replaces what a request or response has")
                .help("keep one of them");
            }
            edits.drop.push(name);
        }
    }
    table.finish(out);
    let set = set.unwrap_or_default();
    edits.drop.extend(set.iter().map(|(name, _)| name.clone()));
    edits.drop.sort();
    edits.drop.dedup();
    edits.put = set.into_iter().chain(add.unwrap_or_default()).collect();
    edits
}

/// Reads `set` or `add`: field names and their values. `many`: a field may have several.
fn values(
    value: &RawValue<'_>,
    head: Head,
    many: bool,
    out: &mut Problems,
) -> Vec<(String, Template)> {
    let mut found: Vec<(String, Template)> = Vec::new();
    let Some(table) = value.table("a table such as { x-env = \"prod\" }", out) else {
        return found;
    };
    for (typed, value) in table.named() {
        let Some(name) = name((typed, value.key.clone()), head, out) else {
            continue;
        };
        if found.iter().any(|(known, _)| *known == name) {
            out.error(
                value.key.clone(),
                format!("{} is written twice", quote(typed)),
            )
            .label("field names are case-insensitive");
        }
        const EXPECTED: &str = "a text, which may hold placeholders such as \"{client_ip}\"";
        let texts = match many {
            true => value.texts(EXPECTED, out),
            false => value.text(EXPECTED, out).into_iter().collect(),
        };
        let templates = texts.iter().filter_map(|text| self::value(text, out));
        found.extend(templates.map(|template| (name.clone(), template)));
    }
    found
}

/// Checks the name of a field, and returns it in lower case.
fn name(
    (typed, at): (&str, std::ops::Range<usize>),
    head: Head,
    out: &mut Problems,
) -> Option<String> {
    let name = typed.to_ascii_lowercase();
    if !is_token(&name) {
        let help = match name.starts_with(':') {
            true => "pseudo-header fields follow from the request; `rewrite` changes path and host",
            false => "expected letters, digits and `-`",
        };
        out.error(at, format!("{} is not the name of a field", quote(typed)))
            .label("can't be edited")
            .help(help);
        return None;
    }
    let (why, help) = match (&*name, head) {
        ("host", Head::Request) => (
            "the host is part of the target",
            "write `rewrite = { host = \"app.internal\" }`",
        ),
        ("via", Head::Request) => (
            "the proxy adds itself, to notice loops",
            "`via` of the listener sets the name, or turns it off",
        ),
        ("max-forwards" | "expect", Head::Request) => {
            ("the proxy answers or counts it down itself", "leave it out")
        }
        ("x-flags", Head::Request) => (
            "the proxy writes the flags that are on",
            "write `[service.NAME.flags.FLAG]` with a share, or with `when`",
        ),
        ("upgrade", _) => (
            "it concerns one connection",
            "upgrades are passed on by themselves",
        ),
        (name, _) if PROTOCOL.contains(&name) => (
            "it belongs to the protocol of one connection",
            "leave it out",
        ),
        _ => return Some(name),
    };
    out.error(at, format!("{} can't be edited", quote(typed)))
        .label(why)
        .help(help);
    None
}

/// Reads the value of a field (RFC 9110 section 5.5).
fn value(text: &RawString<'_>, out: &mut Problems) -> Option<Template> {
    let is_allowed = |c: char| c == '\t' || !c.is_control();
    if let Some(span) = text.span_of_char(|c| !is_allowed(c)) {
        out.error(span, "a control character in the value of a field")
            .label("line ends and other control characters can't be sent")
            .help("write it without this character");
        return None;
    }
    template(text, Placeholder::OF_FIELDS, out)
}

/// Parses a text with placeholders.
pub(super) fn template(
    text: &RawString<'_>,
    allowed: &[Placeholder],
    out: &mut Problems,
) -> Option<Template> {
    Template::parse(text.value, allowed)
        .map_err(|error| {
            out.error(text.part(error.at), error.message)
                .label(error.label)
                .help(error.help);
        })
        .ok()
}
