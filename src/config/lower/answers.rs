//! `respond` and `redirect`: answers that the proxy gives itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{headers, proxy};
use crate::config::actions::{Answer, LARGEST_BODY, Redirect, Respond};
use crate::config::problems::Problems;
use crate::config::raw::{RawTable, RawValue};
use crate::config::template::{Placeholder, Template};
use crate::config::units::quote;

/// Reads `respond` or `redirect` of a service or rule.
pub(super) fn answer(table: &mut RawTable<'_>, out: &mut Problems) -> Option<Answer> {
    let (respond, redirect) = (table.take("respond"), table.take("redirect"));
    if let (Some(respond), Some(redirect)) = (&respond, &redirect) {
        out.error(
            redirect.key.clone(),
            format!("`{}` answers twice", table.path),
        )
        .label("the requests would be redirected")
        .also(respond.key.clone(), "and get this response")
        .help("keep one of them");
    }
    let respond = respond.and_then(|value| self::respond(&value, out));
    let redirect = redirect.and_then(|value| self::redirect(&value, out));
    match (respond, redirect) {
        (Some(respond), _) => Some(Answer::Respond(Arc::new(respond))),
        (None, Some(redirect)) => Some(Answer::Redirect(Arc::new(redirect))),
        (None, None) => None,
    }
}

/// Reads `respond` of a version.
pub(super) fn of_version(table: &mut RawTable<'_>, out: &mut Problems) -> Option<Answer> {
    let respond = table.take("respond")?;
    let respond = self::respond(&respond, out)?;
    Some(Answer::Respond(Arc::new(respond)))
}

/// Whether the table has an answer, valid or not.
pub(super) fn has_answer(table: &RawTable<'_>) -> bool {
    table.has("respond") || table.has("redirect")
}

/// Reads `redirect = { to = "…", … }`.
fn redirect(value: &RawValue<'_>, out: &mut Problems) -> Option<Redirect> {
    let expected = "a table such as { to = \"https://www.example.com{path}{query}\" }";
    let Some(mut table) = value.as_table() else {
        let problem = value.mistyped(expected, out);
        if let Some(to) = value.as_text() {
            problem.help(match to.value {
                "https" => {
                    "write it on the listener, or `{ to = \"https://{host}{path}{query}\" }`"
                        .to_owned()
                }
                to => format!("write `{{ to = {to:?} }}`"),
            });
        }
        return None;
    };
    let help = "write `to = \"https://www.example.com{path}{query}\"`";
    let to = table
        .need("to", out, help)
        .and_then(|value| location(&value, out));
    let status = table.take("status").map(|value| {
        let status = value.count(300..=399, out).map(|n| n as u16)?;
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            out.error(
                value.span.clone(),
                format!("{status} is not a redirect to a location"),
            )
            .label("expected 301, 302, 303, 307 or 308")
            .help("308 is permanent and 307 is not; both keep method and body");
            return None;
        }
        Some(status)
    });
    table.finish(out);
    Some(Redirect {
        to: to?,
        status: status.unwrap_or(Some(308))?,
    })
}

/// Reads the target of a redirect: a URL, or a path. It must lead to a fixed place, so that a request can't choose the host.
fn location(value: &RawValue<'_>, out: &mut Problems) -> Option<Template> {
    let text = value.text(
        "a URL such as \"https://www.example.com{path}{query}\"",
        out,
    )?;
    if let Some(span) = text.span_of_char(|c| !c.is_ascii_graphic()) {
        out.error(span, format!("{} is not a URL", quote(text.value)))
            .label("expected visible ASCII characters; others are written as %XX");
        return None;
    }
    let template = headers::template(&text, Placeholder::OF_REDIRECTS, out)?;
    let shown = text.value;
    let after_scheme = ["http://", "https://", "{scheme}://"]
        .iter()
        .find_map(|scheme| shown.strip_prefix(scheme));
    let has_host =
        |rest: &str| rest.starts_with("{host}") || !rest.starts_with(['/', '{', '?', ':']);
    let is_place = match after_scheme {
        Some(rest) => !rest.is_empty() && has_host(rest),
        None => shown.starts_with('/') && !shown.starts_with("//"),
    };
    if !is_place {
        out.error(
            text.span.clone(),
            format!("{} leads to no place", quote(shown)),
        )
        .label("expected a URL with scheme and host, or a path that begins with one slash")
        .help("write \"https://www.example.com{path}{query}\", or \"/new{path}\"");
        return None;
    }
    if let Some(at) = shown.find("/{path}") {
        out.error(text.part(at..at + 7), "two slashes in a row")
            .label("`{path}` begins with a slash")
            .help("write `{path}` without a slash before it");
        return None;
    }
    Some(template)
}

