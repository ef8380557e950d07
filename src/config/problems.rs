//! What is wrong, collected while reading: one run finds everything.

use std::ops::Range;
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Lines, Severity};

/// Bytes of the text.
pub(super) type TextSpan = Range<usize>;

/// Something wrong, before lines are counted.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) severity: Severity,
    pub(super) message: String,
    pub(super) span: TextSpan,
    pub(super) label: String,
    pub(super) also: Option<(TextSpan, String)>,
    pub(super) help: Option<String>,
    /// It is something missing: not to be trusted where the text around it couldn't be read.
    absence: bool,
    /// The table and the key that is missing in it.
    missing: Option<(String, &'static str)>,
}

impl Problem {
    /// What stands beside the caret: mostly what was expected.
    pub(super) fn label(&mut self, label: impl Into<String>) -> &mut Self {
        self.label = label.into();
        self
    }

    /// What to do.
    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// A second place that has to do with it.
    pub(super) fn also(&mut self, span: TextSpan, label: impl Into<String>) -> &mut Self {
        self.also = Some((span, label.into()));
        self
    }

    /// Marks it as the absence of this key in the table at `path`.
    pub(super) fn missing(&mut self, path: &str, key: &'static str) -> &mut Self {
        self.missing = Some((path.to_owned(), key));
        self.absence()
    }

    /// Marks it as something missing, or something that only what is missing may have caused.
    pub(super) fn absence(&mut self) -> &mut Self {
        self.absence = true;
        self
    }
}

/// Everything that is wrong with a text.
#[derive(Debug, Default)]
pub(super) struct Problems {
    list: Vec<Problem>,
    /// Where the text isn't TOML: what is said of these bytes besides is noise.
    broken: Vec<TextSpan>,
    /// Keys that are missing only because of something else that is said.
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
        self.list.last_mut().expect("just pushed")
    }

    /// From now on, problems inside `span` and absences anywhere are not worth saying.
    pub(super) fn broken(&mut self, span: TextSpan) {
        self.broken.push(span);
    }

    /// Errors and warnings in the order of the text.
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

    /// Drops what only follows from the broken places; `from` is the first problem that may.
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

    /// That this key is missing, said before or after this, is not worth saying: it is there under another name, or in
    /// another table, and something is said about that.
    pub(super) fn forget_missing(&mut self, path: &str, key: &'static str) {
        self.forgotten.push((path.to_owned(), key));
    }

    /// How many there are so far.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }
}
