//! The publisher: the only writer of the running snapshot.
//!
//! A reload runs file -> spec -> listeners and certificates -> snapshot -> one atomic store -> workers. Everything that can fail
//! comes before the store, so a refused configuration changes nothing that runs: the error is logged and kept in
//! [`Live::source`] until a good file replaces it. The first generation takes the same steps in two halves, of [`first`],
//! because inherited sockets become available in between.

pub(super) mod first;
mod preview;
pub(super) mod reload;
mod republish;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::access_log::OpenLog;
use super::acme::OrderErrors;
use super::discovery::Discovery;
use super::health_monitor::HealthMonitor;
use super::history::HistoryRecorder;
use super::rollouts::shares::SharesInForce;
use super::traces::OpenTraces;
use super::upstream_identities::{IdentityFault, UpstreamIdentities};
use crate::config::Spec;
use crate::edge::admission::Admission;
use crate::edge::listener::{ListenerUpdate, Listeners};
use crate::edge::worker::WorkerCommand;
use crate::edge::workers::Workers;
use crate::net::clock::wall_s;
use crate::snapshot::{Inputs, Keys, Live, Previous, Snapshot};
use crate::telemetry::Telemetry;
use crate::upstream::Registry;

/// Longest wait for the names of new endpoints to be looked up: one second for a name server that doesn't answer, and one for
/// the next server. Names that take longer are published without addresses.
const NAMES: Duration = Duration::from_secs(2);
/// Longest wait for all workers to adopt a snapshot. It normally takes microseconds.
const ADOPTION: Duration = Duration::from_secs(5);

/// Logs warnings about new TLS settings of versions.
fn warn_of_identities(warnings: &[IdentityFault]) {
    for IdentityFault {
        service,
        version,
        error,
    } in warnings
    {
        tracing::warn!(service, version, "{error}");
    }
}

/// Owns everything that a reload may change, and stores the snapshots.
///
/// It lives on the control thread, as a part of [`Control`](super::events::Control). A reload either publishes a generation, and
/// `keys`, `identities`, `log`, `traces` and the listeners are then those of that generation, or it changes none of them. Only
/// renewed certificates are passed on without a generation ([`Self::renew`]).
#[derive(Debug)]
pub(crate) struct Publisher {
    file: PathBuf,
    live: Arc<Live>,
    registry: Arc<Registry>,
    telemetry: Arc<Telemetry>,
    admission: Arc<Admission>,
    listeners: Listeners,
    workers: Workers,
    monitor: HealthMonitor,
    discovery: Discovery,
    /// The first generation's listeners, by worker, until [`Publisher::open`] passes them on.
    unopened: Vec<Vec<ListenerUpdate>>,
    keys: Keys,
    identities: UpstreamIdentities,
    log: OpenLog,
    traces: OpenTraces,
    /// The reasons why certificates could not be obtained.
    order_errors: OrderErrors,
    history: HistoryRecorder,
    /// The text of the first generation, until the history has it.
    first_text: Arc<str>,
    /// The shares that rollouts have reached.
    rollouts: SharesInForce,
    /// Members of the fleet among which `limits.requests` is divided.
    limit_members: u32,
}

impl Publisher {
    /// Starts accepting connections on every worker.
    pub(crate) fn open(&mut self) {
        let updates = std::mem::take(&mut self.unopened);
        for (worker, updates) in self.workers.workers().iter().zip(updates) {
            worker.tell(WorkerCommand::Listeners(updates));
        }
        for (name, address) in self.listeners.addresses() {
            tracing::info!(listener = name, %address, "listening");
        }
    }

    /// The exporter of spans, if one is configured.
    pub(in crate::control) fn traces(&self) -> &OpenTraces {
        &self.traces
    }

    /// The history of adopted generations.
    pub(crate) fn history(&self) -> &HistoryRecorder {
        &self.history
    }

    /// Starts the history with the generation that runs. Later generations are recorded when they are adopted.
    pub(crate) fn start_history(&mut self) {
        let text = std::mem::take(&mut self.first_text);
        let hash = self.live.source().hash;
        self.history.start(&self.live.current(), &hash, text);
    }

    /// Closes all listeners and lets the workers drain their connections.
    pub(crate) fn close(&mut self) {
        self.listeners.close_duplicates();
        self.workers.drain();
    }

    /// Stops accepting, as [`Self::close`] does, on sockets that a successor accepts on as well. It does not want those bound at
    /// `unwanted`: their queues are drained here, because no other process would answer them.
    pub(crate) fn hand_over(&mut self, unwanted: &[String]) {
        let ours = self.listeners.hand_over(unwanted);
        self.workers.hand_over(&ours);
    }

    /// Stops accepting after a failed takeover. The predecessor keeps serving on the shared sockets; sockets that only this
    /// process opened are closed and their files removed.
    pub(crate) fn withdraw(&mut self) {
        self.listeners.close_duplicates();
        self.workers.hand_over(&[]);
    }

    /// Compiles the generation after `running`, and flags its new endpoints so that they get no traffic before they pass a check.
    fn compile(&self, running: &Snapshot, spec: &Arc<Spec>) -> Snapshot {
        let next = self.with_inputs(running, spec, |inputs| {
            Snapshot::compile(inputs, &self.registry, &self.telemetry)
        });
        // A generation of the same configuration has the same versions, whose transports are set already.
        if !Arc::ptr_eq(spec, &running.spec) {
            self.identities.apply(spec, &self.registry);
        }
        self.monitor.prepare(&next);
        next
    }

