//! The publisher: the only writer of the running snapshot.
//!
//! A reload runs file -> spec -> listeners and certificates -> snapshot -> one atomic store -> workers. Everything that can fail
//! comes before the store, so a refused configuration changes nothing that runs: the error is logged and kept in
//! [`Live::source`] until a good file replaces it. The first generation takes the same steps in two halves, [`Prepared::read`]
//! and [`Prepared::bind`], because inherited sockets become available in between.

mod preview;
mod republish;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::RunError;
use super::access_log::OpenLog;
use super::audit;
use super::config_file::{read, rendered, warn, warn_of_restart};
use super::file_watcher;
use super::health_monitor::HealthMonitor;
use super::history::{self, HistoryRecorder};
use super::preflight::{log_error, plan_errors, preflight, token_error};
use super::rollouts::shares::SharesInForce;
use super::sticky_key;
use crate::config::{self, Spec};
use crate::edge::admission::Admission;
use crate::edge::inherit::Inherited;
use crate::edge::listener::{ListenerUpdate, Listeners};
use crate::edge::worker::WorkerCommand;
use crate::edge::workers::Workers;
use crate::net::clock::wall_s;
use crate::snapshot::{ConfigSource, Inputs, Keys, Live, Previous, ServiceState, Snapshot};
use crate::telemetry::Telemetry;
use crate::upstream::{Registry, discovery};

/// Longest wait for the host names of new endpoints to resolve. Names that take longer are published without addresses.
const NAMES: Duration = Duration::from_secs(1);
/// Longest wait for all workers to adopt a snapshot. It normally takes microseconds.
const ADOPTION: Duration = Duration::from_secs(5);
/// Longest wait for the first round of health checks before the listeners open.
const CHECKS: Duration = Duration::from_secs(1);

/// The result of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReloadOutcome {
    /// This generation runs on every worker.
    Adopted(u64),
    /// The file holds the text of the running configuration, which has this generation.
    Unchanged(u64),
    /// The file was refused and the running generation stays in use. Holds the rendered diagnostics.
    Refused(String),
}

/// Owns everything that a reload may change, and stores the snapshots.
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
    /// The first generation's listeners, by worker, until [`Publisher::open`] passes them on.
    unopened: Vec<Vec<ListenerUpdate>>,
    keys: Keys,
    log: OpenLog,
    history: HistoryRecorder,
    /// The text of the first generation, until the history has it.
    first_text: Arc<str>,
    /// The shares that rollouts have reached.
    rollouts: SharesInForce,
}

/// A compiled first generation, before sockets are bound and threads are started.
#[derive(Debug)]
pub(crate) struct Prepared {
    file: PathBuf,
    first: Snapshot,
    hash: String,
    text: Arc<str>,
    registry: Arc<Registry>,
    telemetry: Arc<Telemetry>,
    admission: Arc<Admission>,
    workers: usize,
    keys: Keys,
    log: OpenLog,
    rollouts: SharesInForce,
}

impl Prepared {
    /// Reads and compiles the file, and resolves the host names of its endpoints. `descriptors` is the limit of open files, which
    /// bounds the connection ceiling.
    ///
    /// # Errors
    /// The configuration is not valid, or a file that it names can't be used.
    pub(crate) async fn read(file: &Path, descriptors: Option<usize>) -> Result<Self, RunError> {
        let loaded = config::load(file).map_err(|e| RunError::Config(e.rendered(false)))?;
        let found = preflight(&loaded, file);
        if !found.errors.is_empty() {
            return Err(RunError::Config(rendered(&found.errors)));
        }
        warn(&loaded);
        let workers = loaded.spec.workers.unwrap_or_else(cores);
        let telemetry = Telemetry::new(workers);
        let log = OpenLog::default().next(&loaded.spec, telemetry.access_log());
        let log = log.map_err(|problem| {
            RunError::Config(log_error(&loaded, file, &problem).rendered(false))
        })?;
        let spec = loaded.spec;
        let registry = Arc::new(Registry::new());
        let admission = Admission::new(&spec.limits, descriptors);
        let keys = sticky_key::keys(&spec, &Keys::new()).map_err(RunError::Config)?;
        // Compiled as desired, only to register the endpoints whose names are resolved next. `bind` compiles the snapshot that
        // runs, because only it knows what the predecessor had in force.
        let first = Snapshot::build(1, spec, &registry, &telemetry);
        discovery::first(&registry, NAMES).await;
        Ok(Self {
            file: file.to_owned(),
            first,
            hash: loaded.hash,
            text: loaded.text.into(),
            registry,
            telemetry,
            admission,
            workers,
            keys,
            log,
            rollouts: SharesInForce::default(),
        })
    }

