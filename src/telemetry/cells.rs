//! The counters and gauges that shards are made of.
//!
//! All of them but [`SharedCounter`] have a single writer, the worker that owns the shard, so an increment is a relaxed
//! load and a relaxed store instead of a locked read-modify-write. Any thread may read; relaxed atomics suffice because
//! each value stands alone and no reader relies on the order of two of them.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use crate::http1::Method;
use crate::prefetch::prefetch;
use crate::reason::Reason;

/// Part of a shard that is summed over all shards when it is read.
pub(super) trait Cell {
    /// The sum over all shards.
    type Total;

    /// Adds the current value to `total`.
    fn add_to(&self, total: &mut Self::Total);
}

/// A counter with a single writer.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`. Only the thread that owns the shard may call this: two writers would lose increments.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Returns the current value; may be called from any thread.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Cell for Counter {
    type Total = u64;

    fn add_to(&self, total: &mut u64) {
        *total += self.get();
    }
}

impl<const N: usize> Cell for [Counter; N] {
    type Total = [u64; N];

    fn add_to(&self, total: &mut [u64; N]) {
        for (total, counter) in total.iter_mut().zip(self) {
            *total += counter.get();
        }
    }
}

/// One shard's part of a gauge, with a single writer.
///
/// A part may be negative: one worker may close what another has opened. Only the sum over all shards is meaningful.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `by`. Only the thread that owns the shard may call this.
    #[inline]
    pub(crate) fn add(&self, by: i64) {
        self.0.store(self.0.load(Relaxed) + by, Relaxed);
    }

    /// Returns the current value; may be called from any thread.
    pub(crate) fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

impl Cell for Gauge {
    type Total = i64;

    fn add_to(&self, total: &mut i64) {
        *total += self.get();
    }
}

/// A counter that any thread may increment, with an atomic addition. For rare events.
#[derive(Debug, Default)]
pub(super) struct SharedCounter(AtomicU64);

impl SharedCounter {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
}

impl Cell for SharedCounter {
    type Total = u64;

    fn add_to(&self, total: &mut u64) {
        *total += self.0.load(Relaxed);
    }
}

/// Counters by status code, 100 to 599.
///
/// The hundred counters of a class (`2xx`) are allocated when its first status occurs: an unused class costs one
/// pointer, and nothing is allocated on the request path once each class in use has occurred. The status of nearly every
/// response is counted without them: a service that isn't used often has none of its memory in the CPU's caches.
#[derive(Debug, Default)]
pub(super) struct StatusCounters {
    /// Those with status 200, for which the class has no count.
    ok: Counter,
    classes: [OnceLock<Box<[Counter; 100]>>; 5],
}

impl StatusCounters {
    /// Asks the CPU for what is written for nearly every status.
    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch(&self.ok);
    }

    /// Counts `status`; one outside 100 to 599 counts as 502.
    #[inline]
    pub(super) fn add(&self, status: u16) {
        match status {
            200 => self.ok.add(1),
            _ => self.add_other(status),
        }
    }

    fn add_other(&self, status: u16) {
        let status = if matches!(status, 100..=599) {
            status
        } else {
            502
        };
        let (class, rest) = (usize::from(status / 100) - 1, usize::from(status % 100));
        let row = self.classes[class].get_or_init(|| Box::new([const { Counter::new() }; 100]));
        row[rest].add(1);
    }

    /// Returns the count of all server errors (5xx).
    pub(super) fn server_errors(&self) -> u64 {
        let counters = self.classes[4].get().into_iter().flat_map(|row| row.iter());
        counters.map(Counter::get).sum()
    }

    /// Calls `visit` with each status that has occurred, and its count.
    fn for_each(&self, mut visit: impl FnMut(u16, u64)) {
        if self.ok.get() > 0 {
            visit(200, self.ok.get());
        }
        for (class, row) in (1u16..).zip(&self.classes) {
            for (rest, counter) in (0u16..).zip(row.get().into_iter().flat_map(|r| r.iter())) {
                if counter.get() > 0 {
                    visit(class * 100 + rest, counter.get());
                }
            }
        }
    }
}

impl Cell for StatusCounters {
    type Total = BTreeMap<u16, u64>;

    fn add_to(&self, total: &mut Self::Total) {
        self.for_each(|status, n| *total.entry(status).or_default() += n);
    }
}

/// Counters by method and status code.
#[derive(Debug, Default)]
pub(super) struct MethodCounters([StatusCounters; Method::ALL.len()]);

impl MethodCounters {
    /// As [`StatusCounters::prefetch`], for a method.
    #[inline]
    pub(super) fn prefetch(&self, method: Method) {
        self.0[method as usize].prefetch();
    }

    /// Counts `status` for `method`; one outside 100 to 599 counts as 502.
    #[inline]
    pub(super) fn add(&self, method: Method, status: u16) {
        self.0[method as usize].add(status);
    }

    /// Returns the count of all server errors (5xx).
    pub(super) fn server_errors(&self) -> u64 {
        self.0.iter().map(StatusCounters::server_errors).sum()
    }
}

impl Cell for MethodCounters {
    type Total = BTreeMap<(&'static str, u16), u64>;

    fn add_to(&self, total: &mut Self::Total) {
        for (method, statuses) in Method::ALL.iter().zip(&self.0) {
            let label = method.as_label();
            statuses.for_each(|status, n| *total.entry((label, status)).or_default() += n);
        }
    }
}

/// Counters by [`Reason`], allocated when the first reason occurs: most subjects never see one.
#[derive(Debug, Default)]
pub(super) struct ReasonCounters(OnceLock<Box<[Counter; Reason::COUNT]>>);

impl ReasonCounters {
    pub(super) fn add(&self, reason: Reason) {
        let counters = self
            .0
            .get_or_init(|| Box::new([const { Counter::new() }; Reason::COUNT]));
        counters[reason.index()].add(1);
    }
}

/// Counts by the word of a [`Reason`]; only reasons that have occurred.
pub(crate) type ReasonTotals = BTreeMap<&'static str, u64>;

impl Cell for ReasonCounters {
    type Total = ReasonTotals;

    fn add_to(&self, total: &mut ReasonTotals) {
        let Some(counters) = self.0.get() else {
            return;
        };
        for (reason, counter) in Reason::ALL.iter().zip(&**counters) {
            if counter.get() > 0 {
                *total.entry(reason.as_str()).or_default() += counter.get();
            }
        }
    }
}
