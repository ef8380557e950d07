//! A second try of a request, which runs beside the first until the head of its response has arrived: `hedge`.
//!
//! It starts after a delay, and only if nothing is short: another endpoint of the version has to be usable, the version has to
//! have room under its limits, and the retry budget has to pay. It never waits for a slot. Dropping it cancels it: an HTTP/1
//! connection is closed, an HTTP/2 stream reset.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::active::{Active, InFlight, OpenConnection};
use super::body::Upload;
use super::context::RequestContext;
use super::detached::Detached;
use super::edit::{self, EditFacts};
use super::error::ExchangeError;
use super::exchange::{self, FinalHead};
use super::h1_up::H1Up;
use super::h2_up::H2Up;
use super::headers::{Fields, RequestEdits};
use super::wire::{Upstream, WireError};
use crate::index::{EndpointIx, VersionIx};
use crate::net::{ByteBudget, TaskPhase};
use crate::snapshot::Version;
use crate::telemetry::record::RetryReason;
use crate::upstream::conns::Kept;
use crate::upstream::h2_conns::Lease;
use crate::upstream::h2_open::{LeaseError, OpenLimits};
use crate::upstream::limits::{ActiveGuard, ConnectionSlot, anybody_waits};
use crate::upstream::{Endpoint, TransportId, connect};

/// The state of a second try that both tries share.
#[derive(Debug, Default)]
pub(super) struct Race {
    /// The start of the second try, and the index of its endpoint in the pool. `None` if it hasn't started.
    started: Cell<Option<(Instant, EndpointIx)>>,
    /// Whether the first try has an answer for the client.
    is_decided: Cell<bool>,
    /// Why the second try can't serve the request any more.
    failure: RefCell<Option<ExchangeError>>,
    /// Whether the second try has an answer that is only used if the first try has none.
    is_reserve: Cell<bool>,
}

impl Race {
    /// The start of the second try and the index of its endpoint, if it has started.
    pub(super) fn started(&self) -> Option<(Instant, EndpointIx)> {
        self.started.get()
    }

    /// Whether the second try may still serve the request.
    pub(super) fn is_open(&self) -> bool {
        self.started.get().is_some()
            && (self.failure.borrow().is_none() || self.is_reserve.get())
            && !self.is_decided.get()
    }

    /// Records that the first try serves the request.
    pub(super) fn decide(&self) {
        self.is_decided.set(true);
    }

    /// Whether the first try serves the request.
    pub(super) fn is_decided(&self) -> bool {
        self.is_decided.get()
    }

    /// Records that the second try has failed.
    pub(super) fn fail(&self, error: ExchangeError) {
        self.failure.replace(Some(error));
    }

    /// Records that the second try has a response with this status, which is only used if the first try fails.
    pub(super) fn keep_in_reserve(&self, status: u16) {
        self.is_reserve.set(true);
        self.fail(ExchangeError::Status(status));
    }

    /// Why the second try failed, if it did.
    pub(super) fn take_failure(&self) -> Option<ExchangeError> {
        self.failure.take()
    }
}

/// A second try that has the head of a response.
pub(super) struct SecondAnswer<'a> {
    pub head: FinalHead,
    pub active: Active<'a>,
    /// The request's body, and how much of it this try has sent.
    pub upload: Upload,
    pub connection: SecondConnection<'a>,
}

/// The connection of a second try.
pub(super) enum SecondConnection<'a> {
    H1 {
        up: Box<H1Up<'a>>,
        slot: ConnectionSlot,
        used: u32,
        transport: TransportId,
        open: OpenConnection<'a>,
    },
    H2(Box<H2Up>),
}

/// The head of a response and the connection that it came over.
type Asked<'a> = Result<(FinalHead, SecondConnection<'a>), ExchangeError>;

/// A second try that is waiting or running. It ends with an error, which [`Race::started`] tells from not being started.
pub(super) type SecondFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Box<SecondAnswer<'a>>, ExchangeError>> + 'a>>;

/// A second try whose first one has failed.
pub(super) enum Second<'a> {
    Running(SecondFuture<'a>),
    /// The second try has a response, which wasn't preferred to one that the first try could still get.
    Answered(Box<SecondAnswer<'a>>),
}

/// The inputs of a second try.
pub(super) struct SecondTry<'a, F> {
    pub cx: &'a RequestContext<'a, F>,
    pub version: VersionIx,
    /// The endpoint of the first try, by its index in the pool.
    pub first: EndpointIx,
    /// The request's hash, for `balance = "hash"`.
    pub key: Option<u64>,
    pub delay: Duration,
    /// Time limit for the head of its response.
    pub first_byte: Duration,
    /// A copy of the request's body.
    pub upload: Upload,
    pub budget: ByteBudget,
    /// The facts for the edits of its head.
    pub facts: EditFacts<'a>,
    pub race: Rc<Race>,
}

