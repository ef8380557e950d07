//! The active health of one endpoint: turns the results of checks into a verdict. Pure: results and times are passed in, and
//! transitions are returned.

use std::time::{Duration, Instant};

use crate::config::policy;

/// The verdict on one endpoint and the results that speak against it.
///
/// One result that agrees with the verdict clears those against it, so that only failures (or passes) in a row change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckHistory {
    verdict: Verdict,
    /// The number of consecutive results that contradict the verdict.
    against: u32,
    since: Instant,
}

/// State of an endpoint according to its health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No check has passed yet.
    Unproven,
    /// The endpoint may receive traffic.
    Up,
    /// The checks of the endpoint have failed.
    Down,
}

/// A change of the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The first check passed.
    Proven,
    /// The endpoint was down, and `rise` checks in a row passed.
    Recovered,
    /// The endpoint was up, and `fall` checks in a row failed.
    Failed,
}

impl CheckHistory {
    /// The history of a new endpoint, which is up as soon as one check passes.
    pub fn unproven(now: Instant) -> Self {
        Self::with(Verdict::Unproven, now)
    }

    /// The history of an endpoint that had traffic before it was checked. It is up until its checks fail.
    pub fn trusted(now: Instant) -> Self {
        Self::with(Verdict::Up, now)
    }

    fn with(verdict: Verdict, since: Instant) -> Self {
        let against = 0;
        Self {
            verdict,
            against,
            since,
        }
    }

    /// The present verdict.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The time at which the present verdict began.
    #[cfg(test)]
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Records the result of a check and returns the transition that it causes. The policy is passed each time, so that an
    /// edited configuration takes effect without losing the history.
    pub fn on_result(
        &mut self,
        passed: bool,
        policy: &policy::HealthPolicy,
        now: Instant,
    ) -> Option<Transition> {
        let needed = match (self.verdict, passed) {
            (Verdict::Unproven, true) => 1,
            (Verdict::Down, true) => policy.rise,
            (Verdict::Up, false) => policy.fall,
            (Verdict::Unproven | Verdict::Down, false) | (Verdict::Up, true) => {
                self.against = 0;
                return None;
            }
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        let (next, transition) = match self.verdict {
            Verdict::Unproven => (Verdict::Up, Transition::Proven),
            Verdict::Down => (Verdict::Up, Transition::Recovered),
            Verdict::Up => (Verdict::Down, Transition::Failed),
        };
        *self = Self::with(next, now);
        Some(transition)
    }
}

/// Slow start: the part of its weight, in thousandths, that an endpoint has after being up for `up_for`. It grows linearly
/// from 100 to 1000 over `slow_start`.
pub fn ramp(up_for: Duration, slow_start: Duration) -> u32 {
    const FIRST: f64 = 100.0;
    if up_for >= slow_start {
        return 1000;
    }
    let part = up_for.as_secs_f64() / slow_start.as_secs_f64();
    (FIRST + (1000.0 - FIRST) * part) as u32
}

/// The time until the next check: the interval plus or minus up to a tenth, so that the checks of many proxies don't
/// synchronize.
pub fn next_in(interval: Duration, rng: &mut fastrand::Rng) -> Duration {
    interval.mul_f64(0.9 + 0.2 * rng.f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::policy::Probe;
    use proptest::prelude::*;

    fn terms(rise: u32, fall: u32) -> policy::HealthPolicy {
        policy::HealthPolicy {
            rise,
            fall,
            ..policy::HealthPolicy::new(Probe::Tcp)
        }
    }

    /// Feeds `+` (passed) and `-` (failed); the transitions by the index of the result.
    fn run(
        health: &mut CheckHistory,
        terms: &policy::HealthPolicy,
        results: &str,
    ) -> Vec<(usize, Transition)> {
        let now = Instant::now();
        let results = results.bytes().enumerate();
        results
            .filter_map(|(at, result)| {
                let transition = health.on_result(result == b'+', terms, now)?;
                Some((at, transition))
            })
            .collect()
    }

    #[test]
    fn a_new_one_is_up_after_its_first_pass_only() {
        let mut health = CheckHistory::unproven(Instant::now());
        let seen = run(&mut health, &terms(2, 3), "------");
        assert_eq!((seen, health.verdict()), (Vec::new(), Verdict::Unproven));
        let seen = run(&mut health, &terms(2, 3), "+");
        assert_eq!(
            (seen, health.verdict()),
            (vec![(0, Transition::Proven)], Verdict::Up)
        );
    }

    #[test]
    fn it_falls_and_rises_by_results_in_a_row() {
        let mut health = CheckHistory::trusted(Instant::now());
        let seen = run(&mut health, &terms(2, 3), "--+--+---+-+--++");
        assert_eq!(seen, [(8, Transition::Failed), (15, Transition::Recovered)]);
    }

    #[test]
    fn the_time_of_a_change_is_kept() {
        let began = Instant::now();
        let mut health = CheckHistory::trusted(began);
        let later = began + Duration::from_secs(7);
        health.on_result(true, &terms(1, 1), later);
        assert_eq!(health.since(), began);
        health.on_result(false, &terms(1, 1), later);
        assert_eq!(health.since(), later);
    }

    #[test]
    fn slow_start_goes_straight_from_a_tenth_to_the_whole() {
        let at = |s| ramp(Duration::from_secs(s), Duration::from_secs(30));
        assert_eq!(
            [at(0), at(10), at(15), at(30), at(99)],
            [100, 400, 550, 1000, 1000]
        );
        assert_eq!(ramp(Duration::ZERO, Duration::ZERO), 1000);
    }

    #[test]
    fn checks_are_moved_by_up_to_a_tenth() {
        let mut rng = fastrand::Rng::with_seed(1);
        let waits: Vec<u128> = (0..1000)
            .map(|_| next_in(Duration::from_secs(1), &mut rng).as_millis())
            .collect();
        assert!(waits.iter().all(|ms| (900..=1100).contains(ms)));
        assert!(waits.iter().any(|ms| *ms < 920) && waits.iter().any(|ms| *ms > 1080));
    }

    proptest! {
        #[test]
        fn a_change_always_has_its_results_in_a_row_behind_it(
            results in proptest::collection::vec(any::<bool>(), 0..200),
            (rise, fall) in (1u32..5, 1u32..5),
        ) {
            let now = Instant::now();
            let mut health = CheckHistory::unproven(now);
            let terms = terms(rise, fall);
            for at in 0..results.len() {
                let row = |wanted: bool| results[..=at].iter().rev().take_while(|r| **r == wanted).count() as u32;
                match health.on_result(results[at], &terms, now) {
                    Some(Transition::Proven) => prop_assert!(!results[..at].contains(&true)),
                    Some(Transition::Recovered) => prop_assert!(row(true) >= rise),
                    Some(Transition::Failed) => prop_assert!(row(false) >= fall),
                    None => match health.verdict() {
                        Verdict::Up => prop_assert!(row(false) < fall),
                        Verdict::Down => prop_assert!(row(true) < rise),
                        Verdict::Unproven => prop_assert!(row(true) == 0),
                    },
                }
            }
        }
    }
}
