//! The guard of one rollout.

use std::time::Duration;

use crate::config::rollout::GuardSpec;

use super::before_after::ceiling_alone;
use super::counts::{EventTally, SecondCounts, SideCounts};
use super::names::SideNames;
use super::process::{EProcess, log_add};
use super::rules::{ERRORS, RuleLimit, Rules};
use super::signal::SecondEvidence;
use super::state::{GuardState, ResumeError};
use super::stratum::Stratum;
use super::thresholds::Thresholds;

/// A sequential test of a canary against stable.
///
/// Call [`before`](Self::before) for each second of stable without a canary, then [`second`](Self::second) for each second of the
/// rollout, and read the verdict after any of them. All of them take a few microseconds.
///
/// It is a value without clock, threads or counters: its owner, the control thread, reads the counters of all workers once a second
/// and passes the differences in. What it has learnt is in `state`, which can be stored at any time; the rest follows from the
/// plan. The verdict may be read after every second without raising the probability of a false alarm, because evidence only ever
/// consists of e-processes.
#[derive(Clone, Debug)]
pub struct Guard {
    pub(super) spec: GuardSpec,
    pub(super) rules: Rules,
    /// The probability of failing a canary that is within its limits.
    pub(super) alpha: f64,
    pub(super) state: GuardState,
    /// The names of the two sides in messages.
    pub(super) names: SideNames,
}

impl Guard {
    /// Returns a guard without evidence.
    pub fn new(spec: &GuardSpec) -> Self {
        let rules = Rules::new(spec);
        let state = GuardState::new(&rules, spec.confidence);
        Self {
            spec: spec.clone(),
            rules,
            alpha: 1.0 - spec.confidence,
            state,
            names: SideNames::VERSIONS,
        }
    }

    /// Sets the names of the two sides in messages. Without it they are versions.
    pub fn set_names(&mut self, names: SideNames) {
        self.names = names;
    }

    /// Spends only this part of the plan's probability of failing a canary that is within its limits. Several guards that judge one
    /// canary share it.
    pub fn spend(&mut self, part: f64) {
        self.alpha = (1.0 - self.spec.confidence) * part;
    }

    /// The names of the two sides in messages.
    pub fn names(&self) -> SideNames {
        self.names
    }

    /// Continues from a stored state, whatever the number of endpoints was.
    ///
    /// # Errors
    ///
    /// The rules or the confidence of `spec` aren't those that the state belongs to.
    pub fn resume(spec: &GuardSpec, state: GuardState) -> Result<Self, ResumeError> {
        let fresh = Self::new(spec);
        state.check(&fresh.state)?;
        Ok(Self { state, ..fresh })
    }

    /// Returns the state to store.
    pub fn state(&self) -> &GuardState {
        &self.state
    }

    /// Starts new processes, with a new α, for a retry or a new label. The knowledge about stable is kept.
    #[must_use]
    pub fn restarted(self) -> Self {
        let fresh = GuardState::new(&self.rules, self.spec.confidence);
        let state = self.state.restarted(fresh);
        Self { state, ..self }
    }

    /// Begins the counts of a step, which estimates and forecasts use. The evidence continues: one α covers all steps.
    pub fn begin_step(&mut self) {
        for signal in &mut self.state.signals {
            signal.step = Default::default();
        }
    }

    /// Returns the thresholds of the next second. `quantile` returns stable's quantile over the last minutes.
    ///
    /// It must not include the second to come: thresholds are chosen before the requests that they judge.
    pub fn thresholds(&self, quantile: impl Fn(f64) -> Option<Duration>) -> Thresholds {
        Thresholds::new(&self.rules.slots, quantile)
    }

    /// Learns from a second of stable before the rollout. The canary's counts are ignored.
    pub fn before(&mut self, counts: &SecondCounts<'_>) {
        self.state.health.add_pairs(counts.pairs);
        self.learn(counts);
    }

    /// Judges a closed second of the clock. Seconds without requests count too.
    pub fn second(&mut self, counts: &SecondCounts<'_>) {
        self.state.rate = counts.canary_rate;
        self.state.endpoints = counts.canary_endpoints.max(1);
        self.state.health.add_pairs(counts.pairs);
        // Fixed at the moment at which stable loses its traffic: from then on there is no stable from which to learn, and a limit
        // that followed the canary would excuse it.
        if counts.alone && self.state.alone_seconds == 0 {
            let limit = self.state.minutes.limit(&self.spec.errors);
            self.state.alone_limit = limit.unwrap_or(f64::NEG_INFINITY);
        }
        self.state.alone_seconds = match counts.alone {
            true => self.state.alone_seconds.saturating_add(1),
            false => 0,
        };
        if counts.errors.canary.requests > 0 {
            self.state.warm = self.state.warm.saturating_add(1);
        }
        let seconds: Vec<SecondEvidence> = (0..self.rules.signals())
            .map(|signal| self.close(signal, counts))
            .collect();
        // The ratio compares two sides at the same time, which a canary alone doesn't have.
        if let Some(stratum) = seconds[ERRORS].stratum.filter(|_| !counts.alone) {
            let brakes = seconds[ERRORS].brakes.without_ceiling();
            self.state.ratio.add(&stratum, brakes);
        }
        for (rule, evidence) in self.rules.rules.iter().zip(&mut self.state.evidence) {
            evidence.judge(rule, &seconds);
        }
        for (signal, second) in self.state.signals.iter_mut().zip(&seconds) {
            signal.judge_worse(second);
        }
        // After the judgement: brakes and limits of a second come from the past.
        self.learn(counts);
    }

