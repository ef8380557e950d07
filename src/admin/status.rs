//! The document of `/api/v1/status`. Commands deserialize it into the same types.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::config_status::Config;
use super::error_groups::{self, ErrorGroupStatus};
use super::flags::{self, ConversionStatus, FlagStatus};
use super::fleet::FleetStatus;
use super::mirror::MirrorStatus;
use super::names::{self, NameStatus};
use super::rollout::RolloutStatus;
use super::{Context, ProcessPhase, capacity, shares};
use crate::certificates::date;
use crate::config::spec;
use crate::index::{ServiceIx, VersionIx};
use crate::snapshot::{self, CertificateOwner, CertificateState, Snapshot};
use crate::telemetry::windows::{Red, StatusWindows};
use crate::upstream::endpoint::flag;
use crate::upstream::pool::Member;

/// Key of the shorter window, whose figures commands show.
pub(crate) const SHORT_WINDOW: &str = "10s";

/// The windows over which rates, errors and durations are reported.
const WINDOWS: [(&str, Duration); 2] = [
    (SHORT_WINDOW, Duration::from_secs(10)),
    ("1m", Duration::from_secs(60)),
];

/// A running proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProxyStatus {
    /// Version of the program.
    pub version: String,
    /// Process ID.
    pub pid: u32,
    /// `starting`, `ready` or `stopping`.
    pub phase: String,
    /// The published generation.
    pub generation: u64,
    /// The generation that every worker has adopted.
    pub adopted: u64,
    /// Seconds since the process started.
    pub uptime_s: u64,
    /// The configuration file.
    pub config: Config,
    /// Listeners, in the order of the configuration file.
    pub listeners: Vec<ListenerStatus>,
    /// Certificates, in the order of the configuration file.
    #[serde(default)]
    pub certificates: Vec<CertificateStatus>,
    /// The fleet, if the proxy belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetStatus>,
    /// Services, in the order of the configuration file.
    #[serde(default)]
    pub services: Vec<ServiceStatus>,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListenerStatus {
    /// Name of the listener.
    pub name: String,
    /// Bound address, with the actual port where port 0 is configured.
    pub address: String,
    /// Open downstream connections.
    pub connections: i64,
}

/// A certificate of a listener, or one or the authorities that a version uses for TLS with its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CertificateStatus {
    /// The listener's name; absent for a version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// The name of the service whose version it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The version's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Server names (SNI) for which it is presented.
    pub names: Vec<String>,
    /// Path of the file.
    pub file: String,
    /// Start of its validity, RFC 3339; `None` for authorities.
    pub not_before: Option<String>,
    /// End of its validity, RFC 3339; `None` for authorities.
    pub not_after: Option<String>,
    /// Seconds until the certificate expires; negative if it has expired.
    pub expires_in_s: Option<i64>,
    /// Why the current files can't be used, so that the certificate read before stays in use.
    pub error: Option<String>,
    /// When the error was first seen, RFC 3339.
    pub error_since: Option<String>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServiceStatus {
    /// Name of the service.
    pub name: String,
    /// Name of the stable version.
    pub stable: String,
    /// The answer that the proxy gives to its requests, such as `respond with 503`; absent if they are forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Shares of the versions.
    pub split: SplitStatus,
    /// Versions whose new share is held back until one of their endpoints passes its health check.
    #[serde(default)]
    pub awaiting: Vec<String>,
    /// The rollout, if there is or was one.
    #[serde(default)]
    pub rollout: Option<RolloutStatus>,
    /// Failures of other versions that stable doesn't have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub new_errors: Vec<ErrorGroupStatus>,
    /// Outcomes of the copies of requests, if the service has a mirror.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorStatus>,
    /// Flags of the service, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<FlagStatus>,
    /// Settings that may be mistakes, such as a share that is too large for the weights of a version's endpoints.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Figures of the clients, by window: `10s`, `1m`. Each request counts once, the proxy's own answers included.
    #[serde(default)]
    pub clients: BTreeMap<String, RedStatus>,
    /// Versions, in the order of the configuration file.
    pub versions: Vec<VersionStatus>,
}

/// Shares by version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SplitStatus {
    /// Shares in the configuration; `rollout` for a version that follows one.
    pub desired: BTreeMap<String, String>,
    /// Shares in effect, after the gate and after failover from versions that are down or drained.
    pub effective: BTreeMap<String, String>,
}

/// A version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct VersionStatus {
    /// Name of the version.
    pub name: String,
    /// Label of the version, for dashboards.
    pub label: Option<String>,
    /// Effective share of the version.
    pub share: String,
    /// Requests in flight.
    pub in_flight: i64,
    /// Rate, errors and durations, by window: `10s`, `1m`.
    pub red: BTreeMap<String, RedStatus>,
    /// By goal of the service: how many requests reached it since the process started.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub goals: BTreeMap<String, ConversionStatus>,
    /// Endpoints, in the order of the configuration file.
    pub endpoints: Vec<EndpointStatus>,
    /// The names that the configuration has in place of endpoints' addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<NameStatus>,
}

