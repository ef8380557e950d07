//! The list of services, the most urgent first.

use super::condition::Urgency;
use super::figures::{error_style, errors, milliseconds, rate};
use super::model::WatchModel;
use super::printable::clipped;
use super::screen::{CellStyle, ScreenBuffer, Tone};
use super::series::{Measure, figures, highest, sparkline};
use super::styled_line::StyledLine;
use crate::admin::status::ServiceStatus;

/// Widths of the columns, from the width of the screen.
#[derive(Clone, Copy)]
struct Columns {
    name: usize,
    split: usize,
    trend: usize,
}

impl Columns {
    fn of(width: usize) -> Self {
        match width {
            150.. => Self {
                name: 28,
                split: 26,
                trend: 30,
            },
            110.. => Self {
                name: 22,
                split: 20,
                trend: 12,
            },
            _ => Self {
                name: 14,
                split: 13,
                trend: 0,
            },
        }
    }
}

/// Draws the list into the rows from `top` up to `bottom`.
pub(super) fn draw(model: &WatchModel, screen: &mut ScreenBuffer, (top, bottom): (usize, usize)) {
    let columns = Columns::of(screen.width());
    let whole = (0, screen.width());
    heading(columns).draw(screen, top, whole);
    let listed = model.listed();
    let room = bottom.saturating_sub(top + 1);
    let is_selected = |at: &usize| model.status.services[*at].name == model.selected;
    let selected = listed.iter().position(is_selected).unwrap_or(0);
    let first = first_shown(selected, listed.len(), room);
    for (row, at) in listed.iter().skip(first).take(room).enumerate() {
        let mut line = service_line(model, *at, columns, screen.width());
        line.is_selected = is_selected(at);
        line.draw(screen, top + 1 + row, whole);
    }
    if listed.is_empty() {
        let text = match model.search.is_empty() {
            true => "no services".to_owned(),
            false => format!("no service's name contains `{}`", model.search),
        };
        StyledLine::new().plain(&text).draw(screen, top + 1, whole);
    }
}

/// The first row of a long list that is shown, so that the selected one is near the middle.
pub(super) fn first_shown(selected: usize, rows: usize, room: usize) -> usize {
    selected
        .saturating_sub(room / 2)
        .min(rows.saturating_sub(room))
}

fn heading(columns: Columns) -> StyledLine {
    let style = CellStyle::PLAIN.bold();
    let mut line = StyledLine::new()
        .plain("  ")
        .cell("SERVICE", columns.name, style)
        .cell("SPLIT", columns.split, style)
        .number("RATE", 8, style)
        .number("ERRORS", 7, style)
        .number("P99", 8, style);
    if columns.trend > 0 {
        line = line.cell("RATE BY SECOND", columns.trend, style);
    }
    line.add("STATE", style)
}

fn service_line(model: &WatchModel, at: usize, columns: Columns, width: usize) -> StyledLine {
    let service = &model.status.services[at];
    let condition = &model.conditions[at];
    let (mark, tone) = match condition.urgency {
        Urgency::Bad => ("! ", Tone::Bad),
        Urgency::Warning => ("? ", Tone::Warning),
        Urgency::Moving => ("> ", Tone::Accent),
        Urgency::Calm => ("  ", Tone::Good),
    };
    let (per_second, ratio, p99) = figures(service);
    let mut line = StyledLine::new()
        .add(mark, CellStyle::of(tone).bold())
        .cell(&service.name, columns.name, CellStyle::PLAIN.bold())
        .cell(&split(service), columns.split, CellStyle::PLAIN)
        .number(&rate(per_second), 8, CellStyle::PLAIN)
        .number(&errors(ratio), 7, error_style(ratio))
        .number(&milliseconds(p99), 8, CellStyle::PLAIN);
    if columns.trend > 0 {
        let trend = model
            .series
            .values(&service.name, None, Measure::Rate, columns.trend);
        let chart = sparkline(&trend, highest(&trend));
        line = line.cell(&chart, columns.trend, CellStyle::of(Tone::Accent));
    }
    let room = width.saturating_sub(line.width());
    line.add(&clipped(&condition.text, room), CellStyle::of(tone))
}

/// The versions with traffic and their shares, the largest first: `v1 95% v2 5%`.
fn split(service: &ServiceStatus) -> String {
    let share = |text: &str| {
        text.trim_end_matches('%')
            .parse::<f64>()
            .unwrap_or_default()
    };
    let mut with_traffic: Vec<(&str, &str)> = { service.versions.iter() }
        .filter(|version| version.share != "0%")
        .map(|version| (version.name.as_str(), version.share.as_str()))
        .collect();
    with_traffic.sort_by(|(_, a), (_, b)| share(b).total_cmp(&share(a)));
    let words: Vec<String> = with_traffic
        .iter()
        .map(|(v, s)| format!("{v} {s}"))
        .collect();
    words.join(" ")
}
