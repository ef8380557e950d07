//! `cutover demo`: shows live traffic moving between two versions, without any setup.
//!
//! The proxy is a child process running `cutover run -c FILE`, exactly as a user would start it. The origins, the clients
//! and the display run in this process, on one thread.
//!
//! * [`origin`] serves the versions blue and green; [`demo_proxy`] owns the configuration file and the child process;
//!   [`port`] reserves the proxy's port.
//! * [`traffic`] sends requests, [`tally`] counts the responses, and [`view`] shows them.
//! * [`script`] plays the shifts of `--for`; without it the user edits the file. [`name`] is how this program is called in
//!   the commands that the view prints.

mod demo_proxy;
mod name;
mod origin;
mod port;
mod script;
mod tally;
mod traffic;
mod view;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::error::CommandError;
use super::{CommandResult, block_on};
use demo_proxy::DemoProxy;
use tally::Tally;
use view::DemoView;

/// The versions, in the order of the configuration file, with the latency of each origin.
const VERSIONS: [(&str, Duration); 2] = [
    ("blue", Duration::from_millis(4)),
    ("green", Duration::from_millis(2)),
];

/// Runs the demo.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  no request failed\n  1  a request failed, or the demo could not run"
)]
pub(super) struct DemoArgs {
    /// Play a script of this length (blue, 5%, 50%, green, back to blue), from 5s to 1h, and exit
    #[arg(long = "for", value_name = "TIME", value_parser = script_time)]
    length: Option<Duration>,
    /// Port of the proxy on 127.0.0.1 [default: 8080, or a free one if that is taken]
    #[arg(long)]
    port: Option<u16>,
}

/// Parses the length of the script.
fn script_time(text: &str) -> Result<Duration, String> {
    const RANGE: &str = "the demo takes from 5s to 1h";
    let within =
        |time: &Duration| (Duration::from_secs(5)..=Duration::from_secs(3600)).contains(time);
    match super::time(text) {
        Ok(time) if within(&time) => Ok(time),
        Ok(_) => Err(RANGE.to_owned()),
        // The suggestion for a number without a unit may be out of range itself.
        Err(error) => match super::time(&format!("{text}s")) {
            Ok(time) if !within(&time) => Err(format!("{error} {RANGE}")),
            _ => Err(error),
        },
    }
}

impl DemoArgs {
    pub(super) fn run(&self) -> CommandResult {
        block_on(self.demo())?
    }

    async fn demo(&self) -> CommandResult {
        let mut origins = Vec::new();
        for (name, latency) in VERSIONS {
            origins.push((name, origin::start(name, latency).await?));
        }
        let mut proxy = DemoProxy::start(&origins, self.port)?;
        let tally = Rc::new(RefCell::new(Tally::new(VERSIONS.map(|(name, _)| name))));
        let mut view = DemoView::new(&proxy, tally.clone());
        let mut interrupted = std::pin::pin!(interrupted());
        let ended = tokio::select! {
            ended = self.run_until_ended(&mut proxy, &tally, &mut view) => ended,
            () = &mut interrupted => Ok(()),
        };
        view.close();
        // The proxy is stopped even if the demo has failed, and the first error is reported.
        let stopped = proxy.shutdown().await;
        ended?;
        stopped?;
        let tally = tally.borrow();
        let summary = tally.summary();
        anstream::println!("{summary}");
        Ok(u8::from(tally.failures() > 0))
    }

    /// Runs the traffic and the view until the script ends or the proxy fails.
    async fn run_until_ended(
        &self,
        proxy: &mut DemoProxy,
        tally: &Rc<RefCell<Tally>>,
        view: &mut DemoView,
    ) -> Result<(), CommandError> {
        proxy.ready().await?;
        let begun = Instant::now();
        let _clients = traffic::start(proxy.address, tally.clone());
        view.open(proxy);
        let script = async {
            match self.length {
                Some(length) => script::play(proxy, tally, view.messages(), length).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = script => ended,
            failed = view.live(proxy, begun) => failed,
        }
    }
}

/// Completes on SIGINT or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suggested_length_that_is_out_of_range_comes_with_the_range() {
        assert_eq!(script_time("5s"), Ok(Duration::from_secs(5)));
        for wrong in ["4s", "61m"] {
            let error = script_time(wrong).unwrap_err();
            assert_eq!(error, "the demo takes from 5s to 1h");
        }
        let error = script_time("2").unwrap_err();
        assert!(
            error.ends_with("`2s`? the demo takes from 5s to 1h"),
            "{error}"
        );
        assert!(script_time("10").unwrap_err().ends_with("`10s`?"));
    }
}
