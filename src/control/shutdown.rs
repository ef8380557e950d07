//! The end: no new work, finish the old.
//!
//! Readiness fails at once (so that a balancer before us looks elsewhere) and every answer announces the end of its
//! connection; idle connections end after a moment of grace. Listeners close after `shutdown.delay`, and what is in flight
//! then has `shutdown.deadline`. A second signal ends everything at once.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::handover::EndpointName;
use super::publisher::Publisher;
use super::signals::SignalStream;
use super::systemd;
use crate::snapshot::Snapshot;
use crate::upstream::endpoint::{Endpoint, flag};

/// How the end is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    /// What is in flight is finished.
    Finish,
    /// At once.
    Now,
}

/// Drains all workers; returns when they have ended, or when there is no more time.
pub(super) async fn run(publisher: &mut Publisher, haste: Haste, signals: &mut SignalStream) {
    if haste == Haste::Now {
        return;
    }
    let shutdown = publisher.live().current().spec.shutdown.clone();
    systemd::stopping(shutdown.delay + shutdown.deadline);
    tracing::info!(
        connections = publisher.connections(),
        accepting_for = ?shutdown.delay,
        deadline = ?shutdown.deadline,
        "stopping"
    );
    tokio::select! {
        () = finish(publisher, shutdown.delay, shutdown.deadline) => {}
        () = signals.stop() => tracing::warn!("stopped at once by a second signal"),
    }
}

async fn finish(publisher: &mut Publisher, delay: Duration, deadline: Duration) {
    publisher.fleet().announce();
    tokio::time::sleep(delay).await;
    publisher.close();
    let end = Instant::now() + deadline;
    match timeout_at(end, publisher.fleet().all_ended()).await {
        Ok(()) => tracing::info!("stopped: everything in flight was finished"),
        Err(_) => tracing::warn!(
            connections = publisher.connections(),
            ?deadline,
            "stopped at the deadline: connections were cut"
        ),
    }
}

/// Another process serves now: drains all workers. Requests have `shutdown.deadline`, streams and tunnels the longest
/// `drain.streams` of all services. A signal (`hurried`: there was one already) leaves only the deadline to all of them, a
/// second one nothing.
pub(super) async fn hand_over(
    publisher: &mut Publisher,
    unwanted: &[String],
    hurried: bool,
    signals: &mut SignalStream,
) {
    let spec = publisher.live().current().spec.clone();
    let requests = spec.shutdown.deadline;
    let streams = spec.services.iter().map(|s| s.policies.drain.streams);
    let streams = streams.max().unwrap_or_default().max(requests);
    publisher.hand_over(unwanted);
    tracing::info!(
        connections = publisher.connections(),
        ?requests,
        ?streams,
        "handed over, finishing what is in flight"
    );
    let publisher = &*publisher;
    if !hurried {
        tokio::select! {
            () = finish_handed_over(publisher, requests, streams) => return,
            () = signals.stop() => {}
        }
    }
    tracing::info!(deadline = ?requests, "everything in flight has until the deadline");
    tokio::select! {
        _ = timeout(requests, publisher.fleet().all_ended()) => {}
        () = signals.stop() => tracing::warn!("stopped at once by a second signal"),
    }
}

async fn finish_handed_over(publisher: &Publisher, requests: Duration, streams: Duration) {
    let all_ended = || publisher.fleet().all_ended();
    let mut ended = timeout(requests, all_ended()).await;
    if ended.is_err() {
        publisher.fleet().cut_requests();
        ended = timeout(streams - requests, all_ended()).await;
    }
    match ended {
        Ok(()) => tracing::info!("ended after the handover"),
        Err(_) => tracing::warn!(
            connections = publisher.connections(),
            ?streams,
            "ended after the handover: connections were cut"
        ),
    }
}

/// What an operator drains.
pub(crate) fn draining(snapshot: &Snapshot) -> Vec<EndpointName> {
    let mut all = Vec::new();
    each_endpoint(snapshot, |name, endpoint| {
        if endpoint.state.flags() & flag::DRAINING != 0 {
            all.push(name.map(str::to_owned));
        }
    });
    all
}

/// Drains these endpoints, as an operator did in the process before, and no others.
pub(crate) fn set_draining(snapshot: &Snapshot, draining: &[EndpointName]) {
    let draining: HashSet<[&str; 3]> = draining
        .iter()
        .map(|d| d.each_ref().map(|s| &**s))
        .collect();
    each_endpoint(snapshot, |name, endpoint| {
        match draining.contains(&name) {
            true => endpoint.state.raise(flag::DRAINING),
            false => endpoint.state.lower(flag::DRAINING),
        };
    });
}

fn each_endpoint<'a>(snapshot: &'a Snapshot, mut see: impl FnMut([&'a str; 3], &Endpoint)) {
    for service in &snapshot.services {
        for version in &service.versions {
            for member in &version.pool.members {
                let name = [&*service.name, &*version.name, &*member.endpoint.name];
                see(name, &member.endpoint);
            }
        }
    }
}
