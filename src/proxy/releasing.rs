//! Releases requests that wait for a version, once a tick: looks at the version as the latest configuration has it, and probes
//! endpoints that have refused connections.

use std::rc::Rc;

use super::Worker;
use super::hold_queue::{Awaited, Outlook, ProbeReport};
use crate::config::policy::Probe;
use crate::index::VersionIx;
use crate::routing::failover::failover;
use crate::snapshot::{Service, Snapshot};
use crate::upstream::probe;

/// Releases requests that can continue. To be called every [`crate::net::clock::TICK`].
pub(crate) fn release_held(worker: &Rc<Worker>) {
    if worker.holds.is_empty() {
        return;
    }
    let snapshot = worker.snapshot();
    worker.holds.tick(
        worker.controls.now_ms(),
        |awaited| outlook(worker, &snapshot, awaited),
        |awaited, report| probe_endpoint(worker, &snapshot, awaited, report),
    );
}

/// The service that is waited for and the index of the version, if they still exist.
fn find<'s>(snapshot: &'s Snapshot, awaited: &Awaited) -> Option<(&'s Service, VersionIx)> {
    let mut services = snapshot.services.iter();
    let service = services.find(|service| service.slot == awaited.service)?;
    let mut versions = VersionIx::enumerate(&service.versions);
    let (version, _) = versions.find(|(_, version)| version.name == awaited.version)?;
    Some((service, version))
}

/// The state of the version, and the identity of the compiled service.
fn outlook(worker: &Worker, snapshot: &Snapshot, awaited: &Awaited) -> (Outlook, usize) {
    let Some((service, version)) = find(snapshot, awaited) else {
        return (Outlook::Elsewhere, 0);
    };
    let compiled = std::ptr::from_ref(service).addr();
    (
        outlook_of(worker, service, version, awaited.pinned),
        compiled,
    )
}

fn outlook_of(worker: &Worker, service: &Service, version: VersionIx, pinned: bool) -> Outlook {
    let routing = &service.routing;
    let is_usable = |version: VersionIx| {
        routing.version_answers(version) || worker.has_healthy_endpoint(service, version)
    };
    if service.policies.wait.is_none() || routing.version_answers(version) {
        return Outlook::Elsewhere;
    }
    if is_usable(version) {
        return Outlook::Up(room(service, version));
    }
    let taker = failover(&routing.split, routing.fallback, version, is_usable);
    match taker.filter(|_| !pinned) {
        Some(_) => Outlook::Elsewhere,
        None => Outlook::Down,
    }
}

/// This worker's part of the room under `limits.requests`, so that all workers together release no more requests than
/// there is room for.
fn room(service: &Service, version: VersionIx) -> usize {
    let version = &service.versions[version];
    let ceiling = service.policies.limits.requests;
    if ceiling == 0 {
        return usize::MAX;
    }
    let free = ceiling.saturating_sub(version.load.requests.now()) as usize;
    free.div_ceil(version.metrics.workers())
}

/// Opens a connection to an endpoint as a request would pick it, and closes it again.
fn probe_endpoint(worker: &Worker, snapshot: &Snapshot, awaited: &Awaited, report: ProbeReport) {
    let picked = find(snapshot, awaited).and_then(|(service, version)| {
        let member = worker.pick(service, version, &[], None)?;
        let endpoint = &service.versions[version].pool.members[member].endpoint;
        Some((endpoint.clone(), service.timeouts.connect))
    });
    let Some((endpoint, limit)) = picked else {
        return report.send(false);
    };
    tokio::task::spawn_local(async move {
        let result = probe::check(&endpoint, &Probe::Tcp, limit).await;
        report.send(result.is_ok());
    });
}
