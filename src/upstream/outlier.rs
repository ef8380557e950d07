//! Outlier detection: removes endpoints that fail too often from their pool for a while.
//!
//! Workers count the outcomes of attempts ([`Endpoint::note_outcome`]). When failures in a row reach their threshold, the
//! worker raises [`flag::SUSPECT`], which keeps requests away at once, and reports the endpoint. The [`Judge`] of the pool,
//! on the control thread, then ejects it or lets it stay, and also ejects endpoints whose success rate is far below that of
//! the others. The judge is pure: observations and times are passed in, and decisions are returned.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::endpoint::{Endpoint, flag};
use crate::config::policy;
use crate::telemetry::WorkerId;
pub(crate) use crate::telemetry::record::EjectionReason;

/// Success rates are judged only if at least this many endpoints had enough requests, as in Envoy.
const MIN_ENDPOINTS: usize = 5;
/// Requests in an interval that an endpoint needs for its success rate to be judged, as in Envoy.
const MIN_REQUESTS: u64 = 100;

/// The outcome of an attempt, as far as the endpoint is responsible for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptVerdict {
    /// A response with a status below 500.
    Ok,
    /// A response with a status of 500 or above, other than 502, 503 and 504.
    ServerError,
    /// A gateway failure: no connection, a reset, a timeout, or status 502, 503 or 504.
    Gateway,
}

/// A worker's report of an endpoint whose failures in a row have reached a threshold.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// The endpoint, which has [`flag::SUSPECT`] raised.
    pub endpoint: Arc<Endpoint>,
    /// The reason why the endpoint counts as an outlier.
    pub reason: EjectionReason,
}

/// The workers' end of the channel to the control thread.
pub(crate) type Suspects = mpsc::UnboundedSender<Suspect>;

impl Endpoint {
    /// Records the outcome of an attempt by worker `worker`. Failures in a row are counted over all workers; while attempts
    /// succeed nothing shared is written.
    ///
    /// Returns `Some` once for a row that reaches its threshold. The endpoint then has [`flag::SUSPECT`] raised, and the
    /// caller must report it to the control thread, which lowers the flag again.
    #[inline]
    pub fn note_outcome(
        &self,
        worker: WorkerId,
        outcome: AttemptVerdict,
        terms: &policy::Outlier,
    ) -> Option<EjectionReason> {
        self.shards[worker.0].note(outcome != AttemptVerdict::Ok);
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

    /// Resets the counts of failures in a row.
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
        // In panic an ejected endpoint gets requests again, and their failures are no news.
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

/// The outcomes of one endpoint since it was created, for [`Judge::sweep`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptCounts {
    /// The endpoint's slot.
    pub slot: usize,
    /// Attempts that succeeded.
    pub answered: u64,
    /// Attempts that failed.
    pub failed: u64,
}

/// The decision about a detected outlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The endpoint's slot.
    pub slot: usize,
    /// Why it was detected.
    pub reason: EjectionReason,
    /// Duration of the ejection; `None` if there is none, because `max_ejected` is reached or it is the last endpoint.
    pub out_for: Option<Duration>,
}

/// The ejections of one pool. Endpoints are identified by their slots.
///
/// It decides and remembers; the health monitor, which owns one per pool, sets the flags accordingly. At no time are more ejected
/// than `max_ejected` allows, except between a reload and [`Self::keep`].
#[derive(Debug, Default)]
pub struct Judge {
    members: HashMap<usize, JudgedEndpoint>,
}

#[derive(Debug, Default)]
struct JudgedEndpoint {
    out: Option<EjectionState>,
    /// Multiplier of the duration: increased by each ejection, decreased by each interval without one.
    row: u32,
    /// Whether the endpoint has not been ejected at any time since the last sweep.
    clean: bool,
    /// Requests of the endpoint at the last sweep: answered, and failed.
    last: Option<(u64, u64)>,
}

#[derive(Debug)]
struct EjectionState {
    since: Instant,
    until: Instant,
    reason: EjectionReason,
}

