//! The exposition in Prometheus' text format, version 0.0.4, rendered on the control thread.
//!
//! Each scrape fills a fresh recorder, so a page shows only what exists at that moment and nothing accumulates between
//! scrapes. Counters and gauges go through the recorder. Histograms, whose observations are already in buckets, and
//! counters with fractions, which the recorder doesn't support, are written here.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::log_writer;
use super::names;
use super::orders::orders;
use super::page::{Histogram, Labels, Page, head};
use super::process::Process;
use super::registry::Telemetry;
use super::words::{FlagState, OrderOutcome, SpanOutcome};

/// Media type of the text that [`render`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The state at the moment of a scrape, beside the counters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scrape {
    /// Services of the running configuration.
    pub services: Vec<ScrapeService>,
    /// Names of the listeners of the running configuration.
    pub listeners: Vec<String>,
    /// Number of the running configuration generation.
    pub generation: u64,
    /// Whether the current content of the configuration file was adopted.
    pub last_reload_successful: bool,
    /// Time when a configuration was last adopted.
    pub last_reload_success: Option<SystemTime>,
    /// Certificates of all listeners.
    pub certificates: Vec<ScrapeCertificate>,
    /// Versions that have TLS settings of their own towards their endpoints.
    pub upstream_certificates: Vec<ScrapeUpstreamCertificate>,
    /// Names of endpoints: how many addresses each has, and whether the last lookup succeeded.
    pub names: Vec<(String, usize, bool)>,
    /// The fleet, if the proxy belongs to one.
    pub fleet: Option<ScrapeFleet>,
}

/// The fleet, as this member sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrapeFleet {
    /// Whether etcd answers.
    pub is_connected: bool,
    /// Number of live members.
    pub members: usize,
    /// Number of differences between the members' configurations where they should be the same.
    pub disagreements: usize,
    /// Whether the newest tables that the members share are in use, and their revision.
    pub config: Option<(bool, i64)>,
}

/// A certificate of a listener.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScrapeCertificate {
    /// Name of the listener.
    pub listener: String,
    /// Server names for which it is used.
    pub names: Vec<String>,
    /// Expiry in seconds since the Unix epoch.
    pub expiry: i64,
    /// Whether the current content of its files is in use.
    pub last_reload_successful: bool,
}

/// The TLS files of a version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScrapeUpstreamCertificate {
    /// Name of the service.
    pub service: String,
    /// Name of the version.
    pub version: String,
    /// Expiry of the client certificate in seconds since the Unix epoch; `None` without one.
    pub expiry: Option<i64>,
    /// Whether the current content of the files is in use.
    pub last_reload_successful: bool,
}

/// A service of the running configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScrapeService {
    /// Name of the service.
    pub name: String,
    /// Constant labels of the service.
    pub labels: Vec<(String, String)>,
    /// Versions of the service.
    pub versions: Vec<ScrapeVersion>,
    /// Rollout of the service, if it has one.
    pub rollout: Option<ScrapeRollout>,
}

/// A rollout.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScrapeRollout {
    /// Number of the current step, from 1; 0 before the first.
    pub step: usize,
    /// Every state, and whether the rollout is in it.
    pub states: Vec<(&'static str, bool)>,
    /// Evidence against the canary by rule of the guard, as log10.
    pub evidence: Vec<(String, f64)>,
    /// State of the rollout on this member, if a fleet shares it.
    pub fleet: Option<ScrapeShared>,
}

/// A rollout that a fleet shares, as this member sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScrapeShared {
    /// Whether this member drives the rollout.
    pub is_driver: bool,
    /// The term of the driver.
    pub term: u64,
    /// Whether this member has the fleet's plan.
    pub takes_part: bool,
    /// Seconds since etcd last confirmed what this member knows.
    pub lag_s: f64,
}

/// A version of the running configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScrapeVersion {
    /// Name of the version.
    pub name: String,
    /// Effective share of the traffic, from 0 to 1.
    pub ratio: f64,
    /// Share of the traffic in the configuration, from 0 to 1.
    pub desired_ratio: f64,
    /// Names of the endpoints in the configuration, and whether each is usable.
    pub endpoints: Vec<(String, bool)>,
    /// Whether the new share waits for the first passed health check.
    pub awaited: bool,
}

