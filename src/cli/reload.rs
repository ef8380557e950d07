//! `cutover reload`

use std::time::{Duration, Instant};

use clap::Args;
use serde::Deserialize;

use super::fault::CommandError;
use super::proxy::{Proxy, Silence};
use super::proxy_address::ProxyAddress;
use super::{CommandResult, block_on};
use crate::admin::status::ProxyStatus;

/// Longest time for the proxy to read the file and to adopt it. It waits for names of new endpoints, for a writer that is
/// still at the file, and for a takeover under way.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(5);

/// Exit code when no proxy answers.
const NO_PROXY: u8 = 3;

/// Makes the running proxy read its file and its certificates again.
#[derive(Debug, Args)]
#[command(
    after_help = "A saved file is adopted without this, too. Exit codes: 0 the file as it is now runs on every worker,\n1 it was rejected and the old configuration runs on, 3 no proxy answers."
)]
pub(crate) struct Reload {}

/// The answer to `POST /api/v1/reload`.
#[derive(Debug, Deserialize)]
struct Reloaded {
    generation: u64,
}

impl Reload {
    pub(crate) fn run(&self, place: &ProxyAddress) -> CommandResult {
        block_on(reload(place))?
    }
}

async fn reload(place: &ProxyAddress) -> CommandResult {
    let began = Instant::now();
    let (mut proxy, mut before) = find(place).await?;
    let generation = loop {
        match proxy
            .post_within::<Reloaded>("/api/v1/reload", &(), PATIENCE)
            .await
        {
            Ok(reloaded) => break reloaded.generation,
            Err(silence) => {
                // A process that is being taken over from doesn't read the file any more. Its successor has read it, or will.
                let former = before.pid;
                (proxy, before) = match find(place).await {
                    Ok(found) if found.1.pid != former => found,
                    _ => return Err(CommandError::from(silence)),
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
        let versions = service.awaiting.join(", ");
        anstream::println!(
            "{}: the old split stays until an endpoint of {versions} passes its check",
            service.name
        );
    }
    Ok(0)
}

async fn find(place: &ProxyAddress) -> Result<(Proxy, ProxyStatus), CommandError> {
    Proxy::find(place).await.map_err(|silence| match silence {
        Silence::Nobody(fault) => fault.exit(NO_PROXY),
        Silence::Trouble(fault) => fault,
    })
}

/// Waits until every worker has adopted `generation` or a later one.
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
        if began.elapsed() > PATIENCE {
            return Err(CommandError::new(format!(
                "generation {generation} is published, but a worker has not adopted it after {PATIENCE:?}"
            )));
        }
        tokio::time::sleep(GLANCE).await;
    }
}
