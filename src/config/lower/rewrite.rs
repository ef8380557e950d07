//! `rewrite`: changes of the path and the host that endpoints get.

use super::{expression, route};
use crate::config::actions::{PathRewrite, Rewrite};
use crate::config::problems::Problems;
use crate::config::raw::{RawTable, RawValue};
use crate::config::spec::{HostPattern, PathPattern};
use crate::config::units::quote;

/// Reads `rewrite` of a service or a rule.
pub(super) fn rewrite(table: &mut RawTable<'_>, out: &mut Problems) -> Option<Rewrite> {
    let value = table.take("rewrite")?;
    let mut table = value.table("a table such as { strip_prefix = \"/shop\" }", out)?;
    let before = out.len();
    let strip = table.take("strip_prefix");
    let add = table.take("prefix");
    let regex = table.take("regex");
    let to = table.take("to");
    let host = table.take("host").and_then(|value| host(&value, out));
    if let (Some(regex), Some(other)) = (&regex, strip.as_ref().or(add.as_ref())) {
        out.error(
            regex.key.clone(),
            format!("`{}` has two rules for the path", table.path),
        )
        .label("this expression")
        .also(other.key.clone(), "and this prefix")
        .help("keep one of them");
    }
    if let (Some(to), None) = (&to, &regex) {
        out.error(to.key.clone(), format!("`{}` has no effect", to.path))
            .label("there is no `regex`")
            .help("write the part of the path to replace: `regex = \"^/old/(.*)$\"`");
    }
    let path = match regex {
        Some(regex) => {
            let to =
                to.or_else(|| table.need("to", out, "write the replacement: `to = \"/new/$1\"`"));
            replacement(&regex, to.as_ref(), out)
        }
        None => {
            let text = |value: Option<RawValue<'_>>, out: &mut Problems| {
                value
                    .and_then(|value| prefix(&value, out))
                    .unwrap_or_default()
            };
            let (strip, add) = (text(strip, out), text(add, out));
            let any = !strip.is_empty() || !add.is_empty();
            any.then_some(PathRewrite::Prefix { strip, add })
        }
    };
    table.finish(out);
    if path.is_none() && host.is_none() && out.len() == before {
        value.empty(out);
    }
    Some(Rewrite { path, host })
}

/// Reads a prefix of whole segments: `/shop`.
fn prefix(value: &RawValue<'_>, out: &mut Problems) -> Option<String> {
    let text = value.text("a path such as \"/shop\"", out)?;
    match route::path(&text, out)? {
        PathPattern::Exact(path) if path.len() > 1 && !path.ends_with('/') => Some(path),
        PathPattern::Exact(path) => {
            let problem = out.error(text.span, format!("{} is not a prefix", quote(&path)));
            problem.label("expected whole segments, without a slash at the end");
            match path.trim_end_matches('/') {
                "" => problem.help("leave it out"),
                name => problem.help(format!("did you mean {}?", quote(name))),
            };
            None
        }
        PathPattern::Prefix(path) => {
            out.error(text.span, format!("{} is not a prefix", quote(text.value)))
                .label("a prefix has no star")
                .help(format!("did you mean {}?", quote(&path)));
            None
        }
    }
}

fn replacement(
    regex: &RawValue<'_>,
    to: Option<&RawValue<'_>>,
    out: &mut Problems,
) -> Option<PathRewrite> {
    let text = regex.text("a regular expression such as \"^/old/(.*)$\"", out);
    let compiled = text.and_then(|text| expression::compiled(text.value, &text, out));
    let to = to?.text("a path such as \"/new/$1\"", out)?;
    let is_bad = |c: char| !c.is_ascii_graphic() || matches!(c, '?' | '#' | '\\');
    if let Some(span) = to.span_of_char(is_bad) {
        out.error(span, format!("{} is not part of a path", quote(to.value)))
            .label(
                "expected visible ASCII characters without `?` and `#`; others are written as %XX",
            );
        return None;
    }
    Some(PathRewrite::Regex {
        regex: compiled?,
        to: to.value.to_owned(),
    })
}

/// Reads a host with an optional port, as it is sent upstream.
fn host(value: &RawValue<'_>, out: &mut Problems) -> Option<String> {
    let text = value.text("a host such as \"app.internal\"", out)?;
    let (name, port) = match text.value.rsplit_once(':') {
        // The colons of an IPv6 address are inside of brackets.
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (text.value, None),
    };
    if let Some(port) = port.filter(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        out.error(text.part_of(port), format!("{} is not a port", quote(port)))
            .label("expected a number from 1 to 65535");
        return None;
    }
    match route::host(&text.word(name), out)? {
        HostPattern::Exact(name) => Some(match port {
            Some(port) => format!("{name}:{port}"),
            None => name,
        }),
        HostPattern::Suffix(_) => {
            out.error(text.span, format!("{} is not one host", quote(text.value)))
                .label("endpoints get this host, so it has no star");
            None
        }
    }
}
