//! The counts of a fleet's members in a step, and their sum.
//!
//! A member's counts only grow, for as long as its process runs: a restarted member counts under another name. The driver keeps the
//! greatest counts that it has seen of each member, and adds these up. So counts may arrive late, twice or in any order, and the
//! counts of a member that has died stay.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rollout::guard::{EventTally, Pairs, SLOTS};
use crate::telemetry::guard::GOALS;

/// Largest size of the counts of one member, in bytes.
pub const MOST_BYTES: usize = 64 * 1024;
/// Largest number of counting processes of a step.
const MOST_SOURCES: usize = 4096;
/// Largest number of endpoints that are counted apart.
const MOST_ENDPOINTS: usize = 256;
/// Longest name of an endpoint, in bytes.
const LONGEST_NAME: usize = 256;
/// Largest count: a million requests a second for nine years.
const LARGEST: u64 = 1 << 48;

/// The interval at which a member of a fleet of this size reports its counts, so that the store has at most about 50 reports a
/// second.
pub fn cadence(members: usize) -> Duration {
    let seconds = members as f64 / 50.0;
    Duration::from_secs_f64(seconds.clamp(1.0, 30.0))
}

/// Requests and events of the canary, then of stable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BothSides(u64, u64, u64, u64);

impl BothSides {
    /// Both sides of one event.
    pub fn new(canary: EventTally, stable: EventTally) -> Self {
        Self(
            canary.requests,
            canary.events,
            stable.requests,
            stable.events,
        )
    }

    /// The tally of the canary.
    pub fn canary(self) -> EventTally {
        EventTally::new(self.0, self.1)
    }

    /// The tally of stable.
    pub fn stable(self) -> EventTally {
        EventTally::new(self.2, self.3)
    }

    fn with(self, other: Self, each: fn(u64, u64) -> u64) -> Self {
        Self(
            each(self.0, other.0),
            each(self.1, other.1),
            each(self.2, other.2),
            each(self.3, other.3),
        )
    }

    fn is_possible(self) -> bool {
        self.0.max(self.2) <= LARGEST && self.1 <= self.0 && self.3 <= self.2
    }
}

/// The counts of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepCounts {
    /// Failed requests.
    pub errors: BothSides,
    /// Slow requests, by slot.
    pub latency: Vec<BothSides>,
    /// Conversions, by goal of the guard.
    pub goals: Vec<BothSides>,
    /// Hidden failures, and how many of them failed on stable too.
    pub pairs: (u64, u64),
    /// Requests and failures of stable's endpoints, by address.
    pub endpoints: BTreeMap<String, (u64, u64)>,
}

impl StepCounts {
    /// The hidden failures.
    pub fn pairs(&self) -> Pairs {
        Pairs {
            tried: self.pairs.0,
            failed: self.pairs.1,
        }
    }

    /// Adds the counts of a second.
    pub fn add(&mut self, second: &Self) {
        self.combine(second, u64::saturating_add);
    }

    /// Keeps the greater of each count.
    fn raise(&mut self, other: &Self) {
        self.combine(other, u64::max);
    }

