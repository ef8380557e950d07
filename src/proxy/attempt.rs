//! One try on one endpoint: a connection, kept or opened, and an exchange on it.

use super::active::Active;
use super::body::Upload;
use super::context::RequestContext;
use super::error::{AttemptError, ExchangeError};
use super::exchange::{self, AnswerParts, Answered, Arrived, Remainder};
use super::h1_up::H1Up;
use super::h2_up::H2Up;
use super::headers::Fields;
use super::retry::Next;
use super::tries::{Served, Tries, TryError};
use super::tunnel;
use super::wire::{Downstream, Upstream, WireError};
use crate::config::spec::Scheme;
use crate::telemetry::VersionShard;
use crate::telemetry::record::RetryReason;
use crate::upstream::ConnectError;
use crate::upstream::conns::Kept;
use crate::upstream::h2_conns::Lease;
use crate::upstream::limits::{ActiveGuard, anybody_waits};

/// Whether a client can do nothing without the tunnel that it asks for; other upgrades may be ignored (RFC 9110 §7.8).
fn is_websocket(protocol: &[u8]) -> bool {
    protocol.trim_ascii().eq_ignore_ascii_case(b"websocket")
}

/// What came of a try. `R` is what is left of a response that has arrived before its client took it.
pub(super) enum Tried<R> {
    /// All is done.
    Served(Served),
    /// The endpoint has done its part.
    Arrived(Arrived, R),
}

/// How an exchange on one connection ended.
struct ConnectionOutcome {
    result: Result<Tried<Remainder>, TryError>,
    /// The kept connection had ended under the request, which may go on a fresh one.
    stale: Option<Stale>,
}

