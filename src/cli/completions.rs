//! `cutover completions SHELL`: prints a completion script.

use std::io::Write as _;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::error::CommandError;
use super::{CommandResult, Cutover};

/// Prints a completion script.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// Shell to complete for
    shell: Shell,
}

impl CompletionsArgs {
    pub(super) fn run(&self) -> CommandResult {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cutover::command(), "cutover", &mut script);
        let written = std::io::stdout().lock().write_all(&script);
        written.map_err(|error| CommandError::new(format!("can't write the script: {error}")))?;
        Ok(0)
    }
}
