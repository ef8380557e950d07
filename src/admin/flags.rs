//! Flags and conversions in the status of a service.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::view;
use crate::config::flag::FlagSpec;
use crate::config::spec;
use crate::index::FlagIx;
use crate::snapshot::{FlagMetrics, Service, Version};
use crate::telemetry::goals::Conversions;
use crate::telemetry::record::FlagState;

/// A flag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FlagStatus {
    /// Name of the flag.
    pub name: String,
    /// Share of the users for whom it is on.
    pub share: String,
    /// Whether the flag follows the rollout of the service, which sets the share.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rollout: bool,
    /// The requests for which the flag is on whatever the share, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// Requests since the process started, by state: `on`, `off`.
    pub requests: BTreeMap<String, u64>,
    /// By goal and state: how many requests reached the goal.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub goals: BTreeMap<String, BTreeMap<String, ConversionStatus>>,
}

/// The number of requests, and how many of them reached a goal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConversionStatus {
    /// All requests with a complete response.
    pub requests: u64,
    /// Requests that reached the goal.
    pub reached: u64,
    /// Conversion rate, in 0 to 1; 0 without requests.
    pub ratio: f64,
    /// Lower end of the 95 % interval of the conversion rate.
    pub low: f64,
    /// Upper end of that interval.
    pub high: f64,
}

impl From<Conversions> for ConversionStatus {
    fn from(conversions: Conversions) -> Self {
        // The shards are read while workers count.
        let requests = conversions.requests.max(conversions.reached);
        let (low, high) = interval(conversions.reached, requests);
        Self {
            requests,
            reached: conversions.reached,
            ratio: conversions.reached as f64 / requests.max(1) as f64,
            low,
            high,
        }
    }
}

/// The 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// The interval of 95 % for a proportion, after Wilson (1927), doi:10.1080/01621459.1927.10502953. Unlike that of the normal
/// approximation it covers as it should where only few requests reach the goal (Brown, Cai and DasGupta 2001).
fn interval(reached: u64, requests: u64) -> (f64, f64) {
    if requests == 0 {
        return (0.0, 1.0);
    }
    let n = requests as f64;
    let p = reached as f64 / n;
    let whole = 1.0 + Z * Z / n;
    let centre = (p + Z * Z / (2.0 * n)) / whole;
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt() / whole;
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// The flags of a service, sorted by name.
pub(super) fn of_service(spec: &spec::ServiceSpec, live: &Service) -> Vec<FlagStatus> {
    let flags = FlagIx::enumerate(&spec.flags).zip(&live.flags);
    let of = |((index, flag), metrics): ((FlagIx, &FlagSpec), &FlagMetrics)| {
        let by_state = |of: &dyn Fn(FlagState) -> ConversionStatus| -> BTreeMap<_, _> {
            let states = FlagState::ALL.iter();
            states
                .map(|state| (state.to_string(), of(*state)))
                .collect()
        };
        let goals = spec.goals.iter().zip(&metrics.goals);
        FlagStatus {
            name: flag.name.clone(),
            share: live.routing.flags[index].share.to_string(),
            rollout: spec.rolling_flag() == Some(index),
            when: (!flag.when.is_empty()).then(|| view::when(&flag.when)),
            requests: { FlagState::ALL.iter() }
                .map(|state| (state.to_string(), metrics.requests.total(*state)))
                .collect(),
            goals: goals
                .map(|(goal, counters)| {
                    let of = |state: FlagState| counters[state.index()].total().into();
                    (goal.name.clone(), by_state(&of))
                })
                .collect(),
        }
    };
    flags.map(of).collect()
}

/// The conversions of a version by goal.
pub(super) fn of_version(
    spec: &spec::ServiceSpec,
    version: &Version,
) -> BTreeMap<String, ConversionStatus> {
    let goals = spec.goals.iter().zip(&version.goals);
    goals
        .map(|(goal, counter)| (goal.name.clone(), counter.total().into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of R's `prop.test(x, n, correct = FALSE)`.
    #[test]
    fn intervals_are_those_of_wilson() {
        for (reached, requests, low, high) in [
            (0, 10, 0.0, 0.277_533),
            (5, 10, 0.236_593, 0.763_407),
            (10, 10, 0.722_467, 1.0),
            (12, 1_000, 0.006_878, 0.020_856),
        ] {
            let got = interval(reached, requests);
            let near = |a: f64, b: f64| (a - b).abs() < 2e-6;
            assert!(near(got.0, low) && near(got.1, high), "{got:?}");
        }
        assert_eq!(interval(0, 0), (0.0, 1.0));
    }
}
