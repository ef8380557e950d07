//! The tries of one request: which endpoint is asked, and what follows a failure: another endpoint, or stable for a canary.

use std::time::Duration;

use super::attempt::Tried;
use super::body::Upload;
use super::context::RequestContext;
use super::error::{AttemptError, ExchangeError};
use super::exchange::{self, Arrived, Remainder};
use super::headers::Fields;
use super::observe::Recording;
use super::placing::Placed;
use super::retry::{self, Next, Situation, TryFailure};
use super::wire::Downstream;
use crate::net::clock::TICK;
use crate::snapshot::Version;
use crate::telemetry::VersionShard;
use crate::upstream::budget;
use crate::upstream::limits::{ActiveGuard, Limit};

/// Most endpoints of one request that are remembered as tried: as many as `retry.tries` may be, and one for the shield.
const TRIED: usize = 11;

/// How many uploads that are behind give up their room at a time.
const SPARED: usize = 64;

/// A request whose answer has just gone out gives its room back within this: then no download need be cut.
const MOMENT: Duration = Duration::from_millis(1);
/// How many ticks a request waits for room that slow downloads of other workers give up.
const TICKS_FOR_ROOM: u32 = 20;
/// How many ticks a request waits where no room is being made: a burst may be answered just now.
const GRACE_TICKS: u32 = 10;
/// How many ticks without room pass before another download is ended.
const RETRY_TICKS: u32 = 4;

/// Where a request goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Aim {
    /// Index of the version.
    pub version: usize,
    /// Index of the endpoint that the session is on.
    pub endpoint: Option<usize>,
    /// The request's hash, for `balance = "hash"`.
    pub key: Option<u64>,
}

/// How a request that went to a version ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// The client has a whole answer.
    Answered,
    /// It was a tunnel, which has ended.
    Tunnel,
}

/// How a try ended that was not the last one.
#[derive(Debug)]
pub(super) enum TryError {
    /// It failed.
    Failed(AttemptError),
    /// Its response is dropped, because this follows.
    Superseded(Next),
    /// Its kept connection had ended under it: another endpoint is asked at once, and no endpoint is charged.
    Stale,
}

impl From<ExchangeError> for TryError {
    fn from(error: ExchangeError) -> Self {
        Self::Failed(error.into())
    }
}

/// The tries of one request.
pub(super) struct Tries<'a, 'r, F> {
    pub cx: &'a RequestContext<'a, F>,
    pub recording: &'a mut Recording<'r>,
    placed: &'a Placed,
    pub version: usize,
    pub member: usize,
    count: u32,
    tried: [usize; TRIED],
    shielded: bool,
    /// A kept connection had ended under this request: others are likely to have ended too.
    pub only_fresh: bool,
    /// A retry's room under `limits.retries`: held while it runs, and handed on to the retry that follows it.
    retry_room: Option<ActiveGuard<'a>>,
}

impl<'a, 'r, F: Fields> Tries<'a, 'r, F> {
    /// None yet.
    pub(super) fn new(
        cx: &'a RequestContext<'a, F>,
        recording: &'a mut Recording<'r>,
        placed: &'a Placed,
    ) -> Self {
        Self {
            cx,
            recording,
            placed,
            version: placed.aim.version,
            member: 0,
            count: 0,
            tried: [0; TRIED],
            shielded: false,
            only_fresh: false,
            retry_room: None,
        }
    }

    /// Tries until there is an answer or nothing more to try.
    ///
    /// # Errors
    /// How the last try failed.
    pub(super) async fn run<D: Downstream>(
        mut self,
        upload: &mut Upload,
        down: &mut D,
    ) -> Result<Served, AttemptError>
    where
        'r: 'a,
    {
        self.cx.worker.earn(self.cx.service);
        loop {
            let error = match self.one_try(upload, down).await {
                Ok(served) => return Ok(served),
                Err(error) => error,
            };
            let next = match error {
                TryError::Superseded(next) => next,
                TryError::Stale => {
                    upload.rewind();
                    continue;
                }
                TryError::Failed(failed) => {
                    match self.after_failure(&failed, upload.can_rewind()) {
                        Next::Nothing => return Err(failed),
                        next => next,
                    }
                }
            };
            self.prepare(next, upload).await;
        }
    }

