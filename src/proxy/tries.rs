//! The retry loop of one request.
//!
//! [`Tries::run`] picks an endpoint, takes a slot under the version's `limits.requests`, runs one
//! exchange ([`super::attempt`]), and on failure asks [`super::retry`] what follows: another try
//! in the same version, one try on stable for a canary (the shield), or an error for the client.
//! While a version is at its limit, a request waits briefly for a slot, and slow transfers may be
//! ended to free one.

use std::rc::Rc;
use std::time::Duration;

use super::active::InFlight;
use super::body::Upload;
use super::context::RequestContext;
use super::error::{AttemptError, ExchangeError};
use super::exchange::{self, Arrived, Remainder};
use super::headers::Fields;
use super::observe::Recording;
use super::outcome::{Served, Tried, TryError};
use super::placing::Placed;
use super::retry::{self, Next, Situation, TryFailure};
use super::second_try::{Race, Second};
use super::undelivered::Undelivered;
use super::wire::Downstream;
use crate::index::{EndpointIx, VersionIx};
use crate::net::clock::TICK;
use crate::snapshot::Version;
use crate::upstream::budget;
use crate::upstream::connect::ConnectError;
use crate::upstream::limits::{ActiveGuard, Limit};

/// Endpoints of one request that are remembered as tried: the maximum of `retry.tries` (10), and
/// one for the shield.
const MAX_TRIED: usize = 11;

/// Slow uploads that are ended at a time to free slots.
const MAX_SHED_UPLOADS: usize = 64;

/// How long the first waiting request leaves for a response that is just ending to free its slot,
/// before a slow download is ended for it.
const REPLY_GRACE: Duration = Duration::from_millis(1);
/// How many ticks a request waits for a slot in all, 0.5 s. Other workers look for slow downloads
/// once a tick.
const MAX_WAIT_TICKS: u32 = 20;
/// How many ticks a request waits for a slot if there is no slow transfer that could be ended: the
/// limit may have been reached by a short burst.
const GRACE_TICKS: u32 = 10;
/// How many ticks pass before another slow transfer is ended for the same request.
const SHED_EVERY_TICKS: u32 = 4;
/// How many ticks a request leaves to a worker with a slower download. One that is short of CPU time
/// may not get to it.
const DEFER_TICKS: u32 = 8;

/// State of the retry loop.
///
/// It lives for one request, on the worker's task, from the first try to the last. Its guards, such as the slot for retries, are
/// given back when it is dropped, also if the client is gone.
pub(super) struct Tries<'a, 'r, F> {
    pub cx: &'a RequestContext<'a, F>,
    pub recording: &'a mut Recording<'r>,
    pub placed: &'a Placed,
    /// Index of the version that is being tried.
    pub version: VersionIx,
    /// Index of the endpoint in the version's pool.
    pub member: EndpointIx,
    /// Number of tries, without a second one whose end is open.
    pub count: u32,
    tried: [EndpointIx; MAX_TRIED],
    pub shielded: bool,
    /// A reused connection was closed by its peer. Other idle ones have probably been closed too,
    /// so the remaining tries open new ones.
    pub only_fresh: bool,
    /// The slot under `limits.retries`. Kept from one retry to the next.
    retry_slot: Option<ActiveGuard<'a>>,
    /// The state that the first try and the second one share, if the request is hedged.
    pub race: Option<Rc<Race>>,
    /// The second try, once the first one has failed.
    pub second: Option<Second<'a>>,
}

