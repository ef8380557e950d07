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
use super::{ConnectionsState, Lease, MAX_CONNECTIONS, OpeningState};

/// The wait for a [`Lease`]. Dropping it leaves the queue; a wake-up that it has received goes to the next request.
#[derive(Debug)]
pub struct Leasing {
    inner: Rc<ConnectionsState>,
    endpoint: Arc<Endpoint>,
    opening: OpenLimits,
    ticket: Option<u64>,
    failures: u64,
    /// Counts the wait under the limit `pending`.
    pending: Option<Pending>,
    /// Ends the wait when its time limit passes.
    timeout: Option<Pin<Box<Sleep>>>,
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
            timeout: None,
        }
    }

    /// Ready with a lease, or with the reason why there will be none.
    ///
    /// While a connection is being established the request waits for the endpoint. Otherwise it waits for other requests to
    /// finish: such waits count under the limit `pending` and end after [`OpenLimits::wait`].
    ///
    /// # Errors
    /// No connection could be opened, or a limit refuses the request.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Lease, LeaseError>> {
        let inner = &self.inner;
        if let Some(lease) = inner.take(&self.endpoint, |_| true) {
            self.leave_queue();
            return Poll::Ready(Ok(lease));
        }
        let (failures, failure) = inner.entry(&self.endpoint, |entry| {
            (entry.failures, entry.failure.clone())
        });
        if self.ticket.is_some() && failures > self.failures {
            self.leave_queue();
            // The count and the failure are always set together; the alternative is never used.
            let unknown = LeaseError::Connect(ConnectError::Timeout);
            return Poll::Ready(Err(failure.map_or(unknown, OpenFailure::into_lease_error)));
        }
        if let Err(limit) = self.keep_waiting(cx) {
            self.leave_queue();
            return Poll::Ready(Err(LeaseError::Limit(limit)));
        }
        let inner = &self.inner;
        let ticket = *self.ticket.get_or_insert_with(|| {
            inner.tickets.set(inner.tickets.get() + 1);
            inner.tickets.get()
        });
        // The request doesn't count failures from before it queued up.
        self.failures = failures;
        let waker = cx.waker().clone();
        inner.entry(&self.endpoint, |entry| entry.waiting.insert(ticket, waker));
        Poll::Pending
    }

    /// Starts opening another connection if that is allowed, and checks the limits of the wait.
    fn keep_waiting(&mut self, cx: &mut Context<'_>) -> Result<(), Limit> {
        let (inner, opening) = (&self.inner, self.opening);
        let slots = &self.endpoint.version.connections;
        let may_open = inner.entry(&self.endpoint, |entry| {
            entry.opening == OpeningState::Nothing && entry.conns.len() < MAX_CONNECTIONS
        });
        let slot = match may_open {
            true => slots.try_acquire(opening.connections),
            false => None,
        };
        let is_connecting = slot.is_some()
            || inner.entry(&self.endpoint, |entry| {
                entry.opening == OpeningState::Connecting
            });
        if !is_connecting && self.pending.is_none() {
            let pending = slots.pend(opening.pending).ok_or(Limit::Pending)?;
            self.pending = Some(pending);
        }
        if may_open {
            inner.open(&self.endpoint, opening, slot);
        }
        let timeout = self
            .timeout
            .get_or_insert_with(|| Box::pin(sleep(opening.wait)));
        // While a connection is being established, `opening.connect` bounds the wait, and its success or failure wakes this
        // task.
        if is_connecting || timeout.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        let unconnected = inner.entry(&self.endpoint, |entry| entry.conns.is_empty());
        Err(if unconnected {
            Limit::Connections
        } else {
            Limit::Streams
        })
    }

    /// Removes the request from the queue, because a ticket left behind would swallow a wake-up. Returns `false` if it was
    /// removed already, which means that it has been woken.
    fn leave_queue(&mut self) -> bool {
        let Some(ticket) = self.ticket.take() else {
            return true;
        };
        match self
            .inner
            .by_endpoint
            .borrow_mut()
            .get_mut(self.endpoint.slot)
        {
            Some(Some(entry)) => entry.waiting.remove(&ticket).is_some(),
            _ => true,
        }
    }
}

impl Drop for Leasing {
    fn drop(&mut self) {
        let slot = self.endpoint.slot;
        if !self.leave_queue() {
            // This waiter was woken for a stream that it won't use: wake the next one.
            self.inner.wake_one(slot);
        }
    }
}
