//! One try on one endpoint: get a connection, run the exchange on it, return the connection.
//!
//! An idle HTTP/1 connection may be closed by its peer at any moment, also while a request is being
//! sent on it (RFC 9112 §9.3.1). Such a request is repeated on a new connection if the endpoint
//! can't have processed it, or if its method is idempotent. That isn't a failure of the endpoint.

use std::sync::Arc;

use super::active::{Active, OpenConnection};
use super::body::Upload;
use super::context::RequestContext;
use super::error::{AttemptError, ExchangeError};
use super::exchange::{AnswerParts, Answered, FinalHead, Remainder};
use super::h1_up::H1Up;
use super::h2_up::H2Up;
use super::headers::{Fields, RequestEdits};
use super::outcome::{Served, Tried, TryError};
use super::retry::Next;
use super::tries::Tries;
use super::websocket::is_websocket;
use super::wire::{Downstream, Upstream, WireError};
use super::{edit, exchange, tunnel};
use crate::config::spec::Scheme;
use crate::index::VersionIx;
use crate::net::Stream;
use crate::telemetry::record::RetryReason;
use crate::upstream::conns::Kept;
use crate::upstream::h2_conns::Lease;
use crate::upstream::limits::{ActiveGuard, ConnectionSlot, anybody_waits};
use crate::upstream::{Endpoint, TransportId};

/// The outcome of an exchange on one connection.
struct ConnectionOutcome {
    result: Result<Tried<Remainder>, TryError>,
    /// Set if a reused connection was closed before a response began, and the body can be sent
    /// again.
    stale: Option<Stale>,
}

/// The state of a request whose reused connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stale {
    /// The endpoint has not processed it.
    Unsent,
    /// The endpoint may have processed it.
    MayBeSent,
}

impl From<ExchangeError> for ConnectionOutcome {
    fn from(error: ExchangeError) -> Self {
        Self {
            result: Err(error.into()),
            stale: None,
        }
    }
}

impl<F: Fields> RequestContext<'_, F> {
    /// How many bytes of the body to keep for another try; 0 if there can't be one. A request that
    /// isn't idempotent may still be repeated if an HTTP/2 endpoint refuses its stream, which
    /// guarantees that it wasn't processed (RFC 9113 §8.7).
    pub(crate) fn kept_bytes(&self, version: VersionIx) -> usize {
        if !self.request.framing.has_body() {
            return 0;
        }
        let retry = &self.service.policies.retry;
        let members = &self.service.versions[version].pool.members;
        let refusable = || {
            members
                .iter()
                .any(|m| m.endpoint.spec.scheme != Scheme::Http)
        };
        let repeatable = retry.all_methods || self.request.method.is_idempotent();
        if repeatable || refusable() {
            retry.body_bytes
        } else {
            0
        }
    }
}

