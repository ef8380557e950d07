//! Compares the diagnostics of each configuration in `tests/diagnostics` with the expected ones.
//!
//! A case is two files: `NAME.toml`, whose first line is a comment that says what is wrong, and `NAME.expected`, the text
//! that `cutover check` prints about it, or `valid` where there is nothing to report. To add a case, write the first file
//! and let the second one be written. After a change of messages, rewrite all of them and review the difference:
//!
//! ```text
//! UPDATE_EXPECTED=1 cargo test --test diagnostics && git diff tests/diagnostics
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

use cutover::config::{self, Diagnostic, Severity};

#[path = "support/diagnostic.rs"]
mod diagnostic;
#[path = "support/diff.rs"]
mod diff;

const UPDATE: &str = "UPDATE_EXPECTED";

struct Case {
    name: String,
    text: String,
}

impl Case {
    fn expected(&self) -> PathBuf {
        directory().join(format!("{}.expected", self.name))
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics")
}

/// Every case, and the names of the files that belong to none.
fn cases() -> (Vec<Case>, Vec<String>) {
    let entries = fs::read_dir(directory()).expect("the directory of the cases");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names: BTreeSet<String> = names.map(|n| n.into_string().expect("UTF-8")).collect();
    let (mut cases, mut strays) = (Vec::new(), Vec::new());
    for file in &names {
        if let Some(name) = file.strip_suffix(".toml") {
            let text = fs::read_to_string(directory().join(file)).expect("a readable case");
            let name = name.to_owned();
            cases.push(Case { name, text });
            continue;
        }
        let input = file.strip_suffix(".expected").map(|n| format!("{n}.toml"));
        if !input.is_some_and(|input| names.contains(&input)) {
            strays.push(file.clone());
        }
    }
    assert!(!cases.is_empty(), "no cases in {}", directory().display());
    (cases, strays)
}

/// The diagnostics of a text: errors where it is refused, warnings where it is valid.
fn diagnostics(text: &str) -> Result<Vec<Diagnostic>, String> {
    let (severity, found) = match config::parse_with_warnings(text, "cutover.toml") {
        Ok((_, warnings)) => (Severity::Warning, warnings),
        Err(errors) if errors.is_empty() => return Err("refused without an error\n".to_owned()),
        Err(errors) => (Severity::Error, errors),
    };
    if let Some(other) = found.iter().find(|d| d.severity() != severity) {
        return Err(format!("expected only {severity:?}s, found\n{other}"));
    }
    diagnostic::verify(text, &found)?;
    Ok(found)
}

fn rendered(diagnostics: &[Diagnostic]) -> String {
    if diagnostics.is_empty() {
        return "valid\n".to_owned();
    }
    let all: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    all.join("\n")
}

/// Compares one case with its expected file, or rewrites that file.
fn check(case: &Case, update: bool) -> Result<(), String> {
    if !case.text.starts_with("# ") {
        return Err("the first line is not a comment that says what is wrong\n".to_owned());
    }
    let actual = rendered(&diagnostics(&case.text)?);
    let expected = fs::read_to_string(case.expected());
    match expected {
        Ok(expected) if expected == actual => Ok(()),
        _ if update => fs::write(case.expected(), actual).map_err(|e| e.to_string()),
        Ok(expected) => Err(diff::lines(&expected, &actual)),
        Err(error) => Err(format!("{}.expected: {error}\n{actual}", case.name)),
    }
}

#[test]
fn every_case_gives_its_expected_diagnostics() {
    let update = env::var_os(UPDATE).is_some_and(|value| value != "0");
    let (cases, strays) = cases();
    let mut failures = Vec::new();
    for stray in strays {
        failures.push(format!(
            "{stray} belongs to no case: expected NAME.toml and NAME.expected\n"
        ));
    }
    for case in &cases {
        if let Err(what) = check(case, update) {
            failures.push(format!("case {}:\n{what}", case.name));
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures in {} cases (- expected, + found; {UPDATE}=1 rewrites the expected files)\n\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

/// Neither CRLF line ends nor a byte order mark, both common on Windows, change what is reported or where.
#[test]
fn line_ends_and_byte_order_marks_change_nothing() {
    // The TOML parser expects other characters before a carriage return, and the message names them.
    let differs = "string-unclosed";
    let reported = |text: &str| diagnostics(text).map(|found| rendered(&found));
    for Case { name, text } in cases().0 {
        if name != differs {
            let crlf = text.replace('\n', "\r\n");
            assert_eq!(reported(&text), reported(&crlf), "{name}");
            assert_eq!(
                reported(&text),
                reported(&format!("\u{feff}{crlf}")),
                "{name}"
            );
        }
    }
}

/// Nor does it where the faulty line follows it directly: without the comment that begins each case.
#[test]
fn a_byte_order_mark_before_the_faulty_line_changes_nothing() {
    for Case { name, text } in cases().0 {
        let (_, text) = text.split_once('\n').expect("a comment and more");
        let reported = |text: &str| diagnostics(text).map(|found| rendered(&found));
        assert_eq!(
            reported(text),
            reported(&format!("\u{feff}{text}")),
            "{name}"
        );
    }
}

#[test]
fn a_byte_order_mark_takes_no_column() {
    let text = "\u{feff}listn = 1\r\n[service.shop]\r\nversions.v1 = [\"a:1\"]\r\n";
    let found = diagnostics(text).unwrap();
    assert_eq!(found.len(), 1, "{}", rendered(&found));
    assert_eq!(found[0].position(), Some((1, 1)));
    assert_eq!(found[0].help(), Some("did you mean `listen`?"));
}

#[test]
fn colour_only_adds_escape_sequences() {
    for case in cases().0 {
        for diagnostic in diagnostics(&case.text).unwrap() {
            let coloured = diagnostic.rendered(true);
            assert!(coloured.contains('\u{1b}'), "{}", case.name);
            let plain = anstream::adapter::strip_str(&coloured).to_string();
            assert_eq!(plain, diagnostic.rendered(false), "{}", case.name);
            assert!(!plain.contains('\u{1b}'), "{}", case.name);
        }
    }
}