/// What is known of a request whose kept connection had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stale {
    /// The endpoint did nothing with it.
    Unsent,
    /// It may have been processed.
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
    /// How much of the body has to be kept so that the request can be sent again: an HTTP/2 endpoint may refuse even one that
    /// isn't idempotent, and then has done nothing with it.
    pub(crate) fn kept_bytes(&self, version: usize) -> usize {
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
    /// One try on the picked endpoint. A kept connection that had ended is replaced by a fresh one where that is safe; a
    /// request that may have been processed goes to another endpoint rather, since that counts as a try.
    pub(super) async fn attempt<D: Downstream>(
        &mut self,
        room: ActiveGuard<'a>,
        upload: &mut Upload,
        down: &mut D,
    ) -> Result<Tried<Remainder>, TryError> {
        let endpoint = &self.version().pool.members[self.member].endpoint;
        let mut active = Active::enter(endpoint, self.cx.watch, room);
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

    /// One exchange with the endpoint, over an idle connection if there is one and none has turned out to be stale.
    async fn exchange<D: Downstream>(
        &mut self,
        active: &mut Active<'a>,
        upload: &mut Upload,
        down: &mut D,
    ) -> ConnectionOutcome {
        let cx = self.cx;
        let endpoint = active.endpoint;
        let tunnels = cx.request.upgrade.is_some_and(is_websocket);
        if tunnels && endpoint.is_h2c() {
            return ExchangeError::NoUpgrade.into();
        }
        if !tunnels && cx.worker.h2_conns.speaks_h2(endpoint) {
            let leased = self.lease(endpoint, down).await;
            return self.over_h2(active, leased, upload, down).await;
        }
        if !self.only_fresh
            && let Some(kept) = self.take_idle(endpoint)
        {
            return self.over_h1(active, kept, upload, down).await;
        }
        let (slot, opened) = match self.connect(endpoint, tunnels, down).await {
            Ok(connected) => connected,
            Err(error) => return error.into(),
        };
        if opened.h2 {
            let idle = cx.service.timeouts.idle;
            let conns = &cx.worker.h2_conns;
            let leased = conns.adopt(endpoint, opened.stream, slot, idle).await;
            let leased = leased.map_err(|e| ExchangeError::Connect(ConnectError::Io(e)));
            return self.over_h2(active, leased, upload, down).await;
        }
        self.shard(endpoint).connections(1);
        let kept = Kept {
            stream: opened.stream,
            slot,
            used: 0,
            bulk: 0,
        };
        self.over_h1(active, kept, upload, down).await
    }

    async fn over_h1<D: Downstream>(
        &mut self,
        active: &mut Active<'a>,
        kept: Kept,
        upload: &mut Upload,
        down: &mut D,
    ) -> ConnectionOutcome {
        let (worker, endpoint) = (self.cx.worker, active.endpoint);
        let Kept {
            stream,
            slot,
            used,
            bulk,
        } = kept;
        let mut open = OpenConnection {
            shard: self.shard(endpoint),
            kept: false,
        };
        let mut up = H1Up::new(
            stream,
            worker.buffers.clone(),
            worker.take_head(),
            endpoint.clone(),
            bulk,
        );
        let result = self.over(active, upload, down, &mut up).await;
        let stale = (used > 0)
            .then(|| self.stale(&result, upload, &up))
            .flatten();
        let bulk = up.bulk();
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
        worker.give_head(head);
        let most = self.cx.service.policies.limits.requests_per_connection;
        let worn = most > 0 && used + 1 >= most;
        // Nearly always nobody waits for any version: then this one's own count need not come into the cache.
        let awaited = anybody_waits() && endpoint.version.connections.waiting() > 0;
        let wanted = !worn && !awaited;
        if let (Some(stream), true) = (stream, wanted) {
            open.kept = true;
            let idle_ms = self.cx.service.timeouts.idle.as_millis() as u64;
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
        ConnectionOutcome { result, stale }
    }

    async fn over_h2<D: Downstream>(
        &mut self,
        active: &mut Active<'a>,
        leased: Result<Lease, ExchangeError>,
        upload: &mut Upload,
        down: &mut D,
    ) -> ConnectionOutcome {
        let prepared = leased.and_then(|lease| {
            H2Up::new(lease, active.endpoint, self.cx.request).map_err(ExchangeError::Malformed)
        });
        let mut up = match prepared {
            Ok(up) => up,
            Err(error) => return error.into(),
        };
        let result = self.over(active, upload, down, &mut up).await;
        if let Err(TryError::Failed(AttemptError {
            error: ExchangeError::FirstByteTimeout,
            ..
        })) = &result
        {
            // A peer that vanished without a word would make every request wait; one that is only slow costs a new connection.
            up.retire();
        }
        let stale = match &result {
            Err(TryError::Failed(failed)) if up.was_refused() => {
                (!failed.answered && upload.can_rewind()).then_some(Stale::Unsent)
            }
            _ if up.was_used() => self.stale(&result, upload, &up),
            _ => None,
        };
        let result = result.map(|tried| match tried {
            Tried::Served(served) => Tried::Served(served),
            Tried::Arrived(arrived, ()) => Tried::Arrived(arrived, Remainder::H2(Box::new(up))),
        });
        ConnectionOutcome { result, stale }
    }

    /// The exchange on an open connection: ask for the head, decide, answer.
    async fn over<D: Downstream, U: Upstream>(
        &mut self,
        active: &mut Active<'a>,
        upload: &mut Upload,
        down: &mut D,
        up: &mut U,
    ) -> Result<Tried<()>, TryError> {
        let head = exchange::ask(self.cx, self.first_byte(), upload, down, up).await?;
        self.recording.head_arrived(head.status);
        if head.status == 101 {
            let served = tunnel::run(self.cx, active, self.recording, down, up).await?;
            self.recording.end_try(head.status, None);
            return Ok(Tried::Served(served));
        }
        let next = self.after_head(head.status, upload.can_rewind());
        if next != Next::Nothing {
            return Err(TryError::Superseded(next));
        }
        let cookie = self.cookie(head.status);
        let work = AnswerParts {
            active,
            recording: self.recording,
            upload,
        };
        let answered = exchange::answer(self.cx, head, cookie.as_deref(), work, down, up)
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

    /// Whether a kept connection ended without a byte of a response, while the request can still be sent on a fresh one.
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

/// An open connection: uncounted when it is closed, not when it is kept.
struct OpenConnection<'a> {
    shard: &'a VersionShard,
    kept: bool,
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.shard.connections(-1);
        }
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
