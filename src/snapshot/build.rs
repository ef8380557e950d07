//! Compiles a specification into a snapshot.
//!
//! There is one way to a running snapshot, [`Snapshot::compile`]: it computes the effective state and resolves names, endpoints,
//! counters and keys. A service is reused from the running generation if its specification, its effective split and its sticky
//! key are the same, so a change costs only the services that it touches.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::effective::{Effective, EffectiveSplit, RolloutShare, effective};
use super::{
    EndpointSet, FlagMetrics, Keys, Listener, ListenerClientLimits, MergedEdits, MirrorTarget,
    NeededMemory, RollingFlag, Service, ServiceActions, ServiceClientLimits, ServiceState,
    Sessions, Snapshot, Version,
};
use crate::config::Spec;
use crate::config::spec::{self, Balance};
use crate::index::{ServiceIx, VersionIx};
use crate::prefetch::{FEW_ENDPOINTS, FEW_SERVICES};
use crate::routing::{self, Split};
use crate::telemetry::Telemetry;
use crate::telemetry::access_log::sink::LogSink;
use crate::telemetry::trace::sink::TraceSink;
use crate::upstream::resolve::record::Resolutions;
use crate::upstream::{Pool, Registry};

/// The state that was in force before the snapshot. It decides what a new share or role may already do: only what was in force can
/// go on without new checks.
#[derive(Clone, Copy, Debug)]
pub enum Previous<'a> {
    /// None: the first generation of a process without a predecessor.
    Nothing,
    /// The state that a predecessor passed on.
    Process(&'a [ServiceState]),
    /// The running generation of this process. Services that would not differ are reused.
    Generation(&'a Snapshot),
}

/// Tells whether a version of a service passes its checks.
pub(crate) type Verdicts<'a> = &'a dyn Fn(&spec::ServiceSpec, &spec::VersionSpec) -> bool;

/// Returns the state of a service's rollout.
pub(crate) type Rollouts<'a> = &'a dyn Fn(&spec::ServiceSpec) -> RolloutShare;

/// The inputs of [`Snapshot::compile`].
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The number of the new snapshot.
    pub generation: u64,
    /// The configuration that it is built from.
    pub spec: &'a Arc<Spec>,
    /// What ran before.
    pub previous: Previous<'a>,
    /// Whether a version may take a larger share.
    pub passes: Verdicts<'a>,
    /// Where the rollouts stand.
    pub rollouts: Rollouts<'a>,
    /// The addresses of names.
    pub resolutions: &'a Resolutions,
    /// Keys of sticky sessions. A service whose key is missing has no sticky sessions.
    pub keys: &'a Keys,
    /// Members of the fleet among which `limits.requests` is divided; 1 if it is this proxy's own.
    pub limit_members: u32,
    /// The sink to which requests are logged.
    pub access_log: Option<&'a Arc<LogSink>>,
    /// The sink to which spans are exported.
    pub traces: Option<&'a Arc<TraceSink>>,
    /// The current time in seconds since the Unix epoch.
    pub now_s: u64,
}

impl Snapshot {
    /// Compiles the effective state under the specification. Used at startup, after a reload, when the stable gate opens and in a
    /// takeover.
    pub fn compile(inputs: &Inputs<'_>, registry: &Registry, telemetry: &Telemetry) -> Self {
        let running = match inputs.previous {
            Previous::Generation(running) => running.state(),
            Previous::Nothing | Previous::Process(_) => Vec::new(),
        };
        let previous = match inputs.previous {
            Previous::Process(states) => states,
            Previous::Nothing | Previous::Generation(_) => &running,
        };
        let effective = effective(
            inputs.spec,
            previous,
            inputs.passes,
            inputs.rollouts,
            inputs.resolutions,
        );
        Self::with(inputs, effective, previous, registry, telemetry)
    }

    /// Compiles `spec` as desired, without regard to the state before and without looking up names. For commands that
    /// inspect a file, and for tests.
    pub fn build(
        generation: u64,
        spec: Arc<Spec>,
        registry: &Registry,
        telemetry: &Telemetry,
    ) -> Self {
        Self::desired(generation, spec, &Resolutions::new(), registry, telemetry)
    }

