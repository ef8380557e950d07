//! Draws a rollout: its steps and their clock, the evidence against the threshold, and the time of a verdict.

use std::time::{Duration, SystemTime};

use super::figures::bar;
use super::model::age;
use super::printable::wrapped;
use super::screen::{CellStyle, Tone};
use super::series::{Measure, TrafficSeries, sparkline};
use super::styled_line::StyledLine;
use crate::admin::rollout::RolloutStatus;
use crate::cli::rollout_view::{self, evidence_share};

/// Columns of the labels at the left.
const LABEL: usize = 10;

/// The lines of a rollout.
pub(super) fn lines(
    (service, rollout): (&str, &RolloutStatus),
    series: &TrafficSeries,
    width: usize,
    now: SystemTime,
) -> Vec<StyledLine> {
    let mut lines = vec![heading(rollout, now), steps(rollout)];
    if let Some(reason) = &rollout.reason {
        let tone = state_tone(&rollout.state);
        let texts = wrapped(reason, width.saturating_sub(LABEL + 2));
        let reasons = texts.iter().enumerate().map(|(at, text)| {
            let label = if at == 0 { "because" } else { "" };
            labelled(label).toned(text, tone)
        });
        lines.extend(reasons);
    }
    let fleet = rollout.fleet.as_ref();
    lines.extend(fleet.map(|fleet| labelled("fleet").plain(&fleet.summary())));
    lines.extend(hold(rollout, width));
    lines.extend(evidence(service, rollout, series, width));
    lines.extend(counts(rollout));
    if let Some(median) = rollout.time_to_verdict_s {
        let late = rollout.time_to_verdict_p90_s.unwrap_or(median);
        let text = format!(
            "failing, in about {median:.0} s at this rate (within {late:.0} s in 9 of 10 cases)"
        );
        lines.push(labelled("verdict").toned(&text, Tone::Bad));
    } else if let Some(verdict) = &rollout.verdict {
        let text = format!("{} by {}", verdict.outcome, verdict.guard);
        lines.push(labelled("verdict").plain(&text));
    }
    for warning in &rollout.warnings {
        for text in wrapped(warning, width.saturating_sub(LABEL + 2)) {
            lines.push(labelled("warning").toned(&text, Tone::Warning));
        }
    }
    lines
}

fn labelled(label: &str) -> StyledLine {
    StyledLine::new()
        .plain("  ")
        .cell(label, LABEL - 1, CellStyle::PLAIN.dim())
}

fn state_tone(state: &str) -> Tone {
    match state {
        "rolled-back" => Tone::Bad,
        "held" | "paused" | "awaiting-approval" | "aborted" => Tone::Warning,
        "done" => Tone::Good,
        _ => Tone::Accent,
    }
}

fn heading(rollout: &RolloutStatus, now: SystemTime) -> StyledLine {
    let mut line = StyledLine::new()
        .add("ROLLOUT ", CellStyle::PLAIN.bold())
        .plain(&rollout.subject());
    if let Some(label) = &rollout.label {
        line = line.plain(&format!(" ({label})"));
    }
    let state = CellStyle::of(state_tone(&rollout.state)).bold();
    line = line
        .plain("  ")
        .add(&rollout.state.replace('-', " "), state);
    if let Ok(since) = humantime::parse_rfc3339(&rollout.since) {
        line = line.plain(&format!(" for {}", age(now, since)));
    }
    match rollout.latched {
        true => line.toned("  latched (t retries)", Tone::Warning),
        false => line,
    }
}

/// Draws the steps: `● ● ◐ ○ ○  step 3 of 5 at 25%`, passed, current and coming.
fn steps(rollout: &RolloutStatus) -> StyledLine {
    let is_done = rollout.state == "done";
    let mut line = labelled("steps");
    // For a plan of very many steps only their numbers are shown.
    for step in (1..=rollout.steps).take_while(|_| rollout.steps <= 20) {
        line = match step.cmp(&rollout.step) {
            _ if is_done => line.toned("● ", Tone::Good),
            std::cmp::Ordering::Less => line.toned("● ", Tone::Good),
            std::cmp::Ordering::Equal => line.toned("◐ ", state_tone(&rollout.state)),
            std::cmp::Ordering::Greater => line.plain("○ "),
        };
    }
    let place = match rollout.step {
        0 => format!("before the first of {}", rollout.steps),
        step => format!("step {step} of {}", rollout.steps),
    };
    line.plain(&format!(" {place}, at {}", rollout.share))
}

/// Draws the clock of the step.
fn hold(rollout: &RolloutStatus, width: usize) -> Option<StyledLine> {
    if !matches!(
        &*rollout.state,
        "step" | "held" | "paused" | "awaiting-approval"
    ) {
        return None;
    }
    let seconds = |s: f64| {
        let whole = Duration::from_secs(s.max(0.0) as u64);
        humantime::format_duration(whole).to_string()
    };
    let Some(planned) = rollout.hold_s else {
        let text = format!("{} so far, until approved", seconds(rollout.held_s));
        return Some(labelled("clock").plain(&text));
    };
    let share = match planned > 0.0 {
        true => rollout.held_s / planned,
        false => 1.0,
    };
    let (full, empty) = bar(share, bar_columns(width));
    let text = format!(" {} of {}", seconds(rollout.held_s), seconds(planned));
    let line = labelled("clock").toned(&full, Tone::Accent).plain(&empty);
    Some(line.plain(&text))
}

fn bar_columns(width: usize) -> usize {
    (width / 4).clamp(12, 40)
}

/// Draws the evidence as powers of ten: the total over time and now, then each rule. Bars are full where the verdict falls.
fn evidence(
    service: &str,
    rollout: &RolloutStatus,
    series: &TrafficSeries,
    width: usize,
) -> Vec<StyledLine> {
    if rollout.threshold <= 0.0 {
        return Vec::new();
    }
    let columns = bar_columns(width);
    let share = |evidence: f64| evidence_share(evidence, rollout.threshold);
    let tone = |share: f64| match share {
        s if s >= 0.8 => Tone::Bad,
        s if s >= 0.4 => Tone::Warning,
        _ => Tone::Good,
    };
    let past = series.values(service, None, Measure::Evidence, columns - 1);
    let past: Vec<Option<f32>> = past.iter().map(|v| v.map(|v| v.max(0.0))).collect();
    let chart = sparkline(&past, rollout.threshold as f32);
    let total = share(rollout.total_evidence);
    let text = format!(
        " 10^{:.1} against it; fails at 10^{:.1}",
        rollout.total_evidence, rollout.threshold
    );
    let line = labelled("evidence").cell(&chart, columns - 1, CellStyle::of(tone(total)));
    let mut lines = vec![line.plain(&text)];
    for (rule, evidence) in &rollout.evidence {
        let (full, empty) = bar(share(*evidence), columns);
        let line = labelled("").toned(&full, tone(share(*evidence)));
        lines.push(
            line.plain(&empty)
                .plain(&format!(" 10^{evidence:.1} {rule}")),
        );
    }
    lines
}

fn counts(rollout: &RolloutStatus) -> Vec<StyledLine> {
    let counted = rollout_view::counted(rollout).map(|text| labelled("counted").plain(&text));
    let ratio = rollout_view::ratio(rollout).map(|text| labelled("ratio").plain(&text));
    counted.into_iter().chain(ratio).collect()
}