/// Renders all metrics.
///
/// Subjects that left the configuration keep their counters until these expire, and their gauges while not zero.
pub fn render(telemetry: &Telemetry, scrape: &Scrape) -> String {
    let mut page = Page::new();
    for service in &scrape.services {
        telemetry.remember_labels(&service.name, &service.labels);
        state_of(&mut page, service);
        if let Some(rollout) = &service.rollout {
            rollout_of(&mut page, service, rollout);
        }
    }
    services(&mut page, telemetry, scrape);
    versions(&mut page, telemetry, scrape);
    listeners(&mut page, telemetry, scrape);
    for (service, hits) in telemetry.rule_hits() {
        let base = Labels::of_service(&service, &telemetry.labels(&service));
        for (rule, hits) in hits.into_iter().enumerate() {
            page.counter(
                names::MATCH_HITS,
                base.with("rule", &rule.to_string()),
                hits,
            );
        }
    }
    ejections(&mut page, telemetry);
    rollbacks(&mut page, telemetry);
    flags(&mut page, telemetry);
    goals(&mut page, telemetry);
    mirrors(&mut page, telemetry);
    configuration(&mut page, scrape);
    certificates(&mut page, &scrape.certificates);
    if let Some(of_fleet) = &scrape.fleet {
        fleet(&mut page, of_fleet);
    }
    upstream_certificates(&mut page, telemetry, &scrape.upstream_certificates);
    for (name, addresses, successful) in &scrape.names {
        let labels = Labels::default().with("name", name);
        page.gauge(names::NAME_ADDRESSES, labels.clone(), *addresses as f64);
        let value = f64::from(u8::from(*successful));
        page.gauge(names::NAME_SUCCESSFUL, labels, value);
    }
    let access = ("access", telemetry.access_log().dropped());
    for (log, dropped) in log_writer::dropped().into_iter().chain([access]) {
        let labels = Labels::default().with("log", log);
        page.counter(names::LOG_DROPPED, labels, dropped);
    }
    for &outcome in OrderOutcome::ALL {
        let labels = Labels::default().with("outcome", outcome.as_str());
        page.counter(names::CERTIFICATE_ORDERS, labels, orders(outcome));
    }
    for &outcome in SpanOutcome::ALL {
        let labels = Labels::default().with("outcome", outcome.as_str());
        page.counter(names::TRACE_SPANS, labels, telemetry.spans.get(outcome));
    }
    process(&mut page, Process::read());
    page.finish()
}

fn state_of(page: &mut Page, service: &ScrapeService) {
    let base = Labels::of_service(&service.name, &service.labels);
    for version in &service.versions {
        let base = base.with("version", &version.name);
        page.gauge(names::SPLIT_RATIO, base.clone(), version.ratio);
        page.gauge(
            names::SPLIT_DESIRED_RATIO,
            base.clone(),
            version.desired_ratio,
        );
        if version.awaited {
            page.gauge(names::GATE_WAITING, base.clone(), 1.0);
        }
        for (endpoint, up) in &version.endpoints {
            let labels = base.with("endpoint", endpoint);
            page.gauge(names::ENDPOINT_UP, labels, f64::from(u8::from(*up)));
        }
    }
}

fn rollout_of(page: &mut Page, service: &ScrapeService, rollout: &ScrapeRollout) {
    let base = Labels::of_service(&service.name, &service.labels);
    page.gauge(names::ROLLOUT_STEP, base.clone(), rollout.step as f64);
    for (state, is) in &rollout.states {
        let labels = base.with("state", state);
        page.gauge(names::ROLLOUT_STATE, labels, f64::from(u8::from(*is)));
    }
    for (guard, evidence) in &rollout.evidence {
        page.gauge(
            names::ROLLOUT_EVIDENCE,
            base.with("guard", guard),
            *evidence,
        );
    }
    if let Some(fleet) = &rollout.fleet {
        let flag = |is: bool| f64::from(u8::from(is));
        page.gauge(names::FLEET_DRIVES, base.clone(), flag(fleet.is_driver));
        page.gauge(names::FLEET_TERM, base.clone(), fleet.term as f64);
        page.gauge(
            names::FLEET_TAKES_PART,
            base.clone(),
            flag(fleet.takes_part),
        );
        page.gauge(names::FLEET_LAG, base, fleet.lag_s);
    }
}

