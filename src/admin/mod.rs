//! The JSON API of a running proxy, on the control thread. No listener for traffic ever serves it.
//!
//! * [`listen`]: TCP addresses and Unix sockets (mode 0600).
//! * [`serve`]: accepts connections within each listener's budget and timeouts; `activity` is what they are doing.
//! * [`guard`]: whose requests are answered: no foreign `Host`, no foreign `Origin`, writes only with the token.
//! * [`api`]: paths to answers.
//! * [`drain`]: endpoints taken out by an operator.
//! * [`status`], [`asked`] and [`explain`], [`view`], [`scrape`]: what is answered; the same types are what commands read.

mod activity;
pub(crate) mod api;
pub(crate) mod asked;
pub(crate) mod drain;
pub(crate) mod explain;
pub(crate) mod guard;
pub(crate) mod listen;
pub(crate) mod scrape;
mod serve;
pub(crate) mod shares;
pub(crate) mod status;
pub(crate) mod view;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};

use crate::snapshot::Live;
use crate::telemetry::Telemetry;
use crate::telemetry::windows::StatusWindows;

pub(crate) use listen::{AdminListener, bind};
pub(crate) use serve::serve;

/// What the API reads, and where it sends commands. Made once, by the server.
pub(crate) struct Context {
    /// What is running.
    pub live: Arc<Live>,
    /// Every counter.
    pub telemetry: Arc<Telemetry>,
    /// RED by service and version. Ticked by the server.
    pub windows: Mutex<StatusWindows>,
    /// When the process started.
    pub started: Instant,
    /// Addresses as bound (a configured port 0 is a real one here), by listener name. Kept by the server.
    pub bound: Mutex<Vec<(String, SocketAddr)>>,
    /// Whether traffic is welcome.
    pub readiness: Arc<Readiness>,
    /// To the one publisher.
    pub publisher: mpsc::Sender<ControlCommand>,
}

/// What an operator asks of the publisher.
#[derive(Debug)]
pub(crate) enum ControlCommand {
    /// Read the file now. The answer is the generation that runs afterwards, or why the file was refused.
    Reload {
        /// Where the answer goes.
        answer: oneshot::Sender<Result<u64, String>>,
    },
    /// A fault of ours on purpose. Only this crate's own tests can ask for it.
    #[cfg(test)]
    Stumble(Stumble),
}

/// What is to die by a panic.
#[cfg(test)]
#[derive(Debug)]
pub(crate) enum Stumble {
    /// This worker; else its accept loops, each with the next connection.
    Worker(usize, bool),
    /// The control thread.
    Control,
    /// What answers the admin API.
    Admin,
}

/// Whether the proxy welcomes traffic: what `/readyz` says.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    phase: AtomicU8,
    handed_over: watch::Sender<bool>,
}

/// A phase of the process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessPhase {
    /// Listeners are not up yet.
    Starting,
    /// Traffic is welcome.
    Ready,
    /// No new traffic, please.
    Stopping,
}

impl Readiness {
    /// Enters a phase.
    pub(crate) fn set(&self, phase: ProcessPhase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// The phase now.
    pub(crate) fn phase(&self) -> ProcessPhase {
        match self.phase.load(Ordering::Acquire) {
            0 => ProcessPhase::Starting,
            1 => ProcessPhase::Ready,
            _ => ProcessPhase::Stopping,
        }
    }

    /// Another process accepts on the sockets of the API from now on. Answers under way are finished.
    pub(crate) fn hand_over(&self) {
        self.set(ProcessPhase::Stopping);
        self.handed_over.send_replace(true);
    }

    /// Whether another process answers on the sockets of the API now.
    pub(crate) fn is_handed_over(&self) -> bool {
        *self.handed_over.borrow()
    }

    /// Waits for [`Self::hand_over`].
    pub(crate) async fn handed_over(&self) {
        // The sender is ours: it can't be gone.
        let _ = self.handed_over.subscribe().wait_for(|over| *over).await;
    }
}

#[cfg(test)]
mod tests;
