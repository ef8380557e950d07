//! Diagnostics: a problem with its position, what was expected there, and advice.
//!
//! A [`Diagnostic`] is rendered in the style of rustc, with the line, a caret under the faulty part and a help line. It
//! owns the lines that it shows, so it outlives the text.

use std::fmt;
use std::sync::Arc;

use anstyle::{AnsiColor, Style};

use super::bundle::FilePart;
use super::masking;
use super::position::{Position, SourceLines};
pub use super::problem::Severity;
use super::problem::{Problem, TextSpan};

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
    /// Resolves the spans of a problem to files, lines and columns.
    pub(super) fn new(sources: &SourceLines<'_>, problem: Problem) -> Self {
        let at = problem.span.start;
        let label = masking::without_passwords(&problem.label);
        let position = sources.position(problem.span, label);
        let also = problem.also;
        // A remedy for a syntax error repeats what is written there.
        let help = problem.help.filter(|help| !sources.reveals(at, help));
        Self {
            severity: problem.severity,
            message: masking::without_passwords(&problem.message),
            file: position.file.clone(),
            position: Some(position),
            also: also.map(|(span, label)| sources.position(span, label)),
            help: help.map(|help| masking::without_passwords(&help)),
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

    /// Creates an error at a span of a text, whose first file is `main`.
    pub(super) fn at(parts: &[FilePart<'_>], main: &str, span: TextSpan, message: &str) -> Self {
        let position = SourceLines::new(parts, main).position(span, String::new());
        Self {
            file: position.file.clone(),
            position: Some(position),
            ..Self::of_file(main, message.to_owned(), None)
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

    /// Returns the problem, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the advice, if there is any. May have several lines.
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

    /// Returns the path of the file that holds the related position; it may be another one.
    pub fn also_file(&self) -> Option<&str> {
        self.also.as_ref().map(|p| &*p.file)
    }

    /// Returns line and column (in characters), both counted from 1, or `None` if it is about the file as a whole.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.position.as_ref().map(|p| (p.line, p.column))
    }

    /// The order in which diagnostics are shown: by file, and then by position.
    pub fn in_order(&self, other: &Self) -> std::cmp::Ordering {
        (&self.file, self.position()).cmp(&(&other.file, other.position()))
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
                "", position.file
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

impl fmt::Display for Diagnostic {
    /// Writes the same as [`Diagnostic::rendered`] without colour.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.render(f, false)
    }
}