    /// The counters.
    pub(crate) fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// Sets the shares that rollouts had reached when the process before this one ended.
    pub(crate) fn with_rollouts(mut self, shares: SharesInForce) -> Self {
        self.rollouts = shares;
        self
    }

    /// The desired first generation. Its endpoints are the ones that will be published.
    pub(crate) fn first(&self) -> &Snapshot {
        &self.first
    }

    /// Binds the sockets that are not inherited and starts the workers. They serve once [`Publisher::open`] gives them their
    /// listeners.
    ///
    /// `predecessor` is the generation of the process that is taken over and what it had in force; the first generation here
    /// continues from both. Without a predecessor, generations continue those of the history. Waits up to a second for the first health checks. Must run on the control thread's runtime.
    ///
    /// # Errors
    /// An address can't be bound, a certificate can't be used, or a thread can't be started.
    pub(crate) async fn bind(
        self,
        inherited: &mut Inherited,
        predecessor: Option<(u64, &[ServiceState])>,
        history: HistoryRecorder,
    ) -> Result<Publisher, RunError> {
        let mut listeners = Listeners::new(self.workers);
        let plan = listeners.plan(&self.first.spec, &self.telemetry, inherited);
        let plan = plan.map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            RunError::Listen(lines.join("\n"))
        })?;
        let (suspects, suspected) = tokio::sync::mpsc::unbounded_channel();
        let monitor = HealthMonitor::start(self.telemetry.clone(), suspected);
        let (generation, previous) = match predecessor {
            Some((generation, services)) => (generation + 1, Previous::Process(services)),
            None => (history.first_generation(&self.hash), Previous::Nothing),
        };
        let inputs = Inputs {
            generation,
            spec: &self.first.spec,
            previous,
            // No check has run in this process yet.
            passes: &|_, _| false,
            rollouts: &|service| self.rollouts.of(service),
            keys: &self.keys,
            access_log: self.log.sink(),
            now_s: wall_s(),
        };
        let first = Snapshot::compile(&inputs, &self.registry, &self.telemetry);
        monitor.prepare(&first);
        for line in first.awaited() {
            tracing::info!("{line}");
        }
        let mut source = ConfigSource {
            path: self.file.clone(),
            ..ConfigSource::default()
        };
        source.adopt(self.hash, first.generation);
        let live = Live::new(first, self.workers, source);
        let workers = Workers::start(self.workers, &live, &self.admission, suspects);
        let workers = workers.map_err(RunError::Threads)?;
        monitor.adopt(&live.current());
        monitor.first_round(CHECKS).await;
        let unopened = listeners.adopt(plan);
        live.note_certificates(listeners.certificate_states());
        Ok(Publisher {
            unopened,
            file: self.file,
            live,
            registry: self.registry,
            telemetry: self.telemetry,
            admission: self.admission,
            listeners,
            workers,
            monitor,
            keys: self.keys,
            log: self.log,
            history,
            first_text: self.text,
            rollouts: self.rollouts,
        })
    }
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
    /// `unwanted`: their queues are drained here, because nobody else would answer them.
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

    /// Reads the file and publishes it if it is valid and has changed. Returns once every worker has adopted it, or after
    /// [`ADOPTION`].
    ///
    /// `rollouts` returns the shares that rollouts have under a specification, just before it is compiled.
    pub(crate) async fn reload(
        &mut self,
        rollouts: impl FnOnce(&Spec) -> SharesInForce,
    ) -> ReloadOutcome {
        let began = Instant::now();
        let loaded = match file_watcher::when_whole(&self.file, read).await {
            Ok(loaded) => loaded,
            Err((error, hash)) => return self.refuse(error, hash.as_deref()),
        };
        let source = self.live.source();
        let running = self.live.current();
        // The specification may differ for the same text, where it has the content of other files.
        if loaded.hash == source.hash && loaded.spec == running.spec {
            if source.error.is_some() {
                self.clear_refusal(running.generation);
            }
            return ReloadOutcome::Unchanged(running.generation);
        }
        let mut none = Inherited::default();
        let plan = match self
            .listeners
            .plan(&loaded.spec, &self.telemetry, &mut none)
        {
            Ok(plan) => plan,
            Err(errors) => {
                let errors = plan_errors(&loaded, &self.file, &errors);
                return self.refuse(rendered(&errors), Some(&loaded.hash));
            }
        };
        if let Some(error) = token_error(&loaded, &self.file) {
            return self.refuse(error.rendered(false), Some(&loaded.hash));
        }
        let log = match self.log.next(&loaded.spec, self.telemetry.access_log()) {
            Ok(log) => log,
            Err(problem) => {
                let error = log_error(&loaded, &self.file, &problem);
                return self.refuse(error.rendered(false), Some(&loaded.hash));
            }
        };
        // The last step that can fail: from here on the generation is published.
        match sticky_key::keys(&loaded.spec, &self.keys) {
            Ok(keys) => self.keys = keys,
            Err(error) => return self.refuse(error, Some(&loaded.hash)),
        }
        warn(&loaded);
        warn_of_restart(&running.spec, &loaded.spec);
        self.rollouts = rollouts(&loaded.spec);
        self.log.replace(log);
        let next = self.compile(&running, &loaded.spec);
        let generation = next.generation;
        discovery::first(&self.registry, NAMES).await;
        self.admission.adopt(&loaded.spec.limits);
        self.publish(next);
        let updates = self.listeners.adopt(plan);
        for (worker, updates) in self.workers.workers().iter().zip(updates) {
            // Snapshot before listeners: a request that arrives on a new listener must find the new routes.
            worker.tell(WorkerCommand::Adopt);
            worker.tell(WorkerCommand::Listeners(updates));
        }
        self.live
            .note_source(|s| s.adopt(loaded.hash.clone(), generation));
        self.live
            .note_certificates(self.listeners.certificate_states());
        self.wait_until_adopted(generation).await;
        let now = self.live.current();
        let changes = audit::changes(&running, &now);
        audit::log(generation, &changes);
        let lines = history::lines_of(&changes, (&running, &now));
        let text = (&*loaded.hash, Some(loaded.text.into()));
        self.history.record(generation, lines, text, None);
        tracing::info!(
            generation,
            took_ms = began.elapsed().as_millis(),
            after_refusal = source.error.is_some(),
            "configuration adopted by every worker"
        );
        ReloadOutcome::Adopted(generation)
    }

    /// Compiles the generation after `running`, and flags its new endpoints so that they get no traffic before they pass a check.
    fn compile(&self, running: &Snapshot, spec: &Arc<Spec>) -> Snapshot {
        let inputs = Inputs {
            generation: running.generation + 1,
            spec,
            previous: Previous::Generation(running),
            passes: &|service, version| self.monitor.passes(&self.registry, service, version),
            rollouts: &|service| self.rollouts.of(service),
            keys: &self.keys,
            access_log: self.log.sink(),
            now_s: wall_s(),
        };
        let next = Snapshot::compile(&inputs, &self.registry, &self.telemetry);
        self.monitor.prepare(&next);
        next
    }

    /// Makes `next` the running snapshot, then lets the health monitor start checks of the endpoints it adds and stop checks of
    /// those it drops.
    fn publish(&self, next: Snapshot) {
        for line in next.awaited() {
            tracing::info!("{line}");
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

    /// Waits until an endpoint comes up or has its first check result, after which [`Self::open_gate`] may have something to do.
    /// May return for neither.
    pub(crate) async fn news(&self) {
        self.monitor.news().await;
    }

    fn refuse(&self, error: String, hash: Option<&str>) -> ReloadOutcome {
        let generation = self.live.current().generation;
        let known = self.live.source();
        // One save may be read several times, and a bad file may stay for hours: an error is logged only when it is new.
        if known.error.as_ref() != Some(&error) {
            tracing::error!(
                generation,
                detail = error,
                "configuration refused, the running generation stays in use"
            );
        }
        self.live.note_source(|s| {
            s.refused += 1;
            s.refused_hash = hash.map(str::to_owned);
            s.error = Some(error.clone());
        });
        ReloadOutcome::Refused(error)
    }

    fn clear_refusal(&self, generation: u64) {
        self.live.note_source(|s| {
            s.error = None;
            s.refused_hash = None;
        });
        tracing::info!(generation, "the file again holds the running configuration");
    }

    /// Reloads the certificates whose files have changed, and passes them to the workers. Snapshot and listeners stay as they are.
    pub(crate) fn renew(&mut self) {
        let renewal = self.listeners.renew();
        self.live
            .note_certificates(self.listeners.certificate_states());
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

    /// Reopens the file of the access log.
    pub(crate) fn reopen_log(&self) {
        self.log.reopen();
    }

    /// The published state, which workers and the admin API read.
    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    pub(crate) fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// The registry of endpoints, which outlive snapshots.
    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    pub(crate) fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// Restarts workers that panicked, on the sockets that they had. Requests in flight on them are lost.
    ///
    /// # Errors
    /// They keep panicking, or can't be started.
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

    /// Whether the task that runs health checks and ejects outliers has died.
    pub(crate) fn is_monitor_dead(&self) -> bool {
        self.monitor.is_dead()
    }

    pub(crate) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// The worker threads, to stop them or to look for one that is stuck.
    pub(crate) fn workers_mut(&mut self) -> &mut Workers {
        &mut self.workers
    }

    /// The number of open downstream connections.
    pub(crate) fn connections(&self) -> usize {
        self.admission.open()
    }
}

/// The number of cores that this process may use (CPU affinity and cgroup quotas count), 1 if that is unknown.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
