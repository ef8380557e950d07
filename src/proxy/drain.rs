//! When what is in flight on something that goes away has had its time. Pure: how long it has been going is an argument.

use std::time::Duration;

use crate::config::policy::Drain;
use crate::net::Phase;

/// How long work in this phase may go on after its endpoint or listener left the configuration.
pub fn time_for(drain: &Drain, phase: Phase) -> Duration {
    match phase {
        Phase::Stream => drain.streams,
        Phase::Handshake | Phase::Idle | Phase::Head | Phase::Request => drain.requests,
    }
}

/// Whether that time is over.
pub fn is_over(drain: &Drain, phase: Phase, age: Duration) -> bool {
    age >= time_for(drain, phase)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn phases() -> impl Strategy<Value = Phase> {
        prop::sample::select(vec![
            Phase::Handshake,
            Phase::Idle,
            Phase::Head,
            Phase::Request,
            Phase::Stream,
        ])
    }

    proptest! {
        #[test]
        fn nothing_is_cut_before_its_time_and_nothing_outlives_it(
            requests in 0u64..100_000,
            streams in 0u64..100_000,
            phase in phases(),
            age in 0u64..200_000,
            later in 0u64..100_000,
        ) {
            let ms = Duration::from_millis;
            let drain = Drain { requests: ms(requests), streams: ms(streams) };
            let theirs = if phase == Phase::Stream { streams } else { requests };
            prop_assert_eq!(is_over(&drain, phase, ms(age)), age >= theirs);
            // Once over, over for good.
            if is_over(&drain, phase, ms(age)) {
                prop_assert!(is_over(&drain, phase, ms(age + later)));
            }
        }

        #[test]
        fn what_requests_have_is_nothing_to_a_stream(streams in 1u64..100_000, age in 0u64..100_000) {
            let ms = Duration::from_millis;
            let drain = Drain { requests: Duration::ZERO, streams: ms(streams) };
            prop_assert!(is_over(&drain, Phase::Request, ms(age)));
            prop_assert_eq!(is_over(&drain, Phase::Stream, ms(age)), age >= streams);
        }
    }
}
