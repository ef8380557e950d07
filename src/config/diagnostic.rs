//! Diagnostics: what is wrong and where, what was expected and what to do.
//!
//! A [`Diagnostic`] is rendered in the style of rustc, with the line, a caret under the faulty part and a help line. It
//! owns the lines that it shows, so it outlives the text.

use std::fmt;
use std::sync::Arc;

use anstyle::{AnsiColor, Style};

pub use super::problem::Severity;
use super::problem::{Problem, TextSpan};

/// Windows editors put this before the first line of a UTF-8 file. It belongs to no line and takes no column.
pub(super) const BYTE_ORDER_MARK: char = '\u{feff}';

/// A text with the offsets of its lines, computed once for all positions.
pub(super) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(super) fn new(text: &'t str) -> Self {
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

/// A position in the text with everything needed to show its line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Position {
    /// Counts from 1.
    line: usize,
    /// Counts characters from 1.
    column: usize,
    /// The line as it is printed.
    shown: String,
    /// Number of cells before the first caret under `shown`.
    indent: usize,
    /// Number of carets, at least 1.
    carets: usize,
    label: String,
}

impl Position {
    fn new(lines: &Lines<'_>, span: TextSpan, label: String) -> Self {
        let text = lines.text;
        let start = boundary(text, span.start).max(lines.starts[0]);
        let number = lines.starts.partition_point(|first| *first <= start);
        let line_start = lines.starts[number - 1];
        let line_end = lines.starts.get(number).map_or(text.len(), |next| next - 1);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let end = boundary(text, span.end).clamp(start, (line_start + line.len()).max(start));
        let column = text[line_start..start].chars().count();
        let width = text[start..end].chars().count();
        let (shown, indent, carets) = show(line, column, width);
        Self {
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

/// An error or a warning about a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    severity: Severity,
    message: String,
    file: Arc<str>,
    /// `None` if the diagnostic is about the file as a whole.
    position: Option<Position>,
    also: Option<Position>,
    help: Option<String>,
}

impl Diagnostic {
    /// Resolves the spans of a problem to lines and columns.
    pub(super) fn new(lines: &Lines<'_>, file: &Arc<str>, problem: Problem) -> Self {
        Self {
            severity: problem.severity,
            message: problem.message,
            file: Arc::clone(file),
            position: Some(Position::new(lines, problem.span, problem.label)),
            also: problem
                .also
                .map(|(span, label)| Position::new(lines, span, label)),
            help: problem.help,
        }
    }

    /// Creates an error about the file as a whole, such as one that can't be read.
    pub(super) fn of_file(file: &str, message: String, help: Option<String>) -> Self {
        Self {
            severity: Severity::Error,
            message,
            file: file.into(),
            position: None,
            also: None,
            help,
        }
    }

    /// Creates an error at a span of the text.
    pub(super) fn at(text: &str, file: &str, span: TextSpan, message: &str) -> Self {
        Self {
            position: Some(Position::new(&Lines::new(text), span, String::new())),
            ..Self::of_file(file, message.to_owned(), None)
        }
    }

    /// Turns the diagnostic into a warning.
    pub fn into_warning(self) -> Self {
        Self {
            severity: Severity::Warning,
            ..self
        }
    }

    /// Sets the label beside the caret.
    pub(super) fn labelled(mut self, label: &str) -> Self {
        if let Some(position) = &mut self.position {
            label.clone_into(&mut position.label);
        }
        self
    }

    /// Sets the help line.
    pub(super) fn helped(mut self, help: &str) -> Self {
        self.help = Some(help.to_owned());
        self
    }

    /// Returns the severity.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// Returns what is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns what to do about it, if known. May have several lines.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// Returns the path of the file, as it was given.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Returns the label beside the caret: the cause, or what was expected.
    pub fn cause(&self) -> Option<&str> {
        let label = self.position.as_ref().map(|p| p.label.as_str());
        label.filter(|label| !label.is_empty())
    }

    /// Returns line, column and label of the second, related position, if there is one.
    pub fn also(&self) -> Option<(usize, usize, &str)> {
        let also = self.also.as_ref();
        also.map(|p| (p.line, p.column, p.label.as_str()))
    }

    /// Returns line and column (in characters), both counted from 1, or `None` if it is about the file as a whole.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.position.as_ref().map(|p| (p.line, p.column))
    }

    /// Returns one line in the form `file:line:column: message`.
    pub fn summary(&self) -> String {
        match self.position() {
            Some((line, column)) => format!("{}:{line}:{column}: {}", self.file, self.message),
            None => format!("{}: {}", self.file, self.message),
        }
    }

    /// Renders message, position, the line with a caret, and help on several lines. `color` adds ANSI escape sequences.
    pub fn rendered(&self, color: bool) -> String {
        let mut out = String::new();
        // Writing to a `String` never fails.
        self.render(&mut out, color)
            .expect("writing to a String can't fail");
        out
    }

    fn render(&self, out: &mut impl fmt::Write, color: bool) -> fmt::Result {
        let paint = |style: Style| if color { style } else { Style::new() };
        let (word, strong) = match self.severity {
            Severity::Error => ("error", AnsiColor::Red),
            Severity::Warning => ("warning", AnsiColor::Yellow),
        };
        let strong = paint(strong.on_default().bold());
        let faint = paint(AnsiColor::Blue.on_default().bold());
        let bold = paint(Style::new().bold());
        writeln!(
            out,
            "{strong}{word}{strong:#}{bold}: {}{bold:#}",
            self.message
        )?;
        let gutter = [&self.position, &self.also]
            .into_iter()
            .flatten()
            .map(|p| p.line.to_string().len())
            .max()
            .unwrap_or(1);
        match &self.position {
            Some(position) => {
                let (line, column) = (position.line, position.column);
                writeln!(
                    out,
                    "{:gutter$}{faint}-->{faint:#} {}:{line}:{column}",
                    "", self.file
                )?;
                position.render(out, gutter, '^', faint, strong)?;
            }
            None => writeln!(out, "{:gutter$}{faint}-->{faint:#} {}", "", self.file)?,
        }
        if let Some(position) = &self.also {
            let (line, column) = (position.line, position.column);
            writeln!(
                out,
                "{:gutter$}{faint}:::{faint:#} {}:{line}:{column}",
                "", self.file
            )?;
            position.render(out, gutter, '-', faint, faint)?;
        }
        if let Some(help) = &self.help {
            let mut lines = help.lines();
            let first = lines.next().unwrap_or_default();
            writeln!(
                out,
                "{:gutter$} {faint}={faint:#} {bold}help{bold:#}: {first}",
                ""
            )?;
            for line in lines {
                writeln!(out, "{:gutter$}         {line}", "")?;
            }
        }
        Ok(())
    }
}

impl Position {
    fn render(
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

impl fmt::Display for Diagnostic {
    /// Writes the same as [`Diagnostic::rendered`] without colour.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.render(f, false)
    }
}
