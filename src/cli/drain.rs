//! `cutover drain SERVICE [VERSION [ENDPOINT]]`

use std::time::{Duration, Instant};

use clap::Args;

use super::fault::CommandError;
use super::proxy::Proxy;
use super::proxy_address::ProxyAddress;
use super::{CommandResult, block_on};
use crate::admin::drain::{DrainTarget, Drained, Wanted};

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(100);

/// Between two lines about what is still in flight.
const TELL: Duration = Duration::from_secs(2);

/// Takes endpoints out of use; what is in flight on them is finished.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 drained (with --wait: nothing is in flight, it is safe to stop the endpoint), 1 not, or not in time."
)]
pub(super) struct DrainArgs {
    /// Service
    service: String,
    /// Only of this version
    version: Option<String>,
    /// Only this endpoint, as the file names it
    endpoint: Option<String>,
    /// Wait until nothing is in flight
    #[arg(short, long, conflicts_with = "undo")]
    wait: bool,
    /// Longest wait
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = super::time)]
    timeout: Duration,
    /// Use them again
    #[arg(long)]
    undo: bool,
    /// Drain even the last version that answers: its users get 503
    #[arg(short, long, conflicts_with = "undo")]
    force: bool,
}

impl DrainArgs {
    pub(super) fn run(&self, place: &ProxyAddress) -> CommandResult {
        block_on(self.drain(place))?
    }

    async fn drain(&self, place: &ProxyAddress) -> CommandResult {
        let (proxy, _) = Proxy::find(place).await?;
        let path = format!("/api/v1/services/{}/drain", self.service);
        let wanted = Wanted {
            version: self.version.clone(),
            endpoint: self.endpoint.clone(),
            undo: self.undo,
            force: self.force,
        };
        let began = Instant::now();
        let (mut told, mut calm) = (None::<Instant>, false);
        loop {
            // Saying it again changes nothing, and shows what is left.
            let now: Drained = proxy.post(&path, &wanted).await?;
            let left = busy(&now);
            if !self.wait {
                let said = if self.undo { "used again" } else { "drained" };
                anstream::println!("{said}: {} endpoints{left}", now.endpoints.len());
                return Ok(0);
            }
            if left.is_empty() && calm {
                anstream::println!(
                    "nothing is in flight on {} endpoints: safe to stop",
                    now.endpoints.len()
                );
                return Ok(0);
            }
            // Looked at twice: a request may have chosen its endpoint a moment before the drain.
            calm = left.is_empty();
            if !calm && began.elapsed() >= self.timeout {
                return Err(CommandError::new(format!(
                    "after {} still in flight{left}",
                    humantime::format_duration(self.timeout)
                ))
                .with("they stay drained; `--undo` uses them again"));
            }
            if !calm && told.is_none_or(|told| told.elapsed() >= TELL) {
                told = Some(Instant::now());
                anstream::eprintln!("in flight{left}");
            }
            tokio::time::sleep(GLANCE).await;
        }
    }
}

/// `: v1 10.0.0.1:80 2 requests, 1 stream; …`: where something is in flight.
fn busy(now: &Drained) -> String {
    let busy = |e: &DrainTarget| {
        let kinds = [(e.requests, "request"), (e.streams, "stream")];
        let kinds = kinds.into_iter().filter(|(n, _)| *n > 0);
        let kinds: Vec<String> = kinds.map(|(n, what)| counted(n, what)).collect();
        (!kinds.is_empty()).then(|| format!("{} {} {}", e.version, e.address, kinds.join(", ")))
    };
    let each: Vec<String> = now.endpoints.iter().filter_map(busy).collect();
    if each.is_empty() {
        return String::new();
    }
    format!(": {}", each.join("; "))
}

/// `1 stream`, `2 streams`
pub(super) fn counted(n: u32, what: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {what}{s}")
}
