//! The guard of a fleet: it judges the sum of what all members have counted. Only the driver has one.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::config::rollout::GuardSpec;
use crate::rollout::fleet::evidence::{BothSides, Merged, StepCounts};
use crate::rollout::guard::{EventTally, Guard, GuardState, SecondCounts, SideCounts, SideNames};

/// The part of the plan's probability of a false alarm that the fleet's guard spends. The members' own guards share the rest.
const PART: f64 = 0.5;
/// Seconds over which the canary's rate is averaged.
const RATE_S: usize = 10;

/// A guard over the counts of all members.
#[derive(Clone, Debug)]
pub(super) struct FleetGuard {
    pub guard: Guard,
    /// The attempt and the step that are counted.
    of: (u64, usize),
    merged: Merged,
    /// The sum that has been judged.
    judged: StepCounts,
    rates: VecDeque<f64>,
}

/// What the next driver continues from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptGuard {
    pub epoch: u64,
    step: usize,
    judged: StepCounts,
    guard: GuardState,
}

/// The part of the probability of a false alarm that each of `members` members spends on its own guard.
pub(super) fn part_of_member(members: usize) -> f64 {
    (1.0 - PART) / members.max(1) as f64
}

impl FleetGuard {
    /// Begins with what this member's guard knows of stable.
    pub(super) fn new(own: &Guard) -> Self {
        let mut guard = own.clone().restarted();
        guard.spend(PART);
        Self {
            guard,
            of: (0, 0),
            merged: Merged::default(),
            judged: StepCounts::default(),
            rates: VecDeque::new(),
        }
    }

    /// Continues from what the driver before has kept. Without it the evidence starts from zero, which takes time and is never wrong.
    pub(super) fn resume(&mut self, spec: &GuardSpec, kept: KeptGuard, names: SideNames) {
        if let Ok(mut guard) = Guard::resume(spec, kept.guard) {
            guard.spend(PART);
            guard.set_names(names);
            self.guard = guard;
            (self.of, self.judged) = ((kept.epoch, kept.step), kept.judged);
        }
    }

    /// What the next driver needs.
    pub(super) fn kept(&self) -> KeptGuard {
        KeptGuard {
            epoch: self.of.0,
            step: self.of.1,
            judged: self.judged.clone(),
            guard: self.guard.state().clone(),
        }
    }

    /// The attempt and the step that are counted.
    pub(super) fn of(&self) -> (u64, usize) {
        self.of
    }

    /// Number of processes whose counts are in the sum.
    pub(super) fn sources(&self) -> usize {
        self.merged.sources()
    }

    /// Begins to count a step.
    pub(super) fn begin(&mut self, of: (u64, usize)) {
        if of == self.of {
            return;
        }
        if of.0 != self.of.0 {
            let mut guard = self.guard.clone().restarted();
            guard.spend(PART);
            self.guard = guard;
        }
        self.guard.begin_step();
        self.of = of;
        self.merged = Merged::default();
        self.judged = StepCounts::default();
        self.rates.clear();
    }

    /// Takes the counts of a source.
    pub(super) fn take(&mut self, source: &str, counts: &StepCounts) {
        self.merged.take(source, counts);
    }

    /// Judges what has arrived since the last call. `is_alone`: the canary has all the traffic.
    pub(super) fn second(&mut self, canary_endpoints: usize, is_alone: bool) {
        let sum = self.merged.sum();
        let counts = sum.since(&self.judged);
        self.judged = sum;
        if self.rates.len() == RATE_S {
            self.rates.pop_front();
        }
        let canary = counts.errors.canary();
        self.rates.push_back(canary.requests as f64);
        let rate = self.rates.iter().sum::<f64>() / self.rates.len() as f64;
        let all: Vec<EventTally> = { counts.endpoints.values() }
            .map(|(requests, events)| EventTally::new(*requests, *events))
            .collect();
        let latency: Vec<_> = counts.latency.iter().map(side).collect();
        let goals: Vec<_> = counts.goals.iter().map(side).collect();
        self.guard.second(&SecondCounts {
            errors: SideCounts {
                stable_endpoints: &all,
                ..side(&counts.errors)
            },
            latency: &latency,
            goals: &goals,
            canary_rate: rate,
            canary_endpoints,
            pairs: counts.pairs(),
            alone: is_alone,
        });
    }
}

fn side(both: &BothSides) -> SideCounts<'static> {
    SideCounts {
        canary: both.canary(),
        stable: both.stable(),
        stable_endpoints: &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member's counts after `seconds` seconds with 2 canary requests each, one of which fails, and 18 of stable.
    fn counts(seconds: u64) -> StepCounts {
        StepCounts {
            errors: BothSides::new(
                EventTally::new(2 * seconds, seconds),
                EventTally::new(18 * seconds, 0),
            ),
            ..StepCounts::default()
        }
    }

    fn verdict_after(guard: &mut FleetGuard, members: usize, from: u64) -> Option<u64> {
        (from..from + 30).find(|second| {
            for member in 0..members {
                guard.take(&member.to_string(), &counts(*second));
            }
            guard.second(1, false);
            guard.guard.verdict().is_some()
        })
    }

    #[test]
    fn a_driver_continues_where_the_one_before_ended() {
        let spec = GuardSpec::default();
        let mut first = FleetGuard::new(&Guard::new(&spec));
        first.begin((1, 1));
        let alone = verdict_after(&mut first.clone(), 5, 1).unwrap();
        assert!((3..6).contains(&alone), "after {alone} s");
        for second in 1..alone {
            first.take("0", &counts(5 * second));
            first.second(1, false);
        }
        assert!(first.guard.verdict().is_none());
        let json = serde_json::to_string(&first.kept()).unwrap();
        let mut next = FleetGuard::new(&Guard::new(&spec));
        next.resume(
            &spec,
            serde_json::from_str(&json).unwrap(),
            SideNames::VERSIONS,
        );
        next.begin((1, 1));
        next.take("0", &counts(5 * alone));
        next.second(1, false);
        assert!(next.guard.verdict().is_some());
    }

    #[test]
    fn a_step_begins_without_counts_and_keeps_the_evidence() {
        let mut guard = FleetGuard::new(&Guard::new(&GuardSpec::default()));
        guard.begin((1, 1));
        guard.take("a", &counts(2));
        guard.second(1, false);
        let evidence = guard.guard.total_evidence();
        assert!(evidence > 0.5);
        guard.begin((1, 2));
        assert_eq!(
            (guard.sources(), guard.guard.total_evidence()),
            (0, evidence)
        );
        guard.second(1, false);
        assert_eq!(guard.guard.counts().step_canary.requests, 0);
        guard.begin((2, 1));
        assert!(guard.guard.total_evidence() < 0.1);
    }
}
