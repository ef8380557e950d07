//! Turns the counters of workers into the counts per second that a guard reads.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::sides::{ComparedSides, SideCounters, Sides};
use crate::config::rollout::GuardSpec;
use crate::rollout::fleet::evidence::{BothSides, StepCounts};
use crate::rollout::guard::{DecayedLatency, EventTally, Guard, Pairs, SecondCounts, SideCounts};
use crate::snapshot::Service;
use crate::telemetry::guard::{GuardTotals, SLOTS};
use crate::upstream::Endpoint;

/// Seconds over which the canary's rate is averaged.
const RATE_S: usize = 10;

/// The counters as of the last second.
#[derive(Debug, Default)]
pub(super) struct Counting {
    totals: HashMap<String, GuardTotals>,
    endpoints: HashMap<usize, (u64, u64)>,
    /// Name and latency of stable.
    latency: (String, DecayedLatency),
    rates: VecDeque<f64>,
    /// Number of endpoints that serve the canary.
    canary_endpoints: usize,
}

/// The use of the counts of a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judging {
    /// Whether the canary is judged; otherwise the guard only learns from stable.
    pub is_judged: bool,
    /// Whether the canary has all the traffic.
    pub is_alone: bool,
    /// Whether other members of a fleet need the counts.
    pub is_shared: bool,
}

/// The canary's counts of an event, and stable's.
type TwoSides = (EventTally, EventTally);

/// The counts of one second.
struct Second {
    errors: TwoSides,
    endpoints: Vec<EventTally>,
    slots: Vec<TwoSides>,
    goals: Vec<TwoSides>,
    pairs: Pairs,
}

impl Second {
    /// The counts in the form for other members of a fleet.
    fn shared(&self, compared: &ComparedSides<'_>) -> StepCounts {
        let both = |(canary, stable): &TwoSides| BothSides::new(*canary, *stable);
        let names = compared.endpoints.iter().map(|e| e.name.to_string());
        let endpoints = self.endpoints.iter().map(|e| (e.requests, e.events));
        StepCounts {
            errors: both(&self.errors),
            latency: self.slots.iter().map(both).collect(),
            goals: self.goals.iter().map(both).collect(),
            pairs: (self.pairs.tried, self.pairs.failed),
            endpoints: names.zip(endpoints).collect(),
        }
    }
}

fn side(&(canary, stable): &TwoSides) -> SideCounts<'static> {
    SideCounts {
        canary,
        stable,
        stable_endpoints: &[],
    }
}

impl Counting {
    /// Resets the counts for another rollout.
    pub(super) fn restart(&mut self) {
        self.rates.clear();
    }

    /// The canary's requests per second over the last seconds.
    fn canary_rate(&self) -> f64 {
        self.rates.iter().sum::<f64>() / self.rates.len().max(1) as f64
    }

    /// Number of endpoints that serve the canary.
    pub(super) fn canary_endpoints(&self) -> usize {
        self.canary_endpoints
    }

    /// Reads the counters, and feeds the guard with the counts since the last call. Then publishes the thresholds of the next
    /// second. Returns the counts if they are shared.
    pub(super) fn second(
        &mut self,
        service: &Service,
        sides: Sides,
        (guard, spec): (&mut Guard, &GuardSpec),
        judging: Judging,
    ) -> Option<StepCounts> {
        let compared = sides.compared(service);
        self.canary_endpoints = compared.canary_endpoints;
        let second = self.read(service, &compared, spec);
        if self.rates.len() == RATE_S {
            self.rates.pop_front();
        }
        self.rates.push_back(second.errors.0.requests as f64);
        let latency: Vec<_> = second.slots.iter().map(side).collect();
        let goals: Vec<_> = second.goals.iter().map(side).collect();
        let counts = SecondCounts {
            errors: SideCounts {
                stable_endpoints: &second.endpoints,
                ..side(&second.errors)
            },
            latency: &latency,
            goals: &goals,
            canary_rate: self.canary_rate(),
            canary_endpoints: compared.canary_endpoints,
            pairs: second.pairs,
            alone: judging.is_alone,
        };
        match judging.is_judged {
            true => guard.second(&counts),
            false => guard.before(&counts),
        }
        self.publish_thresholds(&compared, guard);
        judging.is_shared.then(|| second.shared(&compared))
    }

