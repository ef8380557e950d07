//! The whole screen, drawn from the state.

use std::time::{Duration, SystemTime};

use super::model::{WatchModel, WatchView, age};
use super::printable::clipped;
use super::screen::{CellStyle, ScreenBuffer, Tone};
use super::styled_line::StyledLine;
use super::{log_page, overlay, service_list, service_page};

/// The smallest terminal that is drawn on, in columns and rows.
const SMALLEST: (usize, usize) = (80, 24);

/// Draws the state for a terminal of this size.
pub(super) fn draw(
    model: &WatchModel,
    (width, height): (usize, usize),
    now: SystemTime,
) -> ScreenBuffer {
    let mut screen = ScreenBuffer::new(width, height);
    if width < SMALLEST.0 || height < SMALLEST.1 {
        let lines = [
            format!("this terminal has {width}x{height} cells,"),
            format!("{}x{} are needed (q quits)", SMALLEST.0, SMALLEST.1),
        ];
        for (y, line) in lines.iter().enumerate() {
            screen.put(0, y, &clipped(line, width), CellStyle::PLAIN);
        }
        return screen;
    }
    let whole = (0, width);
    let head = head(model, width, now);
    for (y, line) in head.iter().enumerate() {
        line.draw(&mut screen, y, whole);
    }
    let rows = (head.len(), height - 1);
    match &model.view {
        WatchView::Services => service_list::draw(model, &mut screen, rows),
        WatchView::Service(name) => service_page::draw(model, name, &mut screen, rows, now),
        WatchView::Log => log_page::draw(&model.log, &mut screen, rows),
    }
    foot(model).draw(&mut screen, height - 1, whole);
    if let Some(overlay) = &model.overlay {
        overlay::draw(model, overlay, &mut screen);
    }
    screen
}

/// The proxy, and errors of its configuration or of the connection to it.
fn head(model: &WatchModel, width: usize, now: SystemTime) -> Vec<StyledLine> {
    let status = &model.status;
    let tone = match &*status.phase {
        "ready" => Tone::Good,
        _ => Tone::Warning,
    };
    let up = humantime::format_duration(Duration::from_secs(status.uptime_s));
    let line = StyledLine::new()
        .add(
            &format!("cutover {} ", status.version),
            CellStyle::PLAIN.bold(),
        )
        .toned(&status.phase, tone)
        .plain(&format!(
            "  pid {}  up {up}  gen {}",
            status.pid, status.generation
        ));
    let line = match status.adopted == status.generation {
        true => line,
        false => line.toned(" (some workers still run an earlier one)", Tone::Warning),
    };
    let services = status.services.len();
    let line = match model.troubled() {
        0 => line.plain(&format!("  {services} services")),
        bad => line.toned(&format!("  {bad} of {services} need a look"), Tone::Warning),
    };
    let mut lines = vec![line];
    if let Some((since, why)) = &model.lost {
        let text = format!("! connection lost since {}: {why}", age(now, *since));
        let style = CellStyle::of(Tone::Bad).bold();
        lines.push(StyledLine::new().add(&clipped(&text, width), style));
    }
    if let Some(error) = &status.config.error {
        let first = error.lines().next().unwrap_or_default();
        let text = format!("! the current file is rejected (e: why): {first}");
        lines.push(StyledLine::new().toned(&text, Tone::Bad));
    }
    for certificate in &status.certificates {
        if let Some(error) = &certificate.error {
            let first = error.lines().next().unwrap_or_default();
            let text = format!("! certificate {}: {first}", certificate.file);
            lines.push(StyledLine::new().toned(&text, Tone::Bad));
        }
    }
    // The view below keeps most of the screen.
    if lines.len() > 5 {
        lines.truncate(4);
        lines.push(StyledLine::new().toned("! more: see `cutover status`", Tone::Bad));
    }
    lines.push(StyledLine::new());
    lines
}

/// The search, the last remark, or the keys.
fn foot(model: &WatchModel) -> StyledLine {
    if model.is_searching {
        let line = StyledLine::new().plain(&format!("/{}", model.search));
        return line.add(" ", CellStyle::PLAIN.reverse());
    }
    if let Some(remark) = &model.remark {
        let (mark, tone) = match remark.is_error {
            true => ("! ", Tone::Bad),
            false => ("", Tone::Good),
        };
        // An error of several lines is cut to one.
        let text = remark.text.replace('\n', "; ");
        return StyledLine::new().add(&format!("{mark}{text}"), CellStyle::of(tone).bold());
    }
    let keys = match model.view {
        WatchView::Services if !model.search.is_empty() => {
            let text = format!("search `{}` (Esc clears)  ", model.search);
            return StyledLine::new()
                .toned(&text, Tone::Accent)
                .add("Enter open  Tab log  ? help", CellStyle::PLAIN.dim());
        }
        WatchView::Services => "j k move  Enter open  / search  Tab log  u undo  ? help  q quit",
        WatchView::Service(_) => {
            "s shift  p pause  r resume  a approve  P promote  A abort  t retry  d drain  ?"
        }
        WatchView::Log => "f failed  c canary  s service  j k scroll  G newest  Esc back  ? help",
    };
    StyledLine::new().add(keys, CellStyle::PLAIN.dim())
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
