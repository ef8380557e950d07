//! `cutover run`

use clap::Args;

use super::CommandResult;
use super::fault::CommandError;
use super::proxy_address::ProxyAddress;
use crate::control;

/// Runs the proxy until it is told to stop.
#[derive(Debug, Args)]
#[command(
    after_help = "SIGHUP reads the file again; SIGTERM and SIGINT finish what is in flight and end with 0."
)]
pub(super) struct RunArgs {
    /// Take the sockets and the traffic of the proxy that runs by the same file; it finishes what it has and ends
    #[arg(long)]
    takeover: bool,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    with_parent: bool,
}

impl RunArgs {
    pub(super) fn run(&self, place: &ProxyAddress) -> CommandResult {
        if self.with_parent {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
                .map_err(|e| CommandError::new(format!("can't be tied to the parent: {e}")))?;
        }
        let file = place.file()?;
        let options = control::Options {
            config: file,
            takeover: self.takeover,
        };
        control::run(&options).map_err(|error| CommandError::new(error.to_string()))?;
        Ok(0)
    }
}
