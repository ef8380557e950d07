//! Acquires a connection or an HTTP/2 stream to an endpoint: an idle one, a new one, or one that
//! becomes free within the limits. Every wait ends early if the client goes away, the deadline
//! passes or the process shuts down.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::connect_pacing::Applicant;
use super::context::{HALF_CLOSED, RequestContext};
use super::error::ExchangeError;
use super::h2::wire_error;
use super::headers::Fields;
use super::tries::Tries;
use super::wire::{Downstream, Gone};
use crate::net::clock::TICK;
use crate::telemetry::VersionShard;
use crate::upstream::connect::OpenedConnection;
use crate::upstream::conns::{Kept, is_quiet_now};
use crate::upstream::h2_conns::Lease;
use crate::upstream::h2_open::{LeaseError, OpenLimits};
use crate::upstream::limits::{ConnectionSlot, Limit};
use crate::upstream::{ConnectError, Endpoint, connect};

/// Added to the deadline of a wait that has its own timeout inside, so that the inner timeout, whose
/// error is more specific, fires first.
const DEADLINE_SLACK: Duration = Duration::from_millis(250);

/// Counts a request in `queue_depth` until it is dropped.
pub(super) struct Queued<'a>(&'a VersionShard);

impl<'a> Queued<'a> {
    pub(super) fn enter(shard: &'a VersionShard) -> Self {
        shard.queued(1);
        Self(shard)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.queued(-1);
    }
}

impl<F: Fields> RequestContext<'_, F> {
    /// Drives `poll` until it is ready, the client goes away, or `longest` or `timeouts.total`
    /// passes, in which case the error is `on_timeout`.
    ///
    /// Cancelling drops whatever `poll` borrows; a connection attempt in progress is aborted.
    pub(super) async fn while_wanted<D: Downstream, T>(
        &self,
        down: &mut D,
        longest: Duration,
        on_timeout: fn() -> ExchangeError,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<Result<T, ExchangeError>>,
    ) -> Result<T, ExchangeError> {
        let left = self.total_left().filter(|left| *left < longest);
        self.watch.arm(left.unwrap_or(longest));
        let mut half_closed = false;
        poll_fn(|cx| {
            if let Poll::Ready(done) = poll(cx) {
                return Poll::Ready(done);
            }
            match down.poll_gone(cx) {
                Poll::Ready(Gone::Left) => {
                    return Poll::Ready(Err(ExchangeError::ClientGone(None)));
                }
                Poll::Ready(Gone::HalfClosed) if !half_closed => {
                    half_closed = true;
                    self.watch.arm(HALF_CLOSED);
                }
                _ => {}
            }
            match self.watch.expired(cx) {
                false => Poll::Pending,
                true if self.watch.is_shut() => Poll::Ready(Err(ExchangeError::Shutdown)),
                true if half_closed => Poll::Ready(Err(ExchangeError::ClientGone(None))),
                true => Poll::Ready(Err(on_timeout())),
            }
        })
        .await
    }

    /// Takes a slot under `limits.connections`, waiting if the version has none left.
    async fn slot(&self, endpoint: &Endpoint) -> Result<ConnectionSlot, ExchangeError> {
        let limits = &self.service.policies.limits;
        let slots = &endpoint.version.connections;
        let acquire =
            |wait| slots.acquire(limits.connections, limits.pending, Instant::now() + wait);
        let first_byte = self.service.timeouts.first_byte;
        // Workers close idle connections for waiting requests at their next tick, which is tried
        // before a client is cut off.
        let soon = (2 * TICK).min(first_byte);
        let slot = match acquire(soon).await {
            Err(Limit::Connections) => {
                // All connections are busy. One that waits for a slow client is the cheapest to
                // give up, on this worker or, by request, on another one.
                let (worker, load) = (self.worker, &endpoint.version);
                let shed = worker
                    .downloads
                    .shed_slowest(load, worker.controls.now_ms(), true);
                // Withdrawn when this wait ends, with a slot or without.
                let _wish = (!shed).then(|| load.ask_for_room());
                acquire(first_byte - soon).await
            }
            other => other,
        };
        slot.map_err(ExchangeError::Limit)
    }

    /// Waits until a connection may be opened: until the version's limits allow it, and then for the worker's turn.
    async fn may_connect(
        &self,
        endpoint: &Endpoint,
        applicant: Applicant,
    ) -> Result<ConnectionSlot, ExchangeError> {
        let slot = self.slot(endpoint).await?;
        self.worker.connects.turn(applicant).await;
        Ok(slot)
    }
}

