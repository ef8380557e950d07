//! `cutover drain SERVICE [VERSION [ENDPOINT]]`: takes endpoints out of use, or puts them back with `--undo`.
//!
//! The admin API changes the endpoints at once and reports the work that is still in flight. With `--wait` the request is repeated
//! until nothing is in flight.

use std::fmt::Display;
use std::time::{Duration, Instant};

use clap::Args;

use super::error::CommandError;
use super::proxy::Proxy;
use super::proxy_address::ProxyAddress;
use super::{CommandResult, block_on};
use crate::admin::drain::{DrainReport, DrainRequest, DrainTarget};

/// Interval between two requests to the admin API while waiting.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Interval between two progress lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// Drains endpoints: they get no new requests, and requests in flight finish.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  drained; with --wait, nothing is in flight and the endpoints are safe to stop\n  1  refused, or still in flight after --timeout"
)]
pub(super) struct DrainArgs {
    /// Name of the service
    service: String,
    /// Drain only this version
    version: Option<String>,
    /// Drain only this endpoint, as the configuration names it
    endpoint: Option<String>,
    /// Wait until nothing is in flight
    #[arg(short, long, conflicts_with = "undo")]
    wait: bool,
    /// Give up --wait after this time
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = super::time)]
    timeout: Duration,
    /// Put the endpoints back in use
    #[arg(long)]
    undo: bool,
    /// Drain even if no endpoint of the service is left to answer: clients get 503
    #[arg(short, long, conflicts_with = "undo")]
    force: bool,
}

impl DrainArgs {
    pub(super) fn run(&self, address: &ProxyAddress) -> CommandResult {
        block_on(self.drain(address))?
    }

    async fn drain(&self, address: &ProxyAddress) -> CommandResult {
        let (proxy, _) = Proxy::find(address).await?;
        let path = format!("/api/v1/services/{}/drain", self.service);
        let request = DrainRequest {
            version: self.version.clone(),
            endpoint: self.endpoint.clone(),
            undo: self.undo,
            force: self.force,
        };
        let began = Instant::now();
        let (mut reported, mut was_idle) = (None::<Instant>, false);
        loop {
            // The request is idempotent: repeating it changes nothing and reports the remaining work.
            let report: DrainReport = proxy.post(&path, &request).await?;
            let endpoints = counted(report.endpoints.len(), "endpoint");
            let busy = in_flight(&report);
            if !self.wait {
                let outcome = if self.undo { "back in use" } else { "drained" };
                match &busy {
                    Some(busy) => anstream::println!("{outcome}: {endpoints}; in flight: {busy}"),
                    None => anstream::println!("{outcome}: {endpoints}"),
                }
                return Ok(0);
            }
            match busy {
                None if was_idle => {
                    anstream::println!("drained: {endpoints}; nothing in flight, safe to stop");
                    return Ok(0);
                }
                // One idle report is not enough: a worker may have chosen the endpoint just before the drain and not have
                // counted the request yet.
                None => was_idle = true,
                Some(busy) => {
                    was_idle = false;
                    if began.elapsed() >= self.timeout {
                        return Err(self.timed_out(&busy));
                    }
                    if reported.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL) {
                        reported = Some(Instant::now());
                        anstream::eprintln!("waiting, in flight: {busy}");
                    }
                }
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn timed_out(&self, busy: &str) -> CommandError {
        let timeout = humantime::format_duration(self.timeout);
        CommandError::new(format!("after {timeout} still in flight: {busy}"))
            .with("the endpoints stay drained; `--undo` puts them back in use")
    }
}

/// The requests and streams in flight by endpoint, as in `v1 10.0.0.1:80 2 requests, 1 stream; …`; `None` if there are none.
fn in_flight(report: &DrainReport) -> Option<String> {
    let busy = |e: &DrainTarget| {
        let kinds = [(e.requests, "request"), (e.streams, "stream")];
        let kinds = kinds.into_iter().filter(|(n, _)| *n > 0);
        let kinds: Vec<String> = kinds.map(|(n, what)| counted(n, what)).collect();
        (!kinds.is_empty()).then(|| format!("{} {} {}", e.version, e.address, kinds.join(", ")))
    };
    let each: Vec<String> = report.endpoints.iter().filter_map(busy).collect();
    (!each.is_empty()).then(|| each.join("; "))
}

/// A count with its noun: `1 stream`, `2 streams`.
pub(super) fn counted<N: Display + PartialEq + From<u8>>(n: N, what: &str) -> String {
    let s = if n == N::from(1) { "" } else { "s" };
    format!("{n} {what}{s}")
}
