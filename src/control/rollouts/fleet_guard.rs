//! The guard of a fleet: it judges the sum of the counts of all members. Only the driver has one.

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
///
/// The driver owns it, and each second judges what has been added to the sum since. Counts of others arrive late and in lumps; they
/// are judged in the second in which they arrive.
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

/// The state from which the next driver continues.
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
    /// Begins with the knowledge about stable of this member's guard.
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

    /// Continues from the state of the previous driver. Without it the evidence starts from zero, which takes time and is never
    /// wrong.
    pub(super) fn resume(&mut self, spec: &GuardSpec, kept: KeptGuard, names: SideNames) {
        if let Ok(mut guard) = Guard::resume(spec, kept.guard) {
            guard.spend(PART);
            guard.set_names(names);
            self.guard = guard;
            (self.of, self.judged) = ((kept.epoch, kept.step), kept.judged);
        }
    }

    /// The state that the next driver needs.
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

    /// Judges the counts that have arrived since the last call. `is_alone`: the canary has all the traffic.
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
        with_second(&counts, (rate, canary_endpoints), is_alone, |second| {
            self.guard.second(second);
        });
    }

    /// Learns about stable from what this member has counted in a second, while no member gives the canary a share and therefore none
    /// counts. A guard that holds the rollout because stable fails would otherwise never see that stable has recovered.
    pub(super) fn learn(&mut self, counts: &StepCounts) {
        with_second(counts, (0.0, 1), false, |second| self.guard.before(second));
    }
}

