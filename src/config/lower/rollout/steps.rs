//! `steps`: `"5% for 10m"`, `"50% until approved"`, `"10% every 3m to 100%"`.

use std::time::Duration;

use super::Surroundings;
use crate::config::problems::Problems;
use crate::config::raw::{RawString, RawTable, RawValue};
use crate::config::rollout::{RolloutStep, StepHold};
use crate::config::spec::Share;
use crate::config::units::{self, quote};

/// The shortest time of a step: the guard closes one second at a time.
const SHORTEST: Duration = Duration::from_secs(1);
/// Largest number of steps of a plan, linear ones written out.
const MOST: usize = 1000;

const EXPECTED: &str = "a step such as \"5% for 10m\"";
const FORMS: &str =
    "write it as \"5% for 10m\", \"50% until approved\", or \"10% every 3m to 100%\"";

/// Reads the steps of a plan.
pub(super) fn steps(
    value: &RawValue<'_>,
    around: &Surroundings<'_>,
    out: &mut Problems,
) -> Vec<RolloutStep> {
    let Some(items) = value.as_list() else {
        value
            .mistyped("a list of steps", out)
            .help("write `steps = [\"5% for 10m\", \"100% for 30m\"]`");
        return Vec::new();
    };
    if items.is_empty() {
        value.empty(out);
    }
    let mut steps: Vec<RolloutStep> = Vec::new();
    for item in items {
        let Some(text) = item.text(EXPECTED, out) else {
            continue;
        };
        let last = steps.last().map_or(Share(0), |step| step.share);
        match parse(text.value, last) {
            Ok(more) => {
                rises(&text, last, &more, out);
                fits(&text, &more, around, out);
                steps.extend(more);
            }
            Err(why) => {
                out.error(
                    text.span.clone(),
                    format!("{} is not a step", quote(text.value)),
                )
                .label(why)
                .help(FORMS);
            }
        }
    }
    if steps.len() > MOST {
        out.error(
            value.span.clone(),
            format!("`{}` has {} steps", value.path, steps.len()),
        )
        .label(format!("expected at most {MOST}"));
        steps.truncate(MOST);
    }
    steps
}

/// Reads one item, which is one step or several. `last` is the share of the step before.
fn parse(text: &str, last: Share) -> Result<Vec<RolloutStep>, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let one = |share: &str, hold| {
        let share = step_share(share)?;
        Ok(vec![RolloutStep { share, hold }])
    };
    match words[..] {
        [share, "for", time] => one(share, StepHold::For(step_time(time)?)),
        [share, "until", "approved"] => one(share, StepHold::Approval),
        [share, "until", "approval" | "approve"] => {
            step_share(share)?;
            Err("expected `until approved`".to_owned())
        }
        [by, "every", time, "to", end] => {
            linear(step_share(by)?, step_time(time)?, step_share(end)?, last)
        }
        [share] => {
            step_share(share)?;
            Err(format!("for how long? such as \"{share} for 10m\""))
        }
        [] => Err("expected a share and a time".to_owned()),
        _ => Err("expected a share, then `for`, `until approved` or `every`".to_owned()),
    }
}

fn step_share(word: &str) -> Result<Share, String> {
    match units::share(word)? {
        Share(0) => Err("a step gives the version a share above 0%".to_owned()),
        share => Ok(share),
    }
}

fn step_time(word: &str) -> Result<Duration, String> {
    let time = units::duration(word)?;
    if time < SHORTEST {
        return Err("a step takes at least 1s".to_owned());
    }
    Ok(time)
}

/// `10% every 3m to 100%`: steps of `by` above the step before, up to `end`.
fn linear(by: Share, time: Duration, end: Share, last: Share) -> Result<Vec<RolloutStep>, String> {
    if end <= last {
        return Err(format!("ends at {end}, and the step before has {last}"));
    }
    let mut steps = Vec::new();
    let mut share = last;
    while share < end && steps.len() <= MOST {
        share = Share((share.0 + by.0).min(end.0));
        steps.push(RolloutStep {
            share,
            hold: StepHold::For(time),
        });
    }
    Ok(steps)
}

/// Reports a share below that of the step before.
fn rises(text: &RawString<'_>, last: Share, more: &[RolloutStep], out: &mut Problems) {
    let Some(first) = more.first().filter(|first| first.share < last) else {
        return;
    };
    out.error(
        text.span.clone(),
        format!(
            "the step {} goes back to {}",
            quote(text.value),
            first.share
        ),
    )
    .label(format!("the step before has {last}"))
    .help("shares of a plan don't fall; `cutover abort` takes all traffic back");
}

/// Reports a step that can never begin, because its version may not have the share.
fn fits(text: &RawString<'_>, more: &[RolloutStep], around: &Surroundings<'_>, out: &mut Problems) {
    let Some(version) = around.rolling.map(|v| &around.versions[v]) else {
        return;
    };
    let (Some(most), Some(last)) = (version.max_share, more.last()) else {
        return;
    };
    if last.share > most {
        out.error(
            text.span.clone(),
            format!("the step {} can never begin", quote(text.value)),
        )
        .label(format!("`max_share` of {} allows {most}", version.name))
        .help("raise `max_share`, or end the plan before this step");
    }
}

/// Reports steps that leave no room for the shares of other canaries.
pub(in crate::config::lower) fn shares_fit(
    service: &RawTable<'_>,
    steps: &[RolloutStep],
    around: &Surroundings<'_>,
    out: &mut Problems,
) {
    let Some(rolling) = around.rolling else {
        return;
    };
    let others = around
        .split
        .iter()
        .filter(|(version, _)| *version != rolling);
    let others: u32 = others.map(|(_, share)| share.0).sum();
    let most = steps.iter().map(|step| step.share.0).max().unwrap_or(0);
    if others > 0 && others + most > Share::WHOLE {
        let message = format!(
            "`{}.rollout` reaches {}, and other canaries have {}",
            service.path,
            Share(most),
            Share(others)
        );
        out.error(service.at.clone(), message)
            .label("together they are more than 100%")
            .help("take the other versions out of `split`, or end the plan earlier");
    }
}
