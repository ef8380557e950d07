//! A whole proxy inside the process of a test, with a control thread of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::boot::Booting;
use super::events::Control;
use super::signals::SignalStream;
use super::{COMMANDS, Options, RunError, runtime};
use crate::admin::ControlCommand;
use crate::edge::listener::BoundAddress;
use crate::snapshot::Live;

/// A running proxy. It handles no signals. Dropping it stops the proxy at once; [`Server::stop`] drains it first.
#[derive(Debug)]
pub(crate) struct Server {
    pub(super) commands: mpsc::Sender<ControlCommand>,
    stop: Option<oneshot::Sender<()>>,
    pub(super) thread: Option<JoinHandle<Result<(), RunError>>>,
    up: Up,
}

/// The facts about a proxy that has started.
#[derive(Clone, Debug)]
pub(super) struct Up {
    pub(super) live: Arc<Live>,
    pub(super) addresses: Vec<(String, BoundAddress)>,
    pub(super) admin: Vec<SocketAddr>,
}

impl Up {
    fn of(control: &Control) -> Self {
        Self {
            live: control.publisher.live().clone(),
            addresses: control.publisher.listeners().addresses(),
            admin: control.sockets.addresses.clone(),
        }
    }
}

impl Server {
    /// Starts a proxy and returns once it accepts traffic.
    ///
    /// # Errors
    /// The proxy could not start.
    pub(crate) fn start(options: Options) -> Result<Self, RunError> {
        let (report, reported) = std::sync::mpsc::channel();
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (stop, stopped) = oneshot::channel();
        let sender = commands.clone();
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                runtime()?.block_on(async {
                    let booting = Booting::prepare(&options, sender).await?;
                    let control = booting.serve(receiver).await?;
                    let _ = report.send(Up::of(&control));
                    drop(options);
                    control.run(SignalStream::none(), stopped).await
                })
            });
        let thread = thread.map_err(RunError::Threads)?;
        match reported.recv() {
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

    /// The published state.
    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.up.live
    }

    /// The TCP address of a listener, as bound by the first generation.
    pub(crate) fn address(&self, listener: &str) -> Option<SocketAddr> {
        self.up
            .addresses
            .iter()
            .find_map(|(name, address)| match address {
                BoundAddress::Tcp(address) if name == listener => Some(*address),
                _ => None,
            })
    }

    /// The TCP addresses of the admin API.
    pub(crate) fn admin(&self) -> &[SocketAddr] {
        &self.up.admin
    }

    /// Reloads the configuration file and returns the generation that every worker runs afterwards.
    ///
    /// # Errors
    /// The rendered diagnostics, if the file is refused.
    pub(crate) async fn reload(&self) -> Result<u64, String> {
        let ended = || "the proxy has ended".to_owned();
        let (answer, answered) = oneshot::channel();
        let sent = self.commands.send(ControlCommand::Reload { answer }).await;
        sent.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Stops as SIGTERM does: drains requests in flight for at most `shutdown.deadline`. Blocks until the proxy has ended.
    ///
    /// # Errors
    /// The error that had already ended the proxy.
    pub(crate) fn stop(mut self) -> Result<(), RunError> {
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
        // The control thread takes a dropped sender as a request to stop at once.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
