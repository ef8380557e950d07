//! `[service.NAME.rollout]`: the plan of rollouts, and `[service.NAME.goals]`.

mod calls;
mod guard;
mod steps;

use super::{route, unknown_word};
use crate::config::problems::{Problems, TextSpan};
use crate::config::raw::{RawTable, RawValue};
use crate::config::rollout::{GoalSpec, GuardSpec, RolloutSpec, UnknownPast};
use crate::config::spec::{Share, VersionSpec};
use crate::config::units::quote;
use crate::index::VersionIx;

pub(super) use steps::shares_fit;

/// Largest number of goals of a service: workers count each in a cell of its own.
const GOALS: usize = 16;

/// The parts of the service that the check of a plan needs.
pub(super) struct Surroundings<'a> {
    pub versions: &'a [VersionSpec],
    /// The version that follows the rollout, if one does.
    pub rolling: Option<VersionIx>,
    /// The shares of the split.
    pub split: &'a [(VersionIx, Share)],
    pub goals: &'a [GoalSpec],
}

/// Reads the plan.
pub(super) fn rollout(
    value: &RawValue<'_>,
    around: &Surroundings<'_>,
    out: &mut Problems,
) -> Option<RolloutSpec> {
    let mut table = value.table(
        "a table such as { steps = [\"5% for 10m\", \"100% for 30m\"] }",
        out,
    )?;
    let example = "write `steps = [\"5% for 10m\", \"25% for 10m\", \"100% for 30m\"]`";
    let steps = table.need("steps", out, example);
    let steps = steps
        .map(|value| steps::steps(&value, around, out))
        .unwrap_or_default();
    let guard = match table.take("guard") {
        Some(value) => guard::guard(&value, around.goals, out),
        None => GuardSpec::default(),
    };
    let mut unknown = UnknownPast::default();
    if let Some(value) = table.take("unknown") {
        unknown = word(&value, "\"start\" or \"hold\"", UnknownPast::ALL, out).unwrap_or_default();
    }
    let plan = RolloutSpec {
        steps,
        guard,
        smoke: table
            .take("smoke")
            .map(|v| calls::smoke(&v, out))
            .unwrap_or_default(),
        hooks: table
            .take("hooks")
            .map(|v| calls::hooks(&v, out))
            .unwrap_or_default(),
        notify: table
            .take("notify")
            .map(|v| calls::notify(&v, out))
            .unwrap_or_default(),
        queries: table
            .take("query")
            .map(|v| calls::queries(&v, out))
            .unwrap_or_default(),
        unknown,
    };
    table.finish(out);
    Some(plan)
}

/// Reports that a version or flag follows a rollout that the service doesn't have.
pub(super) fn missing(service: &RawTable<'_>, at: TextSpan, out: &mut Problems) {
    out.error(at, format!("`{}` has no plan for a rollout", service.path))
        .label("which steps does it follow?")
        .help(format!(
            "write a plan, such as\n[{}.rollout]\nsteps = [\"5% for 10m\", \"25% for 10m\", \"100% for 30m\"]",
            service.path
        ))
        .missing(&service.path, "rollout");
}

/// Reads a word of a closed set.
fn word<T: Copy + std::fmt::Display>(
    value: &RawValue<'_>,
    expected: &str,
    all: &[T],
    out: &mut Problems,
) -> Option<T> {
    let text = value.text(&format!("a word: {expected}"), out)?;
    let words: Vec<String> = all.iter().map(ToString::to_string).collect();
    let found = words.iter().position(|word| *word == text.value);
    if found.is_none() {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        unknown_word(&text, &value.path, &words, out);
    }
    found.map(|at| all[at])
}

/// Reads a list, or a single value that stands for a list of one.
fn each<'t>(value: &RawValue<'t>) -> Vec<RawValue<'t>> {
    value.as_list().unwrap_or_else(|| vec![value.clone()])
}

/// Reads `[service.NAME.goals]`.
pub(super) fn goals(value: &RawValue<'_>, out: &mut Problems) -> Vec<GoalSpec> {
    let expected = "a table such as { purchase = \"POST /checkout/complete 2xx\" }";
    let Some(table) = value.table(expected, out) else {
        return Vec::new();
    };
    let mut goals = Vec::new();
    for (at, (name, value)) in table.named().enumerate() {
        if at == GOALS {
            out.error(
                value.key.clone(),
                format!("`{}` has too many goals", table.path),
            )
            .label(format!("expected at most {GOALS}"));
        }
        super::check_name(name, &value, "goal", out);
        let example = "a request and its status, such as \"POST /checkout/complete 2xx\"";
        let Some(text) = value.text(example, out) else {
            continue;
        };
        let parts: Vec<&str> = text.value.split_whitespace().collect();
        let parsed = match parts[..] {
            [request, path, expected] => method(request).zip(status(expected)).map(|it| (it, path)),
            _ => None,
        };
        let Some(((method, status), path)) = parsed else {
            out.error(text.span, format!("{} is not a goal", quote(text.value)))
                .label("expected a method, a path and a status")
                .help("write it as \"POST /checkout/complete 2xx\"");
            continue;
        };
        if let Some(path) = route::path(&text.word(path), out) {
            let name = name.to_owned();
            goals.push(GoalSpec {
                name,
                method,
                path,
                status,
            });
        }
    }
    goals
}

/// Reads a method: a token of RFC 9110 section 5.6.2 in upper case.
fn method(word: &str) -> Option<String> {
    let good = !word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    good.then(|| word.to_owned())
}

/// Reads a status, `200` or `2xx`, as an inclusive range.
fn status(word: &str) -> Option<(u16, u16)> {
    if let Some(class) = word.strip_suffix("xx") {
        let class: u16 = class.parse().ok()?;
        return (1..=5)
            .contains(&class)
            .then_some((class * 100, class * 100 + 99));
    }
    let status: u16 = word.parse().ok()?;
    (100..=599).contains(&status).then_some((status, status))
}
