//! Proxies that are measured at the same moment on the same core.
//!
//! On a machine that does other things, or whose cores are shared with other machines, the CPU time of a request changes from one
//! second to the next by a third. Proxies under load at the same time see the same changes, so that the ratio of their costs
//! stays within a percent or two.

use std::thread;

use crate::Result;
use crate::peers::Running;
use crate::rounds::Sample;

/// Runs both at the same time, each on a thread of its own; `first` is started first.
pub fn both<T: Send>(
    first: impl FnOnce() -> Result<T> + Send,
    second: impl FnOnce() -> Result<T> + Send,
) -> Result<(T, T)> {
    thread::scope(|scope| {
        // An error can't leave its thread, its text can.
        let first = scope.spawn(|| first().map_err(|error| error.to_string()));
        let second = scope.spawn(|| second().map_err(|error| error.to_string()));
        match (first.join(), second.join()) {
            (Ok(first), Ok(second)) => Ok((first?, second?)),
            _ => Err("the load panicked".into()),
        }
    })
}

/// Takes a sample of each at the same time, in the order given.
pub fn sample_all(
    running: &[&Running],
    sample: impl Fn(&Running) -> Result<Sample> + Sync,
) -> Vec<Result<Sample>> {
    let sample = &sample;
    thread::scope(|scope| {
        let threads: Vec<_> = running
            .iter()
            // An error can't leave its thread, its text can.
            .map(|proxy| scope.spawn(move || sample(proxy).map_err(|error| error.to_string())))
            .collect();
        let taken = threads.into_iter().map(|thread| match thread.join() {
            Ok(sampled) => sampled.map_err(Into::into),
            Err(_) => Err("the load panicked".into()),
        });
        taken.collect()
    })
}
