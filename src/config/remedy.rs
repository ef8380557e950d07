//! Suggests fixes for text that isn't TOML, by recognising habits from YAML, nginx and programming languages.

use super::problems::TextSpan;

/// Suggests a fix for an error of the parser. `what` is its message, without the part that says what it expected.
pub(super) fn remedy(what: &str, text: &str, at: &TextSpan) -> Option<String> {
    let line = line_around(text, at.start);
    match what {
        "key with no value" | "invalid unquoted key" => of_key(line),
        "unexpected key or value" => of_rest(text.get(at.start..).unwrap_or_default()),
        "too few unicode value digits" | "missing escaped value" => Some(
            "in double quotes a backslash begins an escape: write the text in single quotes, '…'"
                .to_owned(),
        ),
        "unclosed table" => of_header(line),
        "duplicate key" => {
            Some("a key or a [table] header may appear only once in a file".to_owned())
        }
        "string values must be quoted"
        | "invalid boolean"
        | "invalid float"
        | "invalid mantissa"
        | "unexpected leading zero" => of_value(value_around(text, at)),
        _ => None,
    }
}

/// Returns the line around an offset, trimmed.
fn line_around(text: &str, at: usize) -> &str {
    let start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
    text[start..end].trim()
}

/// Returns the value around a span: from the `=`, `[` or comma before it to the comma, closing bracket or comment after it.
pub(super) fn value_around<'t>(text: &'t str, at: &TextSpan) -> &'t str {
    let before = text[..at.start].rfind(['=', '[', ',', '\n']);
    let start = before.map_or(0, |n| n + 1);
    let end = text[at.start..]
        .find([',', ']', '}', '#', '\n'])
        .map_or(text.len(), |n| at.start + n);
    text[start..end.max(start)].trim_matches([' ', '\t', '\r'])
}

fn of_value(value: &str) -> Option<String> {
    let word = value.to_ascii_lowercase();
    Some(match word.as_str() {
        "" => return None,
        "on" | "yes" | "true" | "enable" | "enabled" => "write `true`".to_owned(),
        "off" | "no" | "false" | "disable" | "disabled" => "write `false`".to_owned(),
        "null" | "nil" | "none" => {
            "leave the key out, or write \"none\" in quotes where that is a value".to_owned()
        }
        _ if value.contains(['“', '”', '„', '‘', '’']) => {
            "these are typographic quotes: use straight ones, \"…\"".to_owned()
        }
        _ if value.contains('\u{a0}') => "there is a no-break space: write a plain one".to_owned(),
        _ if value.contains(['"', '\'', '\\']) || value.len() > 60 => {
            "put it in double quotes: \"…\"".to_owned()
        }
        _ => format!(
            "put it in double quotes: \"{}\"",
            value.trim_end_matches(';')
        ),
    })
}

fn of_key(line: &str) -> Option<String> {
    if ["//", "--", "/*", ";"]
        .iter()
        .any(|mark| line.starts_with(mark))
    {
        return Some("a comment begins with `#`".to_owned());
    }
    let name = |name: &str| {
        !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
    };
    if let Some((key, value)) = line.split_once(':')
        && name(key.trim())
    {
        let (key, value) = (key.trim(), value.trim());
        return Some(match value {
            "" => format!("a table has a header: `[{key}]`"),
            _ => format!("TOML has `=` where YAML has `:`: `{key} = …`"),
        });
    }
    let (key, _) = line.split_once([' ', '\t'])?;
    let assigned = line.contains('=') || line.starts_with('[');
    (name(key) && !assigned).then(|| format!("expected `{key} = …`"))
}

/// Suggests a fix for text after a complete value.
fn of_rest(rest: &str) -> Option<String> {
    match rest.trim_start().chars().next()? {
        ';' => Some("a line of TOML has no `;` at its end".to_owned()),
        ',' => Some("a line of TOML has no `,` at its end".to_owned()),
        '"' | '\'' => Some("several values are written as a list: [\"a\", \"b\"]".to_owned()),
        '/' | '-' => Some("a comment begins with `#`".to_owned()),
        _ => None,
    }
}

fn of_header(line: &str) -> Option<String> {
    let inside = line.trim_start_matches('[');
    let inside = &inside[..inside.find(']')?];
    let words: Vec<&str> = inside.split_whitespace().collect();
    let dotted = words.join(".");
    (words.len() > 1).then(|| format!("a header is dotted: `[{dotted}]`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (value, expected) in [
            ("on", "write `true`"),
            ("False", "write `false`"),
            ("5%", "put it in double quotes: \"5%\""),
            ("30s;", "put it in double quotes: \"30s\""),
            (
                "“a”",
                "these are typographic quotes: use straight ones, \"…\"",
            ),
        ] {
            assert_eq!(of_value(value).as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn keys() {
        assert_eq!(
            of_key("// all").as_deref(),
            Some("a comment begins with `#`")
        );
        assert_eq!(
            of_key("listen: ':80'").as_deref(),
            Some("TOML has `=` where YAML has `:`: `listen = …`")
        );
        assert_eq!(
            of_key("service:").as_deref(),
            Some("a table has a header: `[service]`")
        );
        assert_eq!(
            of_key("listen 80").as_deref(),
            Some("expected `listen = …`")
        );
        assert_eq!(of_key("a b = 1"), None);
        assert_eq!(
            of_header("[service shop]").as_deref(),
            Some("a header is dotted: `[service.shop]`")
        );
        assert_eq!(of_header("[service"), None);
    }

    #[test]
    fn values_in_their_places() {
        let text = "a = 5% # five\nb = { c = 0.5%, d = 1 }\n";
        assert_eq!(value_around(text, &(4..6)), "5%");
        let at = text.find("%,").unwrap();
        assert_eq!(value_around(text, &(at..at + 1)), "0.5%");
    }
}
