//! `cutover reload`: makes the running proxy read its configuration file, and waits for the result.
//!
//! The admin API answers with the generation that was published, or with the diagnostics of a rejected file. The command
//! returns when every worker has adopted that generation.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Deserialize;

use super::edit::{find, held_back};
use super::error::CommandError;
use super::proxy::Proxy;
use super::proxy_address::ProxyAddress;
use super::{CommandResult, block_on};
use crate::admin::status::ProxyStatus;

/// Time limit for the proxy to read the file and adopt it. Reading can be delayed by DNS lookups of new endpoints, by a
/// writer that has not finished the file, and by a takeover in progress.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Interval between two requests for the status while waiting.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Reloads the configuration file and the certificates of the running proxy.
#[derive(Debug, Args)]
#[command(
    after_help = "The proxy also reloads a saved file by itself.\n\nExit codes:\n  0  every worker runs the current file\n  1  the file was rejected, the previous configuration stays in use\n  3  no proxy answers"
)]
pub(crate) struct ReloadArgs {}

/// The answer to `POST /api/v1/reload`.
#[derive(Debug, Deserialize)]
struct Reloaded {
    generation: u64,
}

impl ReloadArgs {
    pub(crate) fn run(&self, address: &ProxyAddress) -> CommandResult {
        block_on(reload(address))?
    }
}

async fn reload(address: &ProxyAddress) -> CommandResult {
    let began = Instant::now();
    let (mut proxy, mut before) = find(address).await?;
    let generation = loop {
        match proxy
            .post_within::<Reloaded>("/api/v1/reload", &(), TIMEOUT)
            .await
        {
            Ok(reloaded) => break reloaded.generation,
            Err(error) => {
                // A process that is being taken over no longer reads the file, and rejects the request. Ask its successor, which
                // has read the file at its start.
                let former = before.pid;
                (proxy, before) = match find(address).await {
                    Ok(found) if found.1.pid != former => found,
                    _ => return Err(CommandError::from(error)),
                };
            }
        }
    };
    let status = adopted(&proxy, generation, began).await?;
    let generation = status.generation;
    if status.config.hash == before.config.hash {
        anstream::println!("unchanged: generation {generation} runs on every worker");
    } else {
        anstream::println!("adopted: generation {generation} runs on every worker");
    }
    for service in status.services.iter().filter(|s| !s.awaiting.is_empty()) {
        anstream::println!("{}: {}", service.name, held_back(&service.awaiting));
    }
    Ok(0)
}

/// Waits until every worker has adopted `generation` or a later one, and returns the status of that moment.
async fn adopted(
    proxy: &Proxy,
    generation: u64,
    began: Instant,
) -> Result<ProxyStatus, CommandError> {
    loop {
        let status = proxy.status().await?;
        if status.adopted >= generation {
            return Ok(status);
        }
        if began.elapsed() > TIMEOUT {
            return Err(CommandError::new(format!(
                "generation {generation} is published, but not adopted by every worker after {TIMEOUT:?}"
            )));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
