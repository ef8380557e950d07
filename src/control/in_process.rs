//! A proxy inside the test's own process.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::boot::Booting;
use super::signals::SignalStream;
use super::{COMMANDS, Options, RunError, runtime};
use crate::admin::ControlCommand;
use crate::edge::listener::BoundAddress;
use crate::snapshot::Live;

/// A proxy inside this process, with a control thread of its own; signals are left to the caller. Dropping it ends it at once.
#[derive(Debug)]
pub(crate) struct Server {
    pub(super) commands: mpsc::Sender<ControlCommand>,
    stop: Option<oneshot::Sender<()>>,
    pub(super) thread: Option<JoinHandle<Result<(), RunError>>>,
    up: Up,
}

/// A proxy that is up.
#[derive(Clone, Debug)]
pub(super) struct Up {
    pub(super) live: Arc<Live>,
    pub(super) places: Vec<(String, BoundAddress)>,
    pub(super) admin: Vec<SocketAddr>,
}

impl Server {
    /// Starts a proxy and returns when it takes traffic.
    ///
    /// # Errors
    /// It could not start.
    pub(crate) fn start(options: Options) -> Result<Self, RunError> {
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
    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.up.live
    }

    /// The TCP address of this listener of the first generation.
    pub(crate) fn address(&self, listener: &str) -> Option<SocketAddr> {
        self.up.places.iter().find_map(|(name, place)| match place {
            BoundAddress::Tcp(address) if name == listener => Some(*address),
            _ => None,
        })
    }

    /// The TCP addresses of the admin API.
    pub(crate) fn admin(&self) -> &[SocketAddr] {
        &self.up.admin
    }

    /// Reads the file now. The generation that every worker runs afterwards.
    ///
    /// # Errors
    /// Why the file was refused.
    pub(crate) async fn reload(&self) -> Result<u64, String> {
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
        // Without a word the control thread takes the dropped sender for "at once".
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