    /// Calls `with` with the inputs of the generation after `running`.
    fn with_inputs<T>(
        &self,
        running: &Snapshot,
        spec: &Arc<Spec>,
        with: impl FnOnce(&Inputs<'_>) -> T,
    ) -> T {
        self.discovery.with_resolutions(|resolutions| {
            with(&Inputs {
                generation: running.generation + 1,
                spec,
                previous: Previous::Generation(running),
                passes: &|service, version| {
                    let of = (&*self.registry, resolutions);
                    self.monitor.passes(of, service, version)
                },
                rollouts: &|service| self.rollouts.of(service),
                resolutions,
                limit_members: self.limit_members,
                keys: &self.keys,
                access_log: self.log.sink(),
                traces: self.traces.sink(),
                now_s: wall_s(),
            })
        })
    }

    /// Makes `next` the running snapshot, then lets the health monitor start checks of the endpoints it adds and stop checks of
    /// those it drops.
    fn publish(&self, next: Snapshot) {
        let known = self.live.current().awaited();
        for line in next.awaited() {
            if !known.contains(&line) {
                tracing::info!("{line}");
            }
        }
        let next = Arc::new(next);
        self.live.publish(next.clone());
        self.monitor.adopt(&next);
    }

    async fn wait_until_adopted(&self, generation: u64) {
        if !self.workers.adopted(generation, ADOPTION).await {
            tracing::error!(generation, waited = ?ADOPTION, "a worker has not adopted the generation");
        }
    }

    /// Waits until the health of an endpoint has changed, so that [`Self::open_gate`] may open and streams of events may have
    /// something to report. May return for neither reason.
    pub(crate) async fn news(&self) {
        self.monitor.news().await;
    }

    /// Reloads the certificates whose files have changed, and passes them to the workers. Snapshot and listeners stay as they are.
    pub(crate) fn renew(&mut self) {
        self.renew_identities();
        let renewal = self.listeners.renew();
        self.note_certificates();
        for error in &renewal.errors {
            tracing::error!(detail = %error, "certificate refused, keeping the previous one");
        }
        if renewal.renewed.is_empty() {
            return;
        }
        for worker in self.workers.workers() {
            worker.tell(WorkerCommand::Listeners(self.listeners.updates()));
        }
        tracing::info!(
            listeners = renewal.renewed.join(","),
            "certificates reloaded"
        );
    }

    /// Adopts certificates that were obtained, and remembers why others were not.
    pub(in crate::control) fn note_orders(&mut self, errors: OrderErrors) {
        self.order_errors = errors;
        self.renew();
    }

    /// Reloads the TLS settings of versions whose files have changed.
    fn renew_identities(&mut self) {
        let spec = self.live.current().spec.clone();
        let read = UpstreamIdentities::read(&spec, &self.identities, SystemTime::now());
        // Not reached: every version has previous settings, so that its files are refused instead.
        let Ok(reading) = read else { return };
        for IdentityFault {
            service,
            version,
            error,
        } in &reading.refused
        {
            tracing::error!(service, version, detail = %error, "TLS files refused, keeping the previous ones");
        }
        self.identities = reading.identities;
        if reading.renewed.is_empty() {
            return;
        }
        warn_of_identities(&reading.warnings);
        self.identities.apply(&spec, &self.registry);
        tracing::info!(versions = reading.renewed.join(","), "TLS files reloaded");
    }

    /// Publishes the state of all certificates for the admin API and metrics.
    fn note_certificates(&self) {
        let mut states = self.listeners.certificate_states();
        for state in &mut states {
            if state.error.is_none()
                && state.is_obtained
                && let Some((why, since)) =
                    state.names.first().and_then(|n| self.order_errors.get(n))
            {
                state.error = Some(why.clone());
                state.since = Some(*since);
            }
        }
        states.extend(self.identities.states());
        self.live.note_certificates(states);
    }

    /// Paths of all certificate, key and authority files.
    pub(crate) fn certificate_files(&self) -> Vec<PathBuf> {
        let mut files = self.listeners.certificate_files();
        files.extend(self.identities.files());
        files
    }

    /// Whether files that were refused may be acceptable now although they have not changed: a certificate has become valid.
    pub(crate) fn may_renew(&self) -> bool {
        self.listeners.may_renew() || self.identities.may_renew(SystemTime::now())
    }

    /// Replaces the secret of TLS tickets if it is old enough.
    pub(crate) fn rotate_tickets(&self) {
        self.listeners.tickets().rotate(wall_s());
    }

    /// Reopens the file of the access log.
    pub(crate) fn reopen_log(&self) {
        self.log.reopen();
    }

    /// The keys of sticky sessions.
    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The published state, which workers and the admin API read.
    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    pub(crate) fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// The names of endpoints, and the lookups of their addresses.
    pub(super) fn discovery(&self) -> &Discovery {
        &self.discovery
    }

    pub(crate) fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// Restarts workers that panicked, on the sockets that they had. Requests in flight on them are lost.
    ///
    /// # Errors
    /// The workers keep panicking, or can't be started.
    pub(crate) fn restart_workers(&mut self) -> io::Result<()> {
        for id in self.workers.restart_panicked()? {
            let updates = self.listeners.updates_for_restart(id)?;
            self.workers.workers()[id.0].tell(WorkerCommand::Listeners(updates));
            tracing::error!(
                worker = %id,
                "worker thread panicked because of a bug in cutover and was restarted: its requests in flight are lost"
            );
        }
        Ok(())
    }

    /// Whether the task that runs health checks and ejects outliers, or the one that looks up names, has died.
    pub(crate) fn has_dead_task(&self) -> bool {
        self.monitor.is_dead() || self.discovery.is_dead()
    }

    pub(crate) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// The worker threads, to stop them or to check for one that is stuck.
    pub(crate) fn workers_mut(&mut self) -> &mut Workers {
        &mut self.workers
    }

    /// The number of open downstream connections.
    pub(crate) fn connections(&self) -> usize {
        self.admission.open()
    }
}
