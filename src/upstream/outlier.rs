//! Passive removal: workers count what they see ([`Endpoint::note_outcome`]), one [`Judge`] for each pool decides on the
//! control thread. The judge is pure: what was seen and what time it is come in, decisions go out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::endpoint::{Endpoint, flag};
use crate::config::policy;
pub(crate) use crate::telemetry::record::EjectionReason;

/// Fewest endpoints with enough requests for a judgement by success rate.
const POOL: usize = 5;
/// Fewest requests of an endpoint in an interval for a judgement by success rate.
const REQUESTS: u64 = 100;

/// How an attempt ended, as far as its endpoint is to be blamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptVerdict {
    /// An answer below 500.
    Ok,
    /// An answer of 500 and above that isn't one of a gateway.
    ServerError,
    /// No connection, a reset, a timeout, 502, 503 or 504.
    Gateway,
}

/// A worker saw the failure that ejects an endpoint; until it is judged it carries [`flag::SUSPECT`].
#[derive(Clone, Debug)]
pub struct Suspect {
    /// Which.
    pub endpoint: Arc<Endpoint>,
    /// What was seen.
    pub reason: EjectionReason,
}

/// The workers' end of the way to the judge.
pub(crate) type Suspects = mpsc::UnboundedSender<Suspect>;

impl Endpoint {
    /// An attempt on it ended, seen by worker `worker`. Failures in a row are counted over all workers together; while
    /// all is well nothing shared is written. `Some` exactly once for a row that reaches its threshold: the endpoint is
    /// then [`flag::SUSPECT`], and the control thread must be told.
    #[inline]
    pub fn note_outcome(
        &self,
        worker: usize,
        outcome: AttemptVerdict,
        terms: &policy::Outlier,
    ) -> Option<EjectionReason> {
        self.shards[worker].note(outcome != AttemptVerdict::Ok);
        match outcome {
            AttemptVerdict::Ok => {
                self.forget_streaks();
                None
            }
            AttemptVerdict::ServerError => {
                reset(&self.load.streak_gateway);
                self.suspect([false, reached(&self.load.streak_5xx, terms.consecutive_5xx)])
            }
            AttemptVerdict::Gateway => {
                let gateway = reached(&self.load.streak_gateway, terms.consecutive_gateway);
                let any = reached(&self.load.streak_5xx, terms.consecutive_5xx);
                self.suspect([gateway, any])
            }
        }
    }

    /// No failures in a row.
    #[inline]
    pub fn forget_streaks(&self) {
        reset(&self.load.streak_5xx);
        reset(&self.load.streak_gateway);
    }

    #[cold]
    fn suspect(&self, [gateway, any]: [bool; 2]) -> Option<EjectionReason> {
        let reason = match (gateway, any) {
            (true, _) => EjectionReason::ConsecutiveGateway,
            (false, true) => EjectionReason::Consecutive5xx,
            (false, false) => return None,
        };
        // One that is out still fails when panic sends it requests: that is known.
        let is_out = self.state.flags() & flag::EJECTED != 0;
        (!is_out && self.state.raise(flag::SUSPECT)).then_some(reason)
    }
}

#[inline]
fn reset(streak: &AtomicU32) {
    if streak.load(Ordering::Relaxed) != 0 {
        streak.store(0, Ordering::Relaxed);
    }
}

fn reached(streak: &AtomicU32, threshold: u32) -> bool {
    let now = streak.fetch_add(1, Ordering::Relaxed).saturating_add(1);
    threshold != 0 && now >= threshold
}

/// What one endpoint did since the start, for [`Judge::sweep`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttemptCounts {
    /// The endpoint's slot.
    pub slot: usize,
    /// Attempts that succeeded.
    pub answered: u64,
    /// Attempts that failed.
    pub failed: u64,
}

/// What became of a detection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// The endpoint's slot.
    pub slot: usize,
    /// What was seen.
    pub reason: EjectionReason,
    /// How long it is out; `None`: it stays, because too many are out already.
    pub out_for: Option<Duration>,
}

/// Who of one pool is out, and for how long.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    members: HashMap<usize, JudgedEndpoint>,
}

#[derive(Debug, Default)]
struct JudgedEndpoint {
    out: Option<EjectionState>,
    /// Ejections in a row; falls by one for each interval without.
    row: u32,
    /// Not out at any time since the last sweep.
    clean: bool,
    /// Its tally at the last sweep.
    last: Option<(u64, u64)>,
}

#[derive(Debug)]
struct EjectionState {
    since: Instant,
    until: Instant,
    reason: EjectionReason,
}

impl Judge {
    /// These are the pool's members now. Those that stay keep what is known of them. Should too many of a smaller pool be
    /// out, those that are due first come back: their slots.
    pub(crate) fn keep(&mut self, slots: &[usize], max_ejected: u32) -> Vec<usize> {
        let known: HashSet<usize> = slots.iter().copied().collect();
        self.members.retain(|slot, _| known.contains(slot));
        for slot in slots {
            self.members.entry(*slot).or_default();
        }
        let out = |(slot, m): (&usize, &JudgedEndpoint)| Some((m.out.as_ref()?.until, *slot));
        let mut outs: Vec<_> = self.members.iter().filter_map(out).collect();
        outs.sort_unstable();
        let above = outs.len().saturating_sub(self.most(max_ejected));
        let back: Vec<usize> = outs[..above].iter().map(|(_, slot)| *slot).collect();
        back.iter().for_each(|slot| self.admit(*slot));
        back
    }

