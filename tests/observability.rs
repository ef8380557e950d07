//! The dashboard and the rules under `config/` ask for what is exported, and for all of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cutover::telemetry::names::{self, MetricKind};
use serde_json::Value;

#[path = "support/promtool.rs"]
mod promtool;

use promtool::promtool;

/// Labels that Prometheus sets, beside ours.
const TARGET_LABELS: [&str; 2] = ["instance", "job"];
/// What stands between the operands of an expression.
const KEYWORDS: [&str; 6] = ["and", "or", "unless", "offset", "bool", "inf"];
/// What is followed by a list of labels.
const GROUPINGS: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];

fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("config")
        .join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(config(name)).expect("it is part of the project")
}

/// What an expression asks for.
#[derive(Debug, Default, PartialEq)]
struct Asked {
    metrics: BTreeSet<String>,
    labels: BTreeSet<String>,
}

/// Takes names out of an expression: metrics, and the labels of matchers and groupings.
fn asked(expression: &str) -> Asked {
    let mut found = Asked::default();
    let mut rest = expression.trim_start();
    // The list of a grouping, or the matchers of a series.
    let (mut in_labels, mut grouping) = (false, false);
    while let Some(first) = rest.chars().next() {
        let mut taken = first.len_utf8();
        match first {
            '"' => taken = rest[1..].find('"').expect("a closed string") + 2,
            '[' => taken = rest.find(']').expect("a closed range") + 1,
            '{' => in_labels = true,
            '}' => in_labels = false,
            '(' => in_labels = grouping,
            ')' => in_labels = false,
            '0'..='9' => taken = word(rest),
            'a'..='z' | 'A'..='Z' | '_' | ':' => {
                taken = word(rest);
                let name = &rest[..taken];
                let is_function = rest[taken..].trim_start().starts_with('(');
                if in_labels {
                    found.labels.insert(name.into());
                } else if GROUPINGS.contains(&name) {
                    grouping = true;
                    rest = rest[taken..].trim_start();
                    continue;
                } else if !KEYWORDS.contains(&name) && !is_function && !is_grouped(&rest[taken..]) {
                    found.metrics.insert(name.into());
                }
            }
            _ => {}
        }
        grouping = false;
        rest = rest[taken..].trim_start();
    }
    found
}

fn word(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_alphanumeric() && !"_:.".contains(c))
        .unwrap_or(text.len())
}

/// `sum by (…)`: a function whose grouping stands before its argument.
fn is_grouped(after: &str) -> bool {
    ["by", "without"].contains(&&after.trim_start()[..word(after.trim_start())])
}

/// The `expr` of each rule, and the names that rules record.
fn rules(name: &str) -> (Vec<String>, Vec<String>) {
    let (mut expressions, mut recorded) = (Vec::new(), Vec::new());
    let text = read(name);
    let mut lines = text.lines().peekable();
    let indent = |line: &str| line.len() - line.trim_start().len();
    while let Some(line) = lines.next() {
        if let Some(name) = line.trim_start().strip_prefix("- record: ") {
            recorded.push(name.to_owned());
        }
        match line.trim_start().strip_prefix("expr: ") {
            Some("|") => {
                let mut block = String::new();
                while let Some(more) = lines.next_if(|more| indent(more) > indent(line)) {
                    block.push_str(more);
                    block.push('\n');
                }
                expressions.push(block);
            }
            Some(expression) => expressions.push(expression.to_owned()),
            None => {}
        }
    }
    (expressions, recorded)
}

/// Every `expr` in the dashboard, and what its variables ask for.
fn dashboard() -> Vec<String> {
    fn walk(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match (key.as_str(), value.as_str()) {
                        ("expr" | "definition", Some(text)) => found.push(text.to_owned()),
                        _ => walk(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
            _ => {}
        }
    }
    let document = serde_json::from_str(&read("grafana/cutover.json")).expect("JSON");
    let mut found = Vec::new();
    walk(&document, &mut found);
    let variable = |text: &String| text.strip_prefix("label_values(").map(str::to_owned);
    for text in &mut found {
        if let Some(series) = variable(text) {
            series.rsplit_once(',').expect("a label").0.clone_into(text);
        }
    }
    found
}

/// Everything that a scrape of cutover may hold.
fn exported() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for family in names::ALL {
        match family.kind {
            MetricKind::Histogram => {
                let parts = ["_bucket", "_sum", "_count"];
                all.extend(parts.map(|part| format!("{}{part}", family.name)));
            }
            _ => {
                all.insert(family.name.to_owned());
            }
        }
    }
    all
}

#[test]
fn names_are_taken_out_of_expressions() {
    let found = asked(
        r#"histogram_quantile(0.99, sum by (service, le) (rate(a_bucket{status=~"5..|x_y"}[1m]))) > 1e3
           - on (version) group_left () min by (job) (b:c) or vector(0) unless d_total offset 5m"#,
    );
    let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    assert_eq!(
        found,
        Asked {
            metrics: set(&["a_bucket", "b:c", "d_total"]),
            labels: set(&["service", "le", "status", "version", "job"]),
        }
    );
}

