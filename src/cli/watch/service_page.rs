//! Draws one service: versions side by side, charts, the rollout, and the reasons why endpoints are out.

use std::time::SystemTime;

use super::figures::{bar, error_style, errors, milliseconds, rate};
use super::model::{WatchModel, age, targets};
use super::printable::wrapped;
use super::rollout_panel;
use super::screen::{CellStyle, ScreenBuffer, Tone};
use super::series::{Measure, highest, sparkline};
use super::service_list::first_shown;
use super::styled_line::StyledLine;
use crate::admin::status::{EndpointStatus, RedStatus, SHORT_WINDOW, ServiceStatus, VersionStatus};
use crate::cli::{flag_view, mirror_view};

/// Columns of a version's name.
const NAME: usize = 14;

/// Largest number of versions that have charts.
const CHARTED: usize = 4;

/// The row for the clients of the service.
const CLIENTS: &str = "clients";

/// Draws the page into the rows from `top` up to `bottom`, scrolled so that the selected row is seen.
pub(super) fn draw(
    model: &WatchModel,
    name: &str,
    screen: &mut ScreenBuffer,
    (top, bottom): (usize, usize),
    now: SystemTime,
) {
    let whole = (0, screen.width());
    let Some(service) = model.viewed() else {
        let text = format!("there is no service `{name}` any more");
        StyledLine::new()
            .toned(&text, Tone::Warning)
            .draw(screen, top, whole);
        return;
    };
    let lines = lines(model, service, screen.width(), now);
    let selected = lines.iter().position(|line| line.is_selected).unwrap_or(0);
    let room = bottom.saturating_sub(top);
    let first = match selected < room.saturating_sub(1) {
        true => 0,
        false => first_shown(selected, lines.len(), room),
    };
    // At the last row, the lines below it are shown as well.
    let is_last = model.target + 1 >= targets(service).len();
    let first = match is_last && selected > 0 {
        true => lines
            .len()
            .saturating_sub(room)
            .min(selected.saturating_sub(1)),
        false => first,
    };
    for (row, line) in lines.iter().skip(first).take(room).enumerate() {
        line.draw(screen, top + row, whole);
    }
    let hidden = lines.len().saturating_sub(first + room);
    if hidden > 0 && room > 0 {
        let note = format!(" {hidden} more lines below ");
        let at = screen.width().saturating_sub(note.len());
        screen.put(at, bottom - 1, &note, CellStyle::PLAIN.reverse());
    }
}

/// All lines of the page.
fn lines(
    model: &WatchModel,
    service: &ServiceStatus,
    width: usize,
    now: SystemTime,
) -> Vec<StyledLine> {
    let mut lines = vec![title(service)];
    lines.extend(notes(service, width));
    lines.push(heading(width));
    lines.extend(
        service
            .versions
            .iter()
            .map(|v| version_line(service, v, width)),
    );
    mark_versions(model, service, &mut lines);
    lines.push(clients_line(service));
    lines.extend(charts(model, service, width));
    if let Some(rollout) = &service.rollout {
        let shown = (service.name.as_str(), rollout);
        lines.push(StyledLine::new());
        lines.extend(rollout_panel::lines(shown, &model.series, width, now));
    }
    lines.push(StyledLine::new());
    lines.push(StyledLine::new().add("ENDPOINTS", CellStyle::PLAIN.bold()));
    lines.extend(endpoints(model, service, now));
    lines.extend(details(service, width));
    lines
}

fn title(service: &ServiceStatus) -> StyledLine {
    StyledLine::new()
        .add(&service.name, CellStyle::PLAIN.bold())
        .plain("  stable ")
        .add(&service.stable, CellStyle::PLAIN.bold())
}

/// The versions that wait for the gate, and settings that may be mistakes.
fn notes(service: &ServiceStatus, width: usize) -> Vec<StyledLine> {
    let mut notes: Vec<(String, Tone)> = Vec::new();
    if let Some(answer) = &service.answer {
        notes.push((
            format!("the proxy answers its requests: {answer}"),
            Tone::Accent,
        ));
    }
    for version in &service.awaiting {
        let text = format!(
            "waiting for {version}: its new share takes effect once one of its endpoints passes its health check"
        );
        notes.push((text, Tone::Warning));
    }
    for warning in &service.warnings {
        notes.push((format!("warning: {warning}"), Tone::Warning));
    }
    let wrap = |(text, tone): (String, Tone)| {
        let texts = wrapped(&text, width.saturating_sub(1));
        texts
            .into_iter()
            .map(move |line| StyledLine::new().toned(&line, tone))
    };
    notes.into_iter().flat_map(wrap).collect()
}

