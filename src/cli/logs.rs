//! `cutover logs [SERVICE]`: follows the access log of the running proxy.
//!
//! The proxy formats lines for this command as long as the command runs, whether or not the configuration has an access log. When
//! another process takes over, both are followed until the former one has ended.

pub(super) mod filter;
mod printer;
pub(super) mod view;

use std::time::{Duration, Instant};

use clap::Args;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::drain::counted;
use super::edit::{NO_PROXY, find};
use super::error::CommandError;
use super::proxy::{Proxy, ProxyError};
use super::proxy_address::{ProxyAddress, unknown_service};
use super::{CommandResult, Json, block_on};
use crate::admin::status::ProxyStatus;
use filter::LogFilter;
use printer::{Printer, ReaderGone};
use view::LoggedLine;

/// Longest wait for a process that has taken over to answer.
const SUCCESSOR_TIMEOUT: Duration = Duration::from_secs(10);

/// Interval between two attempts to find it.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Largest number of lines that were read and not handled yet.
const QUEUED_LINES: usize = 1024;

/// Follows the access log of the running proxy.
#[derive(Debug, Args)]
#[command(
    after_help = "Lines begin with the requests that end after the command has started.\n\nExit codes:\n  0  ended by Ctrl-C, or its reader has gone\n  1  no such service, or the proxy refused\n  3  no proxy answers, or it has stopped"
)]
pub(super) struct LogsArgs {
    /// Show only requests to this service
    service: Option<String>,
    /// Show only requests that failed: a status of 400 or above, or a failed try
    #[arg(long)]
    failed: bool,
    /// Show only requests that went to another version than stable
    #[arg(long)]
    canary: bool,
    #[command(flatten)]
    json: Json,
}

/// An event while the log is followed.
enum LogEvent {
    Line(Vec<u8>),
    /// The connection to a proxy has ended.
    Ended(Result<(), ProxyError>),
}

impl LogsArgs {
    pub(super) fn run(&self, address: &ProxyAddress) -> CommandResult {
        block_on(async {
            tokio::select! {
                outcome = self.follow(address) => outcome,
                _ = tokio::signal::ctrl_c() => Ok(0),
            }
        })?
    }

    async fn follow(&self, address: &ProxyAddress) -> CommandResult {
        let (proxy, status) = find(address).await?;
        self.check_service(&status)?;
        let path = self.path();
        let printer = Printer::start(anstream::stdout(), |n| {
            let lines = counted(n, "line");
            anstream::eprintln!("{lines} dropped: they were not read fast enough");
        })
        .map_err(|error| CommandError::new(format!("can't start a thread: {error}")))?;
        let (sender, mut events) = mpsc::channel(QUEUED_LINES);
        let mut pid = status.pid;
        let mut followed = 1;
        spawn_local(read(proxy, path.clone(), sender.clone()));
        while let Some(event) = events.recv().await {
            let line = match event {
                LogEvent::Line(line) => line,
                LogEvent::Ended(_) if followed > 1 => {
                    followed -= 1;
                    continue;
                }
                LogEvent::Ended(ended) => {
                    printer.finish();
                    return Err(stopped(ended));
                }
            };
            match LoggedLine::parse(&line) {
                LoggedLine::Dropped(lines) => printer.add_dropped(lines),
                LoggedLine::HandedOver => {
                    let (next, status) = successor(address, pid).await?;
                    pid = status.pid;
                    followed += 1;
                    anstream::eprintln!("process {pid} has taken over");
                    spawn_local(read(next, path.clone(), sender.clone()));
                }
                LoggedLine::Request(request) => {
                    let mut shown = match self.json.json {
                        true => line,
                        false => view::shown(&request).into_bytes(),
                    };
                    shown.push(b'\n');
                    if printer.print(shown) == Err(ReaderGone) {
                        // A closed pipe (`cutover logs | head -1`) is not an error.
                        return Ok(0);
                    }
                }
            }
        }
        Ok(0)
    }

    /// # Errors
    /// The proxy has no such service.
    fn check_service(&self, status: &ProxyStatus) -> Result<(), CommandError> {
        let names = || status.services.iter().map(|s| s.name.as_str());
        let Some(service) = self.service.as_deref() else {
            return Ok(());
        };
        if names().any(|name| name == service) {
            return Ok(());
        }
        Err(unknown_service(service, names()))
    }

    fn path(&self) -> String {
        let filter = LogFilter {
            service: self.service.clone(),
            failed: self.failed,
            canary: self.canary,
        };
        filter.path()
    }
}

/// The error that tells why no more lines come.
fn stopped(ended: Result<(), ProxyError>) -> CommandError {
    let gone = || CommandError::new("the proxy has stopped").exit(NO_PROXY);
    match ended {
        Ok(()) => gone(),
        // The process was killed, or the network has failed.
        Err(ProxyError::Unreachable(error)) => gone().with(error.message),
        Err(ProxyError::Failed(error)) => error,
    }
}

/// Passes on the lines of a proxy until its connection ends.
async fn read(proxy: Proxy, path: String, events: mpsc::Sender<LogEvent>) {
    let (lines, mut received) = mpsc::unbounded_channel();
    let mut reading = std::pin::pin!(proxy.lines(&path, move |line| {
        // The receiver lives as long as this function.
        let _ = lines.send(line.to_vec());
    }));
    let ended = loop {
        tokio::select! {
            biased;
            Some(line) = received.recv() => {
                if events.send(LogEvent::Line(line)).await.is_err() {
                    return;
                }
            }
            ended = &mut reading => break ended,
        }
    };
    while let Ok(line) = received.try_recv() {
        let _ = events.send(LogEvent::Line(line)).await;
    }
    let _ = events.send(LogEvent::Ended(ended)).await;
}

/// Waits for the process that takes over from process `former` to answer.
///
/// # Errors
/// The process doesn't answer in time.
async fn successor(
    address: &ProxyAddress,
    former: u32,
) -> Result<(Proxy, ProxyStatus), CommandError> {
    let began = Instant::now();
    loop {
        match find(address).await {
            Ok((proxy, status)) if status.pid != former => return Ok((proxy, status)),
            Err(error) if began.elapsed() > SUCCESSOR_TIMEOUT => return Err(error),
            Ok(_) if began.elapsed() > SUCCESSOR_TIMEOUT => {
                let error = "another process has taken over, but does not answer";
                return Err(CommandError::new(error).exit(NO_PROXY));
            }
            Ok(_) | Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}
