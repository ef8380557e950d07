//! Boxes above the view: questions, input and help.

use super::model::{WatchModel, WatchOverlay};
use super::printable::{width, wrapped};
use super::screen::{CellStyle, ScreenBuffer, Tone};
use super::styled_line::StyledLine;

/// Widest text in a box.
const WIDEST: usize = 74;

/// The lines of the help: 19 of them fit in a terminal of 24.
const HELP: [&str; 19] = [
    "j k ↓ ↑     next, previous         g G Home End   first, last",
    "Space, PgDn PgUp                   a page",
    "Enter l →   open a service         Esc h ←        back",
    "Tab         the log, and back      /              search services",
    "u           undo the last change   e              why the file is rejected",
    "q Ctrl-C    quit                   Ctrl-Z         suspend",
    "Ctrl-L      draw again             ?              this help",
    "",
    "In a service (all of these ask first):",
    "s           shift: share of the selected version",
    "p r         pause, resume the rollout",
    "a P         approve, promote",
    "A t         abort, retry",
    "d D         drain the selected version or endpoint; put it back in use",
    "",
    "In the log:",
    "f c s       only failed, only canary, only the last service",
    "",
    "Marks: ! in trouble   ? worth a look   > a rollout is under way",
];

/// Draws a box in the middle of the screen.
pub(super) fn draw(model: &WatchModel, overlay: &WatchOverlay, screen: &mut ScreenBuffer) {
    let plain = |text: &str| StyledLine::new().plain(text);
    let bold = |text: &str| StyledLine::new().add(text, CellStyle::PLAIN.bold());
    let room = screen.width().saturating_sub(6).min(WIDEST);
    let mut lines = Vec::new();
    match overlay {
        WatchOverlay::Help => lines.extend(HELP.iter().map(|text| plain(text))),
        WatchOverlay::ConfigError => {
            lines.push(bold(
                "The current file is rejected; the previous one stays in use:",
            ));
            let error = model
                .status
                .config
                .error
                .as_deref()
                .unwrap_or("it is accepted by now");
            lines.extend(wrapped(error, room).iter().map(|text| plain(text)));
        }
        WatchOverlay::Confirm { action, plan } => {
            let (question, more) = action.question();
            lines.extend(wrapped(&question, room).iter().map(|text| bold(text)));
            let more = plan
                .iter()
                .chain(&more)
                .flat_map(|text| wrapped(text, room));
            lines.extend(more.map(|text| plain(&text)));
        }
        WatchOverlay::Share {
            service,
            version,
            from,
            text,
            error,
        } => {
            lines.push(bold(&format!("{service}: share of {version}, now {from}")));
            lines.push(plain("25%, or `rollout` to follow the plan, or `stable`"));
            lines.push(plain(&format!("> {text}")).add(" ", CellStyle::PLAIN.reverse()));
            if let Some(error) = error {
                let texts = wrapped(error, room);
                lines.extend(texts.iter().map(|t| StyledLine::new().toned(t, Tone::Bad)));
            }
        }
    }
    let below = match overlay {
        WatchOverlay::Confirm { .. } => "y yes    n, Esc no",
        WatchOverlay::Share { .. } => "Enter next    Esc cancel",
        WatchOverlay::Help | WatchOverlay::ConfigError => "any key closes",
    };
    // The keys are always visible, however long the text is.
    let most = screen.height().saturating_sub(3);
    if lines.len() > most {
        lines.truncate(most.saturating_sub(1));
        lines.push(plain("…"));
    }
    frame(&lines, below, room, screen);
}

fn frame(lines: &[StyledLine], below: &str, room: usize, screen: &mut ScreenBuffer) {
    let widest = lines.iter().map(StyledLine::width).max().unwrap_or(0);
    let inner = widest.max(width(below)).min(room.max(width(below)));
    let left = screen.width().saturating_sub(inner + 4) / 2;
    let top = screen.height().saturating_sub(lines.len() + 3) / 2;
    let style = CellStyle::of(Tone::Accent);
    let right = left + inner + 4;
    let edge = "─".repeat(inner + 2);
    screen.put(left, top, &format!("┌{edge}┐"), style);
    let keys = StyledLine::new().add(below, CellStyle::PLAIN.dim());
    for (row, line) in lines.iter().chain(std::iter::once(&keys)).enumerate() {
        let y = top + 1 + row;
        screen.put(left, y, "│ ", style);
        line.draw(screen, y, (left + 2, right - 2));
        screen.put(right - 2, y, " │", style);
    }
    screen.put(left, top + lines.len() + 2, &format!("└{edge}┘"), style);
}
