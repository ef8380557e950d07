//! TOML, with all its errors, told once each. A parser that has lost its way complains about what comes after, or skips
//! it; so the first broken line is told and blanked, and the text read again, until what is left can be read.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problems::{Problems, TextSpan};
use super::remedy::{remedy, value_around};

/// So many broken lines are told; a file with more of them is no configuration at all.
const MOST: usize = 50;

/// Stands in for a header that can't be read, so that the keys under it don't come under the one before.
pub(super) const NOWHERE: &str = "-";

/// Says what isn't TOML. What comes back has the same length, every place means the same, and it can be read.
pub(super) fn repair<'t>(text: &'t str, out: &mut Problems) -> Cow<'t, str> {
    let mut text = Cow::Borrowed(text);
    for _ in 0..MOST {
        let Some(broken) = first_error(&text, out) else {
            return text;
        };
        out.broken(broken.clone());
        blank(text.to_mut(), broken);
    }
    // Hopeless: nothing more is said about it.
    let all = 0..text.len();
    out.broken(all.clone());
    blank(text.to_mut(), all);
    text
}

/// Says the first error; gives the lines that it spoils.
fn first_error(text: &str, out: &mut Problems) -> Option<TextSpan> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let first = errors
        .iter()
        .min_by_key(|e| e.span().map_or(0, |span| span.start))?;
    let at = first.span().unwrap_or(0..0);
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
        return Some(spoilt(text, span.start));
    }
    if first.message().starts_with("invalid multi-line") {
        // It swallowed what came after, and where it was meant to end nobody knows.
        let before = &text[..at.start];
        let opener = before.rfind("\"\"\"").max(before.rfind("'''")).unwrap_or(0);
        let quotes = text.get(opener..opener + 3).unwrap_or_default();
        out.error(opener..opener + quotes.len(), "this text is never closed")
            .label(format!("expected `{quotes}` at its end"));
        return Some(line_of(text, opener).start..text.len());
    }
    say(first.message(), text, at.clone(), out);
    Some(line_of(text, at.start))
}

/// The parser's message in our form, with what to do.
fn say(message: &str, text: &str, at: TextSpan, out: &mut Problems) {
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

/// The line around `at`, without its end.
fn line_of(text: &str, at: usize) -> TextSpan {
    let bytes = text.as_bytes();
    let at = at.min(bytes.len());
    let start = memchr::memrchr(b'\n', &bytes[..at]).map_or(0, |n| n + 1);
    let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |n| at + n);
    start..end
}

/// From the line of a bracket that is never closed to the next line that looks like a key or a header.
fn spoilt(text: &str, bracket: usize) -> TextSpan {
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

/// Spaces in place of everything but line ends; a header becomes one that leads nowhere.
fn blank(text: &mut String, span: TextSpan) {
    let header = text[span.clone()].trim_start().starts_with('[');
    let mut bytes = std::mem::take(text).into_bytes();
    let line = &mut bytes[span];
    for byte in line.iter_mut().filter(|b| **b != b'\n') {
        *byte = b' ';
    }
    let stand_in = format!("[[{NOWHERE}]]");
    if header && line.len() >= stand_in.len() && !line[..stand_in.len()].contains(&b'\n') {
        line[..stand_in.len()].copy_from_slice(stand_in.as_bytes());
    }
    *text = String::from_utf8(bytes).expect("whole lines became ASCII");
}

/// The outermost bracket of that kind that is open until `until`.
fn outermost(text: &str, root: &DeTable<'_>, opener: u8, until: usize) -> Option<TextSpan> {
    let mut brackets = Vec::new();
    root.iter()
        .for_each(|(_, value)| collect(text, value, &mut brackets));
    brackets
        .into_iter()
        .filter(|b| text.as_bytes()[b.start] == opener && b.start < until && until <= b.end)
        .min_by_key(|b| b.start)
}

/// The places of all values that are written in brackets.
fn collect(text: &str, value: &Spanned<DeValue<'_>>, out: &mut Vec<TextSpan>) {
    let span = value.span();
    let opener = text.as_bytes().get(span.start).copied();
    match value.get_ref() {
        DeValue::Array(items) => {
            // The list of `[[…]]` tables has their first header as its place.
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
