//! TOML, with all its errors, told once each: one forgotten bracket makes a parser complain about every later line.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Problems, Span};

/// Parses `text`; what can't be read is said and left out.
pub(super) fn read<'t>(text: &'t str, out: &mut Problems) -> Spanned<DeTable<'t>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut found: Vec<(Span, String)> = errors
        .iter()
        .map(|e| (e.span().unwrap_or(0..0), e.message().to_owned()))
        .collect();
    found.sort_by_key(|(span, _)| span.start);

    for span in unclosed(text, root.get_ref(), &found) {
        found.retain(|(at, _)| at.start < span.start || at.start > span.end);
        let bracket = &text[span.start..=span.start];
        out.error(
            span.start..span.start + 1,
            format!("this `{bracket}` is never closed"),
        )
        .label(match bracket {
            "[" => "expected a `]` that closes this list",
            _ => "expected a `}` that closes this table",
        });
        out.broken(span);
    }
    let mut last_line = None;
    for (span, message) in found {
        let line = line_of(text, span.start);
        if last_line.as_ref() == Some(&line) {
            continue;
        }
        let (message, label) = match message.split_once(", expected ") {
            Some((message, expected)) => (message.to_owned(), format!("expected {expected}")),
            None => (message, String::new()),
        };
        let problem = out.error(span, message.clone());
        problem.label(label);
        if message.starts_with("string values must be quoted") {
            problem.help("put it in double quotes: \"…\"");
        } else if message == "duplicate key" {
            problem.help("a key, and a [table] header, may stand in a file only once");
        }
        out.broken(line.clone());
        last_line = Some(line);
    }
    root
}

/// The line around `at`, without its end.
fn line_of(text: &str, at: usize) -> Span {
    let bytes = text.as_bytes();
    let at = at.min(bytes.len());
    let start = memchr::memrchr(b'\n', &bytes[..at]).map_or(0, |n| n + 1);
    let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |n| at + n);
    start..end
}

/// The outermost lists and inline tables that are never closed.
fn unclosed(text: &str, root: &DeTable<'_>, errors: &[(Span, String)]) -> Vec<Span> {
    let mut brackets = Vec::new();
    collect(text, root, &mut brackets);
    let mut result: Vec<Span> = Vec::new();
    for (at, message) in errors {
        let opener = match message.split(',').next() {
            Some("unclosed array") => b'[',
            Some("unclosed inline table") => b'{',
            _ => continue,
        };
        let outermost = brackets
            .iter()
            .filter(|b| {
                text.as_bytes()[b.start] == opener && b.start < at.start && at.start <= b.end
            })
            .min_by_key(|b| b.start);
        if let Some(span) = outermost
            && !result
                .iter()
                .any(|r| r.start <= span.start && span.end <= r.end)
        {
            result.push(span.clone());
        }
    }
    result
}

/// The spans of all values that are written in brackets.
fn collect(text: &str, table: &DeTable<'_>, out: &mut Vec<Span>) {
    fn visit(text: &str, value: &Spanned<DeValue<'_>>, out: &mut Vec<Span>) {
        let span = value.span();
        let opener = text.as_bytes().get(span.start);
        match value.get_ref() {
            DeValue::Array(items) => {
                let header = text.get(span.clone()).is_some_and(|t| t.starts_with("[["));
                if opener == Some(&b'[') && !header {
                    out.push(span);
                }
                items.iter().for_each(|item| visit(text, item, out));
            }
            DeValue::Table(inner) => {
                if opener == Some(&b'{') {
                    out.push(span);
                }
                collect(text, inner, out);
            }
            _ => {}
        }
    }
    table.iter().for_each(|(_, value)| visit(text, value, out));
}
