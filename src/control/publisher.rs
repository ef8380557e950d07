//! The only publisher: file -> spec -> listeners and certificates -> snapshot -> one store -> workers.
//!
//! Everything that can fail comes before the store. A refusal changes nothing that runs; it is kept in [`Live::source`]
//! and in the log until the file is whole again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::RunError;
use super::audit;
use super::file_watcher;
use super::health_monitor::HealthMonitor;
use super::preflight::{plan_errors, preflight, token_error};
use super::sticky_key;
use crate::config::{self, Diagnostic, Spec};
use crate::edge::admission::Admission;
use crate::edge::inherit::Inherited;
use crate::edge::listener::{ListenerUpdate, Listeners};
use crate::edge::worker::WorkerCommand;
use crate::edge::workers::Workers;
use crate::net::clock::wall_s;
use crate::snapshot::{ConfigSource, Inputs, Keys, Live, Previous, ServiceState, Snapshot};
use crate::telemetry::Telemetry;
use crate::upstream::{Registry, discovery};

/// Longest wait for the names of new endpoints before they are published without addresses.
const NAMES: Duration = Duration::from_secs(1);
/// Longest wait for workers to adopt what was published; they take microseconds.
const ADOPTION: Duration = Duration::from_secs(5);

/// Longest wait for the first checks before traffic is let in.
const CHECKS: Duration = Duration::from_secs(1);

/// What came of reading the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReloadOutcome {
    /// This generation runs on every worker.
    Adopted(u64),
    /// The text is the one that runs already, as this generation.
    Unchanged(u64),
    /// The running generation goes on; why the file was refused, in full.
    Refused(String),
}

/// The one who publishes.
#[derive(Debug)]
pub(crate) struct Publisher {
    file: PathBuf,
    live: Arc<Live>,
    registry: Arc<Registry>,
    telemetry: Arc<Telemetry>,
    gate: Arc<Admission>,
    listeners: Listeners,
    fleet: Workers,
    monitor: HealthMonitor,
    /// Sockets that are bound and not handed out yet, by worker.
    unopened: Vec<Vec<ListenerUpdate>>,
    keys: Keys,
}

/// A first generation that has everything but sockets and threads.
#[derive(Debug)]
pub(crate) struct Prepared {
    file: PathBuf,
    first: Snapshot,
    hash: String,
    registry: Arc<Registry>,
    telemetry: Arc<Telemetry>,
    gate: Arc<Admission>,
    workers: usize,
    keys: Keys,
}

impl Prepared {
    /// Reads and compiles the file.
    ///
    /// # Errors
    /// The configuration is not valid.
    pub(crate) async fn read(file: &Path, descriptors: Option<usize>) -> Result<Self, RunError> {
        let loaded = config::load(file).map_err(|e| RunError::Config(e.rendered(false)))?;
        let found = preflight(&loaded, file);
        if !found.errors.is_empty() {
            return Err(RunError::Config(rendered(&found.errors)));
        }
        warn(&loaded);
        let spec = loaded.spec;
        let workers = spec.workers.unwrap_or_else(cores);
        let telemetry = Telemetry::new(workers);
        let registry = Arc::new(Registry::new());
        let gate = Admission::new(&spec.limits, descriptors);
        let keys = sticky_key::keys(&spec, &Keys::new()).map_err(RunError::Config)?;
        // As desired: it registers the endpoints, whose names are resolved next. What is in force, `bind` decides.
        let first = Snapshot::build(1, spec, &registry, &telemetry);
        discovery::first(&registry, NAMES).await;
        Ok(Self {
            file: file.to_owned(),
            first,
            hash: loaded.hash,
            registry,
            telemetry,
            gate,
            workers,
            keys,
        })
    }

    /// What is to run.
    pub(crate) fn first(&self) -> &Snapshot {
        &self.first
    }

    /// Binds what is not inherited, and makes the workers that are to serve once [`Publisher::open`] lets traffic in. The first
    /// generation follows the one of `predecessor`, a process that is taken over from: its number, and what it had in force.
    /// Must run on the control thread's runtime.
    ///
    /// # Errors
    /// An address can't be bound, a certificate can't be used, or a thread can't be made.
    pub(crate) async fn bind(
        self,
        inherited: &mut Inherited,
        predecessor: Option<(u64, &[ServiceState])>,
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
            None => (1, Previous::Nothing),
        };
        let inputs = Inputs {
            generation,
            spec: &self.first.spec,
            previous,
            // This process has made no check yet.
            passes: &|_, _| false,
            keys: &self.keys,
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
        let fleet = Workers::start(self.workers, &live, &self.gate, suspects);
        let fleet = fleet.map_err(RunError::Threads)?;
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
            gate: self.gate,
            listeners,
            fleet,
            monitor,
            keys: self.keys,
        })
    }
}