#[test]
fn rules_and_dashboard_ask_for_what_is_exported() {
    let (recording, recorded) = rules("prometheus/recording.yml");
    let (alerts, none) = rules("prometheus/alerts.yml");
    assert!(recording.len() == recorded.len() && none.is_empty());
    let mut known = exported();
    known.extend(recorded);
    // Prometheus' own: whether a target answered.
    known.insert("up".to_owned());
    for expression in recording.iter().chain(&alerts).chain(&dashboard()) {
        let Asked { metrics, labels } = asked(expression);
        assert!(!metrics.is_empty(), "{expression}");
        for name in metrics {
            assert!(
                known.contains(&name),
                "{name} is not exported: {expression}"
            );
        }
        for label in labels {
            let ours = names::RESERVED_LABELS.contains(&&*label);
            let ours = ours || names::PROCESS_LABELS.contains(&&*label);
            let ours = ours || TARGET_LABELS.contains(&&*label);
            assert!(ours, "no series has {label}: {expression}");
        }
    }
}

/// The dashboard stands without the recording rules, and leaves nothing out.
#[test]
fn dashboard_shows_every_metric() {
    let shown: BTreeSet<String> = dashboard().iter().flat_map(|e| asked(e).metrics).collect();
    assert!(shown.is_subset(&exported()), "{shown:?}");
    for family in names::ALL
        .iter()
        .filter(|f| !f.name.starts_with("process_"))
    {
        let is_shown = |name: &String| name.starts_with(family.name);
        assert!(shown.iter().any(is_shown), "{} is not shown", family.name);
    }
}

/// The exported metrics in an expression whose selector doesn't begin with this matcher.
fn unselected<'e>(expression: &'e str, matcher: &str) -> Vec<&'e str> {
    let mut found = Vec::new();
    for name in exported() {
        for (at, _) in expression.match_indices(&name) {
            let (before, rest) = (&expression[..at], &expression[at + name.len()..]);
            let in_word = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
            if !before.ends_with(in_word) && !rest.starts_with(in_word) {
                let selects = rest
                    .strip_prefix('{')
                    .is_some_and(|r| r.starts_with(matcher));
                found.extend((!selects).then_some(&expression[at..at + name.len()]));
            }
        }
    }
    found
}

#[test]
fn a_selector_without_its_job_is_noticed() {
    let text = r#"rate(queue_depth{job="x"}[1m]) + queue_depth offset 1m - my_queue_depth / cutover_connections{listener="a"}"#;
    assert_eq!(
        unselected(text, r#"job="x""#),
        ["cutover_connections", "queue_depth"]
    );
}

/// Others export `http_requests_total` too, and one Prometheus may watch several environments.
#[test]
fn rules_and_dashboard_select_the_proxys_own_job() {
    let (recording, _) = rules("prometheus/recording.yml");
    let (alerts, _) = rules("prometheus/alerts.yml");
    for expression in recording.iter().chain(&alerts) {
        let missing = unselected(expression, r#"job="cutover""#);
        assert!(
            missing.is_empty(),
            "{missing:?} without a job: {expression}"
        );
    }
    for expression in dashboard() {
        // The variable itself asks which jobs are ours.
        if expression != "cutover_build_info" {
            let missing = unselected(&expression, r#"job=~"$job""#);
            assert!(
                missing.is_empty(),
                "{missing:?} without a job: {expression}"
            );
        }
    }
    let scrape = read("prometheus/prometheus.yml");
    assert!(scrape.contains("job_name: cutover ") && scrape.contains("honor_labels: true"));
    let monitor = read("prometheus/servicemonitor.yml");
    assert!(monitor.contains("honorLabels: true") && monitor.contains("replacement: cutover\n"));
}

#[test]
fn promtool_finds_nothing_wrong() {
    let file = config("prometheus/prometheus.yml").display().to_string();
    promtool(
        &["check", "config", "--lint=all", "--lint-fatal", &file],
        "",
    );
}

/// The rules give the expected results for given series.
#[test]
fn promtool_runs_the_tests_of_the_rules() {
    let directory = fs::read_dir(config("prometheus/tests")).expect("the tests of the rules");
    let paths = directory.map(|f| f.expect("a file").path());
    let files: Vec<String> = paths.map(|path| path.display().to_string()).collect();
    assert!(files.len() >= 3, "{files:?}");
    let files = files.iter().map(String::as_str);
    let arguments: Vec<&str> = ["test", "rules"].into_iter().chain(files).collect();
    if let Some(said) = promtool(&arguments, "") {
        assert_eq!(
            said.matches("SUCCESS").count(),
            arguments.len() - 2,
            "{said}"
        );
    }
}
