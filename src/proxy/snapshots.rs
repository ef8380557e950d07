//! The snapshots that one request uses.

use std::cell::OnceCell;
use std::sync::Arc;

use super::worker::{SharedSnapshot, Worker};
use crate::snapshot::Snapshot;

/// The snapshot that a request began with and, after it has waited, later ones. All of them live until the request has ended,
/// because its record refers to them.
#[derive(Debug)]
pub struct RequestSnapshots {
    first: SharedSnapshot,
    later: OnceCell<Box<RequestSnapshots>>,
}

impl RequestSnapshots {
    /// This snapshot alone.
    pub(crate) fn only(first: SharedSnapshot) -> Self {
        Self {
            first,
            later: OnceCell::new(),
        }
    }

    /// The snapshot that the request began with, for a request that needs no other.
    pub(crate) fn into_first(self) -> SharedSnapshot {
        self.first
    }

    /// Begins with the current snapshot of the worker.
    #[inline]
    pub fn of(worker: &Worker) -> Self {
        Self::only(worker.snapshot())
    }

    /// The snapshot that the request began with.
    #[inline]
    pub(crate) fn first(&self) -> &Snapshot {
        &self.first
    }

    /// The current snapshot of the worker, which is kept from now on.
    pub(super) fn latest(&self, worker: &Worker) -> &Snapshot {
        let mut last = self;
        while let Some(later) = last.later.get() {
            last = later;
        }
        if !Arc::ptr_eq(&last.first, &worker.snapshot()) {
            last = last.later.get_or_init(|| Box::new(Self::of(worker)));
        }
        &last.first
    }
}
