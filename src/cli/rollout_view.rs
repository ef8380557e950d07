//! The view of a rollout in `cutover status`.

use std::fmt::Write as _;

use super::rollout::summary;
use crate::admin::rollout::RolloutStatus;

/// Number of characters of a bar that shows how near the evidence is to a verdict.
const BAR: usize = 20;

/// Renders a rollout: its state, the evidence of each rule against the threshold, and the time to a verdict.
pub(super) fn shown(service: &str, rollout: &RolloutStatus) -> String {
    let mut text = format!("{service} rollout: {}\n", summary(rollout));
    if let Some(fleet) = &rollout.fleet {
        let _ = writeln!(text, "  fleet     {}", fleet.summary());
    }
    if let Some(counted) = counted(rollout) {
        let _ = writeln!(text, "  counted   {counted}");
    }
    if let Some(ratio) = ratio(rollout) {
        let _ = writeln!(text, "  ratio     {ratio}");
    }
    for (rule, evidence) in &rollout.evidence {
        let _ = writeln!(
            text,
            "  {}  {rule} (10^{evidence:.1} of 10^{:.1})",
            bar(*evidence, rollout.threshold),
            rollout.threshold
        );
    }
    if let Some(median) = rollout.time_to_verdict_s {
        let late = rollout.time_to_verdict_p90_s.unwrap_or(median);
        let _ = writeln!(
            text,
            "  at this rate a failing verdict in about {median:.0} s (at most {late:.0} s in 9 of 10)"
        );
    }
    for warning in &rollout.warnings {
        let _ = writeln!(text, "  warning: {warning}");
    }
    text
}

/// The number of failed requests of both sides; `None` before the first request.
pub(super) fn counted(rollout: &RolloutStatus) -> Option<String> {
    let counted = &rollout.counted;
    let (canary, stable) = match rollout.flag {
        Some(_) => ("with the flag", "without it"),
        None => ("canary", "stable"),
    };
    (counted.canary_requests + counted.stable_requests > 0).then(|| {
        format!(
            "{canary} {} of {} failed, {stable} {} of {}",
            counted.canary_failures,
            counted.canary_requests,
            counted.stable_failures,
            counted.stable_requests
        )
    })
}

/// How many times as often the canary fails as stable, with the interval.
pub(super) fn ratio(rollout: &RolloutStatus) -> Option<String> {
    let ratio = rollout.ratio?;
    let others = match rollout.flag {
        Some(_) => "the others'",
        None => "stable's",
    };
    let bound = |bound: Option<f64>, open: &str| {
        bound.map_or_else(|| open.to_owned(), |bound| format!("{bound:.2}"))
    };
    Some(format!(
        "errors x{:.2} of {others}, between {} and {}",
        ratio.ratio,
        bound(ratio.low, "0"),
        bound(ratio.high, "unknown")
    ))
}

/// How near the evidence against a version is to a verdict, from 0 to 1.
pub(super) fn evidence_share(evidence: f64, threshold: f64) -> f64 {
    match threshold > 0.0 {
        true => (evidence / threshold).clamp(0.0, 1.0),
        false => 0.0,
    }
}

/// A bar that is full where the evidence reaches the threshold.
fn bar(evidence: f64, threshold: f64) -> String {
    let full = (evidence_share(evidence, threshold) * BAR as f64).round() as usize;
    format!("[{}{}]", "#".repeat(full), ".".repeat(BAR - full))
}
