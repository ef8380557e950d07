//! `cutover fleet status`: shows the fleet that the running proxy belongs to.

use clap::{Args, ValueEnum};

use super::error::CommandError;
use super::fleet_view::shown;
use super::proxy::{Proxy, ProxyError};
use super::proxy_address::ProxyAddress;
use super::{CommandResult, Json, block_on};

/// Exit code if the proxy is cut off from its fleet.
const ALONE: u8 = 2;
/// Exit code if no proxy answers.
const NO_PROXY: u8 = 3;

/// The arguments of `cutover fleet`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  connected to etcd\n  1  the proxy belongs to no fleet\n  2  alone: etcd doesn't answer\n  3  no proxy answers"
)]
pub(super) struct FleetArgs {
    /// What to do
    action: FleetAction,
    #[command(flatten)]
    json: Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FleetAction {
    /// Show the members of the fleet, as the running proxy sees them
    Status,
}

impl FleetArgs {
    pub(super) fn run(&self, address: &ProxyAddress) -> CommandResult {
        match self.action {
            FleetAction::Status => block_on(self.status(address))?,
        }
    }

    async fn status(&self, address: &ProxyAddress) -> CommandResult {
        let found = Proxy::find(address).await;
        let (_, status) = found.map_err(|error| match error {
            ProxyError::Unreachable(fault) => fault.exit(NO_PROXY),
            ProxyError::Failed(fault) => fault,
        })?;
        let none = || {
            CommandError::new("this proxy belongs to no fleet")
                .with("write `[fleet]` with `etcd` and `name` into its configuration")
        };
        let fleet = status.fleet.ok_or_else(none)?;
        match self.json.json {
            true => {
                let text = serde_json::to_string_pretty(&fleet);
                let text = text.map_err(|error| CommandError::new(error.to_string()))?;
                anstream::println!("{text}");
            }
            false => anstream::print!("{}", shown(&fleet)),
        }
        Ok(if fleet.connected { 0 } else { ALONE })
    }
}
