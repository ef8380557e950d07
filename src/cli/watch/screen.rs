//! The content of the screen: cells with a character and a style, and the bytes that turn one screen into another.

use std::fmt::Write as _;

use super::printable::{columns, printable};

/// The role of a text, from which its colour follows. A word or a sign always says the same as the colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Warning,
    Bad,
    Accent,
}

/// The style of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CellStyle {
    pub tone: Tone,
    pub bold: bool,
    pub dim: bool,
    pub reverse: bool,
}

impl CellStyle {
    pub(super) const PLAIN: Self = Self::of(Tone::Plain);

    pub(super) const fn of(tone: Tone) -> Self {
        Self {
            tone,
            bold: false,
            dim: false,
            reverse: false,
        }
    }

    pub(super) const fn bold(mut self) -> Self {
        self.bold = true;
        self
    }

    pub(super) const fn dim(mut self) -> Self {
        self.dim = true;
        self
    }

    pub(super) const fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// The escape sequence that selects the style. Without colours, only weight and reversal differ.
    fn sequence(self, colours: bool) -> String {
        let mut codes = String::from("\x1b[0");
        for (is_set, code) in [(self.bold, ";1"), (self.dim, ";2"), (self.reverse, ";7")] {
            if is_set {
                codes += code;
            }
        }
        if colours {
            codes += match self.tone {
                Tone::Plain => "",
                Tone::Good => ";32",
                Tone::Warning => ";33",
                Tone::Bad => ";31",
                Tone::Accent => ";36",
            };
        }
        codes + "m"
    }
}

/// The abilities of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TerminalAbilities {
    pub colours: bool,
    /// Whether the terminal shows other characters than ASCII.
    pub unicode: bool,
}

/// A cell. A wide character is followed by a cell that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ScreenCell {
    /// The character; `None` if the wide character to the left covers the cell.
    glyph: Option<char>,
    style: CellStyle,
}

const BLANK: ScreenCell = ScreenCell {
    glyph: Some(' '),
    style: CellStyle::PLAIN,
};

/// A grid of cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScreenBuffer {
    width: usize,
    height: usize,
    cells: Vec<ScreenCell>,
}

impl ScreenBuffer {
    pub(super) fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            cells: vec![BLANK; width * height],
        }
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn height(&self) -> usize {
        self.height
    }

    /// Writes text from a column on, and returns the column after it. Text outside of the grid is left out, and characters that are
    /// not printable are escaped.
    pub(super) fn put(&mut self, x: usize, y: usize, text: &str, style: CellStyle) -> usize {
        let mut at = x;
        for c in printable(text).chars() {
            let needed = columns(c).unwrap_or(0);
            if at + needed > self.width || y >= self.height {
                break;
            }
            self.set(at, y, Some(c), style);
            for covered in at + 1..at + needed {
                self.set(covered, y, None, style);
            }
            at += needed;
        }
        at
    }

    /// Blanks part of a row.
    pub(super) fn fill(&mut self, from: usize, to: usize, y: usize, style: CellStyle) {
        for x in from..to.min(self.width) {
            self.set(x, y, Some(' '), style);
        }
    }

    fn set(&mut self, x: usize, y: usize, glyph: Option<char>, style: CellStyle) {
        if x >= self.width || y >= self.height {
            return;
        }
        let at = y * self.width + x;
        // A wide character that is half overwritten disappears.
        let is_covered = self.cells[at].glyph.is_none();
        if is_covered && glyph.is_some() && x > 0 {
            self.cells[at - 1].glyph = Some(' ');
        }
        self.cells[at] = ScreenCell { glyph, style };
        if glyph.is_some() && x + 1 < self.width && self.cells[at + 1].glyph.is_none() {
            self.cells[at + 1].glyph = Some(' ');
        }
    }

    /// The rows as text, without trailing spaces.
    #[cfg(test)]
    pub(super) fn rows(&self) -> Vec<String> {
        let row = |cells: &[ScreenCell]| {
            let text: String = cells.iter().filter_map(|cell| cell.glyph).collect();
            text.trim_end().to_owned()
        };
        self.cells.chunks(self.width.max(1)).map(row).collect()
    }

    /// Whether a row has this text and is reversed where it begins.
    #[cfg(test)]
    pub(super) fn has_reversed(&self, text: &str) -> bool {
        (0..self.height).any(|y| {
            let row: String = self.row(y).iter().filter_map(|cell| cell.glyph).collect();
            // A row that is reversed is so as a whole.
            row.contains(text) && self.row(y).iter().all(|cell| cell.style.reverse)
        })
    }

    /// The bytes that turn a terminal that shows `before` into one that shows this screen. `None`: the terminal's content isn't
    /// known, and the whole screen is drawn.
    pub(super) fn painted(&self, before: Option<&Self>, can: TerminalAbilities) -> String {
        let before = before.filter(|b| (b.width, b.height) == (self.width, self.height));
        let mut out = String::new();
        if before.is_none() {
            out += "\x1b[0m\x1b[H\x1b[2J";
        }
        for y in 0..self.height {
            let row = self.row(y);
            match before {
                Some(before) => paint_row(row, before.row(y), y, can, &mut out),
                None => paint_row(row, &vec![BLANK; self.width], y, can, &mut out),
            }
        }
        out
    }

    fn row(&self, y: usize) -> &[ScreenCell] {
        &self.cells[y * self.width..(y + 1) * self.width]
    }
}

/// Writes the cells of a row that differ from those before.
fn paint_row(
    row: &[ScreenCell],
    before: &[ScreenCell],
    y: usize,
    can: TerminalAbilities,
    out: &mut String,
) {
    // The column where the terminal's cursor stands, if it is in this row and known, and the style that it writes with.
    let mut cursor = None;
    let mut style = None;
    for (x, cell) in row.iter().enumerate() {
        // A wide character is rewritten if the cell that it covers has changed.
        let is_wide = row.get(x + 1).is_some_and(|next| next.glyph.is_none());
        let is_same = *cell == before[x] && (!is_wide || row[x + 1] == before[x + 1]);
        let Some(glyph) = cell.glyph else { continue };
        if is_same {
            continue;
        }
        // Writing to a string can't fail.
        if cursor != Some(x) {
            let _ = write!(out, "\x1b[{};{}H", y + 1, x + 1);
        }
        if style != Some(cell.style) {
            out.push_str(&cell.style.sequence(can.colours));
            style = Some(cell.style);
        }
        match can.unicode {
            true => out.push(glyph),
            false => out.push_str(&in_ascii(glyph, is_wide)),
        }
        // Terminals don't agree about the width of all wide characters, so the cursor is placed after each.
        cursor = (!is_wide).then_some(x + 1);
    }
    if style.is_some() {
        out.push_str("\x1b[0m");
    }
}

/// A character for terminals that show ASCII only.
fn in_ascii(glyph: char, is_wide: bool) -> String {
    let plain = match glyph {
        ' '..='~' => glyph,
        '▁' | '▂' => '_',
        '▃' | '▄' | '░' => '-',
        '▅' | '▆' => '=',
        '▇' | '█' | '●' => '#',
        '─' => '-',
        '│' => '|',
        '┌' | '┐' | '└' | '┘' => '+',
        '…' => '~',
        '→' => '>',
        '·' => '.',
        '○' => 'o',
        '◐' => '@',
        _ => '?',
    };
    let mut text = String::from(plain);
    if is_wide {
        text.push(' ');
    }
    text
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
