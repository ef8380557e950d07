//! Startup: from a configuration file to a proxy that serves.
//!
//! Sockets come from a running predecessor (a takeover), from the service manager, or are bound here. Startup has two halves:
//! [`Booting::prepare`] does everything that can fail or be cancelled, without accepting a connection; [`Booting::serve`] opens
//! the listeners and completes the takeover. It returns the [`Control`] whose event loop runs from then on.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::acme::Acme;
use super::admin_sockets::AdminSockets;
use super::drains;
use super::events::{Control, Deferred};
use super::file_watcher::FileWatcher;
use super::handover::{self, Confirmed, Predecessor};
use super::history::HistoryRecorder;
use super::membership::Membership;
use super::publisher::Publisher;
use super::publisher::first::Prepared;
use super::rollouts::Rollouts;
use super::shared_config::SharedConfig;
use super::{Options, RunError, systemd};
use crate::admin::events::EventHub;
use crate::admin::fleet::FleetView;
use crate::admin::{self, Context, ControlCommand, ProcessPhase, Readiness};
use crate::config::shared::fleet_of;
use crate::config::{Spec, paths};
use crate::edge::descriptors::{raise_descriptor_limit, reserve_descriptors};
use crate::edge::inherit::{Inherited, Label, Purpose};
use crate::telemetry::windows::StatusWindows;

/// A proxy that is ready to serve but doesn't accept connections yet.
///
/// Dropping it undoes everything: its sockets close, and a predecessor that it was going to replace keeps serving.
pub(crate) struct Booting {
    publisher: Publisher,
    rollouts: Rollouts,
    membership: Membership,
    shared: SharedConfig,
    file_watcher: FileWatcher,
    context: Arc<Context>,
    sockets: AdminSockets,
    predecessor: Option<Predecessor>,
    /// Inherited sockets that the configuration doesn't name.
    unwanted: Vec<Label>,
}

impl Booting {
    /// Reads the configuration, opens or inherits the sockets, and starts the workers. Safe to cancel.
    ///
    /// # Errors
    /// The configuration is not valid, an address can't be bound, a thread can't be started, or the running process doesn't
    /// answer as a predecessor should.
    pub(crate) async fn prepare(
        options: &Options,
        sender: mpsc::Sender<ControlCommand>,
    ) -> Result<Self, RunError> {
        let descriptors = raise_descriptor_limit();
        reserve_descriptors(descriptors);
        let fleet_view = Arc::<FleetView>::default();
        let mut membership = Membership::new(fleet_view.clone());
        let mut shared = SharedConfig::new(fleet_view.clone());
        let mut store = None;
        // The tables that the fleet shares are a part of the configuration that is read next.
        if let Some(fleet) = fleet_of(&options.config) {
            store = membership.connect(Some(&fleet)).flatten();
            shared.follow(Some(&fleet), membership.etcd());
            shared.begin(&options.config, fleet.join_wait).await;
        }
        let prepared = Prepared::read(&options.config, descriptors).await?;
        let (mut predecessor, mut inherited) = match options.takeover {
            true => predecessor(&prepared.first().spec, &options.config).await?,
            false => (None, Inherited::from_environment()),
        };
        // The order from here on: rollouts before the first snapshot, which needs their shares; names and drains of a predecessor
        // before `bind`, which publishes; the sockets of the control plane last, since they tell others that the proxy can be
        // asked.
        let state_dir = paths::state_dir(prepared.first().spec.state_dir.as_deref());
        let history = HistoryRecorder::new(&state_dir, &options.config);
        let mut rollouts = Rollouts::open(
            &state_dir,
            &options.config,
            prepared.telemetry().clone(),
            history.history().clone(),
            sender.clone(),
        );
        let spec = prepared.first().spec.clone();
        if let Some(connected) = membership.connect(spec.fleet.as_ref()) {
            store = connected;
        }
        let shares = rollouts.start(&spec, store).await;
        let mut prepared = prepared.with_rollouts(shares);
        if let Some(predecessor) = &mut predecessor {
            prepared = prepared.with_names(std::mem::take(&mut predecessor.names));
        }
        let mut publisher = match &predecessor {
            Some(predecessor) => {
                // Drain flags belong to the endpoints, which come from the registry: the snapshot that `bind` compiles next
                // has the same ones.
                drains::set_draining(prepared.first(), &predecessor.draining);
                let before = (predecessor.generation, &*predecessor.services);
                let prepared = prepared.with_tickets(predecessor.tickets.clone());
                prepared.bind(&mut inherited, Some(before), history).await?
            }
            None => {
                history.load();
                prepared.bind(&mut inherited, None, history).await?
            }
        };
        // `bind` waited for the first checks, so versions that the gate holds back may pass by now.
        publisher.open_gate().await;
        let spec = publisher.live().current().spec.clone();
        let sockets = AdminSockets::open(&spec, &options.config, &mut inherited)
            .await
            .map_err(RunError::Admin)?;
        let context = Arc::new(Context {
            live: publisher.live().clone(),
            telemetry: publisher.telemetry().clone(),
            windows: Mutex::new(StatusWindows::default()),
            series: Mutex::default(),
            started: Instant::now(),
            bound: Mutex::new(publisher.listeners().tcp_addresses()),
            readiness: Arc::new(Readiness::default()),
            publisher: sender,
            history: publisher.history().history().clone(),
            rollouts: Mutex::new(rollouts.status()),
            names: publisher.discovery().known().clone(),
            fleet: fleet_view,
            events: EventHub::default(),
        });
        let mut file_watcher = FileWatcher::new(&options.config);
        file_watcher.set_certificates(publisher.certificate_files());
        file_watcher.set_parts(publisher.live().current().spec.body_files());
        Ok(Self {
            publisher,
            rollouts,
            membership,
            shared,
            file_watcher,
            context,
            sockets,
            predecessor,
            unwanted: inherited.give_up(),
        })
    }

