//! `cutover status [SERVICE]`: shows what the running proxy serves, as tables or as JSON.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, SystemTime};

use clap::Args;

use super::drain::counted;
use super::error::CommandError;
use super::proxy::Proxy;
use super::proxy_address::{ProxyAddress, meant};
use super::table::{Align, TextTable};
use super::watch;
use super::{CommandResult, Json, block_on};
use crate::admin::config_status::Config;
use crate::admin::status::{
    CertificateStatus, ProxyStatus, RedStatus, SHORT_WINDOW, ServiceStatus, VersionStatus,
};

/// Refresh interval of `--watch`.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// Shows the status of the running proxy.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Show only this service
    service: Option<String>,
    /// Keep showing it: on a terminal as a view of the whole screen with keys (`?` lists them), else as text every second
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    json: Json,
}

impl StatusArgs {
    pub(super) fn run(&self, address: &ProxyAddress) -> CommandResult {
        block_on(self.show(address))?
    }

    async fn show(&self, address: &ProxyAddress) -> CommandResult {
        let (proxy, mut status) = Proxy::find(address).await?;
        if self.watch && !self.json.json && watch::is_possible() {
            // Refuses a service that doesn't exist.
            self.narrow(&mut status.clone())?;
            return watch::run(address, proxy, status, self.service.as_deref()).await;
        }
        loop {
            self.narrow(&mut status)?;
            let screen = std::io::stdout().is_terminal();
            let clear = if self.watch && screen && !self.json.json {
                "\x1b[H\x1b[2J"
            } else {
                ""
            };
            let text = match self.json.json {
                true if self.watch => serde_json::to_string(&status).unwrap_or_default() + "\n",
                true => serde_json::to_string_pretty(&status).unwrap_or_default() + "\n",
                false => shown(&status),
            };
            let written = write!(std::io::stdout(), "{clear}{text}");
            if !self.watch || written.is_err() {
                // A closed pipe (`cutover status | head -1`) is not an error.
                return Ok(0);
            }
            tokio::time::sleep(REFRESH_INTERVAL).await;
            status = proxy.status().await?;
        }
    }

    fn narrow(&self, status: &mut ProxyStatus) -> Result<(), CommandError> {
        let Some(wanted) = &self.service else {
            return Ok(());
        };
        let names: Vec<_> = status.services.iter().map(|s| s.name.clone()).collect();
        status.services.retain(|service| service.name == *wanted);
        let files = &mut status.config.files;
        files.retain(|file| file.services.contains(wanted));
        if !status.services.is_empty() {
            return Ok(());
        }
        let fault = CommandError::new(format!("there is no service `{wanted}`"));
        Err(match meant(wanted, names.iter().map(String::as_str)) {
            Some(name) => fault.with(format!("did you mean `{name}`?")),
            None => fault.with(format!("there are: {}", names.join(", "))),
        })
    }
}

