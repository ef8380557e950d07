//! The state of one name: its addresses, the time of the next lookup, and the effect of an answer. Pure.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::record::{AddressSet, LookupAnswer, LookupFailure, LookupName, ResolvedAddress};

/// Shortest time between two lookups of a name.
pub(crate) const FLOOR: Duration = Duration::from_secs(1);
/// Longest time for which an answer is used without asking again.
pub(crate) const CEILING: Duration = Duration::from_secs(300);
/// Longest pause between lookups that fail. The first one is [`FLOOR`], and each doubles the one before.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a name must not exist before its addresses are given up. Any other answer starts this time again.
const GONE: Duration = Duration::from_secs(300);
/// Largest delay of a lookup beyond its due time, as a part of its interval. It spreads names that were looked up together.
const JITTER: f64 = 0.1;

/// The state of every name. The control thread writes it, the admin API reads it.
pub type KnownNames = Arc<Mutex<HashMap<LookupName, NameState>>>;

/// The state of one name.
///
/// Addresses are kept through failures of any length. Only a name that has not existed for five minutes in a row loses them,
/// because a name server that is down or wrong for a moment must not take a service down.
#[derive(Clone, Debug, Default)]
pub struct NameState {
    /// The addresses in use; `None` before the first answer that has some.
    set: Option<AddressSet>,
    /// When a lookup last succeeded.
    refreshed: Option<Instant>,
    /// The last lookup's failure, if it failed.
    failure: Option<LookupFailure>,
    /// When lookups began to fail.
    failing_since: Option<Instant>,
    /// Consecutive lookups that failed.
    failures: u32,
    /// Time since which every answer has been NXDOMAIN.
    missing_since: Option<Instant>,
}

/// The effect of a lookup's result on the addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameChange {
    /// The name's addresses are the same as before.
    None,
    /// Addresses came or went, or their weights or priorities changed.
    Set {
        /// The new ones.
        added: Vec<ResolvedAddress>,
        /// Those that went.
        removed: Vec<ResolvedAddress>,
    },
    /// The addresses were given up, because the name has not existed for five minutes.
    Emptied {
        /// All that there were.
        removed: Vec<ResolvedAddress>,
    },
}

impl NameState {
    /// A state whose addresses a predecessor passed on. They are looked up again at once.
    pub fn inherited(set: AddressSet) -> Self {
        Self {
            set: Some(set),
            ..Self::default()
        }
    }

    /// The addresses in use. Empty if there are none.
    pub fn addresses(&self) -> AddressSet {
        self.set.clone().unwrap_or_default()
    }

    /// Whether the name has addresses.
    pub fn has_addresses(&self) -> bool {
        self.set.as_ref().is_some_and(|set| !set.is_empty())
    }

    /// Whether a lookup has ended, or a predecessor passed on addresses.
    pub fn is_known(&self) -> bool {
        self.set.is_some() || self.failures > 0
    }

    /// When a lookup last succeeded.
    pub fn refreshed(&self) -> Option<Instant> {
        self.refreshed
    }

    /// The last lookup's failure, and when lookups began to fail.
    pub fn failure(&self) -> Option<(&LookupFailure, Instant)> {
        self.failure.as_ref().zip(self.failing_since)
    }

    /// Takes the result of a lookup that ended at `now`. Returns its effect, and the pause before the next lookup.
    ///
    /// `chance` in 0 to 1 decides the jitter.
    pub fn on_result(
        &mut self,
        result: Result<LookupAnswer, LookupFailure>,
        now: Instant,
        chance: f64,
    ) -> (NameChange, Duration) {
        let (change, pause) = match result {
            Ok(answer) => self.on_answer(answer, now),
            Err(failure) => self.on_failure(failure, now),
        };
        (change, pause.mul_f64(1.0 + JITTER * chance.clamp(0.0, 1.0)))
    }

    fn on_answer(&mut self, answer: LookupAnswer, now: Instant) -> (NameChange, Duration) {
        let mut next = answer.addresses;
        let known = self.addresses();
        let is_kept = |known: &&ResolvedAddress| {
            let mut failed = answer.failed.iter();
            failed.any(|(host, family)| known.host == *host && family.has(known.ip))
        };
        next.extend(known.iter().filter(is_kept).cloned());
        if next.is_empty() {
            // Every part failed or has no address, and no part that failed had addresses before.
            let failure = answer.failure.unwrap_or(LookupFailure::NoRecord);
            return self.on_failure(failure, now);
        }
        next.sort_unstable();
        next.dedup();
        self.missing_since = None;
        self.refreshed = Some(now);
        let pause = match answer.failure {
            Some(failure) => {
                let pause = self.count_failure(failure, now);
                pause.min(answer.ttl.clamp(FLOOR, CEILING))
            }
            None => {
                self.failure = None;
                self.failing_since = None;
                self.failures = 0;
                answer.ttl.clamp(FLOOR, CEILING)
            }
        };
        (self.replace(next), pause)
    }

    fn on_failure(&mut self, failure: LookupFailure, now: Instant) -> (NameChange, Duration) {
        self.missing_since = match failure {
            LookupFailure::NoSuchName => self.missing_since.or(Some(now)),
            // After another failure the name may still exist.
            _ => None,
        };
        let pause = self.count_failure(failure, now);
        let gone = self.missing_since;
        let is_gone = gone.is_some_and(|since| now.saturating_duration_since(since) >= GONE);
        if is_gone && self.has_addresses() {
            let removed = self.addresses().to_vec();
            self.set = Some(Arc::default());
            return (NameChange::Emptied { removed }, pause);
        }
        (NameChange::None, pause)
    }

    /// Counts a failed lookup and returns the pause after it.
    fn count_failure(&mut self, failure: LookupFailure, now: Instant) -> Duration {
        self.failure = Some(failure);
        self.failing_since = self.failing_since.or(Some(now));
        let doubled = FLOOR * 2u32.saturating_pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        doubled.min(LONGEST_PAUSE)
    }

    fn replace(&mut self, next: Vec<ResolvedAddress>) -> NameChange {
        let known = self.addresses();
        if *known == *next {
            self.set = Some(known);
            return NameChange::None;
        }
        let without = |all: &[ResolvedAddress], others: &[ResolvedAddress]| {
            let left = all.iter().filter(|one| !others.contains(one));
            left.cloned().collect()
        };
        let change = NameChange::Set {
            added: without(&next, &known),
            removed: without(&known, &next),
        };
        self.set = Some(next.into());
        change
    }
}

#[cfg(test)]
#[path = "name_state_tests.rs"]
mod tests;
