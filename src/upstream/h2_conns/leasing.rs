//! The wait for a stream on one of a worker's HTTP/2 connections to an endpoint.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{Sleep, sleep};

use super::super::h2_open::{LeaseError, OpenFailure, OpenLimits};
use super::super::limits::{Limit, Pending};
use super::super::{ConnectError, Endpoint};
use super::{ConnectionsState, Lease, MOST, OpeningState};

/// A wait for a place.
#[derive(Debug)]
pub struct Leasing {
    inner: Rc<ConnectionsState>,
    endpoint: Arc<Endpoint>,
    opening: OpenLimits,
    ticket: Option<u64>,
    failures: u64,
    /// It counts under `pending`.
    pending: Option<Pending>,
    /// When the wait has lasted long enough.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Leasing {
    pub(super) fn new(
        inner: Rc<ConnectionsState>,
        endpoint: Arc<Endpoint>,
        opening: OpenLimits,
    ) -> Self {
        Self {
            inner,
            endpoint,
            opening,
            ticket: None,
            failures: 0,
            pending: None,
            patience: None,
        }
    }

    /// Ready with a place, or when there is none to be had.
    ///
    /// While a connection is being opened a request waits for the endpoint. Otherwise it waits for others to finish: such
    /// waits count under `pending` and end after [`OpenLimits::wait`].
    ///
    /// # Errors
    /// Why not.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Lease, LeaseError>> {
        let inner = &self.inner;
        if let Some(lease) = inner.take(&self.endpoint) {
            self.leave_line();
            return Poll::Ready(Ok(lease));
        }
        let (failures, failure) = inner.shelf(&self.endpoint, |shelf| {
            (shelf.failures, shelf.failure.clone())
        });
        if self.ticket.is_some() && failures > self.failures {
            self.leave_line();
            let untold = LeaseError::Connect(ConnectError::Timeout);
            return Poll::Ready(Err(failure.map_or(untold, OpenFailure::told)));
        }
        if let Err(limit) = self.wait_on(cx) {
            self.leave_line();
            return Poll::Ready(Err(LeaseError::Limit(limit)));
        }
        let inner = &self.inner;
        let ticket = *self.ticket.get_or_insert_with(|| {
            inner.tickets.set(inner.tickets.get() + 1);
            inner.tickets.get()
        });
        self.failures = failures;
        let waker = cx.waker().clone();
        inner.shelf(&self.endpoint, |shelf| shelf.waiting.insert(ticket, waker));
        Poll::Pending
    }

    /// Has another connection opened where that is allowed, and waits within the limits of the version.
    fn wait_on(&mut self, cx: &mut Context<'_>) -> Result<(), Limit> {
        let (inner, opening) = (&self.inner, self.opening);
        let slots = &self.endpoint.version.connections;
        let may_open = inner.shelf(&self.endpoint, |shelf| {
            shelf.opening == OpeningState::Nothing && shelf.conns.len() < MOST
        });
        let slot = match may_open {
            true => slots.try_acquire(opening.connections),
            false => None,
        };
        let dials = slot.is_some()
            || inner.shelf(&self.endpoint, |shelf| shelf.opening == OpeningState::Dials);
        if !dials && self.pending.is_none() {
            let pending = slots.pend(opening.pending).ok_or(Limit::Pending)?;
            self.pending = Some(pending);
        }
        if may_open {
            inner.open(&self.endpoint, opening, slot);
        }
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(sleep(opening.wait)));
        if dials || patience.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        let unconnected = inner.shelf(&self.endpoint, |shelf| shelf.conns.is_empty());
        Err(if unconnected {
            Limit::Connections
        } else {
            Limit::Streams
        })
    }

    /// Waits no more; whether it was still in line. A place in line that nobody stands on would swallow a wake-up.
    fn leave_line(&mut self) -> bool {
        let Some(ticket) = self.ticket.take() else {
            return true;
        };
        match self.inner.shelves.borrow_mut().get_mut(self.endpoint.slot) {
            Some(Some(shelf)) => shelf.waiting.remove(&ticket).is_some(),
            _ => true,
        }
    }
}

impl Drop for Leasing {
    fn drop(&mut self) {
        let slot = self.endpoint.slot;
        if !self.leave_line() {
            // It was woken for a place that it doesn't take: the next in line gets it.
            self.inner.wake_one(slot);
        }
    }
}