    /// Starts accepting, completes the takeover if there is one, and then serves the admin API.
    ///
    /// Must not be cancelled, see [`Predecessor::confirm`].
    ///
    /// # Errors
    /// The predecessor refused to hand over and keeps serving. By then this process has closed its listeners and drained the
    /// connections that it had accepted.
    pub(crate) async fn serve(
        mut self,
        commands: mpsc::Receiver<ControlCommand>,
    ) -> Result<Control, RunError> {
        self.publisher.open();
        match self.predecessor.take() {
            Some(predecessor) => {
                self.take_over(predecessor).await?;
                // The history is complete only now: the predecessor has written its last entry before it released its sockets.
                self.publisher.history().load();
            }
            None => {
                let listeners = self
                    .unwanted
                    .iter()
                    .filter(|l| l.purpose == Purpose::Listener);
                listeners.for_each(|l| systemd::forget(&l.name));
            }
        }
        self.publisher.start_history();
        let listeners = std::mem::take(&mut self.sockets.listeners);
        let (unanswered, answers) = mpsc::channel(1);
        let admin = spawn_local(admin::serve(listeners, self.context.clone(), unanswered));
        self.context.readiness.set(ProcessPhase::Ready);
        self.log_start();
        let (requests, successor) = mpsc::channel(1);
        let listener = self.sockets.handover.take();
        let handover = listener.map(|l| spawn_local(handover::serve(l, requests)));
        let spec = self.publisher.live().current().spec.clone();
        let mut acme = Acme::new(self.publisher.listeners().answers().clone());
        acme.adopt(spec.acme.as_ref(), spec.fleet.as_ref());
        self.membership.adopt(&spec, self.publisher.keys());
        self.shared
            .follow(spec.fleet.as_ref(), self.membership.etcd());
        self.shared.begun(&self.publisher.live().source().path);
        Ok(Control {
            acme,
            membership: self.membership,
            shared: self.shared,
            publisher: self.publisher,
            rollouts: self.rollouts,
            file_watcher: self.file_watcher,
            context: self.context,
            commands,
            admin,
            answers,
            sockets: self.sockets,
            successor,
            undecided: None,
            deferred: Deferred::default(),
            handover,
            stored: false,
        })
    }

    fn log_start(&self) {
        let addresses = self.publisher.listeners().addresses().into_iter();
        let listeners: Vec<_> = addresses.map(|(name, at)| format!("{name}={at}")).collect();
        let live = self.publisher.live();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            config = %live.source().path.display(),
            pid = std::process::id(),
            workers = self.publisher.workers().workers().len(),
            generation = live.current().generation,
            listeners = listeners.join(", "),
            "cutover started"
        );
    }

    /// Asks the predecessor to stop accepting. Both processes accept on the same sockets until it does. If it refuses, this
    /// process withdraws and drains the connections that it accepted in the meantime.
    async fn take_over(&mut self, predecessor: Predecessor) -> Result<(), RunError> {
        let pid = predecessor.pid;
        let unwanted = self.unwanted.iter().filter_map(|l| l.bind.clone());
        match predecessor.confirm(unwanted.collect()).await {
            Ok(Confirmed::Released(draining)) => {
                if let Some(draining) = draining {
                    drains::set_draining(&self.publisher.live().current(), &draining);
                }
                tracing::info!(pid, "took over from the running process");
            }
            Ok(Confirmed::Ended) => {
                tracing::warn!(
                    pid,
                    "the running process exited before the handover was complete: serving without it"
                );
            }
            Err(error) => {
                self.publisher.withdraw();
                let deadline = self.publisher.live().current().spec.shutdown.deadline;
                // Best effort: connections that are still open at the deadline are cut when this process exits.
                let _ = tokio::time::timeout(deadline, self.publisher.workers().all_ended()).await;
                return Err(RunError::Takeover(format!(
                    "process {pid} did not release its sockets: {error}"
                )));
            }
        }
        // Only now do the socket files belong to this process, which removes them when it stops.
        self.publisher.listeners().claim_files();
        self.sockets.claim_files();
        Ok(())
    }
}

/// Asks the process that runs with the same configuration file for its sockets. If there is none, the sockets are those that
/// the service manager passed.
async fn predecessor(
    spec: &Spec,
    config: &Path,
) -> Result<(Option<Predecessor>, Inherited), RunError> {
    let state = paths::state_dir(spec.state_dir.as_deref());
    let offer = match paths::handover_socket(&state, config) {
        Ok(path) => handover::ask(&path).await,
        Err(error) => Err(error),
    };
    match offer {
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
                        "service is still waiting for a version's first passing check"
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
