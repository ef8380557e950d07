//! `cutover undo [GENERATION]`: puts an earlier text of the configuration file back.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use clap::Args;

use super::edit::progress::Edit;
use super::edit::{FileSession, find, held_back, post};
use super::error::CommandError;
use super::history::when;
use super::proxy::Proxy;
use super::proxy_address::ProxyAddress;
use super::{CommandResult, block_on};
use crate::admin::writes::{UndoPlan, UndoReport, UndoRequest};
use crate::config::file_edit::FileEdit;
use crate::config::load;

const PATH: &str = "/api/v1/undo";

/// Takes back the last change of the configuration file, or goes back to a generation of `cutover history`.
#[derive(Debug, Args)]
#[command(
    after_help = "An undo is a change like any other: a second one takes back the first. With a generation the command shows what would change and asks.\n\nExit codes:\n  0  the earlier text runs on every worker\n  1  refused, for example because the file has changed since it was adopted\n  3  no proxy answers, the file was not changed"
)]
pub(super) struct UndoArgs {
    /// Go back to the text of this generation instead of taking back the last change
    generation: Option<u64>,
    /// Don't ask
    #[arg(short, long)]
    yes: bool,
}

impl UndoArgs {
    pub(super) fn run(&self, address: &ProxyAddress) -> CommandResult {
        block_on(self.undo(address))?
    }

    async fn undo(&self, address: &ProxyAddress) -> CommandResult {
        let (proxy, _) = find(address).await?;
        let request = UndoRequest {
            generation: self.generation,
            running: None,
            plan: true,
        };
        let plan: UndoPlan = proxy.post(PATH, &request).await?;
        let summary = format!("generation {} of {}", plan.generation, when(&plan.at));
        if load::hash(plan.text.as_bytes()) == plan.running {
            anstream::println!("nothing to undo: the text of {summary} is running");
            return Ok(0);
        }
        for line in &plan.changes {
            anstream::println!("{}", line.text);
        }
        if plan.changes.is_empty() {
            anstream::println!("only comments or layout differ");
        }
        if let Some(generation) = self.generation
            && !self.yes
            && !confirmed(generation)?
        {
            return Err(CommandError::new("not undone"));
        }
        let line = match address.edits_through_api(None) {
            true => restore_remotely(address, plan, &summary).await?,
            false => restore(address, plan, &summary).await?,
        };
        anstream::println!("{line}");
        print_held(&proxy).await;
        Ok(0)
    }
}

async fn restore(
    address: &ProxyAddress,
    plan: UndoPlan,
    summary: &str,
) -> Result<String, CommandError> {
    let mut session = FileSession::begin(address, "undo").await?;
    let edit = FileEdit::Restore {
        text: plan.text,
        running: plan.running,
    };
    let edited = session.save(&edit).await?;
    let (_, line) = session
        .adopted(&edited, Edit::of_text, summary.to_owned())
        .await?;
    Ok(line)
}

async fn restore_remotely(
    address: &ProxyAddress,
    plan: UndoPlan,
    summary: &str,
) -> Result<String, CommandError> {
    let request = UndoRequest {
        generation: Some(plan.generation),
        running: Some(plan.running),
        plan: false,
    };
    let (_, report) = post::<UndoReport>(address, "undo", PATH, &request).await?;
    let generation = report.edit.generation;
    Ok(format!(
        "{summary}: live on every worker (generation {generation})"
    ))
}

/// Prints which services wait for the gate.
async fn print_held(proxy: &Proxy) {
    // The undo is done; a status that can't be read doesn't change that.
    let Ok(status) = proxy.status().await else {
        return;
    };
    for service in status.services.iter().filter(|s| !s.awaiting.is_empty()) {
        anstream::println!("{}: {}", service.name, held_back(&service.awaiting));
    }
}

/// Asks for confirmation on the terminal.
fn confirmed(generation: u64) -> Result<bool, CommandError> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(CommandError::new(format!(
            "going back to generation {generation} needs --yes where nobody can be asked"
        )));
    }
    anstream::eprint!("go back to generation {generation}? [y/N] ");
    // The question is complete without it.
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = input.lock().read_line(&mut answer);
    read.map_err(|error| CommandError::new(format!("can't read the answer: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
