//! Graceful shutdown: accepts no new work, then drains the requests in flight.
//!
//! Readiness fails immediately, so that a load balancer in front of the proxy stops sending traffic, and every response
//! announces the end of its connection. Idle connections close after a short grace period. Listeners close after
//! `shutdown.delay`; requests still in flight then have `shutdown.deadline`. A second signal ends everything at once.
//!
//! [`hand_over`] is the variant for a process whose sockets a successor serves already: it has nothing to announce and gives
//! streams and tunnels more time.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::publisher::Publisher;
use super::signals::SignalStream;
use super::systemd;

/// The way in which the process stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopMode {
    /// Drain requests in flight, within `shutdown.deadline`.
    Graceful,
    /// Drop all connections now.
    Immediate,
}

/// Drains all workers. Returns when they have ended, at the deadline, or at a second signal.
pub(super) async fn run(publisher: &mut Publisher, mode: StopMode, signals: &mut SignalStream) {
    if mode == StopMode::Immediate {
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
        () = signals.stop() => tracing::warn!("second signal: stopping immediately"),
    }
}

async fn finish(publisher: &mut Publisher, delay: Duration, deadline: Duration) {
    // The listeners stay open for `delay`: a load balancer needs time to notice that the readiness check fails, and until
    // then its connections must not be refused.
    publisher.workers().announce();
    tokio::time::sleep(delay).await;
    publisher.close();
    let end = Instant::now() + deadline;
    match timeout_at(end, publisher.workers().all_ended()).await {
        Ok(()) => tracing::info!("stopped: everything in flight was finished"),
        Err(_) => tracing::warn!(
            connections = publisher.connections(),
            ?deadline,
            "stopped at the deadline: connections were cut"
        ),
    }
}

/// Drains all workers after a successor took over the sockets.
///
/// Requests have `shutdown.deadline`; streams and tunnels have the longest `drain.streams` of all services. A signal shortens
/// both to the deadline, counted from the signal, and a second one ends the drain. If the first of these signals came before
/// the handover (`hurried`), the deadline counts from now.
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
        "handed over, draining"
    );
    let publisher = &*publisher;
    if !hurried {
        tokio::select! {
            () = finish_handed_over(publisher, requests, streams) => return,
            () = signals.stop() => {}
        }
    }
    tracing::info!(deadline = ?requests, "stop requested: streams and tunnels now have the deadline of requests");
    tokio::select! {
        _ = timeout(requests, publisher.workers().all_ended()) => {}
        () = signals.stop() => tracing::warn!("second signal: stopping immediately"),
    }
}

async fn finish_handed_over(publisher: &Publisher, requests: Duration, streams: Duration) {
    let all_ended = || publisher.workers().all_ended();
    let mut ended = timeout(requests, all_ended()).await;
    if ended.is_err() {
        publisher.workers().cut_requests();
        // Not negative: the caller has made `streams` at least `requests`.
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
