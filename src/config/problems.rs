//! Collects errors and warnings while a configuration is read, so that one run reports all of them.
//!
//! A [`Problem`] refers to byte offsets. [`Problems::finish`] sorts them, drops those that merely follow from others, and
//! turns the rest into [`Diagnostic`]s with lines and columns.

use super::bundle::FilePart;
use super::diagnostic::Diagnostic;
use super::position::SourceLines;
pub(super) use super::problem::{Problem, Severity, TextSpan};

/// All problems that were found in a text.
///
/// Reading goes on after an error, with a default in place of what is wrong, so that one run reports everything. Code that adds a
/// problem must expect that the cause is an earlier one; `broken` and `forgotten` suppress those that would only follow from it.
#[derive(Debug, Default)]
pub(super) struct Problems {
    list: Vec<Problem>,
    /// Spans that aren't valid TOML. Further problems in them are noise.
    broken: Vec<TextSpan>,
    /// Keys whose absence follows from another problem: the path of the table and the key.
    forgotten: Vec<(String, &'static str)>,
}

impl Problems {
    /// Adds an error.
    pub(super) fn error(&mut self, span: TextSpan, message: impl Into<String>) -> &mut Problem {
        self.add(Severity::Error, span, message.into())
    }

    /// Adds a warning.
    pub(super) fn warning(&mut self, span: TextSpan, message: impl Into<String>) -> &mut Problem {
        self.add(Severity::Warning, span, message.into())
    }

    fn add(&mut self, severity: Severity, span: TextSpan, message: String) -> &mut Problem {
        self.list.push(Problem {
            severity,
            message,
            span,
            label: String::new(),
            also: None,
            help: None,
            absence: false,
            missing: None,
        });
        // The element was pushed by the statement before.
        self.list.last_mut().expect("just pushed")
    }

    /// Marks a span as invalid TOML. [`Problems::forget_consequences`] then drops problems in it and absences anywhere.
    pub(super) fn broken(&mut self, span: TextSpan) {
        self.broken.push(span);
    }

    /// Adds the problems of a file that begins at this offset.
    pub(super) fn append(&mut self, file: Self, start: usize) {
        let moved = |span: TextSpan| span.start + start..span.end + start;
        self.list.extend(file.list.into_iter().map(|p| Problem {
            span: moved(p.span),
            also: p.also.map(|(span, label)| (moved(span), label)),
            ..p
        }));
        self.broken.extend(file.broken.into_iter().map(moved));
        self.forgotten.extend(file.forgotten);
    }

    /// Returns errors and warnings separately, each in text order.
    pub(super) fn finish(
        self,
        parts: &[FilePart<'_>],
        main: &str,
    ) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        let (mut list, forgotten) = (self.list, self.forgotten);
        list.retain(|p| {
            !p.missing
                .as_ref()
                .is_some_and(|key| forgotten.contains(key))
        });
        list.sort_by_key(|p| p.span.start);
        let sources = SourceLines::new(parts, main);
        list.into_iter()
            .map(|p| Diagnostic::new(&sources, p))
            .partition(|d| d.severity() == Severity::Error)
    }

    /// Drops problems that may only follow from invalid TOML. The problems before index `from`, the syntax errors themselves, stay.
    pub(super) fn forget_consequences(&mut self, from: usize) {
        if self.broken.is_empty() {
            return;
        }
        let broken = std::mem::take(&mut self.broken);
        let mut index = 0;
        self.list.retain(|p| {
            index += 1;
            index <= from
                || !(p.absence
                    || broken
                        .iter()
                        .any(|b| b.start <= p.span.start && p.span.start <= b.end))
        });
    }

    /// Suppresses the report, earlier or later, that this key is missing: it was found under a wrong name or in another
    /// table, which is reported instead.
    pub(super) fn forget_missing(&mut self, path: &str, key: &'static str) {
        self.forgotten.push((path.to_owned(), key));
    }

    /// Returns the number of problems so far.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }
}
