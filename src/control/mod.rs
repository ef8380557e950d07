//! The control plane: one thread that starts the proxy, reloads its configuration, monitors endpoints and shuts down.
//!
//! The thread runs a `current_thread` runtime. [`boot`] brings the proxy up, [`events`] is the loop that reacts to everything
//! after that, and [`shutdown`] drains the workers at the end. Workers never call into this module: they read the snapshots that
//! the [`publisher`] stores, and obey the commands that it sends them.
//!
//! * **Configuration:** [`file_watcher`] reports that the configuration or a certificate changed, [`preflight`] checks the files
//!   and directories that a configuration names, [`config_file`] reads it, and [`publisher`] compiles and stores the next snapshot.
//!   [`reloading`] has the steps after that, [`audit`] logs the changes, and [`history`] records them.
//! * **Endpoints:** [`health_monitor`] runs active checks, ejects outliers and ramps up endpoints that come back; [`drains`] takes
//!   endpoints out of use for operators.
//! * **Names:** [`discovery`] keeps the addresses of endpoints' names up to date, [`name_log`] logs their changes and failures.
//! * **Rollouts:** `rollouts` drives them. [`outcall`] makes their requests to the outside: smoke checks, hooks, notifications and
//!   Prometheus queries.
//! * **Sessions:** [`sticky_key`] loads or creates the key that seals sticky cookies.
//! * **Access log:** [`access_log`] opens the file or stream that the configuration names, for the writer thread of `telemetry`.
//! * **Traces:** [`traces`] starts the exporter that the configuration asks for, on a thread of its own.
//! * **Certificates:** [`acme`] obtains the certificates that listeners name in `acme`, on a thread of its own.
//! * **Fleet:** [`membership`] keeps this proxy among the members of its fleet, through [`etcd`]. [`fleet`] shares rollouts with
//!   them, and [`shared_config`] tables of the configuration, which [`shared_adoption`] adopts.
//! * **Process:** [`signals`], [`admin_sockets`], [`handover`] (replacing the running process without closing a listener),
//!   [`systemd`] (readiness, watchdog, stored sockets) and [`logging`].

mod access_log;
mod acme;
mod admin_sockets;
mod audit;
mod boot;
mod config_file;
mod discovery;
mod drains;
mod etcd;
mod events;
pub(crate) mod file_watcher;
mod first_address;
mod fleet;
mod handover;
mod health_monitor;
mod hedging;
mod history;
pub(crate) mod logging;
mod membership;
mod name_log;
mod outcall;
pub(crate) mod preflight;
pub(crate) mod publisher;
mod reloading;
mod rollouts;
mod shared_adoption;
pub(crate) mod shared_config;
mod shutdown;
mod signals;
pub(crate) mod sticky_key;
mod succession;
mod systemd;
mod traces;
mod upstream_identities;

use std::fmt;
use std::io;
use std::path::PathBuf;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, oneshot};

use boot::Booting;
use signals::SignalStream;

/// The options that a proxy is started with.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Path of the configuration file.
    pub config: PathBuf,
    /// Take over the sockets of the process that runs with the same configuration file, if there is one.
    pub takeover: bool,
}

/// Why the proxy did not start, or why it ended without being asked to.
#[derive(Debug)]
pub(crate) enum RunError {
    /// The configuration is not valid. Holds every diagnostic, rendered.
    Config(String),
    /// Listeners can't be bound, or their certificates can't be used. One error per line.
    Listen(String),
    /// An address of the admin API can't be bound.
    Admin(io::Error),
    /// The takeover failed. The running process keeps serving.
    Takeover(String),
    /// A thread, a runtime or a signal handler could not be created.
    Threads(io::Error),
    /// Worker threads keep panicking.
    Worker,
    /// The control thread, or one of its tasks, panicked.
    Control,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(errors) | Self::Listen(errors) => f.write_str(errors),
            Self::Admin(error) => write!(f, "admin: {error}"),
            Self::Takeover(error) => write!(f, "takeover: {error}. The running process keeps serving"),
            Self::Threads(error) => write!(f, "failed to start threads: {error}"),
            Self::Worker => f.write_str(
                "worker threads keep panicking because of a bug in cutover, see the log. Exiting so that the process can be restarted",
            ),
            Self::Control => f.write_str(
                "the control thread panicked because of a bug in cutover, see the log. Exiting so that the process can be restarted",
            ),
        }
    }
}

impl std::error::Error for RunError {}

/// Runs a proxy until SIGTERM, SIGINT or a takeover ends it. The calling thread becomes its control thread.
///
/// # Errors
/// The proxy could not start, or it ended because its own threads panicked.
pub(crate) fn run(options: &Options) -> Result<(), RunError> {
    let _log = logging::init().map_err(RunError::Threads)?;
    let runtime = runtime()?;
    runtime.block_on(async {
        let mut signals = SignalStream::listen().map_err(RunError::Threads)?;
        let (sender, commands) = mpsc::channel(COMMANDS);
        let booting = tokio::select! {
            biased;
            booting = Booting::prepare(options, sender) => booting?,
            // Safe to cancel: no traffic is accepted yet and no predecessor has released its sockets.
            () = signals.stop() => {
                tracing::info!("stopped before serving");
                return Ok(());
            }
        };
        let control = booting.serve(commands).await?;
        // Only signals stop this process. The sender is kept alive because dropping it would mean "stop now".
        let (_never_stops, stop) = oneshot::channel();
        control.run(signals, stop).await
    })
}

/// Capacity of the queue of admin commands.
const COMMANDS: usize = 64;

fn runtime() -> Result<LocalRuntime, RunError> {
    let mut builder = Builder::new_current_thread();
    let built = builder.enable_all().build_local(LocalOptions::default());
    built.map_err(RunError::Threads)
}

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod in_process;
#[cfg(test)]
mod tests;
