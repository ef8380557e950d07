//! Hides credentials in the lines that diagnostics show: the values of `trace.headers`, and passwords in URLs.
//!
//! A diagnostic may be about text that isn't valid TOML, and ends up in logs and in the admin API. So the lines are recognised by
//! their form, and rather too many are hidden than too few.

use std::ops::Range;

/// Replacement of a hidden character.
const HIDDEN: char = '*';

/// The table that a line is in, as far as this module distinguishes tables.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Top,
    Trace,
    Headers,
    Other,
}

impl Place {
    /// The table of a header line such as `[trace.headers]`.
    fn of_header(line: &str) -> Self {
        let name = line.trim_start_matches('[').split(']').next();
        let plain = |c: &char| !c.is_whitespace() && !matches!(c, '"' | '\'');
        match &*name
            .unwrap_or_default()
            .chars()
            .filter(plain)
            .collect::<String>()
        {
            "trace" => Self::Trace,
            "trace.headers" => Self::Headers,
            _ => Self::Other,
        }
    }

    /// Whether a line in this table contains credentials or begins a table that does.
    fn is_secret(self, line: &str) -> bool {
        let key = line.trim_start_matches(['"', '\'']);
        match self {
            Self::Headers => true,
            Self::Trace => key.starts_with("headers"),
            Self::Top => key.starts_with("trace") && (key.contains("headers") || opens(line)),
            Self::Other => false,
        }
    }
}

/// Whether an inline table begins here and ends in a later line.
fn opens(line: &str) -> bool {
    line.contains('{') && !line.contains('}')
}

/// The lines of a file that may hold credentials, in order. The first line begins at `start`.
pub(super) fn secret_lines(text: &str, mut start: usize) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    // The files of most configurations have no such line.
    if memchr::memmem::find(text.as_bytes(), b"headers").is_none() {
        return found;
    }
    let (mut place, mut is_open) = (Place::Top, false);
    for whole in text[start..].split_inclusive('\n') {
        let (line, range) = (whole.trim_start(), start..start + whole.len());
        start = range.end;
        if line.starts_with('[') && line.contains(']') {
            (place, is_open) = (Place::of_header(line), false);
            // Nothing valid can follow in its line, but the text may be invalid.
            let rest = line.rsplit(']').next().unwrap_or_default();
            if matches!(place, Place::Trace | Place::Headers) && !rest.trim().is_empty() {
                found.push(range);
            }
            continue;
        }
        let is_secret = place.is_secret(line);
        if is_secret || is_open {
            found.push(range);
        }
        is_open = match is_secret {
            true => opens(line),
            false => is_open && !line.contains('}'),
        };
    }
    found
}

/// The line with only its keys and punctuation readable. Its length in characters stays the same.
pub(super) fn masked(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    for (word, is_hidden) in words(line) {
        match is_hidden {
            true => shown.extend(word.chars().map(|_| HIDDEN)),
            false => shown.push_str(word),
        }
    }
    shown
}

/// Whether a text contains a word that [`masked`] hides in the line. Words of one or two letters could be in any text.
pub(super) fn reveals(text: &str, line: &str) -> bool {
    let mut hidden = words(line).into_iter().filter(|(_, is_hidden)| *is_hidden);
    hidden.any(|(word, _)| word.chars().nth(2).is_some() && text.contains(word))
}

/// A text in which the password of each URL (`scheme://user:password@host`) is hidden. Its length in characters stays the same.
pub(super) fn without_passwords(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        shown.push_str(before);
        rest = after;
        let ends = |c: char| c.is_whitespace() || "/?#\"'`,".contains(c);
        let authority = &after[..after.find(ends).unwrap_or(after.len())];
        // The last `@` separates the host: a password may contain one itself.
        let user = authority.rsplit_once('@').map(|(user, _)| user);
        if let Some((name, password)) = user.and_then(|user| user.split_once(':')) {
            shown.push_str(name);
            shown.push(':');
            shown.extend(password.chars().map(|_| HIDDEN));
            rest = &after[name.len() + 1 + password.len()..];
        }
    }
    shown + rest
}

