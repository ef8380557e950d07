//! Recognises texts that aren't meant to be TOML: unresolved merges, other formats and other proxies' configurations.
//!
//! The parser would report an error for each of their lines, so this check comes first and a hit is the only error.

use super::bundle::FilePart;
use super::position::BYTE_ORDER_MARK;
use super::problems::{Problems, TextSpan};

/// The number of lines that are inspected, which is enough to tell formats apart.
const MAX_LINES: usize = 200;

const EXAMPLE: &str = "the configuration is TOML. The smallest one:\nlisten = \":8080\"\n[service.shop]\nversions = { v1 = [\"10.0.1.10:8080\"] }";

/// Reports a text that isn't meant to be a configuration of this proxy; returns whether it did.
pub(super) fn foreign(part: &FilePart<'_>, out: &mut Problems) -> bool {
    let text = part.text;
    if conflicts(text, out) {
        return true;
    }
    let lines: Vec<(usize, &str)> = significant(text).take(MAX_LINES).collect();
    let Some((at, first)) = lines.first().copied() else {
        // A team may have no service yet.
        return part.path.is_none() && only_comments(text, out);
    };
    let Some((what, help)) = format(first, &lines) else {
        return false;
    };
    out.error(at..at + first.len(), format!("this is {what}"))
        .label("expected TOML, such as `listen = \":8080\"`")
        .help(help);
    true
}

/// Reports every conflict that a merge left behind; returns whether there is one.
fn conflicts(text: &str, out: &mut Problems) -> bool {
    let before = out.len();
    let mut begun: Option<TextSpan> = None;
    for (at, line) in lines(text) {
        let whole = at..at + line.len();
        let marks = |mark: &str| {
            let rest = line.strip_prefix(mark);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        if marks("<<<<<<<") {
            begun = Some(whole);
        } else if marks(">>>>>>>") {
            conflict(begun.take(), Some(whole), out);
        }
    }
    if begun.is_some() {
        conflict(begun, None, out);
    }
    out.len() > before
}

fn conflict(begin: Option<TextSpan>, end: Option<TextSpan>, out: &mut Problems) {
    let Some(at) = begin.clone().or(end.clone()) else {
        return;
    };
    let problem = out.error(at, "a merge conflict is not resolved");
    problem.label("left behind by a merge").help(
        "keep one of the two sides and remove the lines with `<<<<<<<`, `=======` and `>>>>>>>`",
    );
    if let (Some(_), Some(end)) = (begin, end) {
        problem.also(end, "the conflict ends here");
    }
}

fn only_comments(text: &str, out: &mut Problems) -> bool {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    if text.trim().is_empty() {
        return false; // `load` reports empty files.
    }
    out.error(0..0, "the file has only comments")
        .label("expected a listener and a service")
        .help(EXAMPLE);
    true
}

/// Recognises a format; returns its name with an article, and the help line.
///
/// The first significant line decides where it suffices. YAML and nginx look like TOML with slips (`key: value`,
/// `key = value;`), so they also need more lines of their kind than there are lines of TOML.
fn format(first: &str, all: &[(usize, &str)]) -> Option<(&'static str, String)> {
    let count = |kind: fn(&str) -> bool| all.iter().filter(|(_, line)| kind(line)).count();
    let any = |start: &str| all.iter().any(|(_, line)| line.starts_with(start));
    let example = || EXAMPLE.to_owned();
    if first.starts_with("-----BEGIN ") {
        let help = "name the certificate in a configuration: `[[listen.https.cert]]` with `cert` and `key`";
        return Some(("a PEM file", help.to_owned()));
    }
    if is_json(first, all) {
        return Some(("JSON", example()));
    }
    if first.starts_with('<') {
        return Some(("HTML or XML", example()));
    }
    if first.starts_with("apiVersion:") || first.starts_with("kind:") {
        let help = "the configuration is in `data` of a ConfigMap: name the mounted file, not the manifest";
        return Some(("a Kubernetes manifest", help.to_owned()));
    }
    let toml = count(is_toml);
    if is_yaml(first) && count(is_yaml) > toml {
        return Some(match any("static_resources:") {
            true => ("a configuration of Envoy, in YAML", example()),
            false => ("YAML", example()),
        });
    }
    let word = first.split_whitespace().next().unwrap_or_default();
    let sections = ["global", "defaults", "frontend", "backend", "listen"];
    if sections.contains(&word) && !is_toml(first) && !first.ends_with(['{', ';']) {
        let help = "`bind` becomes `listen`, a `backend` becomes `[service.NAME]` and its servers `versions`:\n";
        return Some(("a configuration of HAProxy", format!("{help}{EXAMPLE}")));
    }
    let blocks = count(is_block);
    if is_block(first) && blocks > toml {
        return Some(match any_ends_with_semicolon(all) {
            true => {
                let help = "`listen` stays, `server_name` becomes `hosts` and an `upstream` becomes `versions`:\n";
                ("a configuration of nginx", format!("{help}{EXAMPLE}"))
            }
            false => ("a Caddyfile", example()),
        });
    }
    None
}

/// Whether the text is JSON. No line of TOML begins with a brace, but a `[` may begin a header or a list.
fn is_json(first: &str, all: &[(usize, &str)]) -> bool {
    let inside = first.strip_prefix(['{', '[']);
    let next = inside.map(str::trim_start).filter(|rest| !rest.is_empty());
    let next = next.or_else(|| all.get(1).map(|(_, line)| *line));
    match first.as_bytes().first() {
        Some(b'{') => next.is_none_or(|next| next.starts_with(['"', '}', '{'])),
        Some(b'[') => next.is_some_and(|next| next.starts_with('{')),
        _ => false,
    }
}

/// Whether the line is a table header or a key with `=`.
fn is_toml(line: &str) -> bool {
    if line.starts_with('[') {
        return true;
    }
    let key = line.split('=').next().unwrap_or_default();
    key.len() < line.len() && is_key(key)
}

/// Whether the line is a document marker, a list item, or a key with a colon.
fn is_yaml(line: &str) -> bool {
    let Some((key, rest)) = line.split_once(':') else {
        return line == "---" || line.starts_with("- ");
    };
    let key = key.strip_prefix("- ").unwrap_or(key);
    is_key(key) && (rest.is_empty() || rest.starts_with(' '))
}

fn is_key(key: &str) -> bool {
    let key = key.trim();
    !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '"' | '\'' | ' '))
}

