//! What README.md says is so.

use std::fs;
use std::path::Path;

use cutover::config;
use cutover::telemetry::names;
use cutover::telemetry::record::Reason;

const README: &str = include_str!("../README.md");

/// The blocks between fences that begin with this word.
fn blocks(kind: &str) -> Vec<String> {
    let opening = format!("```{kind}\n");
    let parts = README.split(&opening).skip(1);
    parts
        .filter_map(|part| part.split("\n```").next().map(str::to_owned))
        .collect()
}

#[test]
fn every_configuration_is_valid() {
    let examples = blocks("toml");
    assert_eq!(examples.len(), 7, "blue-green to drain");
    for text in examples {
        if let Err(errors) = config::parse(&text, "README.md") {
            let errors: Vec<_> = errors.iter().map(|e| e.rendered(false)).collect();
            panic!("{}\n{text}", errors.join("\n"));
        }
    }
}

#[test]
fn blue_green_has_ten_lines() {
    let text = &blocks("toml")[0];
    assert!(text.lines().count() <= 10, "{text}");
}

#[test]
fn every_metric_is_listed_and_no_other() {
    let known: Vec<_> = names::ALL.iter().map(|family| family.name).collect();
    let metrics = README.split("## Metrics").nth(1).expect("its chapter");
    let metrics = metrics.split("\n## ").next().expect("its text");
    for name in &known {
        assert!(metrics.contains(&format!("`{name}`")), "{name} is missing");
    }
    let listed = metrics.split('`').skip(1).step_by(2);
    for name in listed.filter(|name| name.contains('_') && *name != "grpc_status") {
        assert!(known.contains(&name), "{name} is no metric");
    }
}

#[test]
fn every_command_is_listed() {
    let commands = README.split("## Commands").nth(1).expect("its chapter");
    for command in [
        "run",
        "check",
        "demo",
        "explain",
        "status",
        "shift",
        "drain",
        "completions",
    ] {
        let row = format!("| `cutover {command}");
        assert!(commands.contains(&row), "{command} is missing");
    }
}

/// The texts that stand in the sources between `opening` and a quote.
fn quoted(directory: &Path, openings: &[&str], found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).expect("it is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            quoted(&path, openings, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("it can be read");
            for opening in openings {
                let parts = text.split(opening).skip(1);
                found.extend(parts.map(|part| part[..part.find('"').expect("its end")].to_owned()));
            }
        }
    }
}

#[test]
fn every_reason_is_listed() {
    let chapter = README.split("## Answers of the proxy's own").nth(1);
    let chapter = chapter.and_then(|rest| rest.split("\n## ").next());
    let chapter = chapter.expect("it is there");
    // Of an upstream's answer: the client is told `upstream-malformed`. A refused retry leaves the answer as it was.
    let inner = [
        Reason::BadStatus,
        Reason::UnaskedUpgrade,
        Reason::BadWebsocket,
        Reason::TooManyInformational,
        Reason::BeyondFraming,
        Reason::SurplusData,
        Reason::PseudoInTrailers,
        Reason::LimitRetries,
    ];
    for reason in Reason::ALL.iter().filter(|reason| !inner.contains(reason)) {
        let listed = format!("`{reason}`");
        assert!(chapter.contains(&listed), "{reason} is missing");
    }
}

#[test]
fn every_word_of_the_codec_is_a_reason() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut words = Vec::new();
    for room in ["http1", "http2", "proxy", "server", "upstream"] {
        quoted(&sources.join(room), &["bad(\"", "reason: \""], &mut words);
    }
    assert!(words.len() > 60, "{words:?}");
    for word in words {
        assert!(Reason::parse(&word).is_some(), "add {word:?} to Reason");
    }
}