fn flags(page: &mut Page, telemetry: &Telemetry) {
    for ((service, flag), counter) in telemetry.flags() {
        let base = Labels::of_service(&service, &telemetry.labels(&service)).with("flag", &flag);
        for state in FlagState::ALL {
            let labels = base.with("state", state.as_str());
            page.counter(names::FLAG_REQUESTS, labels, counter.total(*state));
        }
    }
}

fn goals(page: &mut Page, telemetry: &Telemetry) {
    for ((service, version, goal), n) in telemetry.goals() {
        let labels = Labels::of_service(&service, &telemetry.labels(&service))
            .with("version", &version)
            .with("goal", &goal);
        page.counter(names::GOALS, labels, n);
    }
}

fn mirrors(page: &mut Page, telemetry: &Telemetry) {
    for (service, log) in telemetry.mirrors() {
        let base = Labels::of_service(&service, &telemetry.labels(&service));
        for (outcome, n) in log.outcomes() {
            let labels = base.with("outcome", outcome.as_str());
            page.counter(names::MIRROR_REQUESTS, labels, n);
        }
    }
}

fn rollbacks(page: &mut Page, telemetry: &Telemetry) {
    for (what, n) in telemetry.rollbacks() {
        let labels = Labels::of_service(&what.service, &telemetry.labels(&what.service))
            .with(if what.is_flag { "flag" } else { "version" }, &what.subject)
            .with("reason", what.reason.as_str());
        page.counter(names::ROLLBACKS, labels, n);
    }
}

fn services(page: &mut Page, telemetry: &Telemetry, scrape: &Scrape) {
    for (service, totals) in telemetry.services() {
        let labels = Labels::of_service(&service, &telemetry.labels(&service));
        for (status, n) in &totals.requests {
            let labels = labels.with("status", &status.to_string());
            page.counter(names::SERVICE_REQUESTS, labels, *n);
        }
        let configured = scrape.services.iter().any(|s| s.name == service);
        totals.series(configured, |family, label, value| {
            page.series(family, &labels, label, value);
        });
    }
}

fn versions(page: &mut Page, telemetry: &Telemetry, scrape: &Scrape) {
    let is_configured = |service: &str, version: &str| {
        let service = scrape.services.iter().find(|s| s.name == service);
        service.is_some_and(|s| s.versions.iter().any(|v| v.name == version))
    };
    let mut durations = Histogram::new(names::HTTP_DURATION);
    for (service, version, metrics) in telemetry.versions() {
        let labels =
            Labels::of_service(&service, &telemetry.labels(&service)).with("version", &version);
        let totals = metrics.totals();
        durations.add(&labels, &totals.latency);
        for ((method, status), n) in &totals.requests {
            let labels = labels.with("status", &status.to_string());
            page.counter(names::HTTP_REQUESTS, labels.with("method", method), *n);
        }
        for (status, n) in totals.grpc.iter().enumerate().filter(|(_, n)| **n > 0) {
            let labels = labels.with("grpc_status", &status.to_string());
            page.counter(names::GRPC_REQUESTS, labels, *n);
        }
        totals.series(is_configured(&service, &version), |family, label, value| {
            page.series(family, &labels, label, value);
        });
    }
    page.own.push_str(&durations.text);
}

fn ejections(page: &mut Page, telemetry: &Telemetry) {
    for (what, n) in telemetry.ejections() {
        let labels = Labels::of_service(&what.service, &telemetry.labels(&what.service))
            .with("version", &what.version)
            .with("endpoint", &what.endpoint)
            .with("reason", what.reason.as_str())
            .with("outcome", what.outcome.as_str());
        page.counter(names::EJECTIONS, labels, n);
    }
}

fn listeners(page: &mut Page, telemetry: &Telemetry, scrape: &Scrape) {
    for (listener, totals) in telemetry.listeners() {
        let labels = Labels::default().with("listener", &listener);
        for (status, n) in &totals.requests {
            let labels = labels.with("status", &status.to_string());
            page.counter(names::DOWNSTREAM_REQUESTS, labels, *n);
        }
        // A listener that left the configuration is shown until its last connection closes.
        let configured = totals.connections > 0 || scrape.listeners.contains(&listener);
        totals.series(configured, |family, label, value| {
            page.series(family, &labels, label, value);
        });
    }
}

