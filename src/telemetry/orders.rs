//! Counts orders of certificates. They are placed by one thread of the process.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::words::OrderOutcome;

static ORDERS: [AtomicU64; OrderOutcome::COUNT] =
    [const { AtomicU64::new(0) }; OrderOutcome::COUNT];

/// Counts an order that has ended.
pub fn count_order(outcome: OrderOutcome) {
    ORDERS[outcome.index()].fetch_add(1, Relaxed);
}

/// Number of orders that have ended with this outcome.
pub(crate) fn orders(outcome: OrderOutcome) -> u64 {
    ORDERS[outcome.index()].load(Relaxed)
}