/// Renders the whole status as text.
fn shown(status: &ProxyStatus) -> String {
    let mut text = String::new();
    let adopted = if status.adopted == status.generation {
        "adopted by every worker".to_owned()
    } else {
        format!("some workers still run generation {}", status.adopted)
    };
    let up = humantime::format_duration(Duration::from_secs(status.uptime_s));
    let _ = writeln!(
        text,
        "cutover {} (pid {}) is {}, up {up}\ngeneration {}, {adopted}, from {}",
        status.version, status.pid, status.phase, status.generation, status.config.path
    );
    if let Some(error) = &status.config.error {
        let _ = writeln!(
            text,
            "\nthe current file is rejected, the previous configuration stays in use:\n{error}"
        );
    }
    text += &included_files(&status.config);
    let mut listeners = TextTable::new(&[
        ("LISTENER", Align::Left),
        ("ADDRESS", Align::Left),
        ("CONNECTIONS", Align::Right),
    ]);
    for l in &status.listeners {
        listeners.row([l.name.clone(), l.address.clone(), l.connections.to_string()]);
    }
    let certificates = certificates(&status.certificates);
    let mut services = TextTable::new(&[
        ("SERVICE", Align::Left),
        ("VERSION", Align::Left),
        ("SHARE", Align::Right),
        ("RATE", Align::Right),
        ("ERRORS", Align::Right),
        ("P50", Align::Right),
        ("P99", Align::Right),
        ("IN FLIGHT", Align::Right),
        ("ENDPOINT", Align::Left),
        ("ACTIVE", Align::Right),
        ("HEALTH", Align::Left),
    ]);
    for service in &status.services {
        for (at, version) in service.versions.iter().enumerate() {
            let name = if at == 0 { service.name.as_str() } else { "" };
            rows(&mut services, name, service, version);
        }
    }
    let _ = write!(text, "\n{listeners}\n{certificates}{services}");
    if let Some(fleet) = &status.fleet {
        let _ = write!(text, "\n{}", super::fleet_view::shown(fleet));
    }
    for service in &status.services {
        if let Some(answer) = &service.answer {
            let _ = writeln!(
                text,
                "\n{}: the proxy answers its requests: {answer}",
                service.name
            );
        }
        let names = service.versions.iter().flat_map(|v| &v.names);
        for (at, name) in names.enumerate() {
            let gap = if at == 0 { "\n" } else { "" };
            let _ = writeln!(text, "{gap}{}: name {}", service.name, name.line());
        }
        text += &super::flag_view::shown(service);
        if let Some(rollout) = &service.rollout {
            let _ = write!(
                text,
                "\n{}",
                super::rollout_view::shown(&service.name, rollout)
            );
        }
        if !service.new_errors.is_empty() {
            let _ = writeln!(
                text,
                "\n{}: failures that {} doesn't have:",
                service.name, service.stable
            );
        }
        for group in &service.new_errors {
            let _ = writeln!(text, "  {}", group.line());
        }
        if let Some(mirror) = &service.mirror {
            let shown = super::mirror_view::shown(&service.name, mirror);
            let _ = write!(text, "\n{shown}");
        }
        for version in &service.awaiting {
            let _ = writeln!(
                text,
                "\n{}: waiting for {version}: its new share takes effect once one of its endpoints passes its health check",
                service.name
            );
        }
        for warning in &service.warnings {
            let _ = writeln!(text, "\n{}: warning: {warning}", service.name);
        }
    }
    text
}

/// Renders the files of the configuration. Empty if all shown services are in the main file.
fn included_files(config: &Config) -> String {
    if config.files.iter().all(|file| file.path == config.path) {
        return String::new();
    }
    let mut table = TextTable::new(&[("FILE", Align::Left), ("SERVICES", Align::Left)]);
    for file in &config.files {
        let services = match &*file.services {
            [] => "none".to_owned(),
            services => services.join(", "),
        };
        table.row([file.path.clone(), services]);
    }
    format!("\n{table}")
}

/// Renders the certificates, with the errors of failed renewals below the table. Empty if there are none.
fn certificates(all: &[CertificateStatus]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut table = TextTable::new(&[
        ("LISTENER", Align::Left),
        ("CERTIFICATE", Align::Left),
        ("EXPIRES", Align::Left),
        ("FILE", Align::Left),
    ]);
    for certificate in all {
        table.row([
            owner(certificate),
            certificate.names.join(", "),
            expiry(certificate).unwrap_or_default(),
            certificate.file.clone(),
        ]);
    }
    let mut text = format!("{table}\n");
    for certificate in all {
        if let Some(error) = &certificate.error {
            let since = certificate.error_since.as_deref().unwrap_or("now");
            let is_missing = certificate.not_after.as_deref() == Some(NEVER);
            let what = match &*certificate.names {
                [] => format!("{} was not reloaded", certificate.file),
                names if is_missing => {
                    format!("the certificate of {} was not obtained", names.join(", "))
                }
                names => format!("the certificate of {} was not renewed", names.join(", ")),
            };
            let rest = match is_missing {
                true => "",
                false => "; the previous one is in use",
            };
            let owner = owner(certificate);
            let _ = writeln!(text, "{owner}: {what} (since {since}){rest}:\n{error}\n");
        }
    }
    text
}

/// The listener, or the service and its version, that uses a certificate.
fn owner(certificate: &CertificateStatus) -> String {
    let names = [
        &certificate.listener,
        &certificate.service,
        &certificate.version,
    ];
    let names: Vec<&str> = names.into_iter().flatten().map(String::as_str).collect();
    names.join(" ")
}

/// `not_after` of a certificate that has not been obtained yet.
const NEVER: &str = "1970-01-01T00:00:00Z";

/// The expiry as `in 41 days (2027-01-08T17:00:00Z)`, or `EXPIRED 3 hours ago (…)`. `None` for authorities.
fn expiry(certificate: &CertificateStatus) -> Option<String> {
    let seconds = certificate.expires_in_s?;
    let (number, unit) = match seconds.unsigned_abs() {
        s if s >= 2 * 86_400 => (s / 86_400, "days"),
        s if s >= 2 * 3_600 => (s / 3_600, "hours"),
        s => (s / 60, "minutes"),
    };
    let date = certificate.not_after.as_ref()?;
    if date == NEVER {
        return Some("not obtained yet".to_owned());
    }
    Some(match seconds < 0 {
        true => format!("EXPIRED {number} {unit} ago ({date})"),
        false => format!("in {number} {unit} ({date})"),
    })
}

