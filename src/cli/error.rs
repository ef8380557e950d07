//! The error that a command prints when it fails.

use std::fmt;

use anstyle::{AnsiColor, Style};

/// A message of one line, more lines of detail, and an exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommandError {
    /// The failure, in one line, without a full stop.
    pub message: String,
    /// Further lines, printed indented: the findings, and advice.
    pub detail: Vec<String>,
    /// Exit code of the process, 1 by default.
    pub code: u8,
}

impl CommandError {
    /// Creates an error with exit code 1. Lines after the first become detail.
    pub(super) fn new(message: impl Into<String>) -> Self {
        let message = message.into();
        let mut lines = message.lines().map(str::to_owned);
        Self {
            message: lines.next().unwrap_or_default(),
            detail: lines.collect(),
            code: 1,
        }
    }

    /// Adds a line of detail.
    pub(super) fn with(mut self, line: impl Into<String>) -> Self {
        self.detail.push(line.into());
        self
    }

    /// Sets the exit code.
    pub(super) fn exit(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        // A rendered diagnostic already starts with `error:`.
        if self.message.starts_with("error:") {
            writeln!(f, "{}", self.message)?;
        } else {
            writeln!(f, "{red}error{red:#}: {}", self.message)?;
        }
        self.detail.iter().try_for_each(|line| {
            if line.is_empty() {
                writeln!(f)
            } else {
                writeln!(f, "  {line}")
            }
        })
    }
}
