//! Flags and conversions, as `cutover status` shows them.

use std::fmt::Write as _;

use super::table::{Align, TextTable};
use crate::admin::flags::ConversionStatus;
use crate::admin::status::ServiceStatus;

/// The flags and the conversions of a service. Empty if it has neither.
pub(super) fn shown(service: &ServiceStatus) -> String {
    let mut text = String::new();
    let name = &service.name;
    if !service.flags.is_empty() {
        let mut table = TextTable::new(&[
            ("FLAG", Align::Left),
            ("SHARE", Align::Right),
            ("ON", Align::Right),
            ("OFF", Align::Right),
            ("WHEN", Align::Left),
        ]);
        for flag in &service.flags {
            let requests = |state: &str| flag.requests.get(state).map_or(0, |n| *n).to_string();
            table.row([
                flag.name.clone(),
                match flag.rollout {
                    true => format!("{} (rollout)", flag.share),
                    false => flag.share.clone(),
                },
                requests("on"),
                requests("off"),
                flag.when.clone().unwrap_or_default(),
            ]);
        }
        let _ = write!(
            text,
            "\n{name}: flags, and requests for which they were on and off\n{table}"
        );
    }
    let rows = conversions(service);
    if !rows.is_empty() {
        let mut table = TextTable::new(&[
            ("GOAL", Align::Left),
            ("OF", Align::Left),
            ("REACHED", Align::Right),
            ("REQUESTS", Align::Right),
            ("CONVERSION", Align::Right),
            ("INTERVAL (95 %)", Align::Right),
        ]);
        for (goal, of, conversion) in rows {
            let percent = |ratio: f64| format!("{:.2} %", ratio * 100.0);
            table.row([
                goal,
                of,
                conversion.reached.to_string(),
                conversion.requests.to_string(),
                percent(conversion.ratio),
                format!(
                    "{} to {}",
                    percent(conversion.low),
                    percent(conversion.high)
                ),
            ]);
        }
        let _ = write!(text, "\n{name}: conversions\n{table}");
    }
    text
}

/// Goal, version or state of a flag, and conversion, sorted by goal.
fn conversions(service: &ServiceStatus) -> Vec<(String, String, ConversionStatus)> {
    let mut rows = Vec::new();
    for version in &service.versions {
        for (goal, conversion) in &version.goals {
            rows.push((goal.clone(), version.name.clone(), *conversion));
        }
    }
    for flag in &service.flags {
        for (goal, states) in &flag.goals {
            for (state, conversion) in states {
                rows.push((goal.clone(), format!("{} {state}", flag.name), *conversion));
            }
        }
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}