fn heading(width: usize) -> StyledLine {
    let style = CellStyle::PLAIN.bold();
    let line = StyledLine::new()
        .cell("VERSION", NAME, style)
        .number("SHARE", 7, style)
        .number("RATE", 8, style)
        .number("ERRORS", 8, style)
        .number("P50", 9, style)
        .number("P99", 9, style)
        .number("FLIGHT", 7, style);
    match width >= 110 {
        true => line.add("SPLIT", style),
        false => line,
    }
}

/// Adds rate, errors and durations to a line.
fn figures(line: StyledLine, red: Option<&RedStatus>) -> StyledLine {
    let red = red.copied().unwrap_or_default();
    let ratio = (red.rate > 0.0).then_some(red.error_ratio as f32);
    let ms = |ms: Option<f64>| milliseconds(ms.map(|ms| ms as f32));
    line.number(&rate(red.rate as f32), 8, CellStyle::PLAIN)
        .number(&errors(ratio), 8, error_style(ratio))
        .number(&ms(red.p50_ms), 9, CellStyle::PLAIN)
        .number(&ms(red.p99_ms), 9, CellStyle::PLAIN)
}

/// The line of the service's clients, below its versions.
fn clients_line(service: &ServiceStatus) -> StyledLine {
    let line = StyledLine::new()
        .cell(CLIENTS, NAME, CellStyle::PLAIN.dim())
        .number("", 7, CellStyle::PLAIN);
    figures(line, service.clients.get(SHORT_WINDOW))
}

fn version_line(service: &ServiceStatus, version: &VersionStatus, width: usize) -> StyledLine {
    let mut name = version.name.clone();
    if let Some(label) = &version.label {
        name += &format!(" {label}");
    }
    let is_stable = version.name == service.stable;
    let style = match is_stable {
        true => CellStyle::PLAIN,
        false => CellStyle::of(Tone::Accent),
    };
    let line = StyledLine::new().cell(&name, NAME, style.bold()).number(
        &version.share,
        7,
        CellStyle::PLAIN,
    );
    let mut line = figures(line, version.red.get(SHORT_WINDOW));
    line = line.number(&version.in_flight.to_string(), 7, CellStyle::PLAIN);
    if width >= 110 {
        let share = version.share.trim_end_matches('%').parse::<f64>();
        let (full, empty) = bar(share.unwrap_or_default() / 100.0, 20);
        line = line.add(&full, style).plain(&empty).plain(" ");
    }
    if is_stable {
        line = line.plain("stable");
    }
    match service.split.desired.get(&version.name) {
        // Stable's share follows from those of the other versions.
        Some(desired) if *desired != version.share && !(is_stable && follows_rollout(service)) => {
            line.toned(&format!("file: {desired}"), Tone::Accent)
        }
        _ => line,
    }
}

fn follows_rollout(service: &ServiceStatus) -> bool {
    service
        .split
        .desired
        .values()
        .any(|share| share == "rollout")
}

/// Marks the selected version. The lines end with those of the versions.
fn mark_versions(model: &WatchModel, service: &ServiceStatus, lines: &mut [StyledLine]) {
    let first = lines.len() - service.versions.len();
    let targets = targets(service);
    let selected = targets.get(model.target).filter(|t| t.endpoint.is_none());
    for (version, line) in service.versions.iter().zip(&mut lines[first..]) {
        line.is_selected = selected.is_some_and(|t| t.version.name == version.name);
    }
}