/// Rate, errors, duration over one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RedStatus {
    /// Requests per second.
    pub rate: f64,
    /// Share of failed requests, in 0 to 1: status 5xx, or a gRPC status that counts as a server error.
    pub error_ratio: f64,
    /// Median duration in milliseconds; `None` without requests.
    pub p50_ms: Option<f64>,
    /// 99th percentile of the duration in milliseconds; `None` without requests.
    pub p99_ms: Option<f64>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndpointStatus {
    /// Address of the endpoint: as in the configuration, or one that a name has.
    pub address: String,
    /// Weight in load balancing, 1 to 1000.
    pub weight: u32,
    /// Requests, streams and tunnels in flight.
    pub active: u32,
    /// Streams and tunnels among those in flight.
    pub streams: u32,
    /// Health by active checks: `up`, `down`, `unproven` (no check has passed yet), `unchecked` (there are none), or `unknown`
    /// (explained without a running proxy).
    pub health: String,
    /// Why the last check failed. Cleared when a check passes while the endpoint is up.
    #[serde(default)]
    pub reason: Option<String>,
    /// Time of the last change of health, RFC 3339; `None` without checks.
    #[serde(default)]
    pub since: Option<String>,
    /// Seconds until the ejection by outlier detection ends; `None` if the endpoint is not ejected.
    pub ejected: Option<u64>,
    /// Share of the weight that counts during slow start.
    pub ramp: String,
    /// Whether an operator has drained the endpoint.
    pub draining: bool,
}

impl EndpointStatus {
    /// Whether the endpoint gets requests outside panic mode.
    pub(crate) fn is_usable(&self) -> bool {
        let kept_off = matches!(&*self.health, "down" | "unproven");
        !kept_off && self.ejected.is_none() && !self.draining
    }

    /// Describes why the endpoint gets less than its full share of traffic, or its health if it gets all of it:
    /// `down for 2m 5s (answered 503), draining`, `ejected 23s`, `up, slow start at 40%`.
    pub(crate) fn state(&self, now: SystemTime) -> String {
        let mut parts = Vec::new();
        if matches!(&*self.health, "down" | "unproven") {
            parts.push(self.unhealthy(now));
        } else if self.is_usable() {
            parts.push(self.health.clone());
        }
        if self.draining {
            parts.push("draining".to_owned());
        }
        parts.extend(self.ejected.map(|left| format!("ejected {left}s")));
        if self.ramp != "100%" {
            parts.push(format!("slow start at {}", self.ramp));
        }
        parts.join(", ")
    }

    fn unhealthy(&self, now: SystemTime) -> String {
        let mut text = self.health.clone();
        let since = self.since.as_deref().map(humantime::parse_rfc3339);
        if let Some(Ok(since)) = since {
            // The clock of the proxy's machine may be ahead of this one, so an age below zero counts as zero.
            let age = now.duration_since(since).unwrap_or_default();
            let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
            text += &format!(" for {age}");
        }
        if let Some(reason) = &self.reason {
            text += &format!(" ({reason})");
        }
        text
    }
}

impl ProxyStatus {
    /// Collects the current status.
    pub(crate) fn of(context: &Context) -> Self {
        let snapshot = context.live.current();
        let services = ServiceIx::all(snapshot.services.len());
        Self {
            services: services
                .map(|index| service(context, &snapshot, index))
                .collect(),
            ..Self::without_services(context)
        }
    }

    /// Collects the current status without the services.
    pub(super) fn without_services(context: &Context) -> Self {
        let snapshot = context.live.current();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            phase: match context.readiness.phase() {
                ProcessPhase::Starting => "starting",
                ProcessPhase::Ready => "ready",
                ProcessPhase::Stopping => "stopping",
            }
            .to_owned(),
            generation: snapshot.generation,
            adopted: context.live.adopted(),
            uptime_s: context.started.elapsed().as_secs(),
            config: Config::of(context.live.source()),
            listeners: listeners(context, &snapshot),
            certificates: certificates(context.live.certificates()),
            fleet: context.fleet.status(Instant::now()),
            services: Vec::new(),
        }
    }
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

fn listeners(context: &Context, snapshot: &Snapshot) -> Vec<ListenerStatus> {
    let totals = context.telemetry.listeners();
    // The lock is not poisoned: nothing panics while it is held.
    let bound = context.bound.lock().expect("bound lock").clone();
    let one = |listener: &spec::ListenerSpec| ListenerStatus {
        name: listener.name.clone(),
        address: bound
            .iter()
            .find(|(name, _)| *name == listener.name)
            .map_or_else(
                || super::view::bind(&listener.bind),
                |(_, address)| address.to_string(),
            ),
        connections: totals
            .iter()
            .find(|(name, _)| *name == listener.name)
            .map_or(0, |(_, totals)| totals.connections),
    };
    snapshot.spec.listeners.iter().map(one).collect()
}

