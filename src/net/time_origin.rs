//! The instant from which all workers count milliseconds.

use std::sync::OnceLock;
use std::time::Instant;

/// Milliseconds from the time origin of the process to `at`. The origin is the `at` of the first call.
pub(super) fn origin_ms(at: Instant) -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let origin = *ORIGIN.get_or_init(|| at);
    at.saturating_duration_since(origin).as_millis() as u64
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::TaskControls;

    /// A worker that replaces one that panicked begins long after the others.
    #[test]
    fn workers_that_began_at_different_times_agree_on_the_time() {
        let start = Instant::now();
        let (first, second) = (
            TaskControls::since(start),
            TaskControls::since(start + Duration::from_secs(3600)),
        );
        let now = start + Duration::from_secs(3700);
        first.tick(now);
        second.tick(now);
        let (a, b) = (first.now_ms(), second.now_ms());
        // Each rounds its own start down to a millisecond.
        assert!(a.abs_diff(b) <= 1, "{a} and {b}");
    }
}
