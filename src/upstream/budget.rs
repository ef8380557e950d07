//! How much may be tried again: a share of a service's requests, and a pause before each try.
//!
//! Each worker has a bucket of its own for each service, so that nothing is shared and nothing is atomic. A request earns
//! the budget's share of a token, another try costs a whole one. What all workers may try together never exceeds the
//! share of the requests by more than [`RESERVE`] tokens ([`RESERVE_OF_MANY`] with more workers than that).

use std::time::Duration;

/// Tokens that a service begins with, all workers together: a service that has just started may try again too.
const RESERVE: u64 = 10;
/// Each worker begins with a whole token at least, unless that came to more than this for all of them together.
const RESERVE_OF_MANY: u64 = 50;
/// Most tokens that a worker saves up: what can be tried again in one burst.
const CAP: u64 = 100;
/// The bucket counts thousandths of a token, as the configuration does.
const TOKEN: u64 = 1000;

/// The first pause is at most so long; each further one at most twice as long as the one before.
const BASE_MS: u64 = 25;
/// The longest pause.
const LONGEST_MS: u64 = 250;

/// One worker's retry budget for one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    tokens: u64,
}

impl RetryBudget {
    /// The budget of one of so many workers (0 counts as 1).
    pub fn new(workers: usize) -> Self {
        let workers = workers.max(1) as u64;
        let least = TOKEN.min(RESERVE_OF_MANY * TOKEN / workers);
        Self {
            tokens: (RESERVE * TOKEN / workers).max(least),
        }
    }

    /// A request came (its first try, not the others). `share`: thousandths of the requests that may be tried again;
    /// 0 = none, and the reserve goes as well.
    #[inline]
    pub fn earn(&mut self, share: u32) {
        self.tokens = if share == 0 {
            0
        } else {
            (self.tokens + u64::from(share)).min(CAP * TOKEN)
        };
    }

    /// Pays for another try; `false`: the budget is used up.
    #[inline]
    pub fn spend(&mut self) -> bool {
        let pays = self.tokens >= TOKEN;
        if pays {
            self.tokens -= TOKEN;
        }
        pays
    }
}

/// The pause before another try; `retry` counts from 1. Anything between nothing and 25 ms, 50 ms, 100 ms, 200 ms,
/// 250 ms: requests that failed together don't come back together.
pub(crate) fn backoff(retry: u32, rng: &mut fastrand::Rng) -> Duration {
    let doubled = BASE_MS << retry.saturating_sub(1).min(8);
    Duration::from_micros(rng.u64(..=doubled.min(LONGEST_MS) * 1000))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_lone_worker_begins_with_the_whole_reserve() {
        let mut budget = RetryBudget::new(1);
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10);
    }

    #[test]
    fn each_of_some_workers_begins_with_a_token() {
        for workers in [2, 11, 50] {
            assert!(RetryBudget::new(workers).spend(), "{workers}");
        }
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_tried_again() {
        let mut budget = RetryBudget::new(1);
        while budget.spend() {}
        let tried = (0..1000).filter(|_| {
            budget.earn(200);
            budget.spend()
        });
        assert_eq!(tried.count(), 200);
    }

    #[test]
    fn no_budget_means_no_retry() {
        let mut budget = RetryBudget::new(1);
        budget.earn(0);
        assert!(!budget.spend());
    }

    #[test]
    fn a_quiet_night_saves_a_hundred_tokens() {
        let mut budget = RetryBudget::new(4);
        (0..100_000).for_each(|_| budget.earn(200));
        assert_eq!((0..1000).filter(|_| budget.spend()).count(), 100);
    }

    #[test]
    fn pauses_grow_to_a_quarter_of_a_second_and_are_spread() {
        let mut rng = fastrand::Rng::with_seed(1);
        for (retry, most) in [
            (0, 25),
            (1, 25),
            (2, 50),
            (3, 100),
            (4, 200),
            (5, 250),
            (u32::MAX, 250),
        ] {
            let mut pauses: Vec<_> = (0..500).map(|_| backoff(retry, &mut rng)).collect();
            pauses.sort_unstable();
            let most = Duration::from_millis(most);
            assert!(
                pauses[499] <= most && pauses[499] > most * 9 / 10,
                "{retry}"
            );
            assert!(pauses[0] < most / 10, "{retry}");
            assert!(
                pauses[250] > most * 4 / 10 && pauses[250] < most * 6 / 10,
                "{retry}"
            );
        }
    }

    proptest! {
        /// Whoever gets the requests, and however many tries each of them asks for.
        #[test]
        fn a_thousand_requests_are_tried_again_250_times_at_most(
            workers in 1usize..300,
            seed: u64,
            tries in 1u32..10,
        ) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut budgets = vec![RetryBudget::new(workers); workers];
            let mut tried = 0;
            for _ in 0..1000 {
                let budget = &mut budgets[rng.usize(..workers)];
                budget.earn(200);
                tried += (1..tries.max(2)).filter(|_| budget.spend()).count();
            }
            // Whoever is left may still have its reserve.
            tried += budgets.iter_mut().map(|b| (0..100).filter(|_| b.spend()).count()).sum::<usize>();
            prop_assert!(tried <= 250, "{tried}");
        }
    }
}
