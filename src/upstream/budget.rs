//! The retry budget, which limits retries to a share of a service's requests, and the backoff before a retry.
//!
//! The budget is a token bucket. A request earns a fraction of a token, a retry costs a whole one, so that retries can't
//! multiply the load on a service that is already failing. Each worker has a bucket of its own for each service, without
//! atomics. The retries of all workers together exceed the share of the requests by at most [`RESERVE`] tokens, or
//! [`RESERVE_OF_MANY`] with more workers than [`RESERVE`].

use std::time::Duration;

/// Initial tokens of a service, over all workers, so that its first requests can be retried too.
const RESERVE: u64 = 10;
/// Each worker starts with at least one token, unless all workers together would then have more than this.
const RESERVE_OF_MANY: u64 = 50;
/// Most tokens that a worker saves up, which bounds a burst of retries.
const CAP: u64 = 100;
/// Buckets count in thousandths of a token, the unit of the configuration.
const TOKEN: u64 = 1000;

/// Upper bound of the first pause. The bound doubles with each retry.
const BASE_MS: u64 = 25;
/// Upper bound of any pause.
const LONGEST_MS: u64 = 250;

/// One worker's retry budget for one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    tokens: u64,
}

impl RetryBudget {
    /// The initial budget of one of `workers` workers; 0 counts as 1.
    pub fn new(workers: usize) -> Self {
        let workers = workers.max(1) as u64;
        let least = TOKEN.min(RESERVE_OF_MANY * TOKEN / workers);
        Self {
            tokens: (RESERVE * TOKEN / workers).max(least),
        }
    }

    /// Adds the tokens that a request earns. To be called once for each request, not for its retries. `share` is the budget in
    /// thousandths of the requests; 0 forbids retries and removes the reserve.
    #[inline]
    pub fn earn(&mut self, share: u32) {
        self.tokens = if share == 0 {
            0
        } else {
            (self.tokens + u64::from(share)).min(CAP * TOKEN)
        };
    }

    /// Pays for a retry; `false` if the budget is used up.
    #[inline]
    pub fn spend(&mut self) -> bool {
        let pays = self.tokens >= TOKEN;
        if pays {
            self.tokens -= TOKEN;
        }
        pays
    }
}

/// The pause before a retry, counted from 1: random between 0 and 25 ms, 50 ms, 100 ms, 200 ms, then 250 ms. This is
/// exponential backoff with full jitter, so that requests that failed together don't return together.
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