fn certificates(states: Vec<CertificateState>) -> Vec<CertificateStatus> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs().cast_signed());
    let one = |state: CertificateState| {
        let (listener, service, version) = match state.owner {
            CertificateOwner::Listener(name) => (Some(name), None, None),
            CertificateOwner::Version { service, version } => (None, Some(service), Some(version)),
        };
        CertificateStatus {
            listener,
            service,
            version,
            names: state.names,
            file: state.file.display().to_string(),
            not_before: state.validity.map(|validity| date(validity.not_before)),
            not_after: state.validity.map(|validity| date(validity.not_after)),
            expires_in_s: state.validity.map(|validity| validity.not_after - now),
            error: state.error,
            error_since: state.since.map(rfc3339),
        }
    };
    states.into_iter().map(one).collect()
}

/// Collects the current status of a service.
pub(super) fn service(context: &Context, snapshot: &Snapshot, index: ServiceIx) -> ServiceStatus {
    let spec = &snapshot.spec.services[index];
    let live = &snapshot.services[index];
    let name = |version: VersionIx| spec.versions[version].name.clone();
    let effective = shares::effective(live);
    let share = |version: VersionIx| effective[version].to_string();
    let desired = shares::desired(spec);
    ServiceStatus {
        name: spec.name.clone(),
        stable: spec.stable_name().to_owned(),
        answer: spec.actions.answer.as_ref().map(super::view::answer),
        split: SplitStatus {
            desired: VersionIx::enumerate(&desired)
                .map(
                    |(version, share)| match spec.rolling_version() == Some(version) {
                        true => (name(version), "rollout".to_owned()),
                        false => (name(version), share.to_string()),
                    },
                )
                .collect(),
            effective: VersionIx::all(spec.versions.len())
                .map(|v| (name(v), share(v)))
                .collect(),
        },
        awaiting: live.awaited.iter().map(|v| name(*v)).collect(),
        rollout: rollout(context, &spec.name),
        new_errors: error_groups::unknown_to_stable(live, spec.stable_name()),
        mirror: MirrorStatus::brief(snapshot, index),
        flags: flags::of_service(spec, live),
        warnings: capacity::warnings(spec, &effective),
        clients: red(context, |windows, over| windows.clients(&spec.name, over)),
        versions: VersionIx::enumerate(&live.versions)
            .map(|(v, version)| VersionStatus {
                name: name(v),
                label: spec.versions[v].label.clone(),
                share: share(v),
                in_flight: version.metrics.in_flight(),
                red: red(context, |windows, over| {
                    windows.red(&spec.name, &version.name, over)
                }),
                goals: flags::of_version(spec, version),
                endpoints: endpoints(version, spec.policies.health.is_some()),
                names: names::of_version(context, &spec.versions[v]),
            })
            .collect(),
    }
}

fn rollout(context: &Context, service: &str) -> Option<RolloutStatus> {
    // The lock is not poisoned: nothing panics while it is held.
    let rollouts = context.rollouts.lock().expect("rollouts lock");
    rollouts.get(service).cloned()
}

fn red(
    context: &Context,
    of: impl Fn(&StatusWindows, Duration) -> Red,
) -> BTreeMap<String, RedStatus> {
    // The lock is not poisoned: nothing panics while it is held.
    let windows = context.windows.lock().expect("windows lock");
    let ms = |time: Option<Duration>| time.map(|t| t.as_secs_f64() * 1000.0);
    WINDOWS
        .iter()
        .map(|(name, over)| {
            let red = of(&windows, *over);
            let red = RedStatus {
                rate: red.rate,
                error_ratio: red.error_ratio,
                p50_ms: ms(red.p50),
                p99_ms: ms(red.p99),
            };
            ((*name).to_owned(), red)
        })
        .collect()
}

/// Collects the status of a version's endpoints. `checked`: the service has health checks.
pub(crate) fn endpoints(version: &snapshot::Version, checked: bool) -> Vec<EndpointStatus> {
    let now = Instant::now();
    let one = |member: &Member| {
        let state = &member.endpoint.state;
        let (requests, streams) = member.endpoint.load.apart();
        let checks = state.checks();
        let left = |until: Instant| until.saturating_duration_since(now).as_secs_f64().ceil();
        EndpointStatus {
            address: member.endpoint.name.to_string(),
            weight: member.weight,
            active: requests + streams,
            streams,
            health: match state.flags() {
                _ if !checked => "unchecked",
                flags if flags & flag::UNPROVEN != 0 => "unproven",
                flags if flags & flag::DOWN != 0 => "down",
                _ => "up",
            }
            .to_owned(),
            reason: checks
                .as_ref()
                .and_then(|c| Some(c.failure.as_ref()?.to_string())),
            since: checks.map(|c| rfc3339(c.since)),
            ejected: state.ejected_until().map(|until| left(until) as u64),
            ramp: spec::Share(state.ramp() * (spec::Share::WHOLE / 1000)).to_string(),
            draining: state.flags() & flag::DRAINING != 0,
        }
    };
    version.pool.members.iter().map(one).collect()
}