impl<'a, F: Fields> Tries<'a, '_, F> {
    /// One try on the picked endpoint, which occupies `slot` until the upstream's part is done.
    ///
    /// If a reused connection was closed, the request is repeated once on a new one. A repetition
    /// of a request that may have been processed counts as a try, and prefers another endpoint.
    pub(super) async fn attempt<D: Downstream>(
        &mut self,
        slot: ActiveGuard<'a>,
        upload: &mut Upload,
        down: &mut D,
    ) -> Result<Tried<Remainder>, TryError> {
        let endpoint = &self.version().pool.members[self.member].endpoint;
        let mut active = Active::enter(endpoint, self.cx.watch, slot);
        let first = self.exchange(&mut active, upload, down).await;
        let Some(stale) = first.stale else {
            return first.result;
        };
        if stale == Stale::MayBeSent && !self.may_repeat() {
            return first.result;
        }
        self.only_fresh = true;
        self.recording.retried(RetryReason::Stale);
        if stale == Stale::MayBeSent {
            if self.has_untried() {
                return Err(TryError::Stale);
            }
            self.count_try();
        }
        upload.rewind();
        self.exchange(&mut active, upload, down).await.result
    }

    /// One exchange, on an idle connection if there is one and none has turned out to be stale.
    async fn exchange<D: Downstream>(
        &mut self,
        active: &mut Active<'a>,
        upload: &mut Upload,
        down: &mut D,
    ) -> ConnectionOutcome {
        let cx = self.cx;
        let endpoint = active.endpoint;
        let edits = edit::of_request(cx.rewritten.as_deref(), self.recording);
        let edits = edits.as_deref();
        // An upgrade needs HTTP/1. A proxy may ignore one (RFC 9110 §7.8), and over HTTP/2 other
        // protocols are ignored, but a WebSocket client can't use anything but a tunnel. It may be
        // one over HTTP/2 if the endpoint accepts extended CONNECT.
        let needs_http1 = cx.request.upgrade.is_some_and(is_websocket);
        if needs_http1 {
            // Boxed because it is rare: inline, its state would enlarge every request's future.
            let leasing = Box::pin(self.lease_tunnel(endpoint, down));
            if let Some(leased) = leasing.await {
                return self.over_h2(active, leased, edits, upload, down).await;
            }
        }
        // A connection that begins with a header about its client is never shared, as HTTP/2 connections are.
        let is_exclusive = endpoint.version.transport.id().is_exclusive();
        let needs_http1 = needs_http1 || is_exclusive;
        if !needs_http1 && cx.worker.h2_conns.speaks_h2(endpoint) {
            let leased = self.lease(endpoint, down).await;
            return self.over_h2(active, leased, edits, upload, down).await;
        }
        if !self.only_fresh
            && let Some(kept) = self.take_idle(endpoint)
        {
            return self.over_h1(active, kept, edits, upload, down).await;
        }
        // Boxed because its state, with that of a TLS handshake, is more than twice the size of all
        // others together, and most requests use a kept connection.
        let connecting = Box::pin(self.connect(endpoint, needs_http1, down));
        let (slot, opened) = match connecting.await {
            Ok(connected) => connected,
            Err(error) => return error.into(),
        };
        if opened.h2 {
            let idle = cx.service.timeouts.idle;
            let conns = &cx.worker.h2_conns;
            let lease = conns.adopt(endpoint, opened, slot, idle);
            return self.over_h2(active, Ok(lease), edits, upload, down).await;
        }
        self.shard(endpoint).connections(1);
        let kept = Kept::new(opened, slot);
        self.over_h1(active, kept, edits, upload, down).await
    }

    async fn over_h1<D: Downstream>(
        &mut self,
        active: &mut Active<'a>,
        kept: Kept,
        edits: Option<&RequestEdits<'_>>,
        upload: &mut Upload,
        down: &mut D,
    ) -> ConnectionOutcome {
        let (worker, endpoint) = (self.cx.worker, active.endpoint);
        let Kept {
            stream,
            slot,
            used,
            transport,
            bulk,
        } = kept;
        let open = OpenConnection::of(self.shard(endpoint));
        let mut up = H1Up::new(stream, worker, endpoint, bulk);
        let result = self
            .run_exchange(active, edits, upload, down, &mut up)
            .await;
        let stale = (used > 0)
            .then(|| self.stale(&result, upload, &up))
            .flatten();
        let result = self.close_h1(endpoint, up, result, (slot, used, transport, open));
        ConnectionOutcome { result, stale }
    }

    /// Ends an exchange over HTTP/1, and keeps the connection if it may carry another request.
    #[inline]
    pub(super) fn close_h1(
        &self,
        endpoint: &'a Arc<Endpoint>,
        up: H1Up<'a>,
        result: Result<Tried<()>, TryError>,
        (slot, used, transport, mut open): (ConnectionSlot, u32, TransportId, OpenConnection<'a>),
    ) -> Result<Tried<Remainder>, TryError> {
        let worker = self.cx.worker;
        let bulk = up.bulk();
        let (result, stream) = self.end_h1(up, result);
        if let Some(stream) = stream
            && !transport.is_exclusive()
            && self.may_reuse(endpoint, used)
        {
            open.is_kept = true;
            let idle_ms = self.cx.service.timeouts.idle.as_millis() as u64;
            let kept = Kept {
                stream,
                slot,
                used: used + 1,
                transport,
                bulk,
            };
            worker
                .conns
                .give(endpoint, kept, worker.controls.now_ms(), idle_ms);
        }
        result
    }

    /// Takes an HTTP/1 exchange apart: what is left of the response, and the stream if it is at a
    /// message boundary and may carry another request. After an error it never is.
    #[inline]
    fn end_h1(
        &self,
        up: H1Up<'a>,
        result: Result<Tried<()>, TryError>,
    ) -> (Result<Tried<Remainder>, TryError>, Option<Stream>) {
        let (head, stream, result) = match result {
            Ok(Tried::Arrived(arrived, ())) => {
                let (head, stream, remainder) = up.part();
                (head, stream, Ok(Tried::Arrived(arrived, remainder)))
            }
            Ok(Tried::Served(served)) => {
                let (head, stream) = up.finish();
                (head, stream, Ok(Tried::Served(served)))
            }
            Err(error) => (up.finish().0, None, Err(error)),
        };
        self.cx.worker.give_head(head);
        (result, stream)
    }

    /// Whether a connection that has carried `used` requests before this one is kept for the next one.
    #[inline]
    fn may_reuse(&self, endpoint: &Endpoint, used: u32) -> bool {
        let max_requests = self.cx.service.policies.limits.requests_per_connection;
        if max_requests > 0 && used + 1 >= max_requests {
            return false;
        }
        // Requests that wait for a connection slot may belong to other workers, which can't use
        // this connection: closing it frees a slot for them. The process-wide flag is checked
        // first, because it is nearly always clear and spares a cache miss on the version's count.
        !anybody_waits() || endpoint.version.connections.waiting() == 0
    }

    async fn over_h2<D: Downstream>(
        &mut self,
        active: &mut Active<'a>,
        leased: Result<Lease, ExchangeError>,
        edits: Option<&RequestEdits<'_>>,
        upload: &mut Upload,
        down: &mut D,
    ) -> ConnectionOutcome {
        let prepared = leased.and_then(|lease| {
            H2Up::new(lease, active.endpoint, self.cx.request, edits)
                .map_err(ExchangeError::Malformed)
        });
        let mut up = match prepared {
            Ok(up) => up,
            Err(error) => return error.into(),
        };
        let result = self
            .run_exchange(active, edits, upload, down, &mut up)
            .await;
        if let Err(TryError::Failed(AttemptError {
            error: ExchangeError::FirstByteTimeout,
            ..
        })) = &result
        {
            // The peer may be gone without a FIN, in which case every other request on this
            // connection would time out too. If it is only slow, the cost is one new connection.
            up.retire();
        }
        let stale = match &result {
            Err(TryError::Failed(failed)) if up.was_refused() => {
                (!failed.answered && upload.can_rewind()).then_some(Stale::Unsent)
            }
            _ if up.was_used() => self.stale(&result, upload, &up),
            _ => None,
        };
        let result = result.map(|tried| {
            tried.with_remainder(|| {
                up.release_memory();
                Remainder::H2(Box::new(up))
            })
        });
        ConnectionOutcome { result, stale }
    }

    /// Runs the exchange on an open connection: sends the request, waits for the final head,
    /// decides whether the response is used, and relays it.
    async fn run_exchange<D: Downstream, U: Upstream>(
        &mut self,
        active: &mut Active<'a>,
        edits: Option<&RequestEdits<'_>>,
        upload: &mut Upload,
        down: &mut D,
        up: &mut U,
    ) -> Result<Tried<()>, TryError> {
        let head = exchange::ask(self.cx, self.first_byte(), edits, upload, down, up).await?;
        self.relay(head, active, upload, down, up).await
    }

    /// Decides whether the response whose head has arrived is used, and relays it.
    pub(super) async fn relay<D: Downstream, U: Upstream>(
        &mut self,
        head: FinalHead,
        active: &mut Active<'a>,
        upload: &mut Upload,
        down: &mut D,
        up: &mut U,
    ) -> Result<Tried<()>, TryError> {
        self.recording.head_arrived(head.status);
        if head.status == 101 {
            self.recording.response_waits();
            // Boxed because it is rare: inline, its state would enlarge every request's future.
            let tunnel = tunnel::run(self.cx, active, self.recording, down, up);
            let served = Box::pin(tunnel).await?;
            self.recording.end_try(head.status, None);
            return Ok(Tried::Served(served));
        }
        let next = self.after_head(head.status, upload.can_rewind());
        if next != Next::Nothing {
            return Err(TryError::Superseded(next));
        }
        self.decide_race();
        let cookie = self.cookie(head.status);
        let parts = AnswerParts {
            active,
            recording: self.recording,
            upload,
        };
        let answered = exchange::answer(self.cx, head, cookie.as_deref(), parts, down, up)
            .await
            .map_err(TryError::Failed)?;
        match answered {
            Answered::Whole(grpc_status) => {
                self.recording.end_try(head.status, grpc_status);
                Ok(Tried::Served(Served::Answered))
            }
            Answered::Arrived(arrived) => Ok(Tried::Arrived(arrived, ())),
        }
    }

    /// Whether the connection ended before the first byte of a response, and the request can be
    /// sent again. Only meaningful for a reused connection.
    fn stale(
        &self,
        result: &Result<Tried<()>, TryError>,
        upload: &Upload,
        up: &impl Upstream,
    ) -> Option<Stale> {
        let Err(TryError::Failed(failed)) = result else {
            return None;
        };
        let ended = matches!(
            failed.error,
            ExchangeError::Upstream(WireError::Cut | WireError::Io(_))
        );
        let can_repeat = ended && !failed.answered && !up.has_begun() && upload.can_rewind();
        can_repeat.then(|| match up.may_have_sent() {
            true => Stale::MayBeSent,
            false => Stale::Unsent,
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::http1::Method;

    #[test]
    fn methods_that_may_be_sent_twice() {
        assert!(Method::Put.is_idempotent() && !Method::Post.is_idempotent());
    }
}
