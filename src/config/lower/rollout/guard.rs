//! `[service.NAME.rollout.guard]`: the rules that judge a canary.

use std::time::Duration;

use super::{each, word};
use crate::config::problems::Problems;
use crate::config::raw::{RawString, RawTable, RawValue};
use crate::config::rollout::{
    ErrorLimit, GoalSpec, GuardSpec, LatencyGuard, LatencyLimit, OnFail, OnSilence, Quantile,
};
use crate::config::spec::Share;
use crate::config::suggest::suggest;
use crate::config::units::{self, quote};

/// Number of thresholds that workers compare a request with: one for an absolute limit, two for a ratio.
const SLOTS: usize = 8;
/// The largest ratio that makes sense as a limit.
const LARGEST_RATIO: f64 = 1000.0;

/// Reads the guard. Keys that aren't set have defaults; setting `errors` or a quantile replaces the default rules of that kind.
pub(super) fn guard(value: &RawValue<'_>, goals: &[GoalSpec], out: &mut Problems) -> GuardSpec {
    let mut guard = GuardSpec::default();
    let Some(mut table) = value.table("a table such as { errors = \"x1.5\", p99 = \"x1.3\" }", out)
    else {
        return guard;
    };
    if let Some(value) = table.take("errors") {
        guard.errors = each(&value)
            .iter()
            .filter_map(|item| error_limit(item, out))
            .collect();
    }
    latency(&mut table, &mut guard, out);
    if let Some(value) = table.take("goal") {
        guard.goals = goal_limits(&value, goals, out);
    }
    if let Some(value) = table.take("confidence")
        && let Some(confidence) = confidence(&value, out)
    {
        guard.confidence = confidence;
    }
    if let Some(value) = table.take("min_requests") {
        guard.min_requests = value.count(0..=1_000_000_000, out).unwrap_or_default();
    }
    if let Some(value) = table.take("on_silence") {
        let words = "\"hold\", \"extend\" or \"pass\"";
        guard.on_silence = word(&value, words, OnSilence::ALL, out).unwrap_or_default();
    }
    if let Some(value) = table.take("on_fail") {
        let words = "\"rollback\" or \"pause\"";
        guard.on_fail = word(&value, words, OnFail::ALL, out).unwrap_or_default();
    }
    table.set_duration("warmup", &mut guard.warmup, Duration::ZERO, out);
    if let Some(value) = table.take("early") {
        guard.early = value.flag(out).unwrap_or_default();
    }
    if guard.errors.is_empty() && guard.latency.is_empty() && guard.goals.is_empty() {
        out.warning(
            value.key.clone(),
            format!("`{}` judges nothing", value.path),
        )
        .label("no rule for errors, latency or goals")
        .help("every canary passes; leave `errors` out for its default rules");
    }
    table.finish(out);
    guard
}

fn latency(table: &mut RawTable<'_>, guard: &mut GuardSpec, out: &mut Problems) {
    let mut rules = Vec::new();
    let mut any = false;
    let mut used = 0;
    for quantile in Quantile::ALL {
        let Some(value) = table.take(quantile.as_str()) else {
            continue;
        };
        any = true;
        let items = each(&value);
        let limits: Vec<_> = items
            .iter()
            .filter_map(|item| latency_limit(item, out))
            .collect();
        used += limits.iter().map(slots).sum::<usize>();
        if used > SLOTS {
            out.error(value.span.clone(), "too many limits of latency")
                .label("expected at most 4 ratios, or 8 absolute limits, or 2 absolute limits for each ratio less");
        }
        if !limits.is_empty() {
            let quantile = *quantile;
            rules.push(LatencyGuard { quantile, limits });
        }
    }
    if any {
        guard.latency = rules;
    }
}

fn slots(limit: &LatencyLimit) -> usize {
    match limit {
        LatencyLimit::Absolute(_) => 1,
        LatencyLimit::Ratio(_) => 2,
    }
}

/// Reads `x1.5`.
fn ratio(text: &str) -> Option<f64> {
    let ratio: f64 = text.strip_prefix(['x', 'X', '×'])?.parse().ok()?;
    (ratio > 0.0 && ratio <= LARGEST_RATIO).then_some(ratio)
}

