//! The end: no new work, finish the old.
//!
//! Readiness fails at once (so that a balancer before us looks elsewhere) and every answer announces the end of its
//! connection; idle connections end after a moment of grace. Listeners close after `shutdown.delay`, and what is in flight
//! then has `shutdown.deadline`. A second signal ends everything at once.

use tokio::time::{Instant, timeout_at};

use super::control::{Signals, Wish};
use super::reload::Publisher;
use super::systemd;

/// How the end is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// What is in flight is finished.
    Finish,
    /// At once.
    Now,
}

/// Drains all workers; returns when they have ended, or when there is no more time.
pub async fn run(publisher: &Publisher, haste: Haste, signals: &mut Signals) {
    if haste == Haste::Now {
        return;
    }
    let shutdown = publisher.live().current().spec.shutdown.clone();
    systemd::stopping(shutdown.delay + shutdown.deadline);
    tracing::info!(
        "stopping: {} connections; new ones are taken for {:?} yet, what is in flight has {:?}",
        publisher.connections(),
        shutdown.delay,
        shutdown.deadline
    );
    tokio::select! {
        () = finish(publisher, shutdown.delay, shutdown.deadline) => {}
        () = impatience(signals) => tracing::warn!("stopped at once by a second signal"),
    }
}

async fn finish(publisher: &Publisher, delay: std::time::Duration, deadline: std::time::Duration) {
    publisher.fleet().announce();
    tokio::time::sleep(delay).await;
    publisher.fleet().drain();
    let end = Instant::now() + deadline;
    match timeout_at(end, publisher.fleet().all_ended()).await {
        Ok(()) => tracing::info!("stopped: everything in flight was finished"),
        Err(_) => tracing::warn!(
            "stopped at the deadline of {deadline:?}: {} connections were cut",
            publisher.connections()
        ),
    }
}

/// Waits for another wish to stop.
async fn impatience(signals: &mut Signals) {
    while signals.next().await != Wish::Stop {}
}
