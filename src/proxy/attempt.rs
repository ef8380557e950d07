//! One attempt on one endpoint: a connection, kept or opened, and an exchange on it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::Worker;
use super::active::Active;
use super::body::Upload;
use super::error::Broken;
use super::exchange::{self, Done, Failure, HALF_CLOSED, Reply, Terms};
use super::h1_up::H1Up;
use super::h2_up::H2Up;
use super::headers::{Fields, Request};
use super::wire::{Downstream, Gone, Upstream, WireError};
use crate::config::spec::Scheme;
use crate::net::Watch;
use crate::snapshot::Service;
use crate::telemetry::VersionShard;
use crate::upstream::connect::Opened;
use crate::upstream::conns::{Kept, is_quiet_now};
use crate::upstream::h2_conns::Lease;
use crate::upstream::h2_open::{LeaseError, Opening};
use crate::upstream::limits::{Limit, Slot, anybody_waits};
use crate::upstream::{ConnectError, Endpoint, connect};

/// One request with all that its attempts need.
#[derive(Debug)]
pub struct Call<'a, F> {
    /// Where it runs.
    pub worker: &'a Worker,
    /// Its task's deadline.
    pub watch: &'a Watch,
    /// When its head was read.
    pub started: Instant,
    /// The request.
    pub request: &'a Request<'a, F>,
    /// Its service.
    pub service: &'a Service,
    /// Longest silence of the client inside its body.
    pub body_timeout: Duration,
}

/// What became of an attempt, and whether another may follow.
struct Outcome {
    result: Result<Done, Failure>,
    /// The connection had ended before it could carry the request: another one costs nobody anything.
    stale: bool,
}

impl From<Broken> for Outcome {
    fn from(broken: Broken) -> Self {
        Self {
            result: Err(broken.into()),
            stale: false,
        }
    }
}

/// Whether a client can do nothing without the tunnel that it asks for; other wishes may be left unheard.
fn is_websocket(wish: &[u8]) -> bool {
    wish.trim_ascii().eq_ignore_ascii_case(b"websocket")
}

fn refused_by(limit: Limit, shard: &VersionShard) -> Broken {
    shard.limit_rejected(limit.index());
    Broken::Limit(limit.reason())
}