/// Reads `respond = { status = 503, … }`.
fn respond(value: &RawValue<'_>, out: &mut Problems) -> Option<Respond> {
    let expected = "a table such as { status = 503, body = \"maintenance\" }";
    let Some(mut table) = value.as_table() else {
        let problem = value.mistyped(expected, out);
        if let Some(status) = value.as_integer() {
            problem.help(format!("write `{{ status = {status} }}`"));
        }
        return None;
    };
    let status = table
        .need("status", out, "write `status = 503`")
        .and_then(|value| status(&value, out));
    let body = table.take("body");
    let file = table.take("body_file");
    if let (Some(body), Some(file)) = (&body, &file) {
        out.error(file.key.clone(), format!("`{}` has two bodies", table.path))
            .label("the body would come from this file")
            .also(body.key.clone(), "and from this text")
            .help("keep one of them");
    }
    let is_bodiless = status.is_some_and(Respond::is_bodiless);
    if let Some(body) = body.as_ref().or(file.as_ref()).filter(|_| is_bodiless) {
        let message = format!("a response with status {} has no body", status.unwrap_or(0));
        out.error(body.key.clone(), message)
            .label("this would never be sent")
            .help("leave it out, or write `status = 200`");
    }
    let text = body.as_ref().and_then(|value| inline(value, out));
    let body_file = file.as_ref().and_then(|value| proxy::file_path(value, out));
    let content_type = table.take("content_type").and_then(|value| {
        if body.is_none() && file.is_none() {
            out.error(value.key.clone(), format!("`{}` has no effect", value.path))
                .label("there is no `body` and no `body_file`")
                .help("write the body as well, or leave this out");
        }
        content_type(&value, out)
    });
    let retry_after = table.take("retry_after").and_then(|value| {
        let time = value.duration(Duration::from_secs(1), out)?;
        Some(time.as_secs() + u64::from(time.subsec_nanos() > 0))
    });
    table.finish(out);
    let default = || by_extension(body_file.as_deref()).to_owned();
    Some(Respond {
        status: status?,
        body: text,
        content_type: content_type.unwrap_or_else(default),
        body_file,
        retry_after,
    })
}

fn status(value: &RawValue<'_>, out: &mut Problems) -> Option<u16> {
    let status = value.count(200..=599, out)? as u16;
    if (300..400).contains(&status) && status != 304 {
        out.error(value.span.clone(), format!("{status} is a redirect"))
            .label("a redirect needs a location")
            .help(format!(
                "write `redirect = {{ to = \"…\", status = {status} }}` instead of `respond`"
            ));
        return None;
    }
    Some(status)
}

fn inline(value: &RawValue<'_>, out: &mut Problems) -> Option<Vec<u8>> {
    let text = value.text("a text in quotes", out)?;
    if text.value.len() as u64 > LARGEST_BODY {
        out.error(value.span.clone(), format!("`{}` is too long", value.path))
            .label("expected at most 1MiB");
        return None;
    }
    Some(text.value.as_bytes().to_vec())
}

/// Reads a media type. Its parameters aren't checked.
fn content_type(value: &RawValue<'_>, out: &mut Problems) -> Option<String> {
    let text = value.text("a media type such as \"text/html; charset=utf-8\"", out)?;
    let kind = text.value.split(';').next().unwrap_or_default().trim();
    let is_type = kind
        .split_once('/')
        .is_some_and(|(main, sub)| super::is_token(main) && super::is_token(sub));
    let is_printable = |b: u8| b == b' ' || b.is_ascii_graphic();
    if !is_type || !text.value.bytes().all(is_printable) {
        out.error(
            value.span.clone(),
            format!("{} is not a media type", quote(text.value)),
        )
        .label("expected a form such as \"text/html; charset=utf-8\"");
        return None;
    }
    Some(text.value.to_owned())
}

/// The media type of a file by its extension. A text in the configuration is plain text.
fn by_extension(file: Option<&Path>) -> &'static str {
    let Some(file) = file else {
        return "text/plain; charset=utf-8";
    };
    match file.extension().and_then(|e| e.to_str()) {
        Some("html" | "htm") => "text/html; charset=utf-8",
        Some("json") => "application/json",
        Some("xml") => "application/xml",
        Some("svg") => "image/svg+xml",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