impl Judge {
    /// Sets the members of the pool after a reload. Members that stay keep their state. If more are ejected than a smaller
    /// pool allows, those with the earliest end are readmitted, and their slots returned.
    pub fn keep(&mut self, slots: &[usize], max_ejected: u32) -> Vec<usize> {
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

    /// Decides about an endpoint that was detected as an outlier. `absent` tells which endpoints get no traffic for other
    /// reasons (health, drain): the last one that gets any is never ejected. `None` if the endpoint is unknown or ejected
    /// already.
    pub fn suspect(
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

    /// Ends an interval: ejects outliers by success rate, the worst first, and reduces the multiplier of endpoints that were
    /// not ejected in it.
    pub fn sweep(
        &mut self,
        totals: &[AttemptCounts],
        terms: &policy::Outlier,
        now: Instant,
        absent: &dyn Fn(usize) -> bool,
    ) -> Vec<Decision> {
        let rates = self.rates(totals);
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

    /// The success rates in the interval, of endpoints that had enough requests and aren't ejected. Starts the next interval.
    fn rates(&mut self, totals: &[AttemptCounts]) -> Vec<(f64, usize)> {
        let rate = |counts: &AttemptCounts| {
            let member = self.members.get_mut(&counts.slot)?;
            let (answered, failed) = member.last.replace((counts.answered, counts.failed))?;
            let answered = counts.answered.saturating_sub(answered);
            let all = answered + counts.failed.saturating_sub(failed);
            let judged = member.out.is_none() && all >= MIN_REQUESTS;
            judged.then(|| (answered as f64 / all as f64, counts.slot))
        };
        totals.iter().filter_map(rate).collect()
    }

    /// Readmits the endpoints whose ejection has ended, and returns their slots.
    pub fn readmit(&mut self, now: Instant) -> Vec<usize> {
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

    /// Records that a health check which began at `began` has passed. Returns whether this ends an ejection: it does so only
    /// after gateway failures, which a check would notice as well, and only if the check began after the ejection.
    pub fn passed(&mut self, slot: usize, began: Instant) -> bool {
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

    /// When the next ejection ends.
    pub fn next_due(&self) -> Option<Instant> {
        let outs = self.members.values().filter_map(|m| m.out.as_ref());
        outs.map(|out| out.until).min()
    }

    /// The time until which an endpoint is ejected; `None` if it isn't.
    #[cfg(test)]
    pub(crate) fn out_until(&self, slot: usize) -> Option<Instant> {
        Some(self.members.get(&slot)?.out.as_ref()?.until)
    }

    /// How many endpoints are ejected.
    pub(crate) fn out(&self) -> usize {
        self.members.values().filter(|m| m.out.is_some()).count()
    }

    /// How many endpoints may be ejected at a time: the share, rounded down, but at least one unless the share is 0, and never
    /// all of them.
    fn most(&self, max_ejected: u32) -> usize {
        if max_ejected == 0 {
            return 0;
        }
        let n = self.members.len();
        let share = n * max_ejected as usize / 1000;
        share.max(1).min(n.saturating_sub(1))
    }
}

/// The slots whose rates are more than `stdev` standard deviations below the mean, the worst first. 0 turns this off.
fn outliers(mut rates: Vec<(f64, usize)>, stdev: f64) -> Vec<usize> {
    if stdev <= 0.0 || rates.len() < MIN_ENDPOINTS {
        return Vec::new();
    }
    let n = rates.len() as f64;
    let mean = rates.iter().map(|(r, _)| r).sum::<f64>() / n;
    let variance = rates.iter().map(|(r, _)| (r - mean).powi(2)).sum::<f64>() / n;
    // Without the minimum, equal rates could lie below their own mean by a rounding error.
    let bound = mean - (stdev * variance.sqrt()).max(1e-9);
    rates.retain(|(rate, _)| *rate < bound);
    rates.sort_by(|a, b| a.0.total_cmp(&b.0));
    rates.into_iter().map(|(_, slot)| slot).collect()
}

#[cfg(test)]
#[path = "outlier_tests.rs"]
mod tests;
