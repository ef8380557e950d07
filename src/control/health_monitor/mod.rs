//! Who watches over endpoints, on the control thread: makes their checks, judges those that workers suspect, readmits them,
//! lets those that come up start slowly. Workers only read what comes of it.
//!
//! [`yard`] holds what is known of all and decides, [`ward`] one endpoint's checks and slow start, [`pace`] how close upon
//! another checks begin; this file feeds it with results, suspicions and time.

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

use crate::config::spec::{ServiceSpec, VersionSpec};
use crate::snapshot::Snapshot;
use crate::telemetry::Telemetry;
use crate::upstream::Registry;
use crate::upstream::outlier::Suspect;
use endpoint::CheckEnded;
use state::MonitorState;

/// The publisher's end of it. Dropping it ends all checks.
#[derive(Debug)]
pub(super) struct HealthMonitor {
    yard: Rc<RefCell<MonitorState>>,
    signals: Rc<MonitorSignals>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct MonitorSignals {
    /// Woken when an endpoint came up, or had its first result.
    news: Notify,
    /// Woken when something else may be due first.
    plans: Notify,
}

impl HealthMonitor {
    /// Begins to watch. Must run on the control thread's runtime.
    pub(super) fn start(
        telemetry: Arc<Telemetry>,
        suspects: mpsc::UnboundedReceiver<Suspect>,
    ) -> Self {
        let (sender, results) = mpsc::unbounded_channel();
        let yard = Rc::new(RefCell::new(MonitorState::new(telemetry, sender)));
        let signals = Rc::new(MonitorSignals::default());
        let task = spawn_local(watch(yard.clone(), signals.clone(), suspects, results));
        Self {
            yard,
            signals,
            task: task.abort_handle(),
        }
    }

    /// Whether it watches no more: it ends by a panic alone.
    pub(super) fn is_dead(&self) -> bool {
        self.task.is_finished()
    }

    /// Before `next` is published: its new endpoints must not have traffic before they are proven.
    pub(super) fn prepare(&self, next: &Snapshot) {
        self.yard.borrow().prepare(next);
    }

    /// Whether one of the version's endpoints passes its checks. An endpoint that isn't monitored, or of which nothing is known,
    /// passes nothing.
    pub(super) fn passes(
        &self,
        registry: &Registry,
        service: &ServiceSpec,
        version: &VersionSpec,
    ) -> bool {
        let state = self.yard.borrow();
        let mut endpoints = version.endpoints.iter();
        endpoints.any(|spec| {
            let found = registry.find(&service.name, &version.name, spec);
            found.is_some_and(|endpoint| state.passes(&endpoint))
        })
    }

    /// It was published: checks of what came begin, those of what went end. What stays is not touched.
    pub(super) fn adopt(&self, published: &Snapshot) {
        self.yard.borrow_mut().adopt(published, now());
        self.signals.plans.notify_one();
    }

    /// Waits until an endpoint came up; now and then for nothing.
    pub(super) async fn news(&self) {
        self.signals.news.notified().await;
    }

    /// Waits until every endpoint that is checked had a result, `limit` at most.
    pub(super) async fn first_round(&self, limit: Duration) {
        let round = async {
            while !self.yard.borrow().is_informed() {
                self.signals.news.notified().await;
            }
        };
        // What takes longer is not proven, and known as such.
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

async fn watch(
    yard: Rc<RefCell<MonitorState>>,
    signals: Rc<MonitorSignals>,
    mut suspects: mpsc::UnboundedReceiver<Suspect>,
    mut results: mpsc::UnboundedReceiver<CheckEnded>,
) {
    loop {
        let due = yard.borrow().next_due(now());
        tokio::select! {
            // Suspicions first: every request that goes by may fail as well.
            biased;
            Some(suspect) = suspects.recv() => yard.borrow_mut().suspected(&suspect, now()),
            Some(checked) = results.recv() => {
                if yard.borrow_mut().checked(&checked, now()) {
                    signals.news.notify_one();
                }
            }
            () = tokio::time::sleep_until(due.into()) => yard.borrow_mut().tick(now()),
            () = signals.plans.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests;
