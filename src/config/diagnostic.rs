//! What is wrong, where, what was expected, what to do: shown with the line and a caret.

use std::fmt;
use std::sync::Arc;

use anstyle::{AnsiColor, Style};

use super::problems::{Problem, TextSpan};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration can't be used.
    Error,
    /// It can be used, but is probably not meant so.
    Warning,
}

/// A text and where its lines begin, found once for all places.
pub(super) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let starts = memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1);
        // A byte order mark is no part of the first line.
        let first = if text.starts_with('\u{feff}') { 3 } else { 0 };
        Self {
            text,
            starts: std::iter::once(first).chain(starts).collect(),
        }
    }
}

/// A place in the text, with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Position {
    /// From 1.
    line: usize,
    /// In characters, from 1.
    column: usize,
    /// The line, fit to be shown.
    shown: String,
    /// Where the caret begins under `shown`.
    indent: usize,
    /// How many carets; at least 1.
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

/// The nearest character boundary at or before `at`, inside the text.
fn boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The line with tabs widened, control characters replaced and, if it is long, only the part around the caret.
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

/// One thing that is wrong, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    severity: Severity,
    message: String,
    file: Arc<str>,
    /// `None`: of the file as a whole.
    place: Option<Position>,
    also: Option<Position>,
    help: Option<String>,
}

impl Diagnostic {
    /// A problem of which the place is known now.
    pub(super) fn new(lines: &Lines<'_>, file: &Arc<str>, problem: Problem) -> Self {
        Self {
            severity: problem.severity,
            message: problem.message,
            file: Arc::clone(file),
            place: Some(Position::new(lines, problem.span, problem.label)),
            also: problem
                .also
                .map(|(span, label)| Position::new(lines, span, label)),
            help: problem.help,
        }
    }

    /// An error of a file as a whole: it can't be read.
    pub(super) fn of_file(file: &str, message: String, help: Option<String>) -> Self {
        Self {
            severity: Severity::Error,
            message,
            file: file.into(),
            place: None,
            also: None,
            help,
        }
    }

    /// An error at a place.
    pub(super) fn at(text: &str, file: &str, span: TextSpan, message: &str) -> Self {
        Self {
            place: Some(Position::new(&Lines::new(text), span, String::new())),
            ..Self::of_file(file, message.to_owned(), None)
        }
    }

    /// As a warning.
    pub fn into_warning(self) -> Self {
        Self {
            severity: Severity::Warning,
            ..self
        }
    }

    /// With a label beside the caret.
    pub(super) fn labelled(mut self, label: &str) -> Self {
        if let Some(place) = &mut self.place {
            label.clone_into(&mut place.label);
        }
        self
    }

    /// With what to do.
    pub(super) fn helped(mut self, help: &str) -> Self {
        self.help = Some(help.to_owned());
        self
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do, if there is something to say.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The file that it is about, as it was named.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// What stands beside the caret: mostly the cause, or what was expected.
    pub fn cause(&self) -> Option<&str> {
        let label = self.place.as_ref().map(|p| p.label.as_str());
        label.filter(|label| !label.is_empty())
    }

    /// The second place that has to do with it: line, column and what it is.
    pub fn also(&self) -> Option<(usize, usize, &str)> {
        let also = self.also.as_ref();
        also.map(|p| (p.line, p.column, p.label.as_str()))
    }

    /// Line and column (in characters), both from 1; `None` for an error of the file as a whole.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.place.as_ref().map(|p| (p.line, p.column))
    }

    /// `file:line:column: message`, one line.
    pub fn summary(&self) -> String {
        match self.position() {
            Some((line, column)) => format!("{}:{line}:{column}: {}", self.file, self.message),
            None => format!("{}: {}", self.file, self.message),
        }
    }

    /// Some lines: the message, the place, the line with a caret, the help.
    pub fn rendered(&self, color: bool) -> String {
        let mut out = String::new();
        self.render(&mut out, color)
            .expect("a String takes everything");
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
        let gutter = [&self.place, &self.also]
            .into_iter()
            .flatten()
            .map(|p| p.line.to_string().len())
            .max()
            .unwrap_or(1);
        match &self.place {
            Some(place) => {
                let (line, column) = (place.line, place.column);
                writeln!(
                    out,
                    "{:gutter$}{faint}-->{faint:#} {}:{line}:{column}",
                    "", self.file
                )?;
                place.render(out, gutter, '^', faint, strong)?;
            }
            None => writeln!(out, "{:gutter$}{faint}-->{faint:#} {}", "", self.file)?,
        }
        if let Some(place) = &self.also {
            let (line, column) = (place.line, place.column);
            writeln!(
                out,
                "{:gutter$}{faint}:::{faint:#} {}:{line}:{column}",
                "", self.file
            )?;
            place.render(out, gutter, '-', faint, faint)?;
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
    /// [`Diagnostic::rendered`] without colour.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.render(f, false)
    }
}
