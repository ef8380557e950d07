//! `cutover pause|resume|promote|abort|approve|retry SERVICE`: change the course of a rollout.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::author::person;
use super::error::CommandError;
use super::proxy::{Proxy, ProxyError};
use super::proxy_address::ProxyAddress;
use super::{CommandResult, Json, block_on};
use crate::admin::rollout::RolloutStatus;
use crate::rollout::machine::OperatorCommand;

/// Exit code if no proxy answers.
const NO_PROXY: u8 = 3;

/// Time limit for a command. `promote` may wait for a hook, and edits the file.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The arguments of a command on a rollout.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  done\n  1  refused, the rollout is unchanged\n  3  no proxy answers"
)]
pub(super) struct RolloutArgs {
    /// Name of the service
    service: String,
    #[command(flatten)]
    json: Json,
}

impl RolloutArgs {
    pub(super) fn run(&self, command: OperatorCommand, address: &ProxyAddress) -> CommandResult {
        block_on(self.send(command, address))?
    }

    async fn send(&self, command: OperatorCommand, address: &ProxyAddress) -> CommandResult {
        let found = Proxy::find(address).await;
        let (proxy, _) = found.map_err(|error| match error {
            ProxyError::Unreachable(fault) => fault.exit(NO_PROXY),
            ProxyError::Failed(fault) => fault,
        })?;
        let path = format!("/api/v1/services/{}/rollout/{command}", self.service);
        let body = json!({ "by": person() });
        let status: RolloutStatus = proxy.post_within(&path, &body, TIMEOUT).await?;
        match self.json.json {
            true => anstream::println!(
                "{}",
                serde_json::to_string_pretty(&status)
                    .map_err(|error| CommandError::new(error.to_string()))?
            ),
            false => anstream::println!("{}: {}", self.service, summary(&status)),
        }
        Ok(0)
    }
}

/// A rollout in one line: `v2 (1.1.0) step 2 of 5 at 5%, 3m of 10m`, `v2 rolled-back: errors x1.5 …`.
pub(super) fn summary(status: &RolloutStatus) -> String {
    let mut text = status.subject();
    if let Some(label) = &status.label {
        text += &format!(" ({label})");
    }
    text += &format!(" {}", status.state);
    if status.step > 0 {
        text += &format!(", step {} of {}", status.step, status.steps);
    }
    text += &format!(" at {}", status.share);
    let seconds = |s: f64| humantime::format_duration(Duration::from_secs(s.max(0.0) as u64));
    if let (Some(hold), "step" | "held" | "paused") = (status.hold_s, &*status.state) {
        text += &format!(", {} of {}", seconds(status.held_s), seconds(hold));
    }
    if let Some(reason) = &status.reason {
        text += &format!(": {reason}");
    }
    text
}