/// Passes counts on in the form for a guard, with the canary's requests per second and number of endpoints.
fn with_second(
    counts: &StepCounts,
    (canary_rate, canary_endpoints): (f64, usize),
    alone: bool,
    pass: impl FnOnce(&SecondCounts<'_>),
) {
    let all: Vec<EventTally> = { counts.endpoints.values() }
        .map(|(requests, events)| EventTally::new(*requests, *events))
        .collect();
    let latency: Vec<_> = counts.latency.iter().map(side).collect();
    let goals: Vec<_> = counts.goals.iter().map(side).collect();
    pass(&SecondCounts {
        errors: SideCounts {
            stable_endpoints: &all,
            ..side(&counts.errors)
        },
        latency: &latency,
        goals: &goals,
        canary_rate,
        canary_endpoints,
        pairs: counts.pairs(),
        alone,
    });
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
    use serde_json::Value;

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

    /// All variants of a JSON value in which one number, text or list is another one.
    fn variants(value: &Value, found: &mut Vec<Value>) {
        let set = |found: &mut Vec<Value>, of: &dyn Fn(Value) -> Value, inner: &Value| {
            let mut inners = Vec::new();
            variants(inner, &mut inners);
            found.extend(inners.into_iter().map(of));
        };
        match value {
            Value::Number(_) => {
                found.extend([0, 1, u64::MAX / 2, u64::MAX].map(Value::from));
                found.extend([Value::from(-1), Value::from(0.5)]);
            }
            Value::String(_) => {
                found.extend(["-inf", "inf", "NaN", "1e308", "-1e308", "0", "x"].map(Value::from))
            }
            Value::Array(items) => {
                found.extend([Value::Array(Vec::new()), Value::Null]);
                found.push(Value::Array([&items[..], &items[..]].concat()));
                for (at, inner) in items.iter().enumerate() {
                    let of = |inner| {
                        let mut items = items.clone();
                        items[at] = inner;
                        Value::Array(items)
                    };
                    set(found, &of, inner);
                }
            }
            Value::Object(fields) => {
                for (name, inner) in fields {
                    let of = |inner| {
                        let mut fields = fields.clone();
                        fields.insert(name.clone(), inner);
                        Value::Object(fields)
                    };
                    set(found, &of, inner);
                }
            }
            Value::Bool(_) | Value::Null => found.push(Value::from(7)),
        }
    }

    #[test]
    fn what_the_guard_of_a_first_driver_has_learnt_is_continued() {
        // Written by the first program that shared rollouts (commit a924f2a).
        let text = include_str!("../../../tests/fleet_values/guard.json");
        let kept: KeptGuard = serde_json::from_str(text).unwrap();
        assert_eq!((kept.epoch, kept.step), (1, 2));
        let (now, before) = (serde_json::to_value(&kept).unwrap(), text.parse::<Value>());
        assert_eq!(now, before.unwrap());
        let plan = "listen = \":8080\"\n[service.app]\nstable = \"v1\"\nsplit = { v2 = \"rollout\" }\n\
            [service.app.versions]\nv1 = [\"127.0.0.1:1\"]\nv2 = [\"127.0.0.1:2\"]\n\
            [service.app.rollout]\nsteps = [\"10% for 6s\"]\nguard.on_silence = \"pass\"\n";
        let spec = crate::config::parse(plan, "test.toml").unwrap();
        let spec = &spec.services[0].rollout.as_ref().unwrap().guard;
        let mut guard = FleetGuard::new(&Guard::new(spec));
        let requests = kept.judged.errors.canary().requests;
        guard.resume(spec, kept, SideNames::VERSIONS);
        assert_eq!(guard.of(), (1, 2));
        assert!(requests > 50 && guard.guard.counts().step_canary.requests == requests);
    }

    #[test]
    fn hostile_evidence_of_a_driver_before_is_refused_or_harmless() {
        let spec = GuardSpec::default();
        let mut guard = FleetGuard::new(&Guard::new(&spec));
        guard.begin((1, 1));
        for second in 1..4 {
            guard.take("0", &counts(second));
            guard.second(1, false);
        }
        let kept = serde_json::to_value(guard.kept()).unwrap();
        let mut hostile = Vec::new();
        variants(&kept, &mut hostile);
        let (all, mut taken) = (hostile.len(), 0);
        for value in hostile {
            let Ok(kept) = serde_json::from_value::<KeptGuard>(value) else {
                continue;
            };
            taken += 1;
            let mut next = FleetGuard::new(&Guard::new(&spec));
            next.resume(&spec, kept, SideNames::VERSIONS);
            next.begin((1, 1));
            // Beyond the longest of its cycles, a minute.
            for second in 0..62 {
                next.take("0", &counts(4 + second));
                next.second(1, false);
            }
            let _ = (next.guard.verdict(), next.guard.time_to_verdict());
            next.begin((2, 1));
            next.second(1, true);
        }
        assert!(taken > 50 && taken < all, "{taken} of {all}");
    }

    /// Requests of one member in a second, of which each side fails this share.
    fn second_of(random: &mut fastrand::Rng, canary: f64, stable: f64) -> StepCounts {
        let mut side = |requests: u64, ratio: f64| {
            let failures = (0..requests).filter(|_| random.f64() < ratio).count();
            EventTally::new(requests, failures as u64)
        };
        StepCounts {
            errors: BothSides::new(side(3, canary), side(27, stable)),
            ..StepCounts::default()
        }
    }

    /// A rollout of `seconds` on five members. Returns the second of a verdict of the fleet's guard, and that of a member's own.
    fn rollout_of_five(
        random: &mut fastrand::Rng,
        (canary, stable): (f64, f64),
        seconds: u64,
    ) -> (Option<u64>, Option<u64>) {
        const MEMBERS: usize = 5;
        let spec = GuardSpec::default();
        let mut fleet = FleetGuard::new(&Guard::new(&spec));
        fleet.begin((1, 1));
        let mut members: Vec<(Guard, StepCounts)> = (0..MEMBERS)
            .map(|_| {
                let mut guard = Guard::new(&spec);
                guard.spend(part_of_member(MEMBERS));
                guard.begin_step();
                (guard, StepCounts::default())
            })
            .collect();
        let (mut merged, mut alone) = (None, None);
        for second in 1..=seconds {
            for (member, (guard, sum)) in members.iter_mut().enumerate() {
                let counts = second_of(random, canary, stable);
                sum.add(&counts);
                fleet.take(&member.to_string(), sum);
                guard.second(&SecondCounts {
                    errors: side(&counts.errors),
                    latency: &[],
                    goals: &[],
                    canary_rate: 3.0,
                    canary_endpoints: 1,
                    pairs: counts.pairs(),
                    alone: false,
                });
                if guard.verdict().is_some() {
                    alone.get_or_insert(second);
                }
            }
            fleet.second(1, false);
            if fleet.guard.verdict().is_some() {
                merged.get_or_insert(second);
            }
        }
        (merged, alone)
    }

    /// Two equal versions: at most one rollout in a hundred is taken back, by the fleet's guard and those of its members together.
    #[test]
    fn equal_versions_are_rarely_taken_back_by_a_fleet() {
        let all = std::env::var("CUTOVER_FLEET_AA").ok();
        let rollouts = all.and_then(|n| n.parse().ok()).unwrap_or(30_u64);
        let mut alarms = 0;
        for seed in 0..rollouts {
            let mut random = fastrand::Rng::with_seed(seed);
            // From hardly any failures to many.
            let ratio = [0.0, 0.002, 0.02, 0.1][(seed % 4) as usize];
            let found = rollout_of_five(&mut random, (ratio, ratio), 120);
            alarms += u64::from(found != (None, None));
        }
        eprintln!("{alarms} of {rollouts} rollouts of equal versions were taken back");
        assert!(alarms <= rollouts.div_ceil(100), "{alarms} of {rollouts}");
    }

    /// Failures that are spread thin over five members.
    #[test]
    fn a_fleet_finds_what_no_member_finds_as_fast() {
        let mut faster = 0;
        for seed in 0..10 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (merged, alone) = rollout_of_five(&mut random, (0.05, 0.001), 90);
            let merged = merged.expect("the fleet finds it");
            faster += usize::from(alone.is_none_or(|alone| alone > merged));
        }
        assert!(faster >= 9, "{faster} of 10");
    }
}
