//! The delays of `hedge = "p95"`: quantiles of the durations of the versions' requests over the last minute.

use std::time::Duration;

use crate::config::policy::Hedge;
use crate::snapshot::Snapshot;
use crate::telemetry::windows::StatusWindows;

/// Time over which a quantile is taken.
const OVER: Duration = Duration::from_secs(60);

/// Publishes for every version the delay after which workers hedge its requests. To be called after each tick of the windows.
pub(super) fn publish_delays(windows: &StatusWindows, snapshot: &Snapshot) {
    for service in &snapshot.services {
        let Some(Hedge::Quantile(quantile)) = service.policies.hedge else {
            continue;
        };
        for version in &service.versions {
            let of = (quantile.value(), OVER);
            let delay = windows.duration(&service.name, &version.name, of);
            version.load.set_hedge_delay(delay);
        }
    }
}