impl<F: Fields> Call<'_, F> {
    /// How much of the body has to be kept so that the request can be sent again: an HTTP/2 endpoint may refuse even one that isn't
    /// idempotent, and then has done nothing with it.
    pub fn kept_bytes(&self, version: usize) -> usize {
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

    /// One attempt on one endpoint. A stale connection doesn't count: a fresh one is opened.
    ///
    /// # Errors
    /// How it broke.
    pub async fn attempt<D: Downstream>(
        &self,
        endpoint: &Arc<Endpoint>,
        reply: &Reply<'_>,
        upload: &mut Upload,
        down: &mut D,
    ) -> Result<Done, Failure> {
        let shard = endpoint.metrics.shard(self.worker.id);
        let active = Active::enter(endpoint, self.watch);
        let first = self.ask(&active, shard, reply, upload, down, false).await;
        if !first.stale {
            return first.result;
        }
        shard.retry(RETRY_STALE);
        upload.rewind();
        self.ask(&active, shard, reply, upload, down, true)
            .await
            .result
    }

    /// One attempt on one endpoint, over an idle connection if there is one (and `fresh` doesn't forbid it).
    async fn ask<D: Downstream>(
        &self,
        active: &Active<'_>,
        shard: &VersionShard,
        reply: &Reply<'_>,
        upload: &mut Upload,
        down: &mut D,
        fresh: bool,
    ) -> Outcome {
        let endpoint = active.endpoint;
        let tunnels = self.request.upgrade.is_some_and(is_websocket);
        if tunnels && endpoint.is_h2c() {
            return Broken::NoUpgrade.into();
        }
        if !tunnels && self.worker.h2_conns.speaks_h2(endpoint) {
            let leased = self.lease(endpoint, shard, down).await;
            return self.over_h2(active, leased, reply, upload, down).await;
        }
        if !fresh && let Some(kept) = self.take_idle(endpoint) {
            return self.over_h1(active, kept, reply, upload, down).await;
        }
        let connected = {
            let _queued = Queued::enter(shard);
            let mut connecting = pin!(self.connect(endpoint, shard, tunnels));
            self.while_wanted(down, |cx| connecting.as_mut().poll(cx))
                .await
        };
        let (slot, opened) = match connected {
            Ok(connected) => connected,
            Err(broken) => return broken.into(),
        };
        match opened {
            opened if opened.h2 => {
                let idle = self.service.timeouts.idle;
                let conns = &self.worker.h2_conns;
                let leased = conns.adopt(endpoint, opened.stream, slot, idle).await;
                let leased = leased.map_err(|e| Broken::Connect(ConnectError::Io(e)));
                self.over_h2(active, leased, reply, upload, down).await
            }
            opened => {
                shard.connections(1);
                let kept = Kept {
                    stream: opened.stream,
                    slot,
                    used: 0,
                    bulk: 0,
                };
                self.over_h1(active, kept, reply, upload, down).await
            }
        }
    }

    /// A connection, once there is room for it.
    async fn connect(
        &self,
        endpoint: &Arc<Endpoint>,
        shard: &VersionShard,
        tunnels: bool,
    ) -> Result<(Slot, Opened), Broken> {
        let slot = self.slot(endpoint, shard).await?;
        let limit = self.service.timeouts.connect;
        let opened = if tunnels {
            connect::open_http1(endpoint, limit).await
        } else {
            connect::open(endpoint, limit).await
        };
        Ok((slot, opened.map_err(Broken::Connect)?))
    }

    /// Waits for a connection as long as the client does, and no longer than the exchange may last.
    async fn while_wanted<D: Downstream, T>(
        &self,
        down: &mut D,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<Result<T, Broken>>,
    ) -> Result<T, Broken> {
        let timeouts = &self.service.timeouts;
        let longest = timeouts.connect + timeouts.first_byte;
        let left = timeouts
            .total
            .map(|total| total.saturating_sub(self.started.elapsed()))
            .filter(|left| *left < longest);
        self.watch.arm(left.unwrap_or(longest));
        let mut half_closed = false;
        poll_fn(|cx| {
            if let Poll::Ready(done) = poll(cx) {
                return Poll::Ready(done);
            }
            match down.poll_gone(cx) {
                Poll::Ready(Gone::Left) => return Poll::Ready(Err(Broken::ClientGone)),
                Poll::Ready(Gone::HalfClosed) if !half_closed => {
                    half_closed = true;
                    self.watch.arm(HALF_CLOSED);
                }
                _ => {}
            }
            match self.watch.expired(cx) {
                false => Poll::Pending,
                true if self.watch.is_shut() => Poll::Ready(Err(Broken::Shut)),
                true if half_closed => Poll::Ready(Err(Broken::ClientGone)),
                true if left.is_some() => Poll::Ready(Err(Broken::Total)),
                true => Poll::Ready(Err(Broken::FirstByte)),
            }
        })
        .await
    }

    /// The right to open a connection, after a wait where the version has as many as it may have.
    async fn slot(&self, endpoint: &Endpoint, shard: &VersionShard) -> Result<Slot, Broken> {
        let limits = &self.service.policies.limits;
        let deadline = Instant::now() + self.service.timeouts.first_byte;
        let slots = &endpoint.version.connections;
        slots
            .acquire(limits.connections, limits.pending, deadline)
            .await
            .map_err(|limit| refused_by(limit, shard))
    }

    /// An idle connection; for a request that can't be sent twice one that is alive as far as the kernel knows.
    fn take_idle(&self, endpoint: &Endpoint) -> Option<Kept> {
        loop {
            let kept = self.worker.conns.take(endpoint)?;
            if self.request.method.is_idempotent() || is_quiet_now(&kept.stream) {
                return Some(kept);
            }
            endpoint.metrics.shard(self.worker.id).connections(-1);
        }
    }

    async fn over_h1<D: Downstream>(
        &self,
        active: &Active<'_>,
        kept: Kept,
        reply: &Reply<'_>,
        upload: &mut Upload,
        down: &mut D,
    ) -> Outcome {
        let (worker, endpoint) = (self.worker, active.endpoint);
        let Kept {
            stream,
            slot,
            used,
            bulk,
        } = kept;
        let open = Open {
            shard: endpoint.metrics.shard(worker.id),
            kept: std::cell::Cell::new(false),
        };
        let mut up = H1Up::new(
            stream,
            worker.buffers.clone(),
            worker.take_head(),
            endpoint.clone(),
            bulk,
        );
        let result = exchange::run(
            &self.terms(reply, active),
            self.request,
            upload,
            down,
            &mut up,
        )
        .await;
        let stale = used > 0 && self.is_stale(&result, upload, &up);
        let bulk = up.bulk();
        let (head, stream) = up.finish();
        worker.give_head(head);
        let most = self.service.policies.limits.requests_per_connection;
        let worn = most > 0 && used + 1 >= most;
        // Nearly always nobody waits for any version: then this one's own count need not come into the cache.
        let awaited = anybody_waits() && endpoint.version.connections.waiting() > 0;
        let wanted = result.is_ok() && !worn && !awaited;
        if let (Some(stream), true) = (stream, wanted) {
            open.kept.set(true);
            let idle_ms = self.service.timeouts.idle.as_millis() as u64;
            let kept = Kept {
                stream,
                slot,
                used: used + 1,
                bulk,
            };
            worker
                .conns
                .give(endpoint, kept, worker.watches.now_ms(), idle_ms);
        }
        Outcome { result, stale }
    }

    /// A place on an HTTP/2 connection; the client may leave meanwhile.
    async fn lease<D: Downstream>(
        &self,
        endpoint: &Arc<Endpoint>,
        shard: &VersionShard,
        down: &mut D,
    ) -> Result<Lease, Broken> {
        let _queued = Queued::enter(shard);
        let timeouts = &self.service.timeouts;
        let limits = &self.service.policies.limits;
        let opening = Opening {
            connect: timeouts.connect,
            idle: timeouts.idle,
            connections: limits.connections,
            pending: limits.pending,
            wait: timeouts.first_byte,
        };
        let mut leasing = self.worker.h2_conns.lease(endpoint, opening);
        let told = |error| match error {
            LeaseError::Connect(e) => Broken::Connect(e),
            LeaseError::Limit(limit) => refused_by(limit, shard),
        };
        self.while_wanted(down, |cx| leasing.poll(cx).map_err(told))
            .await
    }

    async fn over_h2<D: Downstream>(
        &self,
        active: &Active<'_>,
        leased: Result<Lease, Broken>,
        reply: &Reply<'_>,
        upload: &mut Upload,
        down: &mut D,
    ) -> Outcome {
        let prepared = leased.and_then(|lease| {
            H2Up::new(lease, active.endpoint, self.request).map_err(Broken::Client)
        });
        let mut up = match prepared {
            Ok(up) => up,
            Err(broken) => return broken.into(),
        };
        let result = exchange::run(
            &self.terms(reply, active),
            self.request,
            upload,
            down,
            &mut up,
        )
        .await;
        if let Err(Failure {
            broken: Broken::FirstByte,
            ..
        }) = &result
        {
            // A peer that vanished without a word would make every request wait; one that is only slow costs a new connection.
            up.retire();
        }
        let stale = match &result {
            Err(failure) if up.was_refused() => !failure.answered && upload.can_rewind(),
            _ => up.was_used() && self.is_stale(&result, upload, &up),
        };
        Outcome { result, stale }
    }

    fn terms<'t>(&'t self, reply: &'t Reply<'t>, active: &'t Active<'t>) -> Terms<'t> {
        Terms {
            watch: self.watch,
            timeouts: &self.service.timeouts,
            body_timeout: self.body_timeout,
            started: self.started,
            reply,
            active,
        }
    }

    /// A kept-alive connection that ended without a byte of an answer, while nobody can have acted on the request twice.
    fn is_stale(
        &self,
        result: &Result<Done, Failure>,
        upload: &Upload,
        up: &impl Upstream,
    ) -> bool {
        let Err(failure) = result else { return false };
        let ended = matches!(
            failure.broken,
            Broken::Upstream(WireError::Cut | WireError::Io(_))
        );
        let harmless = self.request.method.is_idempotent() || !up.may_have_sent();
        ended && !failure.answered && !up.has_begun() && harmless && upload.can_rewind()
    }
}

/// Index of `stale` in [`crate::telemetry::names::RETRY_REASONS`].
const RETRY_STALE: usize = 2;

/// A request that waits for a connection.
struct Queued<'a>(&'a VersionShard);

impl<'a> Queued<'a> {
    fn enter(shard: &'a VersionShard) -> Self {
        shard.queued(1);
        Self(shard)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.queued(-1);
    }
}

/// An open connection: uncounted when it is closed, not when it is kept.
struct Open<'a> {
    shard: &'a VersionShard,
    kept: std::cell::Cell<bool>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.kept.get() {
            self.shard.connections(-1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::Method;

    #[test]
    fn the_reason_for_a_retry_is_named_as_the_metrics_name_it() {
        assert_eq!(crate::telemetry::names::RETRY_REASONS[RETRY_STALE], "stale");
    }

    #[test]
    fn methods_that_may_be_sent_twice() {
        assert!(Method::Put.is_idempotent() && !Method::Post.is_idempotent());
    }
}
