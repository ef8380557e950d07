//! A line of the screen, of parts with a style each.

use super::printable::{clipped, printable, width};
use super::screen::{CellStyle, ScreenBuffer, Tone};

/// A line, built from left to right.
#[derive(Clone, Debug, Default)]
pub(super) struct StyledLine {
    parts: Vec<(String, CellStyle)>,
    width: usize,
    /// Whether the line stands out as the selected one.
    pub is_selected: bool,
}

impl StyledLine {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Appends text in a style.
    pub(super) fn add(mut self, text: &str, style: CellStyle) -> Self {
        let text = printable(text);
        self.width += width(&text);
        self.parts.push((text, style));
        self
    }

    /// Adds text without a style.
    pub(super) fn plain(self, text: &str) -> Self {
        self.add(text, CellStyle::PLAIN)
    }

    /// Adds text in a colour.
    pub(super) fn toned(self, text: &str, tone: Tone) -> Self {
        self.add(text, CellStyle::of(tone))
    }

    /// Adds a cell of this many columns and a space, aligned left.
    pub(super) fn cell(self, text: &str, columns: usize, style: CellStyle) -> Self {
        let text = clipped(&printable(text), columns);
        let spaces = columns - width(&text) + 1;
        self.add(&text, style).plain(&" ".repeat(spaces))
    }

    /// Adds a cell of this many columns and a space, aligned right.
    pub(super) fn number(self, text: &str, columns: usize, style: CellStyle) -> Self {
        let text = clipped(&printable(text), columns);
        let spaces = columns - width(&text);
        self.plain(&" ".repeat(spaces)).add(&text, style).plain(" ")
    }

    /// Number of columns that the line takes.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Draws the line into a row, from one column up to another.
    pub(super) fn draw(&self, screen: &mut ScreenBuffer, y: usize, (from, to): (usize, usize)) {
        let mut at = from;
        let mark = |style: CellStyle| match self.is_selected {
            true => style.reverse(),
            false => style,
        };
        for (text, style) in &self.parts {
            let text = clipped(text, to.saturating_sub(at));
            at = screen.put(at, y, &text, mark(*style));
        }
        screen.fill(at, to, y, mark(CellStyle::PLAIN));
    }
}
