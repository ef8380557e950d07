//! `cutover fleet status|init`: shows the fleet that the running proxy belongs to, and gives it tables to share.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::error::CommandError;
use super::fleet_init::init;
use super::fleet_view::{shown, shown_rollouts};
use super::proxy::{Proxy, ProxyError};
use super::proxy_address::ProxyAddress;
use super::{CommandResult, Json, block_on};
use crate::admin::fleet::FleetStatus;
use crate::admin::rollout::SharedStatus;
use crate::admin::status::ServiceStatus;

/// Exit code if the proxy is cut off from its fleet.
const ALONE: u8 = 2;
/// Exit code if no proxy answers.
const NO_PROXY: u8 = 3;

/// The arguments of `cutover fleet`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  connected to etcd; with `init`, written\n  1  the proxy belongs to no fleet; with `init`, not written\n  2  alone: etcd doesn't answer\n  3  no proxy answers"
)]
pub(super) struct FleetArgs {
    /// What to do
    action: FleetAction,
    /// With `init`: replace the tables that the fleet has
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    json: Json,
}

/// The document that `--json` prints.
#[derive(Serialize)]
struct FleetJson<'a> {
    #[serde(flatten)]
    fleet: &'a FleetStatus,
    /// The shared rollouts, by service.
    rollouts: BTreeMap<&'a str, &'a SharedStatus>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FleetAction {
    /// Show the members of the fleet, as the running proxy sees them
    Status,
    /// Put the tables of the file that `fleet.share` names into etcd, for all members
    Init,
}

impl FleetArgs {
    pub(super) fn run(&self, address: &ProxyAddress) -> CommandResult {
        match self.action {
            FleetAction::Status => block_on(self.status(address))?,
            FleetAction::Init => block_on(init(&address.file()?, self.force))?,
        }
    }

    async fn status(&self, address: &ProxyAddress) -> CommandResult {
        let found = Proxy::find(address).await;
        let (_, status) = found.map_err(|error| match error {
            ProxyError::Unreachable(fault) => fault.exit(NO_PROXY),
            ProxyError::Failed(fault) => fault,
        })?;
        let rollouts = rollouts(&status.services);
        let none = || {
            CommandError::new("this proxy belongs to no fleet")
                .with("write `[fleet]` with `etcd` and `name` into its configuration")
        };
        let fleet = status.fleet.ok_or_else(none)?;
        match self.json.json {
            true => {
                let text = serde_json::to_string_pretty(&FleetJson {
                    fleet: &fleet,
                    rollouts: rollouts.iter().copied().collect(),
                });
                let text = text.map_err(|error| CommandError::new(error.to_string()))?;
                anstream::println!("{text}");
            }
            false => {
                let (fleet, rollouts) = (shown(&fleet), shown_rollouts(&rollouts));
                anstream::print!("{fleet}{rollouts}");
            }
        }
        Ok(if fleet.connected { 0 } else { ALONE })
    }
}

/// The rollouts that the fleet shares.
fn rollouts(services: &[ServiceStatus]) -> Vec<(&str, &SharedStatus)> {
    let shared = services.iter().filter_map(|service| {
        let fleet = service.rollout.as_ref()?.fleet.as_ref()?;
        Some((service.name.as_str(), fleet))
    });
    shared.collect()
}
