//! One error or warning, at a range of bytes.

use std::ops::Range;

/// Severity of a diagnostic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration can't be used.
    Error,
    /// The configuration can be used, but is probably not what was intended.
    Warning,
}

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
    /// Whether the problem is that something is missing. Unreliable if parts of the text couldn't be parsed: it may be in one of
    /// them.
    pub(super) absence: bool,
    /// The path of the table and the key that is missing in it.
    pub(super) missing: Option<(String, &'static str)>,
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
