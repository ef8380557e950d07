//! The running process's part in a takeover: the offer to a successor, and the release.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::sync::oneshot;

use super::drains;
use super::events::Control;
use super::handover::{HandoverState, Release};
use super::shutdown;
use super::signals::SignalStream;
use super::systemd;
use crate::edge::inherit::Label;

/// Longest wait for the last frame to a successor.
const LAST_FRAME: Duration = Duration::from_secs(1);

impl Control {
    /// Sends a successor everything that it needs to serve in place of this process.
    pub(super) fn offer(&mut self, reply: oneshot::Sender<HandoverState>) {
        let snapshot = self.publisher.live().current();
        let held = self.publisher.listeners().held().chain(self.sockets.held());
        let duplicate = |(label, fd): (Label, &OwnedFd)| match fd.try_clone() {
            Ok(fd) => Some((label, fd)),
            Err(error) => {
                tracing::error!(%error, "cannot duplicate a socket for the handover: {label:?}");
                None
            }
        };
        let (undecided, decided) = oneshot::channel();
        let state = HandoverState {
            generation: snapshot.generation,
            draining: drains::draining(&snapshot),
            services: snapshot.state(),
            tickets: self.publisher.listeners().tickets().secrets(),
            names: self.publisher.discovery().sets(),
            sockets: held.filter_map(duplicate).collect(),
            undecided,
        };
        self.undecided = Some(decided);
        // If the handover task has given up, `undecided` is dropped with the state, which decides the takeover.
        drop(reply.send(state));
    }

    /// Completes a takeover: releases the sockets to the successor, then drains the remaining connections.
    pub(super) async fn hand_over(
        &mut self,
        release: Release,
        hurried: bool,
        signals: &mut SignalStream,
    ) {
        if let Some(pid) = release.pid {
            systemd::main_process(pid);
        }
        self.context.readiness.hand_over();
        self.sockets.leave();
        let unwanted = release.unwanted;
        // The successor reads the history after the release.
        self.publisher.history().flush(LAST_FRAME).await;
        // The list is final: since `readiness` says that this process is handed over, the admin API refuses to change drains.
        let draining = drains::draining(&self.publisher.live().current());
        if release.done.send(draining).is_err() {
            tracing::warn!("the new process did not wait for the release");
        }
        if let Some(handover) = self.handover.take() {
            // The last frame must be sent before this process may exit.
            let _ = tokio::time::timeout(LAST_FRAME, handover).await;
        }
        shutdown::hand_over(&mut self.publisher, &unwanted, hurried, signals).await;
        self.sockets.reclaim(&unwanted);
    }
}
