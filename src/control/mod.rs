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
pub mod file_watcher;
mod handover;
mod health_monitor;
pub mod logging;
pub mod preflight;
pub mod publisher;
mod shutdown;
mod signals;
pub mod sticky_key;
mod systemd;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, oneshot};

use crate::admin::ControlCommand;
pub use crate::edge::listener::BoundAddress;
use crate::snapshot::Live;
use boot::Booting;
pub use publisher::ReloadOutcome;
use signals::SignalStream;

/// What a proxy is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Take the place of the proxy that runs by the same file, if one does.
    pub takeover: bool,
}

/// Why the proxy did not start, or ended otherwise than asked to.
#[derive(Debug)]
pub enum RunError {
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
pub fn run(options: &Options) -> Result<(), RunError> {
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

/// A proxy inside this process, with a control thread of its own; signals are left to the caller. Dropping it ends it at once.
#[derive(Debug)]
pub struct Server {
    commands: mpsc::Sender<ControlCommand>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), RunError>>>,
    up: Up,
}

/// A proxy that is up.
#[derive(Clone, Debug)]
struct Up {
    live: Arc<Live>,
    places: Vec<(String, BoundAddress)>,
    admin: Vec<SocketAddr>,
}

impl Server {
    /// Starts a proxy and returns when it takes traffic.
    ///
    /// # Errors
    /// It could not start.
    pub fn start(options: Options) -> Result<Self, RunError> {
        let (tell, told) = std::sync::mpsc::channel();
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (stop, stopped) = oneshot::channel();
        let sender = commands.clone();
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                runtime()?.block_on(async {
                    let booting = Booting::prepare(&options, sender).await?;
                    let control = booting.serve(receiver).await?;
                    let _ = tell.send(control.up());
                    drop(options);
                    control.live(SignalStream::none(), stopped).await
                })
            });
        let thread = thread.map_err(RunError::Threads)?;
        match told.recv() {
            Ok(up) => Ok(Self {
                commands,
                stop: Some(stop),
                thread: Some(thread),
                up,
            }),
            Err(_) => match thread.join() {
                Ok(Err(error)) => Err(error),
                _ => Err(RunError::Threads(io::Error::other(
                    "the control thread ended",
                ))),
            },
        }
    }

    /// What is running.
    pub fn live(&self) -> &Arc<Live> {
        &self.up.live
    }

    /// Where the listeners of the first generation are bound, by name.
    pub fn places(&self) -> &[(String, BoundAddress)] {
        &self.up.places
    }

    /// The TCP address of this listener of the first generation.
    pub fn address(&self, listener: &str) -> Option<SocketAddr> {
        self.up.places.iter().find_map(|(name, place)| match place {
            BoundAddress::Tcp(address) if name == listener => Some(*address),
            _ => None,
        })
    }

    /// The TCP addresses of the admin API.
    pub fn admin(&self) -> &[SocketAddr] {
        &self.up.admin
    }

    /// Reads the file now. The generation that every worker runs afterwards.
    ///
    /// # Errors
    /// Why the file was refused.
    pub async fn reload(&self) -> Result<u64, String> {
        let gone = || "the proxy has ended".to_owned();
        let (answer, answered) = oneshot::channel();
        let sent = self.commands.send(ControlCommand::Reload { answer }).await;
        sent.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Stops as SIGTERM does: what is in flight is finished within `shutdown.deadline`. Blocks until then.
    ///
    /// # Errors
    /// It had ended before by a fault.
    pub fn stop(mut self) -> Result<(), RunError> {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        self.thread.take().map_or(Ok(()), |thread| {
            thread.join().unwrap_or(Err(RunError::Control))
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Without a word the control thread takes the dropped sender for "at once".
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod tests;
