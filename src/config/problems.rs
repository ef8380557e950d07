//! Collects errors and warnings while a configuration is read, so that one run reports all of them.
//!
//! A [`Problem`] refers to byte offsets. [`Problems::finish`] sorts them, drops those that merely follow from others, and
//! turns the rest into [`Diagnostic`]s with lines and columns.

use std::ops::Range;
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Lines, Severity};

/// A range of byte offsets in the text.
pub(super) type TextSpan = Range<usize>;

/// An error or warning at a byte range of the text.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) severity: Severity,
    pub(super) message: String,
    pub(super) span: TextSpan,
    pub(super) label: String,
    pub(super) also: Option<(TextSpan, String)>,
    pub(super) help: Option<String>,
    /// Whether something is missing. Unreliable if parts of the text couldn't be parsed: it may be in one of them.
    absence: bool,
    /// The path of the table and the key that is missing in it.
    missing: Option<(String, &'static str)>,
}

impl Problem {
    /// Sets the label beside the caret, which usually says what was expected.
    pub(super) fn label(&mut self, label: impl Into<String>) -> &mut Self {
        self.label = label.into();
        self
    }

    /// Sets the help line, which says what to do.
    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Adds a second, related position.
    pub(super) fn also(&mut self, span: TextSpan, label: impl Into<String>) -> &mut Self {
        self.also = Some((span, label.into()));
        self
    }

    /// Marks the problem as the absence of this key in the table at `path`.
    pub(super) fn missing(&mut self, path: &str, key: &'static str) -> &mut Self {
        self.missing = Some((path.to_owned(), key));
        self.absence()
    }

    /// Marks the problem as an absence, or as a possible consequence of one.
    pub(super) fn absence(&mut self) -> &mut Self {
        self.absence = true;
        self
    }
}

/// All problems that were found in a text.
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

    /// Returns errors and warnings separately, each in text order.
    pub(super) fn finish(self, text: &str, file: &str) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        let file: Arc<str> = file.into();
        let (mut list, forgotten) = (self.list, self.forgotten);
        list.retain(|p| {
            !p.missing
                .as_ref()
                .is_some_and(|key| forgotten.contains(key))
        });
        list.sort_by_key(|p| p.span.start);
        let lines = Lines::new(text);
        list.into_iter()
            .map(|p| Diagnostic::new(&lines, &file, p))
            .partition(|d| d.severity() == Severity::Error)
    }

    /// Drops problems that may only follow from invalid TOML. Those before index `from`, the syntax errors themselves, stay.
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