    /// Compiles `spec` as desired, with these addresses of names.
    pub fn desired(
        generation: u64,
        spec: Arc<Spec>,
        resolutions: &Resolutions,
        registry: &Registry,
        telemetry: &Telemetry,
    ) -> Self {
        let inputs = Inputs {
            generation,
            spec: &spec,
            previous: Previous::Nothing,
            passes: &|_, _| true,
            rollouts: &|_| RolloutShare::default(),
            resolutions,
            keys: &Keys::new(),
            limit_members: 1,
            access_log: None,
            traces: None,
            now_s: 0,
        };
        let effective = Effective::desired(&spec, resolutions);
        Self::with(&inputs, effective, &[], registry, telemetry)
    }

    fn with(
        inputs: &Inputs<'_>,
        effective: Effective,
        previous: &[ServiceState],
        registry: &Registry,
        telemetry: &Telemetry,
    ) -> Self {
        let spec = inputs.spec;
        let compiler = Compiler {
            inputs,
            previous: previous.iter().map(|s| (s.name.as_str(), s)).collect(),
            running: match inputs.previous {
                Previous::Generation(running) => running.services_by_name(),
                Previous::Nothing | Previous::Process(_) => HashMap::new(),
            },
            registry,
            telemetry,
        };
        let services: Vec<Arc<Service>> = spec
            .services
            .iter()
            .zip(effective.services)
            .map(|(service, effective)| compiler.service(service, effective))
            .collect();
        let versions = services.iter().flat_map(|service| &service.versions);
        let endpoints: usize = versions.map(|version| version.pool.members.len()).sum();
        let is_large = services.len() > FEW_SERVICES || endpoints > FEW_ENDPOINTS;
        let listeners = spec
            .listeners
            .iter()
            .map(|l| Listener {
                metrics: telemetry.listener(&l.name),
            })
            .collect();
        Self {
            generation: inputs.generation,
            table: match inputs.previous {
                Previous::Generation(running) if Arc::ptr_eq(&running.spec, spec) => {
                    running.table.clone()
                }
                _ => Arc::new(routing::RouteTable::new(&spec.services)),
            },
            narrowed: match inputs.previous {
                Previous::Generation(running) if Arc::ptr_eq(&running.spec, spec) => {
                    running.narrowed.clone()
                }
                _ => narrowed(spec),
            },
            access_log: inputs.access_log.cloned(),
            traces: inputs.traces.cloned(),
            followers: telemetry.access_log().followers().clone(),
            listener_limits: ListenerClientLimits::new(
                &spec.listeners,
                match inputs.previous {
                    Previous::Generation(running) => Some(&running.listener_limits),
                    Previous::Nothing | Previous::Process(_) => None,
                },
            ),
            unrouted: telemetry.service(""),
            default_edits: MergedEdits::new(&spec.headers),
            announces_clients: spec.announces_clients(),
            slots: EndpointSet::of(&services),
            needed: match services.len() {
                ..=FEW_SERVICES => Box::default(),
                _ => services.iter().map(|s| NeededMemory::of(s)).collect(),
            },
            is_large,
            services,
            listeners,
            spec: spec.clone(),
        }
    }

    fn services_by_name(&self) -> HashMap<&str, (&spec::ServiceSpec, &Arc<Service>)> {
        // The two lists are in the same order.
        let pairs = self.spec.services.iter().zip(&self.services);
        pairs
            .map(|(spec, service)| (&*service.name, (spec, service)))
            .collect()
    }
}

/// The routes of each listener that names its services.
fn narrowed(spec: &Spec) -> Arc<[(String, routing::RouteTable)]> {
    let tables = spec.listeners.iter().filter_map(|listener| {
        let named = listener.services.as_ref()?;
        let has = |service: ServiceIx| named.contains(&spec.services[service].name);
        let table = routing::RouteTable::of(&spec.services, has);
        Some((listener.name.clone(), table))
    });
    tables.collect()
}

/// Number of services that have been compiled.
static COMPILED: AtomicU64 = AtomicU64::new(0);

/// Compiles services, or reuses them from the running generation.
struct Compiler<'a> {
    inputs: &'a Inputs<'a>,
    previous: HashMap<&'a str, &'a ServiceState>,
    running: HashMap<&'a str, (&'a spec::ServiceSpec, &'a Arc<Service>)>,
    registry: &'a Registry,
    telemetry: &'a Telemetry,
}

