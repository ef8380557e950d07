//! `cutover run`: runs the proxy in the foreground.

use clap::Args;

use super::CommandResult;
use super::error::CommandError;
use super::proxy_address::ProxyAddress;
use crate::control;

/// Runs the proxy until a signal or a successor stops it.
#[derive(Debug, Args)]
#[command(
    after_help = "Signals:\n  SIGHUP           reload the configuration file\n  SIGTERM, SIGINT  finish requests in flight and exit with 0"
)]
pub(super) struct RunArgs {
    /// Take over the sockets of the proxy that runs with this configuration; it finishes its requests and exits
    #[arg(long)]
    takeover: bool,
    /// Exit when the parent process exits
    #[arg(long, hide = true)]
    with_parent: bool,
}

impl RunArgs {
    pub(super) fn run(&self, address: &ProxyAddress) -> CommandResult {
        if self.with_parent {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
                .map_err(|e| CommandError::new(format!("can't watch the parent process: {e}")))?;
        }
        let file = address.file()?;
        let options = control::Options {
            config: file,
            takeover: self.takeover,
        };
        control::run(&options).map_err(|error| CommandError::new(error.to_string()))?;
        Ok(0)
    }
}