    /// A row of failures reached its threshold. `absent` says who gets no traffic for other reasons (health, drain): the
    /// last one that gets some is never ejected. `None` if there is nothing to decide: unknown, or out already.
    pub(crate) fn suspect(
        &mut self,
        slot: usize,
        reason: EjectionReason,
        terms: &policy::Outlier,
        now: Instant,
        absent: &dyn Fn(usize) -> bool,
    ) -> Option<Decision> {
        let member = self.members.get(&slot)?;
        if member.out.is_some() {
            return None;
        }
        let another = |(other, m): (&usize, &JudgedEndpoint)| {
            *other != slot && m.out.is_none() && !absent(*other)
        };
        let room = self.out() < self.most(terms.max_ejected);
        let out_for = (room && self.members.iter().any(another)).then(|| {
            let member = self.members.entry(slot).or_default();
            member.row = member.row.saturating_add(1);
            member.clean = false;
            let out_for = terms.eject.saturating_mul(member.row).min(terms.eject_max);
            member.out = Some(EjectionState {
                since: now,
                until: now + out_for,
                reason,
            });
            out_for
        });
        Some(Decision {
            slot,
            reason,
            out_for,
        })
    }

    /// An interval is over: judges by success rate, the worst first, and lets the rows of those that behaved fall.
    pub(crate) fn sweep(
        &mut self,
        tallies: &[AttemptCounts],
        terms: &policy::Outlier,
        now: Instant,
        absent: &dyn Fn(usize) -> bool,
    ) -> Vec<Decision> {
        let rates = self.rates(tallies);
        for member in self.members.values_mut() {
            if member.clean {
                member.row = member.row.saturating_sub(1);
            }
            member.clean = member.out.is_none();
        }
        let outliers = outliers(rates, terms.success_rate_stdev);
        outliers
            .into_iter()
            .filter_map(|slot| self.suspect(slot, EjectionReason::SuccessRate, terms, now, absent))
            .collect()
    }

    /// Success rates over the interval of those that had enough requests and aren't out; the next interval begins.
    fn rates(&mut self, tallies: &[AttemptCounts]) -> Vec<(f64, usize)> {
        let rate = |tally: &AttemptCounts| {
            let member = self.members.get_mut(&tally.slot)?;
            let (answered, failed) = member.last.replace((tally.answered, tally.failed))?;
            let answered = tally.answered.saturating_sub(answered);
            let all = answered + tally.failed.saturating_sub(failed);
            let judged = member.out.is_none() && all >= REQUESTS;
            judged.then(|| (answered as f64 / all as f64, tally.slot))
        };
        tallies.iter().filter_map(rate).collect()
    }

    /// Those whose time is over: they are members like the others again.
    pub(crate) fn readmit(&mut self, now: Instant) -> Vec<usize> {
        let due = |m: &JudgedEndpoint| m.out.as_ref().is_some_and(|out| out.until <= now);
        let slots: Vec<usize> = self
            .members
            .iter()
            .filter(|(_, m)| due(m))
            .map(|(slot, _)| *slot)
            .collect();
        for slot in &slots {
            self.admit(*slot);
        }
        slots
    }

    /// A health check of it that began at `began` passed: whether that ends its ejection, which it does for gateway
    /// failures only, and only if it was out already when the check began.
    pub(crate) fn passed(&mut self, slot: usize, began: Instant) -> bool {
        let out = self.members.get(&slot).and_then(|m| m.out.as_ref());
        let ends = out.is_some_and(|out| {
            out.reason == EjectionReason::ConsecutiveGateway && out.since <= began
        });
        if ends {
            self.admit(slot);
        }
        ends
    }

    fn admit(&mut self, slot: usize) {
        if let Some(member) = self.members.get_mut(&slot) {
            member.out = None;
        }
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let outs = self.members.values().filter_map(|m| m.out.as_ref());
        outs.map(|out| out.until).min()
    }

    /// Until when it is out; `None`: it isn't.
    #[cfg(test)]
    pub(crate) fn out_until(&self, slot: usize) -> Option<Instant> {
        Some(self.members.get(&slot)?.out.as_ref()?.until)
    }

    /// How many are out.
    pub(crate) fn out(&self) -> usize {
        self.members.values().filter(|m| m.out.is_some()).count()
    }

    /// How many may be out: the share, rounded down but one at least (none for a share of 0), and never all.
    fn most(&self, max_ejected: u32) -> usize {
        if max_ejected == 0 {
            return 0;
        }
        let n = self.members.len();
        let share = n * max_ejected as usize / 1000;
        share.max(1).min(n.saturating_sub(1))
    }
}

/// Slots of those so many standard deviations below the mean, the worst first.
fn outliers(mut rates: Vec<(f64, usize)>, stdev: f64) -> Vec<usize> {
    if stdev <= 0.0 || rates.len() < POOL {
        return Vec::new();
    }
    let n = rates.len() as f64;
    let mean = rates.iter().map(|(r, _)| r).sum::<f64>() / n;
    let variance = rates.iter().map(|(r, _)| (r - mean).powi(2)).sum::<f64>() / n;
    // Equal rates differ from their mean by rounding alone.
    let bound = mean - (stdev * variance.sqrt()).max(1e-9);
    rates.retain(|(rate, _)| *rate < bound);
    rates.sort_by(|a, b| a.0.total_cmp(&b.0));
    rates.into_iter().map(|(_, slot)| slot).collect()
}

#[cfg(test)]
#[path = "outlier_tests.rs"]
mod tests;
