//! The rollout of a service as the API reports it, and the answer to a command on one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The rollout of a service, running or ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RolloutStatus {
    /// Name of the version; empty where a flag follows the rollout.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Name of the flag, if one follows the rollout. Its users are the canary then, and those without it stable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
    /// Label of the version.
    pub label: Option<String>,
    /// `waiting`, `step`, `held`, `paused`, `awaiting-approval`, `done`, `aborted` or `rolled-back`.
    pub state: String,
    /// Number of the current step, from 1; 0 before the first.
    pub step: usize,
    /// Number of steps of the plan.
    pub steps: usize,
    /// Share that the rollout has reached.
    pub share: String,
    /// Time at which it entered this state, RFC 3339.
    pub since: String,
    /// Seconds for which the step has held.
    pub held_s: f64,
    /// Seconds that the step has to hold; `None` if it ends by approval.
    pub hold_s: Option<f64>,
    /// Why the rollout waits, holds or has ended.
    pub reason: Option<String>,
    /// Whether the plan is latched: it begins again only with another label, other endpoints or conditions, or another plan, or by
    /// `retry`.
    pub latched: bool,
    /// The verdict, once there is one.
    pub verdict: Option<VerdictStatus>,
    /// Evidence against the canary by rule of the guard, as log10.
    pub evidence: BTreeMap<String, f64>,
    /// Evidence of all rules together, as log10.
    pub total_evidence: f64,
    /// The total evidence at which the verdict falls, as log10.
    pub threshold: f64,
    /// Requests of each side that the guard has counted since the rollout began.
    pub counted: CountedStatus,
    /// The canary's error rate divided by stable's, with the interval at the guard's confidence.
    pub ratio: Option<RatioStatus>,
    /// Seconds until a failing verdict at the present rates, and until it has fallen in 9 of 10 cases; `None` if none is in sight.
    pub time_to_verdict_s: Option<f64>,
    pub time_to_verdict_p90_s: Option<f64>,
    /// Fingerprint of the plan: of the version's label and endpoints or the flag's conditions, the steps and the guard.
    pub plan: String,
    /// State of the rollout in the fleet, if a fleet shares it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet: Option<SharedStatus>,
    /// Problems that keep the rollout from working as planned, such as a state directory that can't be written.
    pub warnings: Vec<String>,
}

impl RolloutStatus {
    /// The subject of the rollout, as messages name it: `v2`, `flag new-checkout`.
    pub(crate) fn subject(&self) -> String {
        match &self.flag {
            Some(flag) => format!("flag {flag}"),
            None => self.version.clone(),
        }
    }
}

/// A rollout that the members of a fleet share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SharedStatus {
    /// The member that drives it; `None` until this member knows.
    pub driver: Option<String>,
    /// Whether this process is the driver.
    pub is_driver: bool,
    /// Grows when another process takes over as driver.
    pub term: u64,
    /// Number of processes whose counts the driver adds up; 0 on other members.
    pub counting: usize,
    /// Whether this member has the fleet's plan, so that it takes part.
    pub takes_part: bool,
    /// Seconds since etcd last confirmed what this member knows. From 10 on, it is alone: the share doesn't rise.
    pub lag_s: f64,
}

impl SharedStatus {
    /// Describes the driver: `driven by b in term 3`, `driven by this member in term 3, which counts for 5 processes`.
    pub(crate) fn summary(&self) -> String {
        let Self { term, counting, .. } = self;
        match &self.driver {
            _ if self.is_driver => {
                let processes = if *counting == 1 {
                    "process"
                } else {
                    "processes"
                };
                format!(
                    "driven by this member in term {term}, which adds up the counts of {counting} {processes}"
                )
            }
            Some(driver) => format!("driven by {driver} in term {term}"),
            None => "no driver is known yet".to_owned(),
        }
    }
}

/// Rollouts by service.
pub(crate) type RolloutsByService = BTreeMap<String, RolloutStatus>;

/// A verdict of the guard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct VerdictStatus {
    /// The rule that contributed most.
    pub guard: String,
    /// `fail` or `pass`.
    pub outcome: String,
}

/// Requests that the guard has counted: first attempts of users that no rule matched, each once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CountedStatus {
    pub canary_requests: u64,
    pub canary_failures: u64,
    pub stable_requests: u64,
    pub stable_failures: u64,
}

/// A ratio with its interval. A bound is absent where the data don't limit it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RatioStatus {
    pub ratio: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
}

/// Why a command on a rollout was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RolloutRefused {
    /// There is no such service.
    Unknown(String),
    /// The state of the rollout doesn't allow the command.
    Conflict(String),
}