fn rows(table: &mut TextTable, name: &str, service: &ServiceStatus, version: &VersionStatus) {
    let mut shown = version.name.clone();
    if let Some(label) = &version.label {
        let _ = write!(shown, " {label}");
    }
    if version.name == service.stable {
        shown += " (stable)";
    }
    let red = version.red.get(SHORT_WINDOW).copied().unwrap_or_default();
    let follows_rollout = service.split.desired.values().any(|d| d == "rollout");
    let share = match service.split.desired.get(&version.name) {
        // Stable's share follows from those of the other versions.
        Some(desired) if *desired != version.share && !follows_rollout => {
            format!("{} (file: {desired})", version.share)
        }
        _ => version.share.clone(),
    };
    let mut row = vec![name.to_owned(), shown, share];
    row.extend(figures(&red));
    row.push(version.in_flight.to_string());
    if version.endpoints.is_empty() {
        row.push("none".to_owned());
    }
    for endpoint in &version.endpoints {
        row.resize(8, String::new());
        row.push(match endpoint.weight {
            1 => endpoint.address.clone(),
            weight => format!("{} weight={weight}", endpoint.address),
        });
        row.push(match endpoint.streams {
            0 => endpoint.active.to_string(),
            streams => format!("{} ({})", endpoint.active, counted(streams, "stream")),
        });
        row.push(endpoint.state(SystemTime::now()));
        table.row(std::mem::take(&mut row));
    }
    if !row.is_empty() {
        table.row(row);
    }
}

/// The cells for rate, errors, p50 and p99; `-` where there were no requests.
fn figures(red: &RedStatus) -> [String; 4] {
    let time = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
    let errors = match red.rate > 0.0 {
        true => format!("{:.2} %", red.error_ratio * 100.0),
        false => "-".to_owned(),
    };
    [
        format!("{:.1}/s", red.rate),
        errors,
        time(red.p50_ms),
        time(red.p99_ms),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::admin::status::{EndpointStatus, SplitStatus};

    /// The cell in the column HEALTH of an endpoint in this state.
    fn health(health: &str, ejected: Option<u64>, draining: bool, ramp: &str) -> String {
        let endpoint = EndpointStatus {
            address: "10.0.0.1:80".to_owned(),
            weight: 1,
            active: 3,
            streams: 1,
            health: health.to_owned(),
            reason: None,
            since: None,
            ejected,
            ramp: ramp.to_owned(),
            draining,
        };
        let version = VersionStatus {
            name: "v1".to_owned(),
            label: None,
            share: "100%".to_owned(),
            in_flight: 3,
            red: BTreeMap::new(),
            goals: BTreeMap::new(),
            endpoints: vec![endpoint],
            names: Vec::new(),
        };
        let split = SplitStatus {
            desired: BTreeMap::new(),
            effective: BTreeMap::new(),
        };
        let service = ServiceStatus {
            answer: None,
            name: "shop".to_owned(),
            stable: "v1".to_owned(),
            split,
            awaiting: Vec::new(),
            rollout: None,
            mirror: None,
            flags: Vec::new(),
            new_errors: Vec::new(),
            warnings: Vec::new(),
            clients: BTreeMap::new(),
            versions: Vec::new(),
        };
        let mut table = TextTable::new(&[("", Align::Left); 11]);
        rows(&mut table, "shop", &service, &version);
        let text = table.to_string();
        let (_, health) = text.trim_end().rsplit_once("  ").expect("columns");
        health.to_owned()
    }

    #[test]
    fn health_says_what_keeps_an_endpoint_from_traffic() {
        assert_eq!(health("up", None, false, "100%"), "up");
        assert_eq!(health("unchecked", None, false, "100%"), "unchecked");
        assert_eq!(health("up", None, true, "100%"), "draining");
        assert_eq!(health("up", Some(23), false, "100%"), "ejected 23s");
        assert_eq!(
            health("unchecked", Some(2), true, "100%"),
            "draining, ejected 2s"
        );
        assert_eq!(health("down", None, true, "100%"), "down, draining");
        assert_eq!(health("unproven", None, false, "100%"), "unproven");
        assert_eq!(health("up", None, false, "40%"), "up, slow start at 40%");
    }
}
