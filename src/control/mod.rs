//! The control plane: one thread that starts the proxy, reloads its configuration, watches endpoints and ends it.
//!
//! * [`boot`]: up to where it serves. [`events`]: what happens then, until [`shutdown`]. [`signals`]: of the system.
//! * [`publisher`]: the only one that stores snapshots; [`audit`]: what an adopted configuration changes. [`file_watcher`]: when
//!   the file or a certificate has changed. [`preflight`]: what a configuration names on this machine.
//! * [`health_monitor`]: checks, ejections, slow starts. [`sticky_key`]: what seals sessions.
//! * [`admin_sockets`]: the sockets of the admin API. [`handover`]: from process to process.
//! * [`systemd`], [`logging`]: what is told to the outside.

mod admin_sockets;
mod audit;
mod boot;
mod events;
pub(crate) mod file_watcher;
mod handover;
mod health_monitor;
pub(crate) mod logging;
pub(crate) mod preflight;
pub(crate) mod publisher;
mod shutdown;
mod signals;
pub(crate) mod sticky_key;
mod systemd;

use std::fmt;
use std::io;
use std::path::PathBuf;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, oneshot};

use boot::Booting;
use signals::SignalStream;

/// What a proxy is started with.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Take the place of the proxy that runs by the same file, if one does.
    pub takeover: bool,
}

/// Why the proxy did not start, or ended otherwise than asked to.
#[derive(Debug)]
pub(crate) enum RunError {
    /// The configuration: every error, rendered.
    Config(String),
    /// Addresses or certificates: a line for each.
    Listen(String),
    /// The admin API's address.
    Admin(io::Error),
    /// The running process, whose place was to be taken; it goes on.
    Takeover(String),
    /// A thread, a runtime or a signal handler could not be made.
    Threads(io::Error),
    /// Worker threads die again and again.
    Worker,
    /// A task of the control thread died.
    Control,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(errors) | Self::Listen(errors) => f.write_str(errors),
            Self::Admin(error) => write!(f, "admin: {error}"),
            Self::Takeover(error) => write!(f, "takeover: {error}. The running process goes on"),
            Self::Threads(error) => write!(f, "threads could not be started: {error}"),
            Self::Worker => f.write_str(
                "worker threads die by a fault of cutover itself; the log says where. The process ends so that it can be started anew",
            ),
            Self::Control => f.write_str(
                "a part of the control thread died by a fault of cutover itself; the log says where. The process ends so that it can be started anew",
            ),
        }
    }
}

impl std::error::Error for RunError {}

/// Runs a proxy until SIGTERM or SIGINT; the calling thread is its control thread.
///
/// # Errors
/// It could not start, or a worker thread died.
pub(crate) fn run(options: &Options) -> Result<(), RunError> {
    let _log = logging::init().map_err(RunError::Threads)?;
    let runtime = runtime()?;
    runtime.block_on(async {
        let mut signals = SignalStream::listen().map_err(RunError::Threads)?;
        let (sender, commands) = mpsc::channel(COMMANDS);
        let booting = tokio::select! {
            biased;
            booting = Booting::prepare(options, sender) => booting?,
            // Nothing is served yet, and nothing taken over.
            () = signals.stop() => {
                tracing::info!("stopped before it served");
                return Ok(());
            }
        };
        let control = booting.serve(commands).await?;
        // Held so that nobody but a signal stops it.
        let (_stay, stop) = oneshot::channel();
        control.live(signals, stop).await
    })
}

/// Commands that may wait for the publisher.
const COMMANDS: usize = 64;

fn runtime() -> Result<LocalRuntime, RunError> {
    let mut builder = Builder::new_current_thread();
    let built = builder.enable_all().build_local(LocalOptions::default());
    built.map_err(RunError::Threads)
}

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod in_process;
#[cfg(test)]
mod tests;