fn error_limit(item: &RawValue<'_>, out: &mut Problems) -> Option<ErrorLimit> {
    let expected = "a limit such as \"1%\", \"+0.5%\" or \"x1.5\"";
    let text = item.text(expected, out)?;
    let found = match text.value {
        typed if typed.starts_with('+') => share(&typed[1..]).map(ErrorLimit::Difference),
        typed if typed.ends_with('%') => share(typed).map(ErrorLimit::Absolute),
        typed => ratio(typed).filter(|r| *r >= 1.0).map(ErrorLimit::Ratio),
    };
    if found.is_none() {
        not_a_limit(&text, out).help(
            "write \"1%\" for a rate, \"+0.5%\" for a difference from stable's, or \"x1.5\" for a multiple of stable's",
        );
    }
    found
}

fn not_a_limit<'p>(
    text: &RawString<'_>,
    out: &'p mut Problems,
) -> &'p mut crate::config::problem::Problem {
    let problem = out.error(
        text.span.clone(),
        format!("{} is not a limit", quote(text.value)),
    );
    problem.label(match text.value.parse::<f64>() {
        Ok(_) => "a bare number says neither `%` nor `x`",
        Err(_) => "can't be read as a limit",
    })
}

/// Reads a rate above 0 % and below 100 %, as a ratio.
fn share(text: &str) -> Option<f64> {
    let share = units::share(text).ok()?;
    (share.0 > 0 && share.0 < Share::WHOLE).then(|| share.ratio())
}

fn latency_limit(item: &RawValue<'_>, out: &mut Problems) -> Option<LatencyLimit> {
    let text = item.text("a limit such as \"500ms\" or \"x1.3\"", out)?;
    if text.value.starts_with(['x', 'X', '×']) {
        if let Some(ratio) = ratio(text.value).filter(|r| *r >= 1.0) {
            return Some(LatencyLimit::Ratio(ratio));
        }
    } else if let Ok(time) = units::duration(text.value)
        && !time.is_zero()
    {
        return Some(LatencyLimit::Absolute(time));
    }
    not_a_limit(&text, out)
        .help("write \"500ms\" for a time, or \"x1.3\" for a multiple of stable's, at least x1");
    None
}

fn goal_limits(value: &RawValue<'_>, goals: &[GoalSpec], out: &mut Problems) -> Vec<(String, f64)> {
    let Some(table) = value.table("a table such as { purchase = \"x0.9\" }", out) else {
        return Vec::new();
    };
    let mut limits = Vec::new();
    for (name, value) in table.named() {
        if !goals.iter().any(|goal| goal.name == name) {
            let names: Vec<&str> = goals.iter().map(|goal| goal.name.as_str()).collect();
            let help = match names.is_empty() {
                true => "define it: `[service.NAME.goals]` with `purchase = \"POST /checkout/complete 2xx\"`".to_owned(),
                false => suggest(name, &names, "the goals are"),
            };
            out.error(
                value.key.clone(),
                format!(
                    "`{}` names goal {}, which is not defined",
                    table.path,
                    quote(name)
                ),
            )
            .label("not a goal of this service")
            .help(help);
        }
        let Some(text) = value.text("a limit such as \"x0.9\"", out) else {
            continue;
        };
        match ratio(text.value).filter(|r| *r < 1.0) {
            Some(ratio) => limits.push((name.to_owned(), ratio)),
            None => {
                not_a_limit(&text, out).help(
                    "write \"x0.9\": fewer conversions than 0.9 of stable's fail; the limit is below x1",
                );
            }
        }
    }
    limits
}

fn confidence(value: &RawValue<'_>, out: &mut Problems) -> Option<f64> {
    let share = value.share(out)?;
    if !(50_000..=99_990).contains(&share.0) {
        out.error(
            value.span.clone(),
            format!("`{}` is out of range", value.path),
        )
        .label("expected 50% to 99.99%")
        .help("\"99%\" rolls back at most 1 of 100 canaries that are as good as stable");
        return None;
    }
    Some(share.ratio())
}