impl<'a, F: Fields> Tries<'a, '_, F> {
    /// This worker's metrics of the endpoint's version.
    pub(super) fn shard(&self, endpoint: &'a Endpoint) -> &'a VersionShard {
        endpoint.metrics.shard(self.cx.worker.id)
    }

    /// Opens a connection once the version's limits allow it. The wait for a slot is recorded as
    /// queueing, the rest as connect time.
    pub(super) async fn connect<D: Downstream>(
        &mut self,
        endpoint: &'a Arc<Endpoint>,
        needs_http1: bool,
        down: &mut D,
    ) -> Result<(ConnectionSlot, OpenedConnection), ExchangeError> {
        let cx = self.cx;
        let timeouts = &cx.service.timeouts;
        let _queued = Queued::enter(self.shard(endpoint));
        let asked = Instant::now();
        let applicant = match down.has_completed_a_response() {
            true => Applicant::Known,
            false => Applicant::New,
        };
        let mut waiting = pin!(cx.may_connect(endpoint, applicant));
        let on_timeout = || ExchangeError::QueueTimeout;
        let longest = timeouts.first_byte + DEADLINE_SLACK;
        let slot = cx
            .while_wanted(down, longest, on_timeout, |task| {
                waiting.as_mut().poll(task)
            })
            .await;
        let began = Instant::now();
        self.recording.add_queued(began.duration_since(asked));
        let slot = slot?;
        let limit = timeouts.connect;
        let source = cx.request.proxy_source();
        let mut opening = pin!(async {
            let opened = connect::open_for(endpoint, limit, needs_http1, &source).await;
            opened.map_err(ExchangeError::Connect)
        });
        let on_timeout = || ExchangeError::Connect(ConnectError::Timeout);
        let longest = limit + DEADLINE_SLACK;
        let opened = cx
            .while_wanted(down, longest, on_timeout, |task| {
                opening.as_mut().poll(task)
            })
            .await;
        self.recording.add_connect(began.elapsed());
        Ok((slot, opened?))
    }

    /// Takes an idle connection. For a request that isn't idempotent, and so can't be repeated if the
    /// connection turns out to be closed, the socket is checked for EOF first.
    pub(super) fn take_idle(&self, endpoint: &'a Endpoint) -> Option<Kept> {
        loop {
            let kept = self.cx.worker.conns.take(endpoint)?;
            if self.cx.request.method.is_idempotent() || is_quiet_now(&kept.stream) {
                return Some(kept);
            }
            self.shard(endpoint).connections(-1);
        }
    }

    /// Acquires a stream on an HTTP/2 connection, which is opened if necessary.
    pub(super) async fn lease<D: Downstream>(
        &mut self,
        endpoint: &'a Arc<Endpoint>,
        down: &mut D,
    ) -> Result<Lease, ExchangeError> {
        let cx = self.cx;
        let _queued = Queued::enter(self.shard(endpoint));
        let timeouts = &cx.service.timeouts;
        let limits = &cx.service.policies.limits;
        let opening = OpenLimits {
            connect: timeouts.connect,
            idle: timeouts.idle,
            connections: limits.connections,
            pending: limits.pending,
            wait: timeouts.first_byte,
        };
        let asked = Instant::now();
        let mut leasing = cx.worker.h2_conns.lease(endpoint, opening);
        let failed = |error| match error {
            LeaseError::Connect(e) => ExchangeError::Connect(e),
            LeaseError::Limit(limit) => ExchangeError::Limit(limit),
        };
        let on_timeout = || ExchangeError::QueueTimeout;
        let longest = timeouts.connect + timeouts.first_byte + DEADLINE_SLACK;
        let leased = cx
            .while_wanted(down, longest, on_timeout, |task| {
                leasing.poll(task).map_err(failed)
            })
            .await;
        self.recording.add_queued(asked.elapsed());
        leased
    }

    /// Acquires a stream for a WebSocket on a connection to an endpoint that accepts extended CONNECT (RFC 8441). `None` if it
    /// has to go over HTTP/1: to an `https` endpoint without such a connection.
    pub(super) async fn lease_tunnel<D: Downstream>(
        &mut self,
        endpoint: &'a Arc<Endpoint>,
        down: &mut D,
    ) -> Option<Result<Lease, ExchangeError>> {
        let cx = self.cx;
        // Neither can a body precede the bytes of the tunnel on a stream, nor may a connection that begins with a header about
        // its client be shared.
        let is_possible =
            !cx.request.framing.has_body() && !endpoint.version.transport.id().is_exclusive();
        if !endpoint.is_h2c() {
            let lease = is_possible.then(|| cx.worker.h2_conns.take_for_tunnel(endpoint));
            return lease.flatten().map(Ok);
        }
        if !is_possible {
            return Some(Err(ExchangeError::NoUpgrade));
        }
        let lease = match self.lease(endpoint, down).await {
            Ok(lease) => lease,
            Err(error) => return Some(Err(error)),
        };
        // A new connection may not have the endpoint's settings yet.
        let on_timeout = || ExchangeError::FirstByteTimeout;
        let longest = cx.service.timeouts.first_byte;
        let allowed = cx.while_wanted(down, longest, on_timeout, |task| {
            let polled = lease.sender.poll_allows_connect(task);
            polled.map_err(|error| ExchangeError::Upstream(wire_error(error)))
        });
        Some(match allowed.await {
            Ok(true) => Ok(lease),
            Ok(false) => Err(ExchangeError::NoUpgrade),
            Err(error) => Err(error),
        })
    }
}