    fn learn(&mut self, counts: &SecondCounts<'_>) {
        let endpoints = counts.errors.stable_endpoints.len();
        for (ix, signal) in self.state.signals.iter_mut().enumerate() {
            signal.learn(&side(&self.rules, ix, counts), endpoints);
        }
        self.state.health.add(counts.errors.stable);
        if counts.errors.stable.requests > 0 {
            self.state.minutes.add(counts.errors.stable);
        }
    }

    fn close(&mut self, ix: usize, counts: &SecondCounts<'_>) -> SecondEvidence {
        let side = side(&self.rules, ix, counts);
        let is_latency = ix > ERRORS && ix <= self.rules.slots.len();
        // A version that has just started is slow for reasons that pass. Its failures count from the first request.
        let cold = is_latency && self.state.warm <= self.spec.warmup.as_secs();
        let limit = self.state.alone_limit;
        let goal = ix.checked_sub(1 + self.rules.slots.len());
        let goal = goal.and_then(|goal| self.spec.goals.get(goal));
        let signal = &mut self.state.signals[ix];
        // Bursts were measured on single endpoints of stable, so they are scaled to what one endpoint of the canary gets.
        let per_endpoint = counts.canary_rate / self.state.endpoints as f64;
        let mut brakes = signal.burstiness.brakes(per_endpoint);
        if ix == ERRORS && self.state.health.both_fail().is_some() {
            // The requests are at fault, or something behind both versions: this second may only take evidence away.
            brakes.ceiling = 0.0;
        }
        if counts.alone {
            brakes.ceiling = brakes.ceiling.min(ceiling_alone(self.state.alone_seconds));
        }
        // Without a stable at the same time, only failures can be compared with the past; latency and conversions vary too much
        // over a day.
        let stratum = if counts.alone {
            let judged = ix == ERRORS && limit > 0.0;
            judged.then(|| signal.close_alone(side.canary)).flatten()
        } else if cold {
            None
        } else {
            signal.close(&side, |s| match goal {
                Some((_, ratio)) => has_fewer(s, *ratio),
                None => s.canary_events > 0.0,
            })
        };
        SecondEvidence {
            stratum,
            brakes,
            stable_rate: signal.stable_rate,
            alone: counts.alone.then_some(limit),
        }
    }

    /// Returns ln E of a rule.
    pub(super) fn log_e(&self, ix: usize) -> f64 {
        let (rule, evidence) = (&self.rules.rules[ix], &self.state.evidence[ix]);
        let parts = evidence.against.iter().map(EProcess::log_e);
        // The average of e-values is an e-value, whatever depends on whatever.
        let share = (evidence.against.len() as f64).ln();
        let log_e = parts.fold(f64::NEG_INFINITY, log_add) - share;
        if rule.absolute.is_none() {
            return log_e;
        }
        // An absolute limit counts as broken only by a canary that is also worse than stable. That is the intersection of two
        // claims, for which both need evidence; the smaller of two e-values is one as well.
        let worse = self.state.signals[rule.parts[0].signal].worse();
        log_e.min(worse.unwrap_or(f64::INFINITY))
    }

    /// Returns which part of a rule has the most evidence.
    pub(super) fn leading_part(&self, ix: usize) -> usize {
        let against = &self.state.evidence[ix].against;
        let most =
            (0..against.len()).max_by(|a, b| against[*a].log_e().total_cmp(&against[*b].log_e()));
        most.unwrap_or(0)
    }

    /// Returns ln E of the proof that the canary is within a rule's limit.
    pub(super) fn log_proof(&self, ix: usize) -> f64 {
        self.state.evidence[ix].proof.log_e()
    }

    /// Returns the limit of a rule.
    pub(super) fn limit(&self, ix: usize) -> &RuleLimit {
        &self.rules.rules[ix].limit
    }

    /// Returns requests and events of the running step, or of the rollout if the step has none, by side.
    pub(super) fn step_counts(&self, signal: usize) -> (EventTally, EventTally) {
        let signal = &self.state.signals[signal];
        let sides = if signal.step.canary.requests > 0 {
            signal.step
        } else {
            signal.total
        };
        (sides.canary, sides.stable)
    }
}

/// The counts of a signal.
fn side<'a>(rules: &Rules, signal: usize, counts: &SecondCounts<'a>) -> SideCounts<'a> {
    let Some(ix) = signal.checked_sub(1) else {
        return counts.errors;
    };
    let found = match ix.checked_sub(rules.slots.len()) {
        None => counts.latency.get(ix),
        Some(goal) => counts.goals.get(goal),
    };
    found.copied().unwrap_or_default()
}

/// Whether the canary has less than its share of the conversions.
fn has_fewer(s: &Stratum, ratio: f64) -> bool {
    let weighed = ratio * s.canary_requests;
    let share = weighed / (weighed + s.stable_requests);
    s.canary_events < share * (s.canary_events + s.stable_events)
}