impl<'a, 'r, F: Fields> Tries<'a, 'r, F> {
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
            member: EndpointIx(0),
            count: 0,
            tried: [EndpointIx(0); MAX_TRIED],
            shielded: false,
            only_fresh: false,
            retry_slot: None,
            race: None,
            second: None,
        }
    }

    /// Tries endpoints until the client has a response or no further try is allowed.
    ///
    /// # Errors
    /// The failure of the last try.
    pub(super) async fn run<D: Downstream>(
        &mut self,
        upload: &mut Upload,
        down: &mut D,
    ) -> Result<Served, AttemptError>
    where
        'r: 'a,
    {
        self.cx.worker.earn_retry(self.cx.service);
        let mut second = None;
        loop {
            let tried = match second.take() {
                None => self.one_try(upload, down).await,
                // Boxed because it is rare: inline, its state would enlarge every request's future.
                Some(second) => Box::pin(self.await_second(second, upload, down)).await,
            };
            let error = match tried {
                Ok(served) => return Ok(served),
                Err(error) => error,
            };
            let next = match error {
                TryError::Superseded(next) => next,
                TryError::Stale if self.second.is_some() => Next::Second,
                // No pause: nothing indicates that the endpoint is overloaded.
                TryError::Stale => {
                    upload.rewind();
                    continue;
                }
                TryError::Failed(failed) => {
                    match self.after_failure(&failed, upload.can_rewind()) {
                        Next::Nothing => {
                            self.record_second();
                            return Err(failed);
                        }
                        next => next,
                    }
                }
            };
            match next {
                Next::Second => second = self.second.take(),
                next => self.prepare(next, upload).await,
            }
        }
    }

    /// The version that is being tried.
    pub(super) fn version(&self) -> &'a Version {
        &self.cx.service.versions[self.version]
    }

    /// The session's `Set-Cookie` value for a response with this status, if one is due. A 5xx binds
    /// no session, and a session whose request was shielded stays with its canary.
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

    /// How long one try may wait for the head of its response.
    pub(super) fn first_byte(&self) -> Duration {
        let first_byte = self.cx.service.timeouts.first_byte;
        let per_try = self.cx.service.policies.retry.per_try;
        per_try.map_or(first_byte, |per_try| per_try.min(first_byte))
    }

    /// Whether a request that may have been processed may be sent again.
    pub(super) fn may_repeat(&self) -> bool {
        let max_tries = self.cx.service.policies.retry.tries;
        self.cx.request.method.is_idempotent() && self.count < max_tries
    }

    /// Counts a repetition on the same endpoint as a try.
    pub(super) fn count_try(&mut self) {
        self.count += 1;
    }

    /// One try: picks an endpoint, waits for a slot of the version, runs the exchange and records
    /// the outcome.
    async fn one_try<D: Downstream>(
        &mut self,
        upload: &mut Upload,
        down: &mut D,
    ) -> Result<Served, TryError> {
        let Some(member) = self.pick() else {
            self.recording.begin_try(self.version, None);
            // A version always has endpoints, unless it names hosts or services that have no address.
            let error = match self.version().pool.members.is_empty() {
                true => ExchangeError::Connect(ConnectError::Unresolved),
                false => ExchangeError::NoEndpoint,
            };
            return Err(self.failed(error.into()));
        };
        self.enter_member(member);
        self.recording.begin_try(self.version, Some(member));
        let version = self.version();
        let ceiling = self.cx.service.policies.limits.requests;
        let slot = match self.free_slot(version, ceiling) {
            Some(slot) => Some(slot),
            // Boxed because it is rare: inline, its state would enlarge every request's future.
            None => Box::pin(self.wait_for_slot(version, ceiling)).await,
        };
        let Some(slot) = slot else {
            return Err(self.failed(ExchangeError::Limit(Limit::Requests).into()));
        };
        let _in_flight = InFlight::enter(version.metrics.shard(self.cx.worker.id));
        // The attempt consumes the slot and frees it when the upstream's part is done, which may
        // be before the client has read the response.
        let tried = match self.hedge_delay() {
            None => self.attempt(slot, upload, down).await,
            Some(delay) => Box::pin(self.hedged(delay, slot, upload, down)).await,
        };
        match tried {
            Ok(Tried::Served(served)) => Ok(served),
            // Boxed because it is rare: inline, its state would enlarge every request's future.
            tried => Box::pin(self.conclude(tried, down)).await,
        }
    }

    /// Delivers what is left of a response, and records a failure.
    pub(super) async fn conclude<D: Downstream>(
        &mut self,
        tried: Result<Tried<Remainder>, TryError>,
        down: &mut D,
    ) -> Result<Served, TryError> {
        let served = match tried {
            Ok(Tried::Served(served)) => Ok(served),
            // The rest needs nothing of this request's future, which is much larger.
            Ok(Tried::Arrived(arrived, remainder))
                if D::TAKES_UNDELIVERED && self.recording.can_park(self.cx.snapshot) =>
            {
                let rest = Undelivered::new(*arrived, remainder);
                Ok(Served::Undelivered(Box::new(rest)))
            }
            Ok(Tried::Arrived(arrived, remainder)) => self.deliver(arrived, remainder, down).await,
            Err(error) => Err(error),
        };
        match served {
            Err(TryError::Failed(failed)) => Err(self.failed(failed)),
            other => other,
        }
    }

    /// Makes an endpoint the one that is being tried.
    pub(super) fn enter_member(&mut self, member: EndpointIx) {
        self.member = member;
        self.mark_tried(member);
    }

    /// Counts an endpoint as tried, so that later tries avoid it.
    pub(super) fn mark_tried(&mut self, member: EndpointIx) {
        self.tried[(self.count as usize).min(MAX_TRIED - 1)] = member;
        self.count += 1;
    }

    /// Sends a slow client the rest of a response that the upstream has completed.
    async fn deliver<D: Downstream>(
        &mut self,
        mut arrived: Box<Arrived>,
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

    /// Records a failed try.
    pub(super) fn failed(&mut self, failed: AttemptError) -> TryError {
        let client_status = failed.answered.then_some(self.recording.record.status);
        self.recording.fail_try(&failed.error, client_status);
        if let ExchangeError::Limit(limit) = failed.error {
            self.recording.limited(limit);
        }
        TryError::Failed(failed)
    }

    /// The endpoint for the next try: the session's for the first, then preferably one that hasn't
    /// been tried.
    fn pick(&self) -> Option<EndpointIx> {
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

    /// The endpoints of the current version that have been tried.
    fn tried(&self) -> &[EndpointIx] {
        match self.shielded {
            // The indices refer to the canary's pool; the shield has only one try on stable.
            true => &[],
            false => &self.tried[..(self.count as usize).min(MAX_TRIED)],
        }
    }

    pub(super) fn has_untried(&self) -> bool {
        let members = &self.version().pool.members;
        let untried = |(index, _): &(EndpointIx, _)| !self.tried().contains(index);
        let mut others = EndpointIx::enumerate(members).filter(untried);
        others.any(|(_, member)| member.endpoint.state.is_usable())
    }

    /// Takes a slot under `limits.requests`, if one is free.
    #[inline]
    fn free_slot(&self, version: &'a Version, ceiling: u32) -> Option<ActiveGuard<'a>> {
        let requests = &version.load.requests;
        // A newcomer doesn't overtake requests that wait.
        match requests.is_awaited() {
            true => None,
            false => requests.try_enter(ceiling),
        }
    }

    /// Waits for a slot of a version at its limit, as one of at most `limits.pending` requests, and
    /// ends slow transfers to free one. `None`: the limit refuses the request.
    #[cold]
    async fn wait_for_slot(&self, version: &'a Version, ceiling: u32) -> Option<ActiveGuard<'a>> {
        let load = &version.load;
        let (mut room_request, mut has_shed) = (None, false);
        let _pending = load
            .connections
            .pend(self.cx.service.policies.limits.pending)?;
        let is_first = !load.requests.is_awaited();
        let _waiting = load.requests.wait();
        if is_first {
            tokio::time::sleep(REPLY_GRACE).await;
            if let Some(slot) = load.requests.try_enter(ceiling) {
                return Some(slot);
            }
        }
        for tick in 0..MAX_WAIT_TICKS {
            // One ended transfer is enough, unless another request has taken its slot meanwhile.
            if tick % SHED_EVERY_TICKS == 0 {
                has_shed = self.shed_slow_transfer(version, tick < DEFER_TICKS);
                // This worker has none to end, but another one may. The request is withdrawn when
                // the guard is dropped.
                if !has_shed && room_request.is_none() {
                    room_request = load.ask_for_room();
                }
                // The runtime polls the tasks that were just woken before it polls this one again,
                // and they free their slots.
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(TICK).await;
            }
            let slot = load.requests.try_enter(ceiling);
            let is_hopeless = tick >= GRACE_TICKS && room_request.is_none() && !has_shed;
            if slot.is_some() || is_hopeless {
                return slot;
            }
        }
        None
    }

    /// Ends the slowest blocked download of the version on this worker, or else uploads that are
    /// too slow. `false`: there are none, or another worker has a slower download and this one
    /// `defers` to it.
    fn shed_slow_transfer(&self, version: &Version, defers: bool) -> bool {
        let worker = self.cx.worker;
        worker
            .downloads
            .shed_slowest(&version.load, worker.controls.now_ms(), defers)
            || worker.shed_slow_uploads(&version.pool, MAX_SHED_UPLOADS)
    }

    /// Decides what follows a failed try.
    fn after_failure(&mut self, failed: &AttemptError, can_rewind: bool) -> Next {
        // Once the client has part of a response, nothing can replace it.
        match TryFailure::of(&failed.error).filter(|_| !failed.answered) {
            Some(failure) => self.next(failure, can_rewind),
            None => Next::Nothing,
        }
    }

    /// Decides what follows a response head with this status. [`Next::Nothing`]: it is sent to the
    /// client. Otherwise the try is recorded as failed.
    pub(super) fn after_head(&mut self, status: u16, can_rewind: bool) -> Next {
        // Neither `retry.on` nor the shield covers a status below 500, so nearly all responses are
        // spared the look at the other endpoints.
        if status < 500 {
            return Next::Nothing;
        }
        let next = self.next(TryFailure::Status(status), can_rewind);
        if next != Next::Nothing {
            self.recording
                .fail_try(&ExchangeError::Status(status), None);
        }
        next
    }

    /// Whether stable may answer in place of the version.
    pub(super) fn may_leave(&self) -> bool {
        let routing = &self.cx.service.routing;
        let stable = routing.split.stable();
        // A version that the proxy answers for has no endpoint to try.
        !self.placed.pinned && self.version != stable && !routing.version_answers(stable)
    }

    /// Asks the policy, then the retry limit and budget, which only a retry is charged to.
    fn next(&mut self, failure: TryFailure, can_rewind: bool) -> Next {
        let service = self.cx.service;
        let policies = &service.policies;
        let situation = Situation {
            policy: &policies.retry,
            shield: policies.shield,
            idempotent: self.cx.request.method.is_idempotent(),
            can_rewind,
            tries: self.count,
            may_leave: self.may_leave(),
            shielded: self.shielded,
            has_untried: self.has_untried(),
            second_runs: self.race.as_ref().is_some_and(|race| race.is_open()),
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

    /// Takes a slot under `limits.retries` and pays from the service's retry budget.
    fn afford_retry(&mut self, failure: TryFailure) -> bool {
        // Only repeated answers are limited; a ceiling of 0 means unlimited.
        let ceiling = match failure.is_answer() {
            true => self.cx.service.policies.limits.retries,
            false => 0,
        };
        if self.retry_slot.is_none() {
            self.retry_slot = self.version().load.retries.try_enter(ceiling);
        }
        if self.retry_slot.is_none() {
            self.recording.limited(Limit::Retries);
            return false;
        }
        self.cx.worker.spend_retry(self.cx.service)
    }

    /// Rewinds the body for the next try. A retry first backs off; the shield goes to another
    /// version, so it doesn't wait.
    async fn prepare(&mut self, next: Next, upload: &mut Upload) {
        upload.rewind();
        if next == Next::Shield {
            self.recording.shielded();
            self.shielded = true;
            self.retry_slot = None;
            self.version = self.cx.service.routing.split.stable();
        } else {
            let worker = self.cx.worker;
            let wait = worker.with_rng(|rng| budget::backoff(self.count, rng));
            tokio::time::sleep(wait).await;
        }
    }
}
