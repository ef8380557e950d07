//! One counted event: failures, slowness by one threshold, or conversions of one goal.

use serde::{Deserialize, Serialize};

use super::burstiness::{Brakes, Burstiness};
use super::counts::{EventTally, SideCounts};
use super::exact;
use super::process::{EProcess, WORSE};
use super::stratum::{Null, Stratum};

/// Time constant of [`Signal::stable_rate`], in seconds.
const SMOOTHING: f64 = 30.0;
/// Number of strata, of the last 64, that must have an event on the canary before the guard may fail it. Nothing shorter than 3 s
/// does.
const LEAST_STRATA: u32 = 3;

/// Requests and events of both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sides {
    pub(super) canary: EventTally,
    pub(super) stable: EventTally,
}

impl Sides {
    fn add(&mut self, canary: EventTally, stable: EventTally) {
        self.canary.add(canary);
        self.stable.add(stable);
    }
}

/// The state that all rules on the same event share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Signal {
    /// Seconds without requests of both sides, merged until there are some.
    pending: Sides,
    /// A bit for each of the last 64 strata: whether it spoke against the canary. The lowest is the last one.
    against: u64,
    pub(super) burstiness: Burstiness,
    /// Stable's rate of events over about 30 s.
    #[serde(with = "exact")]
    pub(super) stable_rate: f64,
    /// Evidence that the canary is worse than stable at all: an absolute limit isn't broken otherwise.
    worse: Option<EProcess>,
    pub(super) step: Sides,
    pub(super) total: Sides,
}

/// The inputs of a signal's processes from one second.
#[derive(Clone, Copy, Debug)]
pub(super) struct SecondEvidence {
    pub(super) stratum: Option<Stratum>,
    pub(super) brakes: Brakes,
    /// Stable's rate before this second.
    pub(super) stable_rate: f64,
    /// The limit that replaces every rule's, for a canary without a concurrent stable.
    pub(super) alone: Option<f64>,
}

impl SecondEvidence {
    /// The hypothesis that this second tests instead of `null`.
    pub(super) fn null(&self, null: Null) -> Null {
        self.alone.map_or(null, Null::Rate)
    }
}

impl Signal {
    /// With `mean`, stable's rate is known to begin with. `absolute`: whether an absolute limit applies to the event.
    pub(super) fn new(mean: Option<f64>, absolute: bool) -> Self {
        Self {
            pending: Sides::default(),
            against: 0,
            burstiness: Burstiness::new(mean),
            stable_rate: 0.0,
            worse: absolute.then(EProcess::restarting),
            step: Sides::default(),
            total: Sides::default(),
        }
    }

    /// Drops the counts of the canary and keeps those of stable.
    pub(super) fn restarted(self) -> Self {
        Self {
            pending: Sides::default(),
            against: 0,
            worse: self.worse.map(|_| EProcess::restarting()),
            step: Sides::default(),
            total: Sides::default(),
            ..self
        }
    }

    /// Learns from a second of stable with its number of endpoints. Called after the second has been judged.
    pub(super) fn learn(&mut self, counts: &SideCounts<'_>, endpoints: usize) {
        if counts.stable.requests > 0 {
            let weight = 1.0 - (-1.0 / SMOOTHING).exp();
            self.stable_rate += (counts.stable.rate() - self.stable_rate) * weight;
        }
        match counts.stable_endpoints {
            [] => self.burstiness.add_total(counts.stable, endpoints),
            each => self.burstiness.add(each),
        }
    }

    /// Adds a second and returns the stratum that it completes. `suspect` says whether one speaks against the canary.
    pub(super) fn close(
        &mut self,
        counts: &SideCounts<'_>,
        suspect: impl Fn(&Stratum) -> bool,
    ) -> Option<Stratum> {
        self.step.add(counts.canary, counts.stable);
        self.total.add(counts.canary, counts.stable);
        self.pending.add(counts.canary, counts.stable);
        if self.pending.canary.requests == 0 || self.pending.stable.requests == 0 {
            return None;
        }
        let closed = std::mem::take(&mut self.pending);
        let stratum = Stratum::new(closed.canary, closed.stable);
        self.mark(suspect(&stratum));
        Some(stratum)
    }

    /// Adds a second of the canary alone.
    pub(super) fn close_alone(&mut self, canary: EventTally) -> Option<Stratum> {
        self.step.add(canary, EventTally::default());
        self.total.add(canary, EventTally::default());
        self.pending = Sides::default();
        if canary.requests == 0 {
            return None;
        }
        self.mark(canary.events > 0);
        Some(Stratum::new(canary, EventTally::default()))
    }

    fn mark(&mut self, against: bool) {
        self.against = self.against << 1 | u64::from(against);
    }

    /// Whether enough strata spoke against the canary.
    pub(super) fn may_fail(&self) -> bool {
        self.against.count_ones() >= LEAST_STRATA
    }

    /// Adds a second to the evidence that the canary is worse at all.
    pub(super) fn judge_worse(&mut self, second: &SecondEvidence) {
        let Some(worse) = &mut self.worse else {
            return;
        };
        worse.tick();
        if let Some(stratum) = &second.stratum {
            let null = second.null(Null::Linear {
                ratio: 1.0,
                difference: 0.0,
            });
            worse.add(null, &WORSE, stratum, second.brakes);
        }
    }

    /// Returns ln E of "worse at all"; `None` if no absolute limit asks for it.
    pub(super) fn worse(&self) -> Option<f64> {
        self.worse.as_ref().map(EProcess::log_e)
    }
}