/// The line in pieces, and whether each is hidden.
fn words(line: &str) -> Vec<(&str, bool)> {
    let is_mark = |c: char| c.is_whitespace() || "={},\"'[]#".contains(c);
    let mut pieces = Vec::new();
    let mut rest = line;
    // Whether a key may begin here.
    let mut is_start = true;
    while let Some(first) = rest.chars().next() {
        let length = match is_mark(first) {
            true => first.len_utf8(),
            false => rest.find(is_mark).unwrap_or(rest.len()),
        };
        let (word, after) = rest.split_at(length);
        if is_mark(first) {
            is_start = match first {
                '{' | ',' => true,
                c => is_start && c.is_whitespace(),
            };
            pieces.push((word, false));
        } else {
            let is_key = is_start && after.trim_start().starts_with('=');
            pieces.push((word, !is_key));
            is_start = false;
        }
        rest = after;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Vec<&str> {
        let lines = secret_lines(text, 0).into_iter();
        lines.map(|range| text[range].trim_end()).collect()
    }

    #[test]
    fn lines_are_found_however_the_table_is_written() {
        let other = "otlp = 'http://a'\n";
        for (text, expected) in [
            (
                format!("[trace]\n{other}headers = {{ a = 'b' }}\nsample = '1%'\n"),
                vec!["headers = { a = 'b' }"],
            ),
            (
                format!("[trace]\nheaders.a = 'b'\n{other}"),
                vec!["headers.a = 'b'"],
            ),
            (
                format!("[trace]\n{other}[ trace . headers ]\na = 'b'\n[limits]\nheaders = 3\n"),
                vec!["a = 'b'"],
            ),
            (
                "trace.headers = { a = 'b' }\nworkers = 1\n".to_owned(),
                vec!["trace.headers = { a = 'b' }"],
            ),
            (
                "trace = {\nheaders.a = 'b'\n}\nworkers = 1\n".to_owned(),
                vec!["trace = {", "headers.a = 'b'", "}"],
            ),
            (
                "[trace]\nheaders = {\na = 'b'\n[limits]\nheaders = 3\n".to_owned(),
                vec!["headers = {", "a = 'b'"],
            ),
            (
                "[trace.headers] a = 'b'\n".to_owned(),
                vec!["[trace.headers] a = 'b'"],
            ),
            ("[service.a]\nheaders.request = {}\n".to_owned(), vec![]),
        ] {
            assert_eq!(secret(&text), expected, "{text}");
        }
    }

    #[test]
    fn passwords_in_urls_are_hidden() {
        for (text, shown) in [
            (
                "a = \"http://joe:pass@w@h:1/x\"",
                "a = \"http://joe:******@h:1/x\"",
            ),
            ("`h2c://ü:ö@h` and x://a:b@c", "`h2c://ü:*@h` and x://a:*@c"),
            ("http://joe@h:1/a:b@c", "http://joe@h:1/a:b@c"),
            ("http://h:1, joe:pass@h", "http://h:1, joe:pass@h"),
        ] {
            assert_eq!(without_passwords(text), shown);
        }
    }

    #[test]
    fn only_keys_are_left() {
        for (line, shown) in [
            (
                "headers = { authorization = \"Bearer a.b-c==\", x-t = 'ü' }",
                "headers = { authorization = \"****** *****==\", x-t = '*' }",
            ),
            (
                "authorization = Basic YWI= # old",
                "authorization = ***** ***= # ***",
            ),
            ("  \"\"\"", "  \"\"\""),
        ] {
            assert_eq!(masked(line), shown);
        }
        assert!(reveals("write \"Basic YWI\"", "authorization = Basic YWI="));
        assert!(!reveals(
            "`authorization` needs a value",
            "authorization = Basic YWI="
        ));
    }
}
