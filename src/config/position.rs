//! Positions in the files of a configuration: line, column, and the line with carets below it.

use std::fmt;
use std::sync::Arc;

use anstyle::Style;

use super::bundle::FilePart;
use super::masking;
use super::problem::TextSpan;

/// Windows editors put this before the first line of a UTF-8 file. It belongs to no line and takes no column.
pub(super) const BYTE_ORDER_MARK: char = '\u{feff}';

/// A text with the offsets of its lines, computed once for all positions.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let starts = memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1);
        let first = match text.starts_with(BYTE_ORDER_MARK) {
            true => BYTE_ORDER_MARK.len_utf8(),
            false => 0,
        };
        Self {
            text,
            starts: std::iter::once(first).chain(starts).collect(),
        }
    }
}

/// The files of a text with their lines, for positions in it.
pub(super) struct SourceLines<'t> {
    files: Vec<SourceFile<'t>>,
}

struct SourceFile<'t> {
    name: Arc<str>,
    start: usize,
    lines: Lines<'t>,
    /// Lines whose values are not shown.
    secret: Vec<TextSpan>,
}

impl SourceFile<'_> {
    fn is_secret(&self, at: usize) -> bool {
        self.secret.iter().any(|line| line.contains(&at))
    }
}

impl<'t> SourceLines<'t> {
    /// The lines of these files, of which `main` is the first.
    pub(super) fn new(parts: &[FilePart<'t>], main: &str) -> Self {
        let file = |part: &FilePart<'t>| {
            let lines = Lines::new(part.text);
            SourceFile {
                name: part.name(main).into(),
                start: part.start,
                secret: masking::secret_lines(part.text, lines.starts[0]),
                lines,
            }
        };
        Self {
            files: parts.iter().map(file).collect(),
        }
    }

    /// The position of a span, in the file in which it begins.
    pub(super) fn position(&self, span: TextSpan, label: String) -> Position {
        let file = self.file(span.start);
        let local = span.start - file.start..span.end.saturating_sub(file.start);
        Position::new(file, local, label)
    }

    /// Whether a text about this place reveals a value that is not shown.
    pub(super) fn reveals(&self, at: usize, text: &str) -> bool {
        let file = self.file(at);
        let lines = file.secret.iter();
        let mut lines = lines.filter(|line| line.contains(&(at - file.start)));
        lines.any(|line| masking::reveals(text, &file.lines.text[line.clone()]))
    }

    fn file(&self, at: usize) -> &SourceFile<'t> {
        let next = self.files.partition_point(|file| file.start <= at);
        // The first file begins at 0.
        &self.files[next.saturating_sub(1)]
    }
}

/// A position in a file with everything needed to show its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The name of the file.
    pub(super) file: Arc<str>,
    /// Number of the line, from 1.
    pub(super) line: usize,
    /// Number of the column in characters, from 1.
    pub(super) column: usize,
    /// The line as it is printed.
    shown: String,
    /// Number of cells before the first caret under `shown`.
    indent: usize,
    /// Number of carets, at least 1.
    carets: usize,
    pub(super) label: String,
}

impl Position {
    fn new(file: &SourceFile<'_>, span: TextSpan, label: String) -> Self {
        let lines = &file.lines;
        let text = lines.text;
        let start = boundary(text, span.start).max(lines.starts[0]);
        let number = lines.starts.partition_point(|first| *first <= start);
        let line_start = lines.starts[number - 1];
        let line_end = lines.starts.get(number).map_or(text.len(), |next| next - 1);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let end = boundary(text, span.end).clamp(start, (line_start + line.len()).max(start));
        let column = text[line_start..start].chars().count();
        let width = text[start..end].chars().count();
        let line = match file.is_secret(line_start) {
            true => masking::masked(line),
            false => masking::without_passwords(line),
        };
        let (shown, indent, carets) = show(&line, column, width);
        Self {
            file: file.name.clone(),
            line: number,
            column: column + 1,
            shown,
            indent,
            carets,
            label,
        }
    }
}

/// Returns the nearest character boundary at or before `at`, at most the length of the text.
fn boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Prepares a line for printing; returns it with the indent and the number of the carets.
///
/// Tabs become four spaces, control characters (which could drive the terminal) are replaced, and of a long line only
/// the part around the caret is kept. Every other character counts as one cell.
fn show(line: &str, column: usize, width: usize) -> (String, usize, usize) {
    const BEFORE: usize = 60;
    const MOST: usize = 140;
    let cut = if line.chars().count() > MOST {
        column.saturating_sub(BEFORE)
    } else {
        0
    };
    let mut shown = String::new();
    let (mut indent, mut carets) = (0, 0);
    if cut > 0 {
        shown.push('…');
        indent += 1;
    }
    for (at, c) in line.chars().enumerate().skip(cut) {
        if at - cut >= MOST {
            shown.push('…');
            break;
        }
        let cells = match c {
            '\t' => {
                shown.push_str("    ");
                4
            }
            c if c.is_control() => {
                shown.push('\u{fffd}');
                1
            }
            c => {
                shown.push(c);
                1
            }
        };
        if at < column {
            indent += cells;
        } else if at < column + width {
            carets += cells;
        }
    }
    (shown, indent, carets.max(1))
}

impl Position {
    pub(super) fn render(
        &self,
        out: &mut impl fmt::Write,
        gutter: usize,
        mark: char,
        faint: Style,
        strong: Style,
    ) -> fmt::Result {
        let (line, shown, label) = (self.line, &self.shown, &self.label);
        let marks = mark.to_string().repeat(self.carets);
        let indent = self.indent;
        writeln!(out, "{:gutter$} {faint}|{faint:#}", "")?;
        writeln!(out, "{faint}{line:gutter$} |{faint:#} {shown}")?;
        write!(
            out,
            "{:gutter$} {faint}|{faint:#} {:indent$}{strong}{marks}",
            "", ""
        )?;
        if !label.is_empty() {
            write!(out, " {label}")?;
        }
        writeln!(out, "{strong:#}")
    }
}
