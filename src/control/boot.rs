//! From a configuration file to a proxy that serves: in place of a running one, on sockets of the service manager, or alone.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::admin_sockets::AdminSockets;
use super::events::{Control, Deferred};
use super::file_watcher::FileWatcher;
use super::handover::{self, Confirmed, Predecessor};
use super::publisher::{Prepared, Publisher};
use super::shutdown;
use super::{Options, RunError, systemd};
use crate::admin::{self, Context, ControlCommand, ProcessPhase, Readiness};
use crate::config::{Spec, paths};
use crate::edge::admission;
use crate::edge::inherit::{Inherited, Label, Purpose};
use crate::edge::listener::BoundAddress;
use crate::telemetry::windows::StatusWindows;

/// A proxy that has everything and doesn't accept yet. Dropped, it leaves nothing behind, and a process that it was to take
/// over from goes on.
pub(crate) struct Booting {
    publisher: Publisher,
    watch: FileWatcher,
    context: Arc<Context>,
    desk: AdminSockets,
    predecessor: Option<Predecessor>,
    /// Inherited sockets that the configuration doesn't want.
    unwanted: Vec<Label>,
}

impl Booting {
    /// Reads the configuration, opens or inherits the sockets, and starts the workers. May be cancelled.
    ///
    /// # Errors
    /// Any of it fails.
    pub(crate) async fn prepare(
        options: &Options,
        sender: mpsc::Sender<ControlCommand>,
    ) -> Result<Self, RunError> {
        let descriptors = admission::raise_descriptor_limit();
        let prepared = Prepared::read(&options.config, descriptors).await?;
        let (predecessor, mut inherited) = match options.takeover {
            true => predecessor(&prepared.first().spec, &options.config).await?,
            false => (None, Inherited::from_environment()),
        };
        let mut publisher = match &predecessor {
            Some(predecessor) => {
                // Drains are flags of endpoints, which the snapshot that `bind` compiles shares with this one.
                shutdown::set_draining(prepared.first(), &predecessor.draining);
                let before = (predecessor.generation, &*predecessor.services);
                prepared.bind(&mut inherited, Some(before)).await?
            }
            None => prepared.bind(&mut inherited, None).await?,
        };
        // The first checks may have passed already.
        publisher.open_gate().await;
        let spec = publisher.live().current().spec.clone();
        let desk = AdminSockets::open(&spec, &options.config, &mut inherited)
            .await
            .map_err(RunError::Admin)?;
        let context = Arc::new(Context {
            live: publisher.live().clone(),
            telemetry: publisher.telemetry().clone(),
            windows: Mutex::new(StatusWindows::default()),
            started: Instant::now(),
            bound: Mutex::new(tcp_places(&publisher)),
            readiness: Arc::new(Readiness::default()),
            publisher: sender,
        });
        let mut watch = FileWatcher::new(&options.config);
        watch.set_certificates(publisher.listeners().certificate_files());
        Ok(Self {
            publisher,
            watch,
            context,
            desk,
            predecessor,
            unwanted: inherited.give_up(),
        })
    }

    /// Accepts, takes over, and answers on the admin API. Must not be cancelled: see [`Predecessor::confirm`].
    ///
    /// # Errors
    /// The process that was to be taken over from goes on serving. This one has finished what it had accepted.
    pub(crate) async fn serve(
        mut self,
        commands: mpsc::Receiver<ControlCommand>,
    ) -> Result<Control, RunError> {
        self.publisher.open();
        match self.predecessor.take() {
            Some(predecessor) => self.take_over(predecessor).await?,
            None => {
                let listeners = self
                    .unwanted
                    .iter()
                    .filter(|l| l.purpose == Purpose::Listener);
                listeners.for_each(|l| systemd::forget(&l.name));
            }
        }
        let listeners = std::mem::take(&mut self.desk.listeners);
        let admin = spawn_local(admin::serve(listeners, self.context.clone()));
        self.context.readiness.set(ProcessPhase::Ready);
        self.log_start();
        let (requests, successor) = mpsc::channel(1);
        let waiting = self.desk.handover.take();
        let handover = waiting.map(|l| spawn_local(handover::serve(l, requests)));
        Ok(Control {
            publisher: self.publisher,
            watch: self.watch,
            context: self.context,
            commands,
            admin,
            desk: self.desk,
            successor,
            undecided: None,
            deferred: Deferred::default(),
            handover,
            stored: false,
        })
    }

    fn log_start(&self) {
        let places = self.publisher.listeners().places().into_iter();
        let listeners: Vec<_> = places.map(|(name, at)| format!("{name}={at}")).collect();
        let live = self.publisher.live();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            config = %live.source().path.display(),
            pid = std::process::id(),
            workers = self.publisher.fleet().workers().len(),
            generation = live.current().generation,
            listeners = listeners.join(", "),
            "cutover started"
        );
    }

    /// Tells the running process that its sockets are served here. If it doesn't give them up, this one finishes what it has
    /// accepted meanwhile.
    async fn take_over(&mut self, predecessor: Predecessor) -> Result<(), RunError> {
        let pid = predecessor.pid;
        let unwanted = self.unwanted.iter().filter_map(|l| l.bind.clone());
        match predecessor.confirm(unwanted.collect()).await {
            Ok(Confirmed::Released(draining)) => {
                if let Some(draining) = draining {
                    shutdown::set_draining(&self.publisher.live().current(), &draining);
                }
                tracing::info!(pid, "took over from the running process");
            }
            Ok(Confirmed::Ended) => {
                tracing::warn!(
                    pid,
                    "the running process ended before it had handed over: serving without it"
                );
            }
            Err(error) => {
                self.publisher.withdraw();
                let deadline = self.publisher.live().current().spec.shutdown.deadline;
                // As far as that can be finished in time.
                let _ = tokio::time::timeout(deadline, self.publisher.fleet().all_ended()).await;
                return Err(RunError::Takeover(format!(
                    "process {pid} does not let go: {error}"
                )));
            }
        }
        self.publisher.listeners().claim_files();
        self.desk.claim_files();
        Ok(())
    }
}

/// The running process and its sockets, if one runs.
async fn predecessor(
    spec: &Spec,
    config: &Path,
) -> Result<(Option<Predecessor>, Inherited), RunError> {
    let state = paths::state_dir(spec.state_dir.as_deref());
    let asked = match paths::handover_socket(&state, config) {
        Ok(path) => handover::ask(&path).await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(Some((predecessor, inherited))) => {
            tracing::info!(
                pid = predecessor.pid,
                "taking over from the running process"
            );
            for state in &predecessor.services {
                if !state.awaiting.is_empty() {
                    tracing::info!(
                        service = %state.name,
                        stable = %state.stable,
                        awaiting = state.awaiting.join(","),
                        "service still waits for a version's first passing check"
                    );
                }
            }
            Ok((Some(predecessor), inherited))
        }
        Ok(None) => {
            tracing::info!(
                "no proxy is running with this configuration: nothing to take over, starting"
            );
            Ok((None, Inherited::from_environment()))
        }
        Err(error) => Err(RunError::Takeover(error.to_string())),
    }
}

pub(crate) fn tcp_places(publisher: &Publisher) -> Vec<(String, SocketAddr)> {
    let tcp = |(name, place)| match place {
        BoundAddress::Tcp(address) => Some((name, address)),
        BoundAddress::Unix(_) => None,
    };
    publisher
        .listeners()
        .places()
        .into_iter()
        .filter_map(tcp)
        .collect()
}
