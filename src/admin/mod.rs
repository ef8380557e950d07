//! The admin API of a running proxy: JSON documents, health and metrics, served on the control thread.
//!
//! The API has listeners of its own; a listener for traffic never serves it.
//!
//! * [`listen`] binds TCP addresses and Unix sockets (mode 0600). [`mod@serve`] accepts connections within the budget and the
//!   timeouts of each listener; `activity` tracks whether a connection is stalled.
//! * [`guard`] refuses a foreign `Host`, a foreign `Origin`, and changes over TCP without the token.
//! * [`api`] routes requests and `reply` builds the responses. [`history`] keeps the adopted generations. [`writes`] and
//!   [`file_editor`] change the configuration file. [`drain`] selects the endpoints that an operator drains. Changes are
//!   [`ControlCommand`]s, which the control thread carries out.
//! * `dashboard` serves the files of the page at `/`.
//! * [`logs`] streams the lines of the access log, and [`events`] the changes of the status.
//! * [`status`], [`series`], [`explain`] (of a [`request`]), [`view`] (the configuration) and [`scrape`] (the metrics) build the
//!   responses. Commands deserialize them into the same types.

mod activity;
pub(crate) mod api;
pub(crate) mod blocking;
pub(crate) mod capacity;
pub(crate) mod config_status;
mod dashboard;
pub(crate) mod drain;
pub(crate) mod error_groups;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod file_editor;
pub(crate) mod flags;
pub(crate) mod fleet;
pub(crate) mod guard;
pub(crate) mod history;
pub(crate) mod listen;
pub(crate) mod logs;
pub(crate) mod mirror;
pub(crate) mod names;
pub(crate) mod plan;
mod preview;
mod query;
mod reply;
pub(crate) mod request;
pub(crate) mod rollout;
pub(crate) mod saved_edit;
pub(crate) mod scrape;
pub(crate) mod series;
mod serve;
pub(crate) mod shared_edit;
pub(crate) mod shares;
pub(crate) mod status;
pub(crate) mod step_warnings;
mod stream;
pub(crate) mod view;
pub(crate) mod writes;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Spec;
use crate::rollout::machine::OperatorCommand;
use crate::snapshot::{Live, Snapshot};
use crate::telemetry::Telemetry;
use crate::telemetry::windows::StatusWindows;
use crate::upstream::resolve::name_state::KnownNames;

use drain::{DrainRefused, DrainReport, DrainRequest};
pub(crate) use listen::{AdminListener, bind};
use rollout::{RolloutRefused, RolloutStatus, RolloutsByService};
pub(crate) use serve::serve;
use shared_edit::{ShareRefused, SharedChange};

/// The state that the API reads, and the channel for its commands. There is one for each process.
///
/// The control thread and the API's tasks, which run on it, share it. No lock is held across an await, so none is ever waited for
/// there; threads that edit files only take them for a moment. Whatever changes the proxy goes through the channel.
pub(crate) struct Context {
    /// The running configuration.
    pub live: Arc<Live>,
    /// All counters.
    pub telemetry: Arc<Telemetry>,
    /// Rates, errors and durations by service and version. The control thread ticks them.
    pub windows: Mutex<StatusWindows>,
    /// Rates, errors and durations of the last minutes, and evidence. The control thread adds to it.
    pub series: Mutex<series::SeriesStore>,
    /// When the process started.
    pub started: Instant,
    /// Bound addresses by listener name, with the actual port where port 0 is configured. The control thread updates them.
    pub bound: Mutex<Vec<(String, SocketAddr)>>,
    /// The phase that `/readyz` reports.
    pub readiness: Arc<Readiness>,
    /// The adopted generations.
    pub history: Arc<history::History>,
    /// Rollouts by service. The control thread updates them.
    pub rollouts: Mutex<RolloutsByService>,
    /// The fleet, if the proxy belongs to one. The control thread updates it.
    pub fleet: Arc<fleet::FleetView>,
    /// State of the names of endpoints. The control thread updates it.
    pub names: KnownNames,
    /// The events that `/api/v1/events` streams.
    pub events: events::EventHub,
    /// The channel to the publisher.
    pub publisher: mpsc::Sender<ControlCommand>,
}

impl Context {
    /// Sends a command to the control thread and waits for its answer. `None` if the proxy is stopping.
    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> ControlCommand,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.publisher.send(command(answer)).await.ok()?;
        answered.await.ok()
    }
}

/// A command of an operator to the publisher.
#[derive(Debug)]
pub(crate) enum ControlCommand {
    /// Read the configuration file now.
    Reload {
        /// Receives the generation that runs afterwards, or the reason why the file was refused.
        answer: oneshot::Sender<Result<u64, String>>,
    },
    /// Change the course of a rollout.
    Rollout {
        /// Name of the service.
        service: String,
        /// The command.
        command: OperatorCommand,
        /// Author of the command, for the history.
        by: String,
        /// Receives the state of the rollout afterwards.
        answer: oneshot::Sender<Result<RolloutStatus, RolloutRefused>>,
    },
    /// Drain endpoints, or end their drain.
    Drain {
        /// Name of the service.
        service: String,
        /// Selects the endpoints of the service.
        request: DrainRequest,
        /// Receives the number of requests in flight on them.
        answer: oneshot::Sender<Result<DrainReport, DrainRefused>>,
    },
    /// Change the tables that the fleet shares.
    Share {
        /// The change.
        change: SharedChange,
        /// Receives the generation in which the change is in effect.
        answer: oneshot::Sender<Result<u64, ShareRefused>>,
    },
    /// Compile a configuration and compare it with the running one, without publishing it.
    Preview {
        /// The configuration.
        spec: Arc<Spec>,
        /// Receives the result.
        answer: oneshot::Sender<Preview>,
    },
}

/// A generation that was compiled without being published.
#[derive(Debug)]
pub(crate) struct Preview {
    /// Changes from the running generation, in words.
    pub changes: Vec<history::ChangeLine>,
    /// The running generation that was compared.
    pub running: Arc<Snapshot>,
    /// The generation that would follow it. Its endpoints have no state.
    pub next: Snapshot,
}

/// The phase of the process, which `/readyz` reports, and whether the API's sockets were handed over.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    phase: AtomicU8,
    handed_over: watch::Sender<bool>,
}

/// A phase in the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessPhase {
    /// The listeners are not up yet.
    Starting,
    /// The proxy accepts traffic.
    Ready,
    /// The proxy is shutting down and should get no new traffic.
    Stopping,
}

impl Readiness {
    /// Enters a phase.
    pub(crate) fn set(&self, phase: ProcessPhase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// The current phase.
    pub(crate) fn phase(&self) -> ProcessPhase {
        match self.phase.load(Ordering::Acquire) {
            0 => ProcessPhase::Starting,
            1 => ProcessPhase::Ready,
            _ => ProcessPhase::Stopping,
        }
    }

    /// Stops accepting on the API's sockets, because another process accepts there from now on. Open connections finish their
    /// requests.
    pub(crate) fn hand_over(&self) {
        self.set(ProcessPhase::Stopping);
        self.handed_over.send_replace(true);
    }

    /// Whether another process accepts on the API's sockets.
    pub(crate) fn is_handed_over(&self) -> bool {
        *self.handed_over.borrow()
    }

    /// Waits for [`Self::hand_over`].
    pub(crate) async fn handed_over(&self) {
        // `wait_for` fails only if the sender is gone, and `self` holds it.
        let _ = self.handed_over.subscribe().wait_for(|over| *over).await;
    }
}

#[cfg(test)]
mod tests;