impl Publisher {
    /// Lets traffic in.
    pub(crate) fn open(&mut self) {
        let orders = std::mem::take(&mut self.unopened);
        for (worker, orders) in self.fleet.workers().iter().zip(orders) {
            worker.tell(WorkerCommand::Listeners(orders));
        }
        for (name, place) in self.listeners.places() {
            tracing::info!(listener = name, address = %place, "listening");
        }
    }

    /// Closes all listeners; workers finish what they have.
    pub(crate) fn close(&mut self) {
        self.listeners.let_go();
        self.fleet.drain();
    }

    /// As [`Self::close`], but another process accepts on the sockets now, except on those bound at `unwanted`.
    pub(crate) fn hand_over(&mut self, unwanted: &[String]) {
        let ours = self.listeners.hand_over(unwanted);
        self.fleet.hand_over(&ours);
    }

    /// Accepts no more: the process that this one wanted to take over from goes on with the same sockets. The files of sockets that
    /// only this one has go with it.
    pub(crate) fn withdraw(&mut self) {
        self.listeners.let_go();
        self.fleet.hand_over(&[]);
    }

    /// Reads the file and publishes it, if it is good and new. Returns when every worker has adopted it.
    pub(crate) async fn reload(&mut self) -> ReloadOutcome {
        let began = Instant::now();
        let loaded = match file_watcher::when_whole(&self.file, read).await {
            Ok(loaded) => loaded,
            Err((error, hash)) => return self.refuse(error, hash.as_deref()),
        };
        let source = self.live.source();
        let running = self.live.current();
        if loaded.hash == source.hash {
            if source.error.is_some() {
                self.live.note_source(|s| {
                    s.error = None;
                    s.refused_hash = None;
                });
                tracing::info!(
                    generation = running.generation,
                    "the file again holds the running configuration"
                );
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
        match sticky_key::keys(&loaded.spec, &self.keys) {
            Ok(keys) => self.keys = keys,
            Err(error) => return self.refuse(error, Some(&loaded.hash)),
        }
        warn(&loaded);
        warn_of_restart(&running.spec, &loaded.spec);
        let next = self.compile(&running, &loaded.spec);
        let generation = next.generation;
        discovery::first(&self.registry, NAMES).await;
        self.gate.adopt(&loaded.spec.limits);
        self.publish(next);
        let orders = self.listeners.adopt(plan);
        for (worker, orders) in self.fleet.workers().iter().zip(orders) {
            // First the routes, then the doors: who comes in by a new listener finds its routes.
            worker.tell(WorkerCommand::Adopt);
            worker.tell(WorkerCommand::Listeners(orders));
        }
        self.live.note_source(|s| s.adopt(loaded.hash, generation));
        self.live
            .note_certificates(self.listeners.certificate_states());
        self.adopted(generation).await;
        audit::log(&running, &self.live.current());
        tracing::info!(
            generation,
            took_ms = began.elapsed().as_millis(),
            after_refusal = source.error.is_some(),
            "configuration adopted by every worker"
        );
        ReloadOutcome::Adopted(generation)
    }

    /// Compiles the generation after `running`. Its new endpoints get no traffic before they pass a check.
    fn compile(&self, running: &Snapshot, spec: &Arc<Spec>) -> Snapshot {
        let inputs = Inputs {
            generation: running.generation + 1,
            spec,
            previous: Previous::Generation(running),
            passes: &|service, version| self.monitor.passes(&self.registry, service, version),
            keys: &self.keys,
            now_s: wall_s(),
        };
        let next = Snapshot::compile(&inputs, &self.registry, &self.telemetry);
        self.monitor.prepare(&next);
        next
    }

    /// The one store.
    fn publish(&self, next: Snapshot) {
        for line in next.awaited() {
            tracing::info!("{line}");
        }
        let next = Arc::new(next);
        self.live.publish(next.clone());
        self.monitor.adopt(&next);
    }

    async fn adopted(&self, generation: u64) {
        if !self.fleet.adopted(generation, ADOPTION).await {
            tracing::error!(generation, waited = ?ADOPTION, "a worker has not adopted the generation");
        }
    }

    /// Waits until an endpoint came up, so that [`Self::open_gate`] may have something to do.
    pub(crate) async fn news(&self) {
        self.monitor.news().await;
    }

    /// Gives versions that were waited for and pass now what the file gives them: true if there were some.
    pub(crate) async fn open_gate(&mut self) -> bool {
        let running = self.live.current();
        let opens = running.can_open();
        if opens {
            let next = self.compile(&running, &running.spec);
            let generation = next.generation;
            self.publish(next);
            for worker in self.fleet.workers() {
                worker.tell(WorkerCommand::Adopt);
            }
            self.adopted(generation).await;
            audit::log(&running, &self.live.current());
            tracing::info!(
                generation,
                "awaited versions pass their checks, generation adopted by every worker"
            );
        }
        opens
    }

    fn refuse(&self, error: String, hash: Option<&str>) -> ReloadOutcome {
        let generation = self.live.current().generation;
        let known = self.live.source();
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

    /// Looks at the certificate files and takes up those that changed. Nothing else is touched.
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
        for worker in self.fleet.workers() {
            worker.tell(WorkerCommand::Listeners(self.listeners.updates()));
        }
        tracing::info!(
            listeners = renewal.renewed.join(","),
            "certificates reloaded"
        );
    }

    /// What is published.
    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Every counter.
    pub(crate) fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// Every endpoint.
    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Every listener.
    pub(crate) fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// Starts workers anew that died, on the sockets that they had.
    ///
    /// # Errors
    /// They die again and again, or can't be started.
    pub(crate) fn revive(&mut self) -> io::Result<()> {
        for id in self.fleet.revive()? {
            let orders = self.listeners.updates_for_restart(id)?;
            self.fleet.workers()[id].tell(WorkerCommand::Listeners(orders));
            tracing::error!(
                "worker {id} died by a fault of cutover itself and was started anew: what was in flight on it is lost, all else went on"
            );
        }
        Ok(())
    }

    /// Whether the task is dead that makes health checks and judges outliers.
    pub(crate) fn is_unwatched(&self) -> bool {
        self.monitor.is_dead()
    }

    /// Every worker.
    pub(crate) fn fleet(&self) -> &Workers {
        &self.fleet
    }

    /// Every worker.
    pub(crate) fn fleet_mut(&mut self) -> &mut Workers {
        &mut self.fleet
    }

    /// Downstream connections of the process.
    pub(crate) fn connections(&self) -> usize {
        self.gate.open()
    }
}

/// Reads the file; else why it is refused, and its hash. A fault of ours that a file brings to light must not end the proxy that runs.
fn read(file: &Path) -> Result<config::Loaded, (String, Option<String>)> {
    let load = || {
        #[cfg(test)]
        assert!(
            !std::fs::read_to_string(file).is_ok_and(|text| text.contains("# stumble")),
            "on purpose: file"
        );
        config::load(file)
    };
    match std::panic::catch_unwind(load) {
        Ok(Ok(loaded)) => Ok(loaded),
        Ok(Err(failure)) => Err((failure.rendered(false), failure.hash().map(str::to_owned))),
        Err(_) => Err((
            format!(
                "{}: it brings a fault of cutover itself to light; the log says where. Please report it with this file",
                file.display()
            ),
            None,
        )),
    }
}

fn rendered(errors: &[Diagnostic]) -> String {
    let errors: Vec<String> = errors.iter().map(|e| e.rendered(false)).collect();
    errors.join("\n")
}

/// One worker for each core that the process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn warn(loaded: &config::Loaded) {
    for warning in &loaded.warnings {
        tracing::warn!(
            detail = warning.rendered(false),
            "warning about the configuration file"
        );
    }
}

/// Says what of an edit is taken up at the next start only.
fn warn_of_restart(old: &Spec, new: &Spec) {
    let listen = |spec: &Spec| spec.admin.as_ref().map(|a| a.listen.clone());
    let changed = [
        ("workers", old.workers != new.workers),
        ("state_dir", old.state_dir != new.state_dir),
        ("admin", listen(old) != listen(new)),
    ];
    for (key, _) in changed.iter().filter(|(_, changed)| *changed) {
        tracing::warn!(
            key,
            "this key takes effect at the next start; all other changes are adopted now"
        );
    }
}
