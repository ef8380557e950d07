//! Reports every TOML syntax error of a text once, and makes the rest parseable.
//!
//! A parser that recovers from an error reports spurious ones after it, or skips valid text. So only the first error is
//! reported; the lines that it spoils are blanked, and the text is parsed again until no error is left. Blanking
//! keeps the length of the text, so that all spans stay valid.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::position::BYTE_ORDER_MARK;
use super::problems::{Problems, TextSpan};
use super::remedy::{remedy, value_around};

/// The maximum number of syntax errors that are reported. A text with more of them isn't TOML.
const MAX_ERRORS: usize = 50;

/// The name of the table that replaces a header that can't be parsed, so that the keys below it aren't taken for keys
/// of the table before.
pub(super) const PLACEHOLDER: &str = "-";

/// Reports all syntax errors and returns a text without them, in which every byte offset has the same meaning.
pub(super) fn repair<'t>(text: &'t str, out: &mut Problems) -> Cow<'t, str> {
    let mut text = without_byte_order_mark(text);
    for _ in 0..MAX_ERRORS {
        let Some(broken) = first_error(&text, out) else {
            return text;
        };
        out.broken(broken.clone());
        blank(text.to_mut(), broken);
    }
    // Further errors aren't worth reporting.
    let all = 0..text.len();
    out.broken(all.clone());
    blank(text.to_mut(), all);
    text
}

/// Replaces a byte order mark at the beginning with as many spaces.
///
/// The TOML parser skips the mark, but checks of the first line would take it for a part of the first word.
fn without_byte_order_mark(text: &str) -> Cow<'_, str> {
    match text.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) => Cow::Owned(" ".repeat(BYTE_ORDER_MARK.len_utf8()) + rest),
        None => Cow::Borrowed(text),
    }
}

/// Reports the first error and returns the span of the lines to blank.
fn first_error(text: &str, out: &mut Problems) -> Option<TextSpan> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let first = errors
        .iter()
        .min_by_key(|e| e.span().map_or(0, |span| span.start))?;
    let at = first.span().unwrap_or(0..0);
    // An unclosed bracket is reported where the parser gave up, which may be many lines below, after errors that follow
    // from it. Report the bracket itself, if it comes first.
    let unclosed = errors.iter().filter_map(|e| {
        let opener = match e.message().split(',').next() {
            Some("unclosed array") => b'[',
            Some("unclosed inline table") => b'{',
            _ => return None,
        };
        outermost(text, root.get_ref(), opener, e.span()?.start)
    });
    if let Some(span) = unclosed
        .min_by_key(|span| span.start)
        .filter(|span| span.start <= at.start)
    {
        let (bracket, closing) = match text.as_bytes()[span.start] {
            b'[' => ("[", "`]` that closes this list"),
            _ => ("{", "`}` that closes this table"),
        };
        out.error(
            span.start..span.start + 1,
            format!("this `{bracket}` is never closed"),
        )
        .label(format!("expected a {closing}"));
        return Some(unclosed_lines(text, span.start));
    }
    if first.message().starts_with("invalid multi-line") {
        // The string swallowed the rest of the text, and there is no telling where it was meant to end.
        let before = &text[..at.start];
        let opener = before.rfind("\"\"\"").max(before.rfind("'''")).unwrap_or(0);
        let quotes = text.get(opener..opener + 3).unwrap_or_default();
        out.error(opener..opener + quotes.len(), "this string is never closed")
            .label(format!("expected `{quotes}` at its end"));
        return Some(line_of(text, opener).start..text.len());
    }
    report(first.message(), text, at.clone(), out);
    Some(line_of(text, at.start))
}

/// Reports an error of the parser, with its expectation as the label and a remedy as the help line.
fn report(message: &str, text: &str, at: TextSpan, out: &mut Problems) {
    if message.starts_with("cannot extend value of type") {
        return report_value_as_table(text, at, out);
    }
    let (what, expected) = match message.split_once(", expected ") {
        Some((what, "nothing")) => (what, String::new()),
        Some((what, expected)) => (what, format!("expected {expected}")),
        None => (message, String::new()),
    };
    let help = remedy(what, text, &at);
    let no_value = what.starts_with("string values") && value_around(text, &at).is_empty();
    let problem = match no_value {
        true => out.error(at, "key with no value"),
        false => out.error(at, what),
    };
    match what {
        _ if no_value => problem.label("expected a value after `=`"),
        "string values must be quoted" => problem.label("expected a value in quotes"),
        "duplicate key" => problem.label("defined already"),
        _ => problem.label(expected),
    };
    if let Some(help) = help {
        problem.help(help);
    }
}