    fn read(
        &mut self,
        service: &Service,
        compared: &ComparedSides<'_>,
        spec: &GuardSpec,
    ) -> Second {
        let totals = self.since(&compared.stable);
        let canary_totals = { compared.canary.as_ref() }
            .map(|side| self.since(side))
            .unwrap_or_default();
        let slot = |totals: &GuardTotals, at: usize| {
            EventTally::new(totals.fast[at] + totals.slow[at], totals.slow[at])
        };
        let slots = (0..SLOTS).map(|at| (slot(&canary_totals, at), slot(&totals, at)));
        let goals = { spec.goals.iter() }
            .filter_map(|(name, _)| service.goals.iter().position(|goal| goal.name == *name))
            .map(|at| {
                let goal =
                    |totals: &GuardTotals| EventTally::new(totals.requests, totals.goals[at]);
                (goal(&canary_totals), goal(&totals))
            });
        let errors = |totals: &GuardTotals| EventTally::new(totals.requests, totals.failed);
        Second {
            errors: (errors(&canary_totals), errors(&totals)),
            endpoints: self.endpoints(&compared.endpoints),
            slots: slots.collect(),
            goals: goals.collect(),
            pairs: Pairs {
                tried: canary_totals.shielded,
                failed: canary_totals.shield_failed,
            },
        }
    }

    /// The counts of a side since the last call.
    fn since(&mut self, side: &SideCounters<'_>) -> GuardTotals {
        let Some(counters) = side.counters else {
            return GuardTotals::default();
        };
        let now = counters.totals();
        // Without an earlier reading the time of the counts isn't known. Counters of an earlier rollout may have counted
        // more.
        let before = self.totals.insert(side.name.clone(), now);
        let before = before
            .filter(|before| before.requests <= now.requests)
            .unwrap_or(now);
        GuardTotals {
            requests: now.requests.saturating_sub(before.requests),
            failed: now.failed.saturating_sub(before.failed),
            fast: difference(now.fast, before.fast),
            slow: difference(now.slow, before.slow),
            goals: difference(now.goals, before.goals),
            shielded: now.shielded.saturating_sub(before.shielded),
            shield_failed: now.shield_failed.saturating_sub(before.shield_failed),
        }
    }

    /// The counts of the endpoints since the last call.
    fn endpoints(&mut self, endpoints: &[&Arc<Endpoint>]) -> Vec<EventTally> {
        let mut counts = Vec::with_capacity(endpoints.len());
        let mut next = HashMap::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let now = endpoint.judged();
            let before = self.endpoints.get(&endpoint.slot).copied();
            // A previous endpoint of the slot may have counted more.
            let before = before.filter(|before| before.0 <= now.0).unwrap_or(now);
            next.insert(endpoint.slot, now);
            counts.push(EventTally::new(
                now.0 - before.0,
                now.1.saturating_sub(before.1),
            ));
        }
        self.endpoints = next;
        counts
    }

    /// Follows stable's latency, and tells the workers from which duration on a request is slow. The second that has just been
    /// judged had the previous thresholds, so that none depends on the requests that it is applied to.
    fn publish_thresholds(&mut self, compared: &ComparedSides<'_>, guard: &Guard) {
        let stable = &compared.stable;
        if self.latency.0 != stable.name {
            self.latency = (stable.name.clone(), DecayedLatency::default());
        }
        self.latency.1.second(&compared.latency);
        let all = guard.thresholds(|q| self.latency.1.quantile(q));
        let publish = |side: &SideCounters<'_>, thresholds: &[u64; SLOTS]| {
            if let Some(counters) = side.counters {
                counters.set_thresholds(thresholds);
            }
        };
        publish(stable, &all.stable);
        if let Some(canary) = &compared.canary {
            publish(canary, &all.canary);
        }
    }
}

fn difference<const N: usize>(mut now: [u64; N], before: [u64; N]) -> [u64; N] {
    let pairs = now.iter_mut().zip(before);
    pairs.for_each(|(now, before)| *now = now.saturating_sub(before));
    now
}
