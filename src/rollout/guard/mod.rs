//! The guard: a sequential test of a canary against stable that may be looked at after every second.
//!
//! Each rule ("errors x1.5", "p99 x1.3", "goal purchase x0.9") is a null hypothesis that the canary is within its limit.
//! Evidence against it is an *e-process*: a nonnegative process whose expectation stays at most 1 while the hypothesis
//! holds, at any stopping time. By Ville's inequality (1939) it ever exceeds 1/α with a probability of at most α, so the
//! guard fails a canary that is within its limits with a probability of at most α = 1 − confidence, however often it is
//! looked at.
//!
//! The parts, in the order in which a second passes through them:
//!
//! - [`counts`]: the counts of workers in a second. [`signal`] merges seconds until both sides have requests.
//! - [`burstiness`]: the degree to which stable's own failures come in bursts; it bounds the weight of a second.
//! - [`stratum`]: the e-value of one second, which only compares the canary's share of the failures with its share of the
//!   requests. Anything that affects both sides at the same time cancels.
//! - [`process`]: the e-process, a mixture over how bad the canary is and over when it turned bad.
//! - [`rules`], [`state`] and [`judge`]: the rules of a plan, the state that a guard has learnt, and the judgement of a second.
//! - [`verdict`]: verdict, evidence, estimate and why a rollout should hold; [`forecast`]: when a verdict is due, and which
//!   effects a step is too small to see; [`interval`]: the ratio of failure rates that is compatible with the data.
//! - [`before_after`]: the limit for a canary that has no concurrent stable, from stable's worst minute.
//! - [`names`]: the names of the two sides in messages.
//! - [`thresholds`] and [`quantiles`]: the line that workers draw between fast and slow.

mod before_after;
mod burstiness;
mod counts;
mod exact;
mod forecast;
mod health;
mod interval;
mod judge;
mod names;
mod process;
mod quantiles;
mod rules;
mod signal;
mod state;
mod stratum;
mod thresholds;
mod verdict;

#[cfg(test)]
mod tests;

pub use counts::{EventTally, Pairs, SecondCounts, SideCounts};
pub use forecast::{StepTraffic, TimeToVerdict, Visibility, step_warning, visibility};
pub use health::HoldReason;
pub use interval::RatioEstimate;
pub use judge::Guard;
pub use names::SideNames;
pub use quantiles::DecayedLatency;
pub use state::{GuardState, ResumeError};
pub use thresholds::{SLOTS, Thresholds, UNUSED};
pub use verdict::{Evidence, FailVerdict, GuardKind, SignalCounts};
