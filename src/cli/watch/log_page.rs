//! Draws the log, with the newest lines at the bottom.

use super::log_model::LogModel;
use super::screen::{CellStyle, ScreenBuffer, Tone};
use super::styled_line::StyledLine;

/// Draws the log into the rows from `top` up to `bottom`.
pub(super) fn draw(log: &LogModel, screen: &mut ScreenBuffer, (top, bottom): (usize, usize)) {
    let whole = (0, screen.width());
    heading(log).draw(screen, top, whole);
    let room = bottom.saturating_sub(top + 1);
    let end = log.rows.len().saturating_sub(log.below);
    // When scrolled to the oldest line, the screen stays full.
    let end = end.max(room.min(log.rows.len()));
    let first = end.saturating_sub(room);
    for (row, line) in log.rows.range(first..end).enumerate() {
        let style = match line.status {
            500.. => CellStyle::of(Tone::Bad),
            400..500 => CellStyle::of(Tone::Warning),
            _ => CellStyle::PLAIN,
        };
        let shown = StyledLine::new().add(&line.text, style);
        shown.draw(screen, top + 1 + row, whole);
    }
    if log.rows.is_empty() {
        let text = "lines appear when requests end";
        StyledLine::new()
            .add(text, CellStyle::PLAIN.dim())
            .draw(screen, top + 1, whole);
    }
}

fn heading(log: &LogModel) -> StyledLine {
    let mut line = StyledLine::new()
        .add("LOG ", CellStyle::PLAIN.bold())
        .plain(&log.filter.describe());
    if log.below > 0 {
        let text = format!("  scrolled back, {} newer lines (G: newest)", log.below);
        line = line.toned(&text, Tone::Accent);
    }
    if log.dropped > 0 {
        line = line.toned(&format!("  {} lines dropped", log.dropped), Tone::Warning);
    }
    if let Some(why) = &log.broken {
        line = line.toned(&format!("  interrupted: {why}"), Tone::Warning);
    }
    line
}
