//! The health monitor: active checks, outlier ejection and slow start of all endpoints, on the control thread.
//!
//! [`MonitorState`] (in [`state`]) knows every endpoint of the published snapshot and makes the decisions. A task feeds it with
//! check results, with suspects that workers report, and with time. [`endpoint`] runs the checks of one endpoint and its ramp;
//! [`pace`] spreads the starts of checks. Decisions are written as flags and ramps into the endpoints' shared state, which is
//! all that workers read.

mod endpoint;
mod pace;
mod state;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Instant;

use crate::config::spec::{EndpointSpec, ServiceSpec, VersionSpec};
use crate::snapshot::Snapshot;
use crate::telemetry::Telemetry;
use crate::upstream::Registry;
use crate::upstream::outlier::Suspect;
use crate::upstream::resolve::expansion::expand;
use crate::upstream::resolve::record::Resolutions;
use endpoint::CheckEnded;
use state::MonitorState;

/// The publisher's handle to the monitor. Dropping it stops all checks.
///
/// The publisher and the monitor's task share the state on the control thread; neither keeps it borrowed across an await. An
/// endpoint is prepared before its snapshot is published and adopted after that, so no worker ever sees one without its flags.
#[derive(Debug)]
pub(super) struct HealthMonitor {
    state: Rc<RefCell<MonitorState>>,
    signals: Rc<MonitorSignals>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct MonitorSignals {
    /// Notified when an endpoint came up or went down, had its first check result, was ejected or readmitted.
    verdict: Notify,
    /// Notified when the next deadline may have changed.
    reschedule: Notify,
}

impl HealthMonitor {
    /// Starts the monitor's task. Must run on the control thread's runtime.
    pub(super) fn start(
        telemetry: Arc<Telemetry>,
        suspects: mpsc::UnboundedReceiver<Suspect>,
    ) -> Self {
        let (sender, results) = mpsc::unbounded_channel();
        let state = Rc::new(RefCell::new(MonitorState::new(telemetry, sender)));
        let signals = Rc::new(MonitorSignals::default());
        let task = spawn_local(run(state.clone(), signals.clone(), suspects, results));
        Self {
            state,
            signals,
            task: task.abort_handle(),
        }
    }

    /// Whether the monitor's task has ended. It loops forever, so only a panic ends it.
    pub(super) fn is_dead(&self) -> bool {
        self.task.is_finished()
    }

    /// Prepares the endpoints of `next`, before it is published: new endpoints with checks are flagged unproven, because a worker
    /// may pick them as soon as the snapshot is stored.
    pub(super) fn prepare(&self, next: &Snapshot) {
        self.state.borrow().prepare(next);
    }

    /// Whether one of the version's endpoints passes its checks. Endpoints that aren't monitored, or that have had neither checks
    /// nor traffic, don't count.
    pub(super) fn passes(
        &self,
        (registry, resolutions): (&Registry, &Resolutions),
        service: &ServiceSpec,
        version: &VersionSpec,
    ) -> bool {
        let state = self.state.borrow();
        let passes = |spec: &EndpointSpec| {
            let found = registry.find(&service.name, &version.name, spec);
            found.is_some_and(|endpoint| state.passes(&endpoint))
        };
        match expand(version, resolutions) {
            Some(endpoints) => endpoints.iter().any(|endpoint| passes(&endpoint.spec)),
            None => version.endpoints.iter().any(passes),
        }
    }

    /// Follows a published snapshot: starts checks of added endpoints and stops those of removed ones. Endpoints in both
    /// snapshots keep their history.
    pub(super) fn adopt(&self, published: &Snapshot) {
        self.state.borrow_mut().adopt(published, now());
        self.signals.reschedule.notify_one();
    }

    /// Waits until an endpoint comes up or goes down, has its first check result, is ejected or readmitted. May return for none of
    /// them.
    pub(super) async fn news(&self) {
        self.signals.verdict.notified().await;
    }

    /// Waits until every checked endpoint has had a result, for at most `limit`.
    pub(super) async fn first_round(&self, limit: Duration) {
        let round = async {
            while !self.state.borrow().have_results() {
                self.signals.verdict.notified().await;
            }
        };
        // Endpoints whose first check takes longer stay unproven, and their results count when they arrive.
        let _ = tokio::time::timeout(limit, round).await;
    }
}

impl Drop for HealthMonitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

async fn run(
    state: Rc<RefCell<MonitorState>>,
    signals: Rc<MonitorSignals>,
    mut suspects: mpsc::UnboundedReceiver<Suspect>,
    mut results: mpsc::UnboundedReceiver<CheckEnded>,
) {
    loop {
        let due = state.borrow().next_due(now());
        let has_news = tokio::select! {
            // Suspects come first: every request to such an endpoint may fail until it is ejected.
            biased;
            Some(suspect) = suspects.recv() => state.borrow_mut().on_suspect(&suspect, now()),
            Some(checked) = results.recv() => state.borrow_mut().on_check(&checked, now()),
            () = tokio::time::sleep_until(due.into()) => state.borrow_mut().tick(now()),
            // Only ends the sleep, so that the next deadline is looked up again.
            () = signals.reschedule.notified() => false,
        };
        if has_news {
            signals.verdict.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
