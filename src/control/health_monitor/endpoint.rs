//! One monitored endpoint: its check task and its slow start.

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

/// The name of a pool: service and version.
pub(super) type PoolName = (Arc<str>, Arc<str>);

/// The result of one check.
#[derive(Debug)]
pub(super) struct CheckEnded {
    pub endpoint: Arc<Endpoint>,
    /// Time at which the check began. It doesn't lift an ejection that came later.
    pub began: Instant,
    pub result: Result<(), CheckFailure>,
}

/// An endpoint of the published snapshot.
#[derive(Debug)]
pub(super) struct MonitoredEndpoint {
    pub endpoint: Arc<Endpoint>,
    pub pool: PoolName,
    pub slow_start: Option<Duration>,
    /// Time at which the slow start began, while it lasts.
    pub ramp_since: Option<Instant>,
    /// Time of the last "not ejected" line in the log, and the number of detections suppressed since.
    pub overflow_logged: Cell<Option<(Instant, u64)>>,
    pub check: Option<CheckTask>,
}

/// The running checks of an endpoint whose service has a health policy. Dropping it stops them.
#[derive(Debug)]
pub(super) struct CheckTask {
    pub policy: policy::HealthPolicy,
    pub health: CheckHistory,
    /// Whether a check has ended since the task was started.
    pub has_result: bool,
    _task: AbortOnDrop,
}

/// Aborts the task when dropped.
#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl CheckTask {
    /// Starts checking. The first check runs as soon as `pacer` grants it a turn.
    pub(super) fn begin(
        endpoint: &Arc<Endpoint>,
        policy: &policy::HealthPolicy,
        health: CheckHistory,
        results: &mpsc::UnboundedSender<CheckEnded>,
        pacer: Rc<CheckPacer>,
        rng: fastrand::Rng,
    ) -> Self {
        let (endpoint, results) = (endpoint.clone(), results.clone());
        let task = spawn_local(check(endpoint, policy.clone(), results, pacer, rng));
        Self {
            policy: policy.clone(),
            health,
            has_result: false,
            _task: AbortOnDrop(task.abort_handle()),
        }
    }
}

impl MonitoredEndpoint {
    /// Creates an endpoint without checks, at full weight.
    pub(super) fn new(endpoint: Arc<Endpoint>, pool: PoolName) -> Self {
        Self {
            endpoint,
            pool,
            slow_start: None,
            ramp_since: None,
            overflow_logged: Cell::default(),
            check: None,
        }
    }

    /// Counts an outlier detection that `max_ejected` did not allow to be enforced. Returns `Some` if it should be logged, with
    /// the number of detections suppressed since the last line, which was at least `every` ago. The limit is needed because in a
    /// pool that is down every few requests lead to a detection.
    pub(super) fn count_overflow(&self, every: Duration, now: Instant) -> Option<u64> {
        let left_out = match self.overflow_logged.get() {
            Some((at, left_out)) if now.saturating_duration_since(at) < every => {
                self.overflow_logged.set(Some((at, left_out + 1)));
                return None;
            }
            last => last.map_or(0, |(_, left_out)| left_out),
        };
        self.overflow_logged.set(Some((now, 0)));
        Some(left_out)
    }

    /// Begins the slow start of an endpoint that came up, if its version has one.
    pub(super) fn begin_ramp(&mut self, now: Instant) {
        self.ramp_since = self.slow_start.map(|_| now);
        self.move_ramp(now);
    }

    /// Sets the ramp, in thousandths of the endpoint's weight, for the time since the slow start began.
    pub(super) fn move_ramp(&mut self, now: Instant) {
        let Some(since) = self.ramp_since else { return };
        let over = self.slow_start.unwrap_or_default();
        let ramp = health::ramp(now.saturating_duration_since(since), over);
        self.endpoint.state.set_ramp(ramp);
        if ramp == 1000 {
            self.ramp_since = None;
        }
    }
}

/// Checks one endpoint periodically until the receiver of the results is gone.
async fn check(
    endpoint: Arc<Endpoint>,
    policy: policy::HealthPolicy,
    results: mpsc::UnboundedSender<CheckEnded>,
    pacer: Rc<CheckPacer>,
    mut rng: fastrand::Rng,
) {
    loop {
        pacer.turn().await;
        let began = tokio::time::Instant::now().into_std();
        let result = probe::check(&endpoint, &policy.probe, policy.timeout).await;
        let checked = CheckEnded {
            endpoint: endpoint.clone(),
            began,
            result,
        };
        if results.send(checked).is_err() {
            return;
        }
        tokio::time::sleep(health::next_in(policy.interval, &mut rng)).await;
    }
}