/// Rate, errors and p99 of the versions with traffic, and of the clients, on one scale for all of them.
fn charts(model: &WatchModel, service: &ServiceStatus, width: usize) -> Vec<StyledLine> {
    let versions = { service.versions.iter() }
        .filter(|version| version.share != "0%" || version.name == service.stable)
        .take(CHARTED)
        .map(|version| Some(version.name.as_str()));
    // `None` stands for the clients.
    let shown: Vec<Option<&str>> = versions.chain([None]).collect();
    let room = width.saturating_sub(8 + NAME + 9).min(300);
    let mut lines = vec![StyledLine::new()];
    for (measure, label) in [
        (Measure::Rate, "rate"),
        (Measure::Errors, "errors"),
        (Measure::P99, "p99"),
    ] {
        let values = shown
            .iter()
            .map(|version| model.series.values(&service.name, *version, measure, room));
        let values: Vec<Vec<Option<f32>>> = values.collect();
        let top = values.iter().map(|v| highest(v)).fold(0.0, f32::max);
        // A single error should not look like an outage.
        let top = if measure == Measure::Errors {
            top.max(0.02)
        } else {
            top
        };
        for (at, (version, values)) in shown.iter().zip(&values).enumerate() {
            let is_canary = version.is_some_and(|name| *name != service.stable);
            let tone = match (measure, is_canary) {
                (Measure::Errors, _) => Tone::Bad,
                (_, false) => Tone::Plain,
                (_, true) => Tone::Accent,
            };
            let last = values.last().copied().flatten();
            let figure = match measure {
                Measure::Rate => rate(last.unwrap_or_default()),
                Measure::Errors => errors(last),
                Measure::P99 | Measure::Evidence => milliseconds(last),
            };
            let label = if at == 0 { label } else { "" };
            let line = StyledLine::new()
                .cell(label, 7, CellStyle::PLAIN.dim())
                .cell(version.unwrap_or(CLIENTS), NAME - 2, CellStyle::PLAIN)
                .number(&figure, 9, CellStyle::PLAIN);
            lines.push(line.toned(&sparkline(values, top), tone));
        }
    }
    lines
}

/// The endpoints by version, with the reason why an endpoint is out, and the time since which it is.
fn endpoints(model: &WatchModel, service: &ServiceStatus, now: SystemTime) -> Vec<StyledLine> {
    let mut lines = Vec::new();
    for (at, target) in targets(service).iter().enumerate() {
        let Some(endpoint) = target.endpoint else {
            if target.version.endpoints.is_empty() && service.answer.is_none() {
                let name = &target.version.name;
                lines.push(
                    StyledLine::new()
                        .cell(name, 12, CellStyle::PLAIN)
                        .plain("none"),
                );
            }
            continue;
        };
        let mut line = endpoint_line(target.version, endpoint, now);
        line.is_selected = at == model.target;
        lines.push(line);
    }
    lines
}

fn endpoint_line(
    version: &VersionStatus,
    endpoint: &EndpointStatus,
    now: SystemTime,
) -> StyledLine {
    let (mark, tone) = match endpoint.is_usable() {
        _ if endpoint.health == "down" || endpoint.ejected.is_some() => ("! ", Tone::Bad),
        false => ("? ", Tone::Warning),
        true => ("  ", Tone::Good),
    };
    let mut address = endpoint.address.clone();
    if endpoint.weight != 1 {
        address += &format!(" weight={}", endpoint.weight);
    }
    let mut state = endpoint.state(now);
    if endpoint.is_usable() && endpoint.health == "up" {
        let since = endpoint.since.as_deref().map(humantime::parse_rfc3339);
        if let Some(Ok(since)) = since {
            state += &format!(" for {}", age(now, since));
        }
    }
    StyledLine::new()
        .add(mark, CellStyle::of(tone).bold())
        .cell(&version.name, 10, CellStyle::PLAIN)
        .cell(&address, 28, CellStyle::PLAIN)
        .number(&endpoint.active.to_string(), 6, CellStyle::PLAIN)
        .plain("in flight  ")
        .toned(&state, tone)
}

/// Names, flags, failures that stable doesn't have, and the mirror.
fn details(service: &ServiceStatus, width: usize) -> Vec<StyledLine> {
    let mut text = String::new();
    for name in service.versions.iter().flat_map(|version| &version.names) {
        text += &format!("name {}\n", name.line());
    }
    text += &flag_view::shown(service);
    if !service.new_errors.is_empty() {
        text += &format!("\nfailures that {} doesn't have:\n", service.stable);
    }
    for group in &service.new_errors {
        text += &format!("  {}\n", group.line());
    }
    if let Some(mirror) = &service.mirror {
        text += &format!("\n{}", mirror_view::shown(&service.name, mirror));
    }
    // Tables are cut at the edge rather than wrapped.
    let room = width.saturating_sub(1);
    let line =
        |text: &str| StyledLine::new().plain(&text.chars().take(room * 2).collect::<String>());
    let text = text.trim_start_matches('\n');
    let mut lines: Vec<StyledLine> = text.lines().map(line).collect();
    if !lines.is_empty() {
        lines.insert(0, StyledLine::new());
    }
    lines
}