/// Reports a key with a value that is a table further down: `listen = ":80"` and `[listen.https]`.
fn report_value_as_table(text: &str, at: TextSpan, out: &mut Problems) {
    let key = &text[at.clone()];
    let help = match key {
        "listen" => {
            "where there are several listeners, each is a table: `[listen.NAME]` with `bind = \"…\"`"
        }
        _ => "keep one of the two: move the value into the table, or remove the table",
    };
    out.error(at, format!("`{key}` has a value already"))
        .label("a table here")
        .help(help);
}

/// Returns the span of the line around `at`, without its line feed.
fn line_of(text: &str, at: usize) -> TextSpan {
    let bytes = text.as_bytes();
    let at = at.min(bytes.len());
    let start = memchr::memrchr(b'\n', &bytes[..at]).map_or(0, |n| n + 1);
    let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |n| at + n);
    start..end
}

/// Returns the lines that an unclosed bracket spoils: from its own up to the next that looks like a key or a header.
fn unclosed_lines(text: &str, bracket: usize) -> TextSpan {
    let first = line_of(text, bracket);
    let mut end = first.end;
    while end < text.len() {
        let next = line_of(text, end + 1);
        let line = text[next.clone()].trim_start();
        let word = line.trim_start_matches(|c: char| {
            c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '"' | '\'')
        });
        let key = word.len() < line.len() && word.trim_start().starts_with('=');
        let header = line.starts_with('[') && line.contains(']') && !line.contains(['"', ',']);
        if key || header {
            break;
        }
        end = next.end.max(end + 1);
    }
    first.start..end.min(text.len())
}

/// Overwrites a span with spaces, except for line feeds. A table header at its beginning becomes [`PLACEHOLDER`]'s.
fn blank(text: &mut String, span: TextSpan) {
    let header = text[span.clone()].trim_start().starts_with('[');
    let mut bytes = std::mem::take(text).into_bytes();
    let line = &mut bytes[span];
    for byte in line.iter_mut().filter(|b| **b != b'\n') {
        *byte = b' ';
    }
    // The header has double brackets, because it may occur more than once.
    let placeholder = format!("[[{PLACEHOLDER}]]");
    if header && line.len() >= placeholder.len() && !line[..placeholder.len()].contains(&b'\n') {
        line[..placeholder.len()].copy_from_slice(placeholder.as_bytes());
    }
    // The span begins and ends at character boundaries, and all of it is ASCII now.
    *text = String::from_utf8(bytes).expect("the blanked lines are ASCII");
}

/// Returns the outermost list or inline table with this bracket that was opened before `until` and still open there.
fn outermost(text: &str, root: &DeTable<'_>, opener: u8, until: usize) -> Option<TextSpan> {
    let mut brackets = Vec::new();
    root.iter()
        .for_each(|(_, value)| collect(text, value, &mut brackets));
    brackets
        .into_iter()
        .filter(|b| text.as_bytes()[b.start] == opener && b.start < until && until <= b.end)
        .min_by_key(|b| b.start)
}

/// Collects the spans of all lists and inline tables.
fn collect(text: &str, value: &Spanned<DeValue<'_>>, out: &mut Vec<TextSpan>) {
    let span = value.span();
    let opener = text.as_bytes().get(span.start).copied();
    match value.get_ref() {
        DeValue::Array(items) => {
            // The parser gives a list of `[[…]]` tables the span of their first header.
            let tables = items
                .iter()
                .next()
                .is_some_and(|first| first.span() == span);
            if opener == Some(b'[') && !tables {
                out.push(span);
            }
            items.iter().for_each(|item| collect(text, item, out));
        }
        DeValue::Table(entries) => {
            if opener == Some(b'{') {
                out.push(span);
            }
            entries
                .iter()
                .for_each(|(_, value)| collect(text, value, out));
        }
        _ => {}
    }
}
