//! `[trace]`: the receiver of traces, and the traces that are exported.

use super::url::url;
use super::{is_token, unknown_word};
use crate::config::problems::Problems;
use crate::config::raw::{RawString, RawTable, RawValue};
use crate::config::share::Share;
use crate::config::trace::{ExportField, TraceSpec, TracedKind};
use crate::config::units::quote;

/// A receiver on this machine, at the port that is registered for OTLP over HTTP.
const EXAMPLE: &str = "http://127.0.0.1:4318";
/// The path of the protocol, which is appended to the URL.
const PATH: &str = "/v1/traces";
/// The port that is registered for OTLP over gRPC.
const GRPC_PORT: u16 = 4317;

/// Reads `[trace]`.
pub(super) fn trace(file: &mut RawTable<'_>, out: &mut Problems) -> Option<TraceSpec> {
    let value = file.take("trace")?;
    if let Some(text) = value.as_text() {
        out.error(value.span.clone(), "`trace` is a table")
            .label("expected a table, found a string")
            .help(format!("write `trace.otlp = {:?}`", text.value));
        return None;
    }
    let mut table = value.table("a table with `otlp`", out)?;
    let otlp = table
        .need("otlp", out, "write `otlp = \"http://127.0.0.1:4318\"`")
        .and_then(|value| receiver(&value, out));
    let headers = table.take("headers").map(|value| headers(&value, out));
    let sample = table.take("sample").and_then(|value| value.share(out));
    let always = table.take("always").map(|value| always(&value, out));
    table.finish(out);
    Some(TraceSpec {
        otlp: otlp?,
        headers: headers.unwrap_or_default(),
        sample: sample.unwrap_or(Share(Share::WHOLE / 100)),
        always: always.unwrap_or_else(|| TracedKind::ALL.to_vec()),
    })
}

/// Reads `otlp`.
fn receiver(value: &RawValue<'_>, out: &mut Problems) -> Option<String> {
    let text = url(value, EXAMPLE, out)?;
    let base = text.value.trim_end_matches('/');
    if let Some(base) = base.strip_suffix(PATH) {
        let message = format!("`{}` is the URL without `{PATH}`", value.path);
        out.error(text.span, message)
            .label("the path is appended to it")
            .help(format!("write {base:?}"));
        return None;
    }
    warn_of_grpc(&text, out);
    Some(base.to_owned())
}

/// Fields that the request itself determines, or that concern its connection.
const OWN_FIELDS: [&str; 9] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Reads `headers`. Values are secrets, so no message repeats one.
fn headers(value: &RawValue<'_>, out: &mut Problems) -> Vec<ExportField> {
    let mut fields: Vec<ExportField> = Vec::new();
    let Some(table) = value.table("a table such as { authorization = \"Bearer …\" }", out) else {
        return fields;
    };
    for (typed, value) in table.named() {
        let name = typed.to_ascii_lowercase();
        if !is_token(&name) {
            let message = format!("{} is not the name of a field", quote(typed));
            out.error(value.key, message)
                .label("expected letters, digits and `-`");
            continue;
        }
        if OWN_FIELDS.contains(&&*name) {
            out.error(value.key, format!("{} can't be set", quote(typed)))
                .label("it follows from the request itself")
                .help("leave it out");
            continue;
        }
        if fields.iter().any(|field| field.name == name) {
            out.error(value.key, format!("{} is written twice", quote(typed)))
                .label("field names are case-insensitive");
            continue;
        }
        let Some(text) = value.text("a string", out) else {
            continue;
        };
        if text.value.trim().is_empty() || http::HeaderValue::from_str(text.value).is_err() {
            out.error(
                text.span,
                format!("the value of {} can't be sent", quote(typed)),
            )
            .label("expected visible characters, in one line");
            continue;
        }
        let value = text.value.to_owned();
        fields.push(ExportField { name, value });
    }
    fields
}

/// Warns of a URL for gRPC: only OTLP over HTTP is supported.
fn warn_of_grpc(text: &RawString<'_>, out: &mut Problems) {
    let uri = text.value.parse::<http::Uri>().ok();
    if uri.and_then(|uri| uri.port_u16()) == Some(GRPC_PORT) {
        out.warning(
            text.span.clone(),
            "receivers expect OTLP over gRPC at port 4317",
        )
        .label("spans are sent over HTTP, as protobuf")
        .help("the port for that is 4318");
    }
}

/// Reads `always`.
fn always(value: &RawValue<'_>, out: &mut Problems) -> Vec<TracedKind> {
    if value.as_list().is_some_and(|items| items.is_empty()) {
        return Vec::new();
    }
    let known: Vec<_> = TracedKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let mut kinds = Vec::new();
    for text in value.texts("\"5xx\" or \"canary\"", out) {
        match TracedKind::parse(text.value) {
            Some(kind) => kinds.push(kind),
            None => {
                unknown_word(&text, &value.path, &known, out);
            }
        }
    }
    kinds
}
