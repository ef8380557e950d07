//! Rollouts: a version gets more traffic step by step, is judged against stable, and loses its traffic if it is worse.
//!
//! Everything here is pure: time, counts and randomness are arguments, and decisions are values that the control thread
//! carries out.

pub mod guard;
