//! Collects the state that `/metrics` reports in addition to the counters: shares, endpoint health, certificates and the
//! configuration's generation.

use super::fleet::FleetStatus;
use super::rollout::{RolloutStatus, RolloutsByService};
use super::shares;
use crate::config::spec;
use crate::index::VersionIx;
use crate::rollout::state::RolloutPhase;
use crate::snapshot::{CertificateOwner, CertificateState, Live, Service, Snapshot, Version};
use crate::telemetry::registry::{MOST_RESOLVED, PresentSeries};
use crate::telemetry::render::{
    Scrape, ScrapeCertificate, ScrapeFleet, ScrapeRollout, ScrapeService, ScrapeShared,
    ScrapeUpstreamCertificate, ScrapeVersion,
};
use crate::upstream::Endpoint;
use crate::upstream::endpoint::flag;

/// Collects the current state.
pub(crate) fn collect(
    live: &Live,
    rollouts: &RolloutsByService,
    names: Vec<(String, usize, bool)>,
    fleet: Option<FleetStatus>,
) -> Scrape {
    let snapshot = live.current();
    let source = live.source();
    let services = snapshot.spec.services.iter().zip(&snapshot.services);
    let listeners = snapshot.spec.listeners.iter();
    Scrape {
        services: services
            .map(|(spec, live)| service(spec, live, rollouts.get(&spec.name)))
            .collect(),
        listeners: listeners.map(|l| l.name.clone()).collect(),
        generation: snapshot.generation,
        last_reload_successful: source.error.is_none(),
        last_reload_success: source.published,
        certificates: { live.certificates().into_iter() }
            .filter_map(certificate)
            .collect(),
        upstream_certificates: { live.certificates().into_iter() }
            .filter_map(upstream_certificate)
            .collect(),
        names,
        fleet: fleet.map(|fleet| ScrapeFleet {
            is_connected: fleet.connected,
            members: fleet.members.len(),
            disagreements: fleet.disagreements.len(),
            config: fleet
                .config
                .map(|config| (config.error.is_none(), config.revision)),
        }),
    }
}

fn certificate(state: CertificateState) -> Option<ScrapeCertificate> {
    let CertificateOwner::Listener(listener) = state.owner else {
        return None;
    };
    Some(ScrapeCertificate {
        listener,
        names: state.names,
        expiry: state.validity?.not_after,
        last_reload_successful: state.error.is_none(),
    })
}

fn upstream_certificate(state: CertificateState) -> Option<ScrapeUpstreamCertificate> {
    let CertificateOwner::Version { service, version } = state.owner else {
        return None;
    };
    Some(ScrapeUpstreamCertificate {
        service,
        version,
        expiry: state.validity.map(|validity| validity.not_after),
        last_reload_successful: state.error.is_none(),
    })
}

/// Lists everything in a snapshot that has metric series. All other series expire.
pub(crate) fn present(snapshot: &Snapshot) -> PresentSeries {
    let mut present = PresentSeries::default();
    for listener in &snapshot.spec.listeners {
        present.listener(&listener.name);
    }
    for service in &snapshot.services {
        present.service(&service.name);
        for flag in &service.routing.flag_names {
            present.flag(&service.name, flag);
        }
        for version in &service.versions {
            present.version(&service.name, &version.name);
            // All endpoints: any may have been ejected, and the number of ejection series is limited by itself.
            for member in &version.pool.members {
                present.endpoint(&service.name, &version.name, &member.endpoint.name);
            }
        }
    }
    present
}

fn rollout(status: &RolloutStatus) -> ScrapeRollout {
    let states = { RolloutPhase::ALL.iter() }
        .map(|phase| (phase.as_str(), *phase.as_str() == *status.state));
    ScrapeRollout {
        step: status.step,
        states: states.collect(),
        evidence: status.evidence.clone().into_iter().collect(),
        fleet: status.fleet.as_ref().map(|fleet| ScrapeShared {
            is_driver: fleet.is_driver,
            term: fleet.term,
            takes_part: fleet.takes_part,
            lag_s: fleet.lag_s,
        }),
    }
}

fn service(
    spec: &spec::ServiceSpec,
    live: &Service,
    rollout_status: Option<&RolloutStatus>,
) -> ScrapeService {
    let versions = VersionIx::enumerate(&live.versions);
    let (effective, desired) = (shares::effective(live), shares::desired(spec));
    ScrapeService {
        name: spec.name.clone(),
        labels: spec.labels.clone(),
        rollout: rollout_status.map(rollout),
        versions: versions
            .map(|(index, version)| ScrapeVersion {
                name: version.name.to_string(),
                ratio: effective[index].ratio(),
                // The desired share of a version that follows a rollout is the one that the rollout has reached.
                desired_ratio: match spec.rolling_version() {
                    Some(_) => live.routing.split.share(index).ratio(),
                    None => desired[index].ratio(),
                },
                endpoints: labelled(version)
                    .map(|e| (e.name.to_string(), is_up(e)))
                    .collect(),
                awaited: live.awaited.contains(&index),
            })
            .collect(),
    }
}

/// The endpoints of a version that have series.
fn labelled(version: &Version) -> impl Iterator<Item = &Endpoint> {
    let mut resolved = 0;
    let endpoints = version.pool.members.iter().map(|member| &*member.endpoint);
    endpoints.filter(move |endpoint| {
        let is_resolved = endpoint.spec.address.is_resolved();
        resolved += usize::from(is_resolved);
        !is_resolved || resolved <= MOST_RESOLVED
    })
}

/// Whether no flag keeps the endpoint from traffic. `SUSPECT` does not: outlier detection has yet to judge it.
fn is_up(endpoint: &Endpoint) -> bool {
    endpoint.state.flags() & !flag::SUSPECT == 0
}