    /// The counts since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        since.combine(before, u64::saturating_sub);
        since
    }

    fn combine(&mut self, other: &Self, each: fn(u64, u64) -> u64) {
        self.errors = self.errors.with(other.errors, each);
        for (own, others) in [
            (&mut self.latency, &other.latency),
            (&mut self.goals, &other.goals),
        ] {
            own.resize(own.len().max(others.len()), BothSides::default());
            for (own, other) in own.iter_mut().zip(others) {
                *own = own.with(*other, each);
            }
        }
        self.pairs = (
            each(self.pairs.0, other.pairs.0),
            each(self.pairs.1, other.pairs.1),
        );
        for (name, other) in &other.endpoints {
            // Further endpoints are counted in the sums only.
            if self.endpoints.contains_key(name) || self.endpoints.len() < MOST_ENDPOINTS {
                let own = self.endpoints.entry(name.clone()).or_default();
                *own = (each(own.0, other.0), each(own.1, other.1));
            }
        }
    }

    /// Whether a member can have counted these numbers.
    fn is_possible(&self) -> bool {
        let sides = { self.latency.iter() }
            .chain(&self.goals)
            .chain([&self.errors]);
        let endpoint = |(name, counts): (&String, &(u64, u64))| {
            name.len() <= LONGEST_NAME && counts.1 <= counts.0 && counts.0 <= LARGEST
        };
        self.latency.len() <= SLOTS
            && self.goals.len() <= GOALS
            && self.endpoints.len() <= MOST_ENDPOINTS
            && self.endpoints.iter().all(endpoint)
            && self.pairs.1 <= self.pairs.0
            && self.pairs.0 <= LARGEST
            && sides.copied().all(BothSides::is_possible)
    }

    /// Reads the counts of a member. `None` if no member has written them.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let counts = (bytes.len() <= MOST_BYTES).then(|| serde_json::from_slice::<Self>(bytes));
        counts?.ok().filter(Self::is_possible)
    }

    /// The counts as bytes.
    pub fn write(&self) -> Vec<u8> {
        // A map with keys of text and arrays of numbers always has a form in JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The counts of a fleet in one step.
#[derive(Clone, Debug, Default)]
pub struct Merged(BTreeMap<String, StepCounts>);

impl Merged {
    /// Takes the counts of a source: one process of one member.
    pub fn take(&mut self, source: &str, counts: &StepCounts) {
        if let Some(known) = self.0.get_mut(source) {
            known.raise(counts);
        } else if self.0.len() < MOST_SOURCES {
            self.0.insert(source.to_owned(), counts.clone());
        }
    }

    /// The sum over all sources.
    pub fn sum(&self) -> StepCounts {
        let mut sum = StepCounts::default();
        self.0.values().for_each(|counts| sum.add(counts));
        sum
    }

    /// Number of sources.
    pub fn sources(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(canary: (u64, u64), stable: (u64, u64)) -> StepCounts {
        let errors = BothSides(canary.0, canary.1, stable.0, stable.1);
        StepCounts {
            errors,
            latency: vec![errors],
            endpoints: BTreeMap::from([("127.0.0.1:1".to_owned(), stable)]),
            ..StepCounts::default()
        }
    }

    /// Generates the counts of each member, second by second.
    fn histories() -> impl Strategy<Value = Vec<Vec<StepCounts>>> {
        let side = || (0u64..50).prop_flat_map(|n| (Just(n), 0..=n));
        let second = (side(), side()).prop_map(|(canary, stable)| counts(canary, stable));
        proptest::collection::vec(proptest::collection::vec(second, 1..6), 1..5)
    }

    proptest! {
        #[test]
        fn reports_may_come_late_twice_and_in_any_order(histories in histories(), seed: u64) {
            let mut expected = StepCounts::default();
            let mut reports = Vec::new();
            for (member, seconds) in histories.iter().enumerate() {
                let mut total = StepCounts::default();
                for second in seconds {
                    total.add(second);
                    reports.push((member.to_string(), total.clone()));
                }
                expected.add(&total);
            }
            let mut random = fastrand::Rng::with_seed(seed);
            let again: Vec<_> = reports.iter().filter(|_| random.bool()).cloned().collect();
            reports.extend(again);
            random.shuffle(&mut reports);
            let mut merged = Merged::default();
            let mut before = merged.sum();
            for (source, counts) in &reports {
                merged.take(source, &StepCounts::read(&counts.write()).unwrap());
                let sum = merged.sum();
                prop_assert!(before.errors.0 <= sum.errors.0 && before.errors.3 <= sum.errors.3);
                before = sum;
            }
            prop_assert_eq!(before, expected);
        }
    }

    /// Written by a member of the first program that shared rollouts (commit a924f2a).
    const RECORDED: &str = include_str!("../../../tests/fleet_values/evidence.json");

    #[test]
    fn what_the_first_members_counted_is_read_and_written_in_the_same_form() {
        let counts = StepCounts::read(RECORDED.as_bytes()).unwrap();
        assert_eq!(counts.errors, BothSides(95, 0, 380, 0));
        assert_eq!(counts.endpoints["127.0.0.1:29001"], (380, 0));
        let now: serde_json::Value = serde_json::from_slice(&counts.write()).unwrap();
        let before: serde_json::Value = serde_json::from_str(RECORDED).unwrap();
        for (name, value) in before.as_object().unwrap() {
            assert_eq!(value, &now[name], "{name}");
        }
    }

    #[test]
    fn what_happened_since_is_the_difference() {
        let mut total = counts((10, 1), (90, 2));
        let before = total.clone();
        let second = counts((5, 5), (40, 0));
        total.add(&second);
        assert_eq!(total.since(&before), second);
        assert_eq!(before.since(&total), counts((0, 0), (0, 0)));
    }

    #[test]
    fn impossible_counts_are_ignored() {
        let read = |text: &str| StepCounts::read(text.as_bytes());
        assert!(read(r#"{"errors":[5,1,9,0]}"#).is_some());
        for text in [
            r#"{"errors":[5,6,9,0]}"#,
            r#"{"errors":[18446744073709551615,1,9,0]}"#,
            r#"{"latency":[[1,0,1,0],[1,0,1,0],[1,0,1,0],[1,0,1,0],[1,0,1,0],[1,0,1,0],[1,0,1,0],[1,0,1,0],[1,0,1,0]]}"#,
            r#"{"pairs":[1,2]}"#,
            r#"{"endpoints":{"a":[1,2]}}"#,
            "{\"errors\":[",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        let large = format!("{{\"x\":\"{}\"}}", "x".repeat(MOST_BYTES));
        assert_eq!(read(&large), None);
    }

    #[test]
    fn the_store_has_about_fifty_reports_a_second() {
        let seconds = |members| cadence(members).as_secs_f64();
        assert_eq!([1, 50, 500, 5000].map(seconds), [1.0, 1.0, 10.0, 30.0]);
    }
}
