//! One endpoint that is watched over: its checks and its slow start.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_local};

use super::pace::CheckPacer;
use crate::config::policy;
use crate::upstream::Endpoint;
use crate::upstream::health::{self, CheckHistory};
use crate::upstream::probe::{self, CheckFailure};

/// Service and version.
pub(super) type PoolName = (Arc<str>, Arc<str>);

/// A check has ended.
#[derive(Debug)]
pub(super) struct CheckEnded {
    pub endpoint: Arc<Endpoint>,
    /// When it began.
    pub began: Instant,
    pub result: Result<(), CheckFailure>,
}

/// An endpoint of the published snapshot.
#[derive(Debug)]
pub(super) struct MonitoredEndpoint {
    pub endpoint: Arc<Endpoint>,
    pub pool: PoolName,
    pub slow_start: Option<Duration>,
    /// Since when it ramps.
    pub ramps: Option<Instant>,
    /// When it was last told that it stays though it is an outlier, and how often that was left out since.
    pub excused: Cell<Option<(Instant, u64)>>,
    pub check: Option<CheckTask>,
}

/// Its checks, as long as its service wants some.
#[derive(Debug)]
pub(super) struct CheckTask {
    pub terms: policy::HealthPolicy,
    pub health: CheckHistory,
    /// It had a result.
    pub informed: bool,
    _task: AbortOnDrop,
}

/// Ends with its value.
#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl CheckTask {
    /// Begins to check: the first time at once, or when its turn comes among many.
    pub(super) fn begin(
        endpoint: &Arc<Endpoint>,
        terms: &policy::HealthPolicy,
        health: CheckHistory,
        results: &mpsc::UnboundedSender<CheckEnded>,
        pace: Rc<CheckPacer>,
        rng: fastrand::Rng,
    ) -> Self {
        let (endpoint, results) = (endpoint.clone(), results.clone());
        let task = spawn_local(check(endpoint, terms.clone(), results, pace, rng));
        Self {
            terms: terms.clone(),
            health,
            informed: false,
            _task: AbortOnDrop(task.abort_handle()),
        }
    }
}

impl MonitoredEndpoint {
    /// It stays though it is an outlier. `Some`: that is to be told, and how often it was left out since it was told
    /// last, at least `every` ago. A pool that is down has an outlier for every few of its requests.
    pub(super) fn excuse(&self, every: Duration, now: Instant) -> Option<u64> {
        let left_out = match self.excused.get() {
            Some((at, left_out)) if now.saturating_duration_since(at) < every => {
                self.excused.set(Some((at, left_out + 1)));
                return None;
            }
            last => last.map_or(0, |(_, left_out)| left_out),
        };
        self.excused.set(Some((now, 0)));
        Some(left_out)
    }

    /// It came up: it starts slowly, if its version says so.
    pub(super) fn begin_ramp(&mut self, now: Instant) {
        self.ramps = self.slow_start.map(|_| now);
        self.move_ramp(now);
    }

    /// Sets the share of its weight that counts now.
    pub(super) fn move_ramp(&mut self, now: Instant) {
        let Some(since) = self.ramps else { return };
        let over = self.slow_start.unwrap_or_default();
        let ramp = health::ramp(now.saturating_duration_since(since), over);
        self.endpoint.state.set_ramp(ramp);
        if ramp == 1000 {
            self.ramps = None;
        }
    }
}

/// Checks one endpoint again and again, the first time as soon as the pace lets it.
async fn check(
    endpoint: Arc<Endpoint>,
    terms: policy::HealthPolicy,
    results: mpsc::UnboundedSender<CheckEnded>,
    pace: Rc<CheckPacer>,
    mut rng: fastrand::Rng,
) {
    loop {
        pace.turn().await;
        let began = tokio::time::Instant::now().into_std();
        let result = probe::check(&endpoint, &terms.probe, terms.timeout).await;
        let checked = CheckEnded {
            endpoint: endpoint.clone(),
            began,
            result,
        };
        if results.send(checked).is_err() {
            return;
        }
        tokio::time::sleep(health::next_in(terms.interval, &mut rng)).await;
    }
}