/// Whether the line is a directive that ends in a semicolon, or begins or ends a block.
fn is_block(line: &str) -> bool {
    !is_toml(line) && (line.ends_with([';', '{']) || line == "}")
}

fn any_ends_with_semicolon(all: &[(usize, &str)]) -> bool {
    all.iter().any(|(_, line)| line.ends_with(';'))
}

/// Returns the lines that are neither blank nor comments, trimmed, with their offsets.
fn significant(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let trimmed = lines(text).map(|(at, line)| {
        let start = line.trim_start();
        (at + line.len() - start.len(), start.trim_end())
    });
    trimmed.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// Returns all lines without their line ends, with their offsets.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let without_mark = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let mut at = text.len() - without_mark.len();
    without_mark.split('\n').map(move |line| {
        let begin = at;
        at += line.len() + 1;
        (begin, line.trim_end_matches('\r'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<String> {
        let mut out = Problems::default();
        let (errors, _) = match foreign(&FilePart::single(text), &mut out) {
            true => out.finish(&[FilePart::single(text)], "t"),
            false => return None,
        };
        Some(errors[0].message().to_owned())
    }

    #[test]
    fn other_formats_are_recognised() {
        for (text, what) in [
            ("{\n  \"listen\": \":80\"\n}", "JSON"),
            ("{ \"listen\": \":80\" }", "JSON"),
            ("[\n{}\n]", "JSON"),
            ("---\nlisten: ':80'\n", "YAML"),
            ("# a\nlisten: ':80'\nservice:\n  shop:\n    - a=b\n", "YAML"),
            ("<!DOCTYPE html>\n<p>404</p>", "HTML or XML"),
            ("-----BEGIN CERTIFICATE-----\nMII=\n", "a PEM file"),
            (
                "user www-data;\nhttp {\n  server {\n    listen 80;\n  }\n}\n",
                "a configuration of nginx",
            ),
            ("server {\n  set $a = 1;\n}\n", "a configuration of nginx"),
            (
                "global\n  maxconn 100\nfrontend a\n  bind *:80\n",
                "a configuration of HAProxy",
            ),
            (
                "shop.example.com {\n  reverse_proxy a:1\n}\n",
                "a Caddyfile",
            ),
            (
                "static_resources:\n  listeners:\n",
                "a configuration of Envoy, in YAML",
            ),
            (
                "apiVersion: v1\nkind: ConfigMap\ndata:\n  cutover.toml: |\n    listen = ':80'\n",
                "a Kubernetes manifest",
            ),
        ] {
            assert_eq!(found(text), Some(format!("this is {what}")), "{text}");
        }
        assert_eq!(
            found("# a\n\n"),
            Some("the file has only comments".to_owned())
        );
    }

    #[test]
    fn toml_with_slips_is_toml() {
        for text in [
            "",
            "\u{feff}listen = ':80'\n",
            "listen: ':80'\n[service.shop]\nversions = { v1 = ['a:1'] }\n",
            "listen = ':80';\n[service.shop]\n",
            "[service.shop]\nversions = {\n v1 = ['a:1']\n}\n",
            "[\n",
            "[[service]]\n",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }

    #[test]
    fn every_conflict_is_said_once() {
        let text = "a = 1\n<<<<<<< HEAD\nb = 1\n=======\nb = 2\n>>>>>>> other\nc = 1\n<<<<<<<\n=======\n>>>>>>>\n<<<<<<< cut off\n";
        let mut out = Problems::default();
        assert!(foreign(&FilePart::single(text), &mut out));
        assert_eq!(out.len(), 3);
    }
}
