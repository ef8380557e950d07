//! `[…outlier]`: when an endpoint is ejected, and for how long.

use super::order::order;
use crate::config::diagnostic::Severity;
use crate::config::policy::Outlier;
use crate::config::problems::Problems;
use crate::config::raw::RawValue;
use crate::config::value::SHORTEST;

/// The maximum of the `consecutive_…` thresholds; one that is never reached is written as 0.
const MOST_IN_A_ROW: u32 = 1_000_000;

/// Reads the keys of a table over those in `result`.
pub(super) fn outlier(value: &RawValue<'_>, result: &mut Outlier, out: &mut Problems) {
    let Some(mut table) = value.table("a table such as { consecutive_5xx = 5 }", out) else {
        return;
    };
    let counts = [
        ("consecutive_5xx", &mut result.consecutive_5xx),
        ("consecutive_gateway", &mut result.consecutive_gateway),
    ];
    for (key, count) in counts {
        table.set_count(key, count, 0..=MOST_IN_A_ROW, out);
    }
    if let Some(value) = table.take("success_rate_stdev")
        && let Some(number) = value.number(0.0..=100.0, out)
    {
        result.success_rate_stdev = number;
    }
    table.set_duration("interval", &mut result.interval, SHORTEST, out);
    let eject = table.set_duration("eject", &mut result.eject, SHORTEST, out);
    let eject_max = table.set_duration("eject_max", &mut result.eject_max, SHORTEST, out);
    let short = ("eject", result.eject, eject);
    let long = ("eject_max", result.eject_max, eject_max);
    if let Some(problem) = order(Severity::Error, &table.path, short, long, out) {
        problem
            .label("the first ejection can't be longer than the longest")
            .help("`eject` is the first ejection; repeated ones are longer, up to `eject_max`");
    }
    table.set_thousandths("max_ejected", &mut result.max_ejected, out);
    table.set_thousandths("panic", &mut result.panic, out);
    table.finish(out);
}