/// The permits of a second try before its request is sent.
struct Permits<'a> {
    member: EndpointIx,
    endpoint: &'a Arc<Endpoint>,
    slot: ActiveGuard<'a>,
    connection: Connection,
}

enum Connection {
    Idle(Kept),
    /// The slot of a connection to be opened.
    New(ConnectionSlot),
    /// An HTTP/2 stream.
    Stream,
}

impl<'a, F: Fields> SecondTry<'a, F> {
    /// Waits for the delay, then runs the try.
    pub(super) fn start(self) -> SecondFuture<'a> {
        Box::pin(async move {
            tokio::time::sleep(self.delay).await;
            self.run().await
        })
    }

    fn version(&self) -> &'a Version {
        &self.cx.service.versions[self.version]
    }

    /// Runs the try, if nothing that it needs is short.
    async fn run(mut self) -> Result<Box<SecondAnswer<'a>>, ExchangeError> {
        let Some(permits) = self.permits() else {
            return Err(ExchangeError::NoEndpoint);
        };
        let (cx, version) = (self.cx, self.version());
        let endpoint = permits.endpoint;
        let shard = version.metrics.shard(cx.worker.id);
        shard.retry(RetryReason::Hedge);
        self.race
            .started
            .set(Some((Instant::now(), permits.member)));
        self.facts.endpoint = Some(&endpoint.name);
        let _in_flight = InFlight::enter(shard);
        let active = Active::beside(endpoint, cx.watch, permits.slot);
        let edits = edit::of_facts(cx.rewritten.as_deref(), &self.facts);
        // The try has deadlines of its own, because the task's belong to the first try.
        let control = cx.worker.controls.register(cx.watch.listener);
        control.enter(TaskPhase::Request);
        let own = RequestContext {
            worker: cx.worker,
            watch: &control,
            snapshot: cx.snapshot,
            started: cx.started,
            request: cx.request,
            // The rewritten target is part of the edits.
            rewritten: None,
            service: cx.service,
        };
        let (head, connection) = self
            .connect_and_ask(&own, endpoint, permits.connection, edits.as_deref())
            .await?;
        Ok(Box::new(SecondAnswer {
            head,
            active,
            upload: self.upload,
            connection,
        }))
    }

    /// Takes the permits that the try needs; `None` if anything is short.
    fn permits(&self) -> Option<Permits<'a>> {
        let (cx, version) = (self.cx, self.version());
        let (worker, service) = (cx.worker, cx.service);
        let limits = &service.policies.limits;
        if anybody_waits() || version.load.requests.is_awaited() {
            return None;
        }
        let member = worker.pick(service, self.version, &[self.first], self.key)?;
        let endpoint = &version.pool.members[member].endpoint;
        // Below the panic threshold unusable endpoints are picked as well.
        if !endpoint.state.is_usable() {
            return None;
        }
        let slot = version.load.requests.try_enter(limits.requests)?;
        let is_shared = !endpoint.version.transport.id().is_exclusive();
        let connection = match is_shared && worker.h2_conns.speaks_h2(endpoint) {
            true => Connection::Stream,
            false => self.connection(endpoint)?,
        };
        // Last, so that a try that lacks anything else doesn't cost a retry.
        if !worker.spend_retry(service) {
            if let Connection::Idle(kept) = connection {
                self.put_back(endpoint, kept);
            }
            return None;
        }
        Some(Permits {
            member,
            endpoint,
            slot,
            connection,
        })
    }

    fn connection(&self, endpoint: &Endpoint) -> Option<Connection> {
        if let Some(kept) = self.cx.worker.conns.take(endpoint) {
            return Some(Connection::Idle(kept));
        }
        let ceiling = self.cx.service.policies.limits.connections;
        let slot = endpoint.version.connections.try_acquire(ceiling)?;
        Some(Connection::New(slot))
    }

    fn put_back(&self, endpoint: &Arc<Endpoint>, kept: Kept) {
        let worker = self.cx.worker;
        let idle_ms = self.cx.service.timeouts.idle.as_millis() as u64;
        let now_ms = worker.controls.now_ms();
        worker.conns.give(endpoint, kept, now_ms, idle_ms);
    }

    /// Sends the request and waits for the head of the response.
    async fn connect_and_ask(
        &mut self,
        own: &RequestContext<'_, F>,
        endpoint: &'a Arc<Endpoint>,
        connection: Connection,
        edits: Option<&RequestEdits<'_>>,
    ) -> Asked<'a> {
        let slot = match connection {
            Connection::Stream => return self.over_lease(own, endpoint, edits).await,
            Connection::New(slot) => slot,
            Connection::Idle(kept) => match self.over_h1(own, endpoint, kept, edits).await {
                Err(ClosedConnection(slot)) => slot,
                Ok(asked) => return asked,
            },
        };
        let timeouts = &own.service.timeouts;
        let is_exclusive = endpoint.version.transport.id().is_exclusive();
        let source = own.request.proxy_source();
        let opened = connect::open_for(endpoint, timeouts.connect, is_exclusive, &source)
            .await
            .map_err(ExchangeError::Connect)?;
        if opened.h2 {
            let conns = &own.worker.h2_conns;
            let lease = conns.adopt(endpoint, opened, slot, timeouts.idle);
            return self.over_h2(own, endpoint, lease, edits).await;
        }
        endpoint.metrics.shard(own.worker.id).connections(1);
        let kept = Kept::new(opened, slot);
        match self.over_h1(own, endpoint, kept, edits).await {
            Ok(asked) => asked,
            // Only a reused connection can be stale.
            Err(ClosedConnection(_)) => Err(ExchangeError::Upstream(WireError::Cut)),
        }
    }

    async fn over_h1(
        &mut self,
        own: &RequestContext<'_, F>,
        endpoint: &'a Arc<Endpoint>,
        kept: Kept,
        edits: Option<&RequestEdits<'_>>,
    ) -> Result<Asked<'a>, ClosedConnection> {
        let worker = self.cx.worker;
        let open = OpenConnection::of(endpoint.metrics.shard(worker.id));
        let mut up = Box::new(H1Up::new(kept.stream, worker, endpoint, kept.bulk));
        match self.ask(own, edits, &mut *up).await {
            Ok(head) => Ok(Ok((
                head,
                SecondConnection::H1 {
                    up,
                    slot: kept.slot,
                    used: kept.used,
                    transport: kept.transport,
                    open,
                },
            ))),
            Err(ExchangeError::Upstream(WireError::Cut | WireError::Io(_)))
                if kept.used > 0 && !up.has_begun() =>
            {
                self.upload.rewind();
                Err(ClosedConnection(kept.slot))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    async fn over_lease(
        &mut self,
        own: &RequestContext<'_, F>,
        endpoint: &'a Arc<Endpoint>,
        edits: Option<&RequestEdits<'_>>,
    ) -> Asked<'a> {
        let timeouts = &own.service.timeouts;
        let limits = &own.service.policies.limits;
        let mut leasing = own.worker.h2_conns.lease(
            endpoint,
            OpenLimits {
                connect: timeouts.connect,
                idle: timeouts.idle,
                connections: limits.connections,
                pending: limits.pending,
                // The try doesn't compete with requests that wait.
                wait: Duration::ZERO,
            },
        );
        let lease = poll_fn(|task| leasing.poll(task)).await;
        let lease = lease.map_err(|error| match error {
            LeaseError::Connect(e) => ExchangeError::Connect(e),
            LeaseError::Limit(limit) => ExchangeError::Limit(limit),
        })?;
        self.over_h2(own, endpoint, lease, edits).await
    }

    async fn over_h2(
        &mut self,
        own: &RequestContext<'_, F>,
        endpoint: &'a Arc<Endpoint>,
        lease: Lease,
        edits: Option<&RequestEdits<'_>>,
    ) -> Asked<'a> {
        let up = H2Up::new(lease, endpoint, own.request, edits);
        let mut up = Box::new(up.map_err(ExchangeError::Malformed)?);
        match self.ask(own, edits, &mut *up).await {
            Ok(head) => Ok((head, SecondConnection::H2(up))),
            Err(error) => {
                if matches!(error, ExchangeError::FirstByteTimeout) {
                    // The peer may be gone without a FIN.
                    up.retire();
                }
                Err(error)
            }
        }
    }

    async fn ask<U: Upstream>(
        &mut self,
        own: &RequestContext<'_, F>,
        edits: Option<&RequestEdits<'_>>,
        up: &mut U,
    ) -> Result<FinalHead, ExchangeError> {
        let down = &mut Detached(self.budget.clone());
        exchange::ask(own, self.first_byte, edits, &mut self.upload, down, up).await
    }
}

/// A reused connection had been closed before it carried the request. Its slot is free for a new one.
struct ClosedConnection(ConnectionSlot);