fn configuration(page: &mut Page, scrape: &Scrape) {
    let none = Labels::default;
    page.gauge(names::CONFIG_GENERATION, none(), scrape.generation as f64);
    let successful = f64::from(u8::from(scrape.last_reload_successful));
    page.gauge(names::CONFIG_SUCCESSFUL, none(), successful);
    let since_epoch = scrape
        .last_reload_success
        .and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    if let Some(since_epoch) = since_epoch {
        page.gauge(names::CONFIG_TIMESTAMP, none(), since_epoch.as_secs_f64());
    }
    let build = none().with("version", env!("CARGO_PKG_VERSION"));
    page.gauge(names::BUILD_INFO, build, 1.0);
}

fn fleet(page: &mut Page, fleet: &ScrapeFleet) {
    let none = Labels::default;
    let connected = f64::from(u8::from(fleet.is_connected));
    page.gauge(names::FLEET_CONNECTED, none(), connected);
    page.gauge(names::FLEET_MEMBERS, none(), fleet.members as f64);
    let disagreements = fleet.disagreements as f64;
    page.gauge(names::FLEET_DISAGREEMENTS, none(), disagreements);
    if let Some((is_adopted, revision)) = fleet.config {
        let is_adopted = f64::from(u8::from(is_adopted));
        page.gauge(names::FLEET_CONFIG_ADOPTED, none(), is_adopted);
        page.gauge(names::FLEET_CONFIG_REVISION, none(), revision as f64);
    }
}

/// A server name may have several certificates, such as ECDSA and RSA; it counts as expired with the first of them.
fn certificates(page: &mut Page, certificates: &[ScrapeCertificate]) {
    let (mut expiry, mut successful) = (BTreeMap::new(), BTreeMap::new());
    for certificate in certificates {
        let listener = certificate.listener.as_str();
        for name in &certificate.names {
            let earliest = expiry.entry((listener, name)).or_insert(certificate.expiry);
            *earliest = certificate.expiry.min(*earliest);
        }
        *successful.entry(listener).or_insert(true) &= certificate.last_reload_successful;
    }
    let of = |listener: &str| Labels::default().with("listener", listener);
    for ((listener, name), seconds) in expiry {
        let labels = of(listener).with("name", name);
        page.gauge(names::CERTIFICATE_EXPIRY, labels, seconds as f64);
    }
    for (listener, successful) in successful {
        let value = f64::from(u8::from(successful));
        page.gauge(names::CERTIFICATE_SUCCESSFUL, of(listener), value);
    }
}

fn upstream_certificates(
    page: &mut Page,
    telemetry: &Telemetry,
    certificates: &[ScrapeUpstreamCertificate],
) {
    for certificate in certificates {
        let (service, version) = (&certificate.service, &certificate.version);
        let labels = || {
            let labels = Labels::of_service(service, &telemetry.labels(service));
            labels.with("version", version)
        };
        if let Some(expiry) = certificate.expiry {
            page.gauge(names::UPSTREAM_CERTIFICATE_EXPIRY, labels(), expiry as f64);
        }
        let value = f64::from(u8::from(certificate.last_reload_successful));
        page.gauge(names::UPSTREAM_CERTIFICATE_SUCCESSFUL, labels(), value);
    }
}

fn process(page: &mut Page, process: Process) {
    for (family, value) in [
        (names::PROCESS_RESIDENT, process.resident_bytes),
        (names::PROCESS_VIRTUAL, process.virtual_bytes),
        (names::PROCESS_OPEN_FDS, process.open_fds),
        (names::PROCESS_MAX_FDS, process.max_fds),
        (names::PROCESS_START, process.start_seconds),
        (names::PROCESS_THREADS, process.threads),
    ] {
        if let Some(value) = value {
            page.gauge(family, Labels::default(), value);
        }
    }
    if let Some(seconds) = process.cpu_seconds {
        let own = &mut page.own;
        head(own, names::PROCESS_CPU);
        let _ = writeln!(own, "{} {seconds}", names::PROCESS_CPU.name);
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