impl Compiler<'_> {
    fn service(&self, spec: &spec::ServiceSpec, effective: EffectiveSplit) -> Arc<Service> {
        if let Some((was, running)) = self.running.get(spec.name.as_str())
            && (std::ptr::eq(*was, spec) || *was == spec)
            && running.effective == effective
            && self.has_same_key(running)
            && self.ceiling(spec) == running.policies.limits.requests
        {
            return Arc::clone(running);
        }
        Arc::new(self.compiled(spec, effective))
    }

    /// Whether the running service seals sticky sessions with the key that a new one would use. Comparing specifications isn't
    /// enough: a key file can change while the path in the specification stays the same.
    fn has_same_key(&self, running: &Service) -> bool {
        let sealed_by = running.sessions.as_ref().map(|s| Arc::as_ptr(s.key()));
        let policy = running.policies.sticky.as_ref();
        let key = policy.and_then(|policy| self.inputs.keys.get(&policy.key_file));
        sealed_by == key.map(Arc::as_ptr)
    }

    /// This member's part of `limits.requests`, rounded up. 0 means no limit.
    fn ceiling(&self, spec: &spec::ServiceSpec) -> u32 {
        let members = self.inputs.limit_members.max(1);
        spec.policies.limits.requests.div_ceil(members)
    }

    fn compiled(&self, spec: &spec::ServiceSpec, effective: EffectiveSplit) -> Service {
        let mut routing = routing::ServiceRouting::new(spec);
        // `routing` has the split of the specification. The effective one differs while a version is held back, and where one
        // follows a rollout.
        if effective.stable != spec.stable || effective.split != spec.split {
            let names: Vec<&str> = spec.versions.iter().map(|v| &*v.name).collect();
            routing.split = Split::new(&names, effective.stable, &effective.split);
        }
        if let Some(flag) = spec.rolling_flag() {
            routing.flags[flag.0].share = effective.flag;
        }
        let running = self.running.get(spec.name.as_str());
        let versions = VersionIx::enumerate(&spec.versions).map(|(ix, version)| {
            let expanded = effective.expanded(ix);
            let metrics = self.telemetry.version(&spec.name, &version.name);
            Version {
                name: version.name.as_str().into(),
                pool: Pool::new(spec, version, expanded, self.registry, &metrics),
                metrics,
                goals: { spec.goals.iter() }
                    .map(|goal| self.telemetry.goal(&spec.name, &version.name, &goal.name))
                    .collect(),
                guard: { spec.rollout.as_ref() }
                    .map(|_| self.telemetry.guard(&spec.name, &version.name)),
                load: self.registry.load(&spec.name, &version.name),
            }
        });
        let versions = versions.collect();
        let mut policies = spec.policies.clone();
        policies.limits.requests = self.ceiling(spec);
        let mut service = Service {
            name: spec.name.as_str().into(),
            id: COMPILED.fetch_add(1, Relaxed),
            slot: self.registry.service_slot(&spec.name),
            metrics: self.telemetry.service(&spec.name),
            routing,
            actions: ServiceActions::new(spec),
            client_limits: ServiceClientLimits::new(
                spec,
                running.map(|(spec, running)| (*spec, &running.client_limits)),
            ),
            errors: self.telemetry.errors(&spec.name),
            mirror: MirrorTarget::new(
                spec,
                |version| effective.expanded(version),
                (self.registry, self.telemetry),
            ),
            flags: FlagMetrics::all(spec, self.telemetry),
            rolling_flag: RollingFlag::of(
                spec,
                running.map(|(_, running)| &***running),
                self.telemetry,
            ),
            rule_hits: self.telemetry.rules(&spec.name, spec.rules.len()),
            hash: hash_of(spec),
            body_bytes: spec.body_bytes,
            timeouts: spec.timeouts.clone(),
            policies,
            goals: spec.goals.clone(),
            awaited: effective.awaited.clone(),
            effective,
            held: self.registry.held(&spec.name),
            sessions: None,
            versions,
        };
        let previous = self.previous.get(spec.name.as_str());
        let past = |version: &str, id| previous?.past(version, id);
        let voided = service.effective.voided;
        service.sessions = Sessions::new(&service, self.inputs.keys, self.inputs.now_s, past);
        if let (Some(sessions), Some((version, at_s))) = (&mut service.sessions, voided) {
            sessions.void(version, at_s);
        }
        service
    }
}

/// The hash of `balance = "hash"`: a cohort over the keys of `hash_by`, salted with the service's name.
fn hash_of(service: &spec::ServiceSpec) -> Option<routing::Cohort> {
    (service.balance == Balance::Hash).then(|| {
        let by = service.hash_by.clone();
        routing::Cohort::new(&spec::CohortSpec {
            by,
            salt: service.name.clone(),
        })
    })
}
