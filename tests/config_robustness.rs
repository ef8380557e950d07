//! No text breaks the parser: whatever a file holds, it is either valid or refused with diagnostics that point into it.

#[path = "support/diagnostic.rs"]
mod diagnostic;

use cutover::config::spec::Share;
use cutover::config::{self, Spec, edit};
use proptest::prelude::*;

const REFERENCE: &str = include_str!("../config/reference.toml");
const FRONT_DOOR: &str = include_str!("../config/front-door.toml");
const CANARY: &str = include_str!("../config/canary.toml");
const RESILIENCE: &str = include_str!("../config/resilience.toml");

/// Parses a text and checks its diagnostics, errors or warnings.
fn check(text: &str) {
    let found = match config::parse_with_warnings(text, "f") {
        Ok((_, warnings)) => warnings,
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without an error");
            errors
        }
    };
    diagnostic::verify(text, &found).unwrap_or_else(|what| panic!("{what}"));
}

/// A valid file in which a few ranges are replaced by pieces that mean something in TOML, or removed.
fn damaged() -> impl Strategy<Value = String> {
    let file = prop::sample::select(vec![REFERENCE, FRONT_DOOR, CANARY, RESILIENCE]);
    let piece = prop::sample::select(vec![
        "",
        "\"",
        "'",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        "\n",
        ",",
        ".",
        "#",
        "\\",
        "\"\"\"",
        "'''",
        "0",
        "-1",
        "5%",
        "é",
        "\u{0}",
        "\r\n",
        "\t",
        "/(",
        "*",
        "nan",
        "1979-05-27",
        "true",
        "\\u0000",
        "\u{feff}",
        "unix:",
        "::",
        "[service.x]",
    ]);
    let change = (any::<prop::sample::Index>(), 0..40usize, piece);
    (file, prop::collection::vec(change, 1..6)).prop_map(|(file, changes)| {
        let mut chars: Vec<char> = file.chars().collect();
        for (at, length, piece) in changes {
            let start = at.index(chars.len() + 1);
            let end = (start + length).min(chars.len());
            chars.splice(start..end, piece.chars());
        }
        chars.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damaged_file_breaks_the_parser(text in damaged()) {
        check(&text);
    }

    /// An edit of a valid file changes the share it was asked to change, and nothing else.
    #[test]
    fn no_damaged_file_breaks_an_edit(text in damaged(), steps in 0..=30_000u32) {
        let edited = edit::shift(&text, "shop", &[("v2", Share(steps))]);
        let Ok(before) = config::parse(&text, "f") else { return Ok(()) };
        let Ok(edited) = edited else { return Ok(()) };
        let after = match config::parse(&edited, "f") {
            Ok(spec) => spec,
            Err(errors) => {
                prop_assert!(errors[0].message().contains("together"), "{}", errors[0]);
                return Ok(());
            }
        };
        let shop = |spec: &Spec| spec.services.iter().find(|s| s.name == "shop").cloned().unwrap();
        let (mut before, after) = (shop(&before), shop(&after));
        let v2 = after.version("v2").unwrap();
        prop_assert!(after.split.contains(&(v2, Share(steps))));
        before.split.clone_from(&after.split);
        prop_assert_eq!(before, after);
    }

    #[test]
    fn no_text_breaks_the_parser(text in "[\\PC\n\t]{0,200}") {
        check(&text);
    }
}

/// A file may be read while it is written: each prefix of one is refused or, at a line's end, a smaller valid file.
#[test]
fn no_truncated_file_breaks_the_parser() {
    for (at, _) in CANARY.char_indices() {
        check(&CANARY[..at]);
    }
}
