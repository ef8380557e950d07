//! What README.md says is so.

use cutover::config;
use cutover::telemetry::names;

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
    assert_eq!(examples.len(), 3, "blue-green, canary, front door");
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
        "completions",
    ] {
        let row = format!("| `cutover {command}");
        assert!(commands.contains(&row), "{command} is missing");
    }
}
