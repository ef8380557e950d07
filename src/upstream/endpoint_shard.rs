//! The counters of one worker for one endpoint.

use std::sync::atomic::{AtomicU64, Ordering};

/// The outcomes that one worker saw. Only that worker writes it, so that no atomic read-modify-write is needed.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct EndpointShard {
    pub(super) answered: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Requests that the guard of a rollout judges, and those that failed.
    pub(super) judged: AtomicU64,
    pub(super) judged_failed: AtomicU64,
}

impl EndpointShard {
    /// Counts an attempt.
    #[inline]
    pub fn note(&self, failed: bool) {
        let cell = if failed { &self.failed } else { &self.answered };
        cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Counts a request that the guard of a rollout judges.
    #[inline]
    pub fn note_judged(&self, failed: bool) {
        let add = |cell: &AtomicU64| {
            cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        };
        add(&self.judged);
        if failed {
            add(&self.judged_failed);
        }
    }
}
