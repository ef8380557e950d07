//! Rollouts: a canary gets more traffic step by step, and is compared with stable all the time.
//!
//! [`guard`] contains the statistics, [`machine`] the states of a rollout and the transitions between them, and [`plan`] the
//! identity of a plan. They are pure: counts, time and randomness are arguments. [`store`] keeps states and evidence on disk. The
//! control thread drives them once a second (`control::rollouts`).

mod commands;
pub mod events;
#[cfg(test)]
mod fixtures;
pub mod fleet;
pub mod guard;
mod holding;
pub mod machine;
mod outcomes;
pub mod plan;
pub mod state;
pub mod store;
