//! Why a command could not do its work.

use std::fmt;

use anstyle::{AnsiColor, Style};

/// One line, detail under it, and the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommandError {
    /// What is wrong, in one line, without a full stop.
    pub message: String,
    /// More lines: what was found, what to do.
    pub detail: Vec<String>,
    /// Of the process. 1 unless a command says otherwise.
    pub code: u8,
}

impl CommandError {
    /// A fault with exit code 1. Lines after the first become detail.
    pub(super) fn new(message: impl Into<String>) -> Self {
        let message = message.into();
        let mut lines = message.lines().map(str::to_owned);
        Self {
            message: lines.next().unwrap_or_default(),
            detail: lines.collect(),
            code: 1,
        }
    }

    /// With one more line of detail.
    pub(super) fn with(mut self, line: impl Into<String>) -> Self {
        self.detail.push(line.into());
        self
    }

    /// With another exit code.
    pub(super) fn exit(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        // A diagnostic begins with a word of its own.
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
