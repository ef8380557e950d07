//! The first generation: the steps of a start before [`Publisher::open`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{NAMES, Publisher, warn_of_identities};
use crate::config;
use crate::config::load::ConfigFile;
use crate::control::RunError;
use crate::control::access_log::OpenLog;
use crate::control::acme::OrderErrors;
use crate::control::config_file::{rendered, warn};
use crate::control::discovery::Discovery;
use crate::control::health_monitor::HealthMonitor;
use crate::control::history::HistoryRecorder;
use crate::control::preflight::{identity_errors, log_error, preflight};
use crate::control::rollouts::shares::SharesInForce;
use crate::control::sticky_key;
use crate::control::traces::OpenTraces;
use crate::control::upstream_identities::UpstreamIdentities;
use crate::edge::admission::Admission;
use crate::edge::inherit::Inherited;
use crate::edge::listener::Listeners;
use crate::edge::tls::{TicketKeys, TicketSecret};
use crate::edge::workers::Workers;
use crate::net::clock::wall_s;
use crate::snapshot::{ConfigSource, Inputs, Keys, Live, Previous, ServiceState, Snapshot};
use crate::telemetry::Telemetry;
use crate::upstream::Registry;
use crate::upstream::resolve::record::{AddressSet, LookupName};

/// Longest wait for the first round of health checks before the listeners open.
const CHECKS: Duration = Duration::from_secs(1);

/// A compiled first generation, before sockets are bound and threads are started.
///
/// It has read files but changed nothing outside of itself, so a start that fails here leaves no trace, and a running predecessor
/// unharmed. [`Self::bind`] turns it into the publisher.
#[derive(Debug)]
pub(crate) struct Prepared {
    file: PathBuf,
    first: Snapshot,
    hash: String,
    files: Arc<[ConfigFile]>,
    text: Arc<str>,
    registry: Arc<Registry>,
    telemetry: Arc<Telemetry>,
    admission: Arc<Admission>,
    workers: usize,
    keys: Keys,
    identities: UpstreamIdentities,
    log: OpenLog,
    traces: OpenTraces,
    rollouts: SharesInForce,
    tickets: TicketKeys,
    discovery: Discovery,
}

impl Prepared {
    /// Reads and compiles the file, and looks up the names of its endpoints. Must run on the control thread's runtime.
    /// `descriptors` is the limit of open files, which bounds the connection ceiling.
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
        let traces = OpenTraces::default().next(&loaded.spec, &telemetry.spans);
        let traces = traces.map_err(RunError::Threads)?;
        let spec = loaded.spec.clone();
        let registry = Arc::new(Registry::new());
        let admission = Admission::new(&spec.limits, descriptors);
        let keys = sticky_key::keys(&spec, &Keys::new()).map_err(RunError::Config)?;
        let identities = UpstreamIdentities::read(&spec, &Default::default(), SystemTime::now());
        let identities = identities.map_err(|faults| {
            RunError::Config(rendered(&identity_errors(&loaded, file, &faults)))
        })?;
        warn_of_identities(&identities.warnings);
        let identities = identities.identities;
        let discovery = Discovery::start();
        discovery.adopt(&spec);
        discovery.first_round(NAMES).await;
        // Compiled as desired, only to register the endpoints. `bind` compiles the snapshot that runs, because only it knows the
        // predecessor's state.
        let first = discovery
            .with_resolutions(|names| Snapshot::desired(1, spec, names, &registry, &telemetry));
        identities.apply(&first.spec, &registry);
        Ok(Self {
            file: file.to_owned(),
            first,
            files: loaded.files(file).into(),
            hash: loaded.hash,
            text: loaded.text.into(),
            registry,
            telemetry,
            admission,
            workers,
            keys,
            identities,
            log,
            traces,
            rollouts: SharesInForce::default(),
            tickets: TicketKeys::new(wall_s()),
            discovery,
        })
    }

    /// The counters.
    pub(crate) fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// Sets the shares that rollouts had reached when the previous process ended.
    pub(crate) fn with_rollouts(mut self, shares: SharesInForce) -> Self {
        self.rollouts = shares;
        self
    }

    /// Continues with the secrets of a predecessor, so that clients can resume their TLS sessions.
    pub(crate) fn with_tickets(mut self, offered: Vec<TicketSecret>) -> Self {
        self.tickets = TicketKeys::from_offer(offered, wall_s());
        self
    }

    /// Adopts the addresses that names had in the predecessor, where they could not be looked up yet.
    pub(crate) fn with_names(mut self, names: Vec<(LookupName, AddressSet)>) -> Self {
        self.discovery.inherit(names);
        let spec = self.first.spec.clone();
        self.first = self.discovery.with_resolutions(|names| {
            Snapshot::desired(1, spec, names, &self.registry, &self.telemetry)
        });
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
    /// continues from both. Without a predecessor, generations continue those of the history. Waits up to a second for the first
    /// health checks. Must run on the control thread's runtime.
    ///
    /// # Errors
    /// An address can't be bound, a certificate can't be used, or a thread can't be started.
    pub(crate) async fn bind(
        self,
        inherited: &mut Inherited,
        predecessor: Option<(u64, &[ServiceState])>,
        history: HistoryRecorder,
    ) -> Result<Publisher, RunError> {
        let mut listeners = Listeners::new(self.workers, self.tickets);
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
        let first = self.discovery.with_resolutions(|resolutions| {
            let inputs = Inputs {
                generation,
                spec: &self.first.spec,
                previous,
                // No check has run in this process yet.
                passes: &|_, _| false,
                rollouts: &|service| self.rollouts.of(service),
                resolutions,
                limit_members: 1,
                keys: &self.keys,
                access_log: self.log.sink(),
                traces: self.traces.sink(),
                now_s: wall_s(),
            };
            Snapshot::compile(&inputs, &self.registry, &self.telemetry)
        });
        monitor.prepare(&first);
        for line in first.awaited() {
            tracing::info!("{line}");
        }
        let mut source = ConfigSource {
            path: self.file.clone(),
            ..ConfigSource::default()
        };
        source.adopt(self.hash, self.files, first.generation);
        let live = Live::new(first, self.workers, source);
        let workers = Workers::start(self.workers, &live, &self.admission, suspects);
        let workers = workers.map_err(RunError::Threads)?;
        monitor.adopt(&live.current());
        monitor.first_round(CHECKS).await;
        let unopened = listeners.adopt(plan);
        let publisher = Publisher {
            unopened,
            file: self.file,
            live,
            registry: self.registry,
            telemetry: self.telemetry,
            admission: self.admission,
            listeners,
            workers,
            monitor,
            discovery: self.discovery,
            keys: self.keys,
            identities: self.identities,
            log: self.log,
            traces: self.traces,
            order_errors: OrderErrors::new(),
            history,
            first_text: self.text,
            rollouts: self.rollouts,
            limit_members: 1,
        };
        publisher.note_certificates();
        Ok(publisher)
    }
}

/// The number of cores that this process may use (CPU affinity and cgroup quotas count), 1 if that is unknown.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