    /// The version that is asked now.
    pub(super) fn version(&self) -> &'a Version {
        &self.cx.service.versions[self.version]
    }

    /// A session's `Set-Cookie` value for an answer of this status, if one is due. A failure binds no session, and a
    /// shielded request stays a session of its canary.
    pub(super) fn cookie(&self, status: u16) -> Option<String> {
        let cx = self.cx;
        let due = self.placed.binds && !self.shielded && status < 500;
        let sessions = cx.service.sessions.as_ref().filter(|_| due)?;
        sessions.cookie(
            cx.service,
            self.placed.session.as_ref(),
            (self.version, self.member),
            cx.worker.now_s(),
            cx.request.is_https(),
        )
    }

    /// Longest wait for the response's head of one try.
    pub(super) fn first_byte(&self) -> Duration {
        let first_byte = self.cx.service.timeouts.first_byte;
        let per_try = self.cx.service.policies.retry.per_try;
        per_try.map_or(first_byte, |per_try| per_try.min(first_byte))
    }

    /// Whether a request that may have been processed may be sent once more.
    pub(super) fn may_repeat(&self) -> bool {
        let most = self.cx.service.policies.retry.tries;
        self.cx.request.method.is_idempotent() && self.count < most
    }

    /// The request goes to the endpoint again, which counts as a try.
    pub(super) fn count_try(&mut self) {
        self.count += 1;
    }

    /// One try, within the version's limits, on the session's endpoint or one that was not tried yet.
    async fn one_try<D: Downstream>(
        &mut self,
        upload: &mut Upload,
        down: &mut D,
    ) -> Result<Served, TryError> {
        let Some(member) = self.pick() else {
            self.recording.begin_try(self.version, None);
            return Err(self.failed(ExchangeError::NoEndpoint.into()));
        };
        self.member = member;
        self.tried[(self.count as usize).min(TRIED - 1)] = member;
        self.count += 1;
        self.recording.begin_try(self.version, Some(member));
        let version = self.version();
        let ceiling = self.cx.service.policies.limits.requests;
        let Some(room) = self.enter(version, ceiling).await else {
            return Err(self.failed(ExchangeError::Limit(Limit::Requests).into()));
        };
        let _in_flight = InFlight::enter(version.metrics.shard(self.cx.worker.id));
        let served = match self.attempt(room, upload, down).await {
            Ok(Tried::Served(served)) => Ok(served),
            Ok(Tried::Arrived(arrived, remainder)) => {
                // Boxed: nearly no response needs it, and every request would hold its memory.
                Box::pin(self.deliver(arrived, remainder, down)).await
            }
            Err(error) => Err(error),
        };
        match served {
            Err(TryError::Failed(failed)) => Err(self.failed(failed)),
            other => other,
        }
    }

    /// Sends the client what is left of a response that has arrived whole. The try ends with it, as any other.
    async fn deliver<D: Downstream>(
        &mut self,
        mut arrived: Arrived,
        mut remainder: Remainder,
        down: &mut D,
    ) -> Result<Served, TryError> {
        exchange::deliver(self.cx, &mut arrived, &mut remainder, self.recording, down)
            .await
            .map_err(TryError::Failed)?;
        let (status, grpc_status) = arrived.outcome();
        self.recording.end_try(status, grpc_status);
        Ok(Served::Answered)
    }

    /// Records how the try failed.
    fn failed(&mut self, failed: AttemptError) -> TryError {
        let told = failed.answered.then_some(self.recording.record.status);
        self.recording.fail_try(&failed.error, told);
        if let ExchangeError::Limit(limit) = failed.error {
            self.recording.limited(limit);
        }
        TryError::Failed(failed)
    }

    /// The endpoint for the next try: the session's on the first, then one that was not tried yet if there is one.
    fn pick(&self) -> Option<usize> {
        let wanted = self.placed.aim.endpoint.filter(|_| self.count == 0);
        if wanted.is_some() {
            return wanted;
        }
        let (worker, service) = (self.cx.worker, self.cx.service);
        let key = self.placed.aim.key;
        worker
            .pick(service, self.version, self.tried(), key)
            .or_else(|| worker.pick(service, self.version, &[], key))
    }

    /// The endpoints of the version that were tried.
    fn tried(&self) -> &[usize] {
        match self.shielded {
            true => &[],
            false => &self.tried[..(self.count as usize).min(TRIED)],
        }
    }

    pub(super) fn has_untried(&self) -> bool {
        let members = &self.version().pool.members;
        let untried = |(index, _): &(usize, _)| !self.tried().contains(index);
        let mut others = members.iter().enumerate().filter(untried);
        others.any(|(_, member)| member.endpoint.state.is_usable())
    }

    /// Room among the version's requests. Where there is none, an upload that is behind or the slowest download gives up its own.
    #[inline]
    async fn enter(&self, version: &'a Version, ceiling: u32) -> Option<ActiveGuard<'a>> {
        let requests = &version.load.requests;
        if !requests.is_awaited()
            && let Some(room) = requests.try_enter(ceiling)
        {
            return Some(room);
        }
        self.make_room(version, ceiling).await
    }

    #[cold]
    async fn make_room(&self, version: &'a Version, ceiling: u32) -> Option<ActiveGuard<'a>> {
        let worker = self.cx.worker;
        let load = &version.load;
        let (mut wish, mut made) = (None, false);
        let most = self.cx.service.policies.limits.pending;
        let _pending = load.connections.pend(most)?;
        let is_first = !load.requests.is_awaited();
        let _outside = load.requests.wait();
        if is_first {
            tokio::time::sleep(MOMENT).await;
            if let Some(room) = load.requests.try_enter(ceiling) {
                return Some(room);
            }
        }
        for tick in 0..TICKS_FOR_ROOM {
            // One download is enough for one request, unless newcomers took its room meanwhile.
            if tick % RETRY_TICKS == 0 {
                made = worker.downloads.shed_slowest(load, worker.watches.now_ms())
                    || worker.spare_uploads(&version.pool, SPARED);
                if !made && wish.is_none() {
                    wish = load.ask_for_room();
                }
                // Tasks that were woken run before this one goes on, and give their room back.
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(TICK).await;
            }
            let room = load.requests.try_enter(ceiling);
            let is_hopeless = tick >= GRACE_TICKS && wish.is_none() && !made;
            if room.is_some() || is_hopeless {
                return room;
            }
        }
        None
    }

    /// What follows a failed try.
    fn after_failure(&mut self, failed: &AttemptError, can_rewind: bool) -> Next {
        match TryFailure::of(&failed.error).filter(|_| !failed.answered) {
            Some(failure) => self.next(failure, can_rewind),
            None => Next::Nothing,
        }
    }

    /// What follows a response of this status; [`Next::Nothing`]: it goes to the client.
    pub(super) fn after_head(&mut self, status: u16, can_rewind: bool) -> Next {
        let next = self.next(TryFailure::Status(status), can_rewind);
        if next != Next::Nothing {
            self.recording
                .fail_try(&ExchangeError::Status(status), None);
        }
        next
    }

    fn next(&mut self, failure: TryFailure, can_rewind: bool) -> Next {
        let service = self.cx.service;
        let policies = &service.policies;
        let situation = Situation {
            policy: &policies.retry,
            shield: policies.shield,
            idempotent: self.cx.request.method.is_idempotent(),
            can_rewind,
            tries: self.count,
            may_leave: !self.placed.stays && self.version != service.routing.split.stable(),
            shielded: self.shielded,
            has_untried: self.has_untried(),
        };
        match retry::next(failure, &situation) {
            Next::Retry if !self.afford_retry(failure) => retry::after_retries(failure, &situation),
            Next::Retry => {
                self.recording.retried(failure.reason());
                Next::Retry
            }
            next => next,
        }
    }

    /// Takes room under `limits.retries`, and pays from the service's retry budget.
    fn afford_retry(&mut self, failure: TryFailure) -> bool {
        let ceiling = match failure.is_answer() {
            true => self.cx.service.policies.limits.retries,
            false => 0,
        };
        if self.retry_room.is_none() {
            self.retry_room = self.version().load.retries.try_enter(ceiling);
        }
        if self.retry_room.is_none() {
            self.recording.limited(Limit::Retries);
            return false;
        }
        self.cx.worker.spend(self.cx.service)
    }

    /// Gets ready for the next try: a short pause before a retry, and the body from its beginning.
    async fn prepare(&mut self, next: Next, upload: &mut Upload) {
        upload.rewind();
        if next == Next::Shield {
            self.recording.shielded();
            self.shielded = true;
            self.retry_room = None;
            self.version = self.cx.service.routing.split.stable();
        } else {
            let worker = self.cx.worker;
            let wait = worker.with_rng(|rng| budget::backoff(self.count, rng));
            tokio::time::sleep(wait).await;
        }
    }
}

/// A request that counts in `http_requests_in_flight`.
struct InFlight<'a>(&'a VersionShard);

impl<'a> InFlight<'a> {
    fn enter(shard: &'a VersionShard) -> Self {
        shard.in_flight(1);
        Self(shard)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight(-1);
    }
}
