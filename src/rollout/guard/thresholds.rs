//! The durations that separate slow from fast requests.

use std::time::Duration;

use super::rules::LatencySlot;

pub use crate::telemetry::guard::{SLOTS, UNUSED};

/// Thresholds of both versions in nanoseconds. A request is slow if it takes longer.
///
/// An absolute limit has one slot; a ratio has two: one at stable's quantile, one at three times that, each multiplied by the
/// ratio for the canary. They are published every second from stable's past, and need not be bounds of a histogram's buckets. The
/// test is valid for any thresholds: only its power depends on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Thresholds of stable.
    pub stable: [u64; SLOTS],
    /// Thresholds of the canary.
    pub canary: [u64; SLOTS],
}

impl Thresholds {
    /// Computes the thresholds. `quantile` returns stable's quantile over the last minutes; slots of an unknown quantile stay
    /// unused.
    pub(super) fn new(slots: &[LatencySlot], quantile: impl Fn(f64) -> Option<Duration>) -> Self {
        let mut all = Self {
            stable: [UNUSED; SLOTS],
            canary: [UNUSED; SLOTS],
        };
        for (ix, slot) in slots.iter().take(SLOTS).enumerate() {
            let (stable, canary) = match *slot {
                LatencySlot::Absolute(limit, _) => (limit.as_secs_f64(), limit.as_secs_f64()),
                LatencySlot::Ratio {
                    quantile: q,
                    multiple,
                    ratio,
                } => {
                    let Some(tau) = quantile(q.value()).filter(|tau| !tau.is_zero()) else {
                        continue;
                    };
                    let tau = tau.as_secs_f64() * multiple;
                    (tau, tau * ratio)
                }
            };
            // A cast saturates, so that a limit beyond 584 years is never reached.
            all.stable[ix] = (stable * 1e9) as u64;
            all.canary[ix] = (canary * 1e9) as u64;
        }
        all
    }
}
