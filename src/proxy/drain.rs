//! Grace periods: how long in-flight work may continue after its endpoint or listener was removed
//! from the configuration. Pure functions; the age is an argument.

use std::time::Duration;

use crate::config::policy::DrainPolicy;
use crate::net::TaskPhase;

/// The grace period of a task in this phase.
pub(crate) fn time_for(drain: &DrainPolicy, phase: TaskPhase) -> Duration {
    match phase {
        TaskPhase::Stream => drain.streams,
        TaskPhase::Handshake | TaskPhase::Idle | TaskPhase::Head | TaskPhase::Request => {
            drain.requests
        }
    }
}

/// Whether the grace period has ended `age` after the removal.
pub(crate) fn is_over(drain: &DrainPolicy, phase: TaskPhase, age: Duration) -> bool {
    age >= time_for(drain, phase)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn phases() -> impl Strategy<Value = TaskPhase> {
        prop::sample::select(vec![
            TaskPhase::Handshake,
            TaskPhase::Idle,
            TaskPhase::Head,
            TaskPhase::Request,
            TaskPhase::Stream,
        ])
    }

    proptest! {
        #[test]
        fn the_grace_period_depends_on_the_phase_and_ends_once(
            requests in 0u64..100_000,
            streams in 0u64..100_000,
            phase in phases(),
            age in 0u64..200_000,
            later in 0u64..100_000,
        ) {
            let ms = Duration::from_millis;
            let drain = DrainPolicy { requests: ms(requests), streams: ms(streams) };
            let theirs = if phase == TaskPhase::Stream { streams } else { requests };
            prop_assert_eq!(is_over(&drain, phase, ms(age)), age >= theirs);
            // Once over, over for good.
            if is_over(&drain, phase, ms(age)) {
                prop_assert!(is_over(&drain, phase, ms(age + later)));
            }
        }

        #[test]
        fn the_grace_of_requests_does_not_limit_streams(streams in 1u64..100_000, age in 0u64..100_000) {
            let ms = Duration::from_millis;
            let drain = DrainPolicy { requests: Duration::ZERO, streams: ms(streams) };
            prop_assert!(is_over(&drain, TaskPhase::Request, ms(age)));
            prop_assert_eq!(is_over(&drain, TaskPhase::Stream, ms(age)), age >= streams);
        }
    }
}
