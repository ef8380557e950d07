//! The tries of one request: which endpoint, and when another one follows: a retry, or stable's answer for a canary's failure.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attempt::Call;
use super::body::Upload;
use super::error::Broken;
use super::exchange::{Done, Failure, Reply};
use super::headers::Fields;
use super::placing::Placed;
use super::wire::Downstream;
use crate::config::spec::Balance;
use crate::snapshot::Version;
use crate::telemetry::VersionShard;
use crate::telemetry::names::RETRY_REASONS;
use crate::upstream::limits::{Guard, Limit};
use crate::upstream::outlier::Outcome;
use crate::upstream::{Endpoint, budget};

/// Most endpoints of one request that are remembered as tried: as many as `retry.tries` may be, and one for the shield.
const TRIED: usize = 11;

/// So many uploads that are behind give up their places at a time.
const SPARED: usize = 64;

/// Where a request stands.
#[derive(Debug)]
struct Place {
    version: usize,
    tries: u32,
    tried: [usize; TRIED],
    shielded: bool,
}

impl Place {
    fn tried(&self) -> &[usize] {
        &self.tried[..(self.tries as usize).min(TRIED)]
    }
}

/// What follows a failed try.
#[derive(Debug)]
enum Next<'a> {
    /// The same version again, another endpoint if there is one; the reason's index in [`RETRY_REASONS`], and its place under the ceiling.
    Retry(usize, Guard<'a>),
    /// Stable answers for the canary.
    Shield,
}

/// Why a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// Nothing reached the application.
    Unsent,
    /// It broke before its answer.
    Reset,
    /// It didn't answer in time.
    Timeout,
    /// Its answer's status.
    Status(u16),
}

impl Cause {
    fn of(broken: &Broken) -> Option<Self> {
        match broken {
            Broken::Connect(_) | Broken::NoEndpoint => Some(Self::Unsent),
            Broken::Upstream(_) => Some(Self::Reset),
            Broken::FirstByte => Some(Self::Timeout),
            _ => None,
        }
    }

    /// Index in [`RETRY_REASONS`].
    fn reason(self) -> usize {
        let name = match self {
            Self::Unsent => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status(502) => "502",
            Self::Status(503) => "503",
            Self::Status(504) => "504",
            Self::Status(_) => "status",
        };
        RETRY_REASONS
            .iter()
            .position(|reason| *reason == name)
            .unwrap_or_default()
    }
}

/// Where a request goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aim {
    /// Index of the version.
    pub version: usize,
    /// Index of the endpoint that the session is on.
    pub endpoint: Option<usize>,
    /// The request's hash, for `balance = "hash"`.
    pub key: Option<u64>,
}

impl<F: Fields> Call<'_, F> {
    /// Tries until there is an answer or nothing more to try; counts what each version and endpoint did.
    ///
    /// # Errors
    /// How the last try broke.
    pub async fn run<D: Downstream>(
        &self,
        placed: &Placed,
        upload: &mut Upload,
        down: &mut D,
    ) -> Result<Done, Failure> {
        let aim = &placed.aim;
        let mut place = Place {
            version: aim.version,
            tries: 0,
            tried: [0; TRIED],
            shielded: false,
        };
        self.worker.earn(self.service);
        // A retry's place under the ceiling: held while it runs, and handed on to the one that follows it.
        let retrying = Cell::new(None);
        loop {
            let Some(member) = self.next_endpoint(&place, aim) else {
                return self.unpicked(&place);
            };
            place.tried[(place.tries as usize).min(TRIED - 1)] = member;
            place.tries += 1;
            let next = Cell::new(None);
            let decide = |status: u16, upload: &Upload| {
                let found = self.next(
                    &place,
                    Cause::Status(status),
                    upload.can_rewind(),
                    &retrying,
                );
                let follows = found.is_some();
                next.set(found);
                follows
            };
            let line = self.cookie(placed, &place, member);
            let reply = Reply {
                drop: &decide,
                first_byte: self.first_byte(),
                cookie: line.as_deref(),
                head_at: Cell::new(None),
                timed: self.service.versions[place.version].pool.balance == Balance::PeakEwma,
            };
            let result = self.one_try(&place, member, &reply, upload, down).await;
            let Err(failure) = &result else { return result };
            if failure.answered {
                return result;
            }
            let next = next.take().or_else(|| {
                let cause = Cause::of(&failure.broken)?;
                self.next(&place, cause, upload.can_rewind(), &retrying)
            });
            match next {
                None => return result,
                Some(next) => retrying.set(self.prepare(&mut place, next, upload).await),
            }
        }
    }

    /// The session's cookie for an answer from this endpoint, if one is due. A shielded request stays a session of its canary.
    fn cookie(&self, placed: &Placed, place: &Place, member: usize) -> Option<String> {
        let sessions = self
            .service
            .sessions
            .as_ref()
            .filter(|_| placed.binds && !place.shielded)?;
        let (now_s, secure) = (self.worker.now_s(), self.request.peer.tls);
        sessions.cookie(
            self.service,
            placed.session.as_ref(),
            (place.version, member),
            now_s,
            secure,
        )
    }

    /// The endpoint for the next try: the session's on the first, then one that was not asked yet if there is one.
    fn next_endpoint(&self, place: &Place, aim: &Aim) -> Option<usize> {
        let wanted = aim.endpoint.filter(|_| place.tries == 0);
        if wanted.is_some() {
            return wanted;
        }
        let tried = if place.shielded { &[] } else { place.tried() };
        self.worker
            .pick(self.service, place.version, tried, aim.key)
            .or_else(|| self.worker.pick(self.service, place.version, &[], aim.key))
    }

    fn unpicked(&self, place: &Place) -> Result<Done, Failure> {
        let shard = self.shard(place.version);
        let broken = Broken::NoEndpoint;
        if let Some(status) = broken.charged() {
            shard.request(self.request.method, status, self.started.elapsed());
        }
        Err(broken.into())
    }

    fn shard(&self, version: usize) -> &VersionShard {
        self.service.versions[version].metrics.shard(self.worker.id)
    }

    fn first_byte(&self) -> Duration {
        let first_byte = self.service.timeouts.first_byte;
        self.service
            .policies
            .retry
            .per_try
            .map_or(first_byte, |per_try| per_try.min(first_byte))
    }

    /// One try, within the version's limits, and what it says about version and endpoint.
    async fn one_try<D: Downstream>(
        &self,
        place: &Place,
        member: usize,
        reply: &Reply<'_>,
        upload: &mut Upload,
        down: &mut D,
    ) -> Result<Done, Failure> {
        let version = &self.service.versions[place.version];
        let shard = self.shard(place.version);
        let limits = &self.service.policies.limits;
        let Some(_request) = self.enter(version, limits.requests).await else {
            shard.limit_rejected(Limit::Requests.index());
            return Err(Broken::Limit(Limit::Requests.reason()).into());
        };
        let _in_flight = InFlight::enter(shard);
        let endpoint = &version.pool.members[member].endpoint;
        let began = if place.tries == 1 {
            self.started
        } else {
            Instant::now()
        };
        let result = self.attempt(endpoint, reply, upload, down).await;
        if let (Some(at), true) = (reply.head_at.get(), reply.timed) {
            endpoint
                .load
                .note_latency(at.duration_since(began), self.worker.watches.now_ms());
        }
        let status = match &result {
            Ok(done) => {
                if let Some(code) = done.grpc {
                    shard.grpc(code);
                }
                Some(done.status)
            }
            Err(failure) => failure.broken.charged(),
        };
        if let Some(status) = status {
            shard.request(self.request.method, status, began.elapsed());
            self.note(endpoint, &result, status);
        }
        result
    }

    /// A place among the version's requests; where there is none, that of an upload that is behind.
    #[inline]
    async fn enter<'v>(&self, version: &'v Version, ceiling: u32) -> Option<Guard<'v>> {
        let requests = &version.load.requests;
        let place = requests.try_enter(ceiling);
        if place.is_some() || !self.worker.spare_uploads(&version.pool, SPARED) {
            return place;
        }
        tokio::task::yield_now().await;
        requests.try_enter(ceiling)
    }

    /// Tells outlier detection.
    fn note(&self, endpoint: &Arc<Endpoint>, result: &Result<Done, Failure>, status: u16) {
        let gateway = matches!(result, Err(f) if !matches!(f.broken, Broken::Dropped(_)));
        let outcome = match status {
            502..=504 => Outcome::Gateway,
            _ if gateway => Outcome::Gateway,
            500..=599 => Outcome::ServerError,
            _ => Outcome::Ok,
        };
        self.worker
            .note(endpoint, outcome, &self.service.policies.outlier);
    }

    /// What follows a try that failed so, if anything may.
    fn next<'a>(
        &'a self,
        place: &Place,
        cause: Cause,
        can_rewind: bool,
        held: &Cell<Option<Guard<'a>>>,
    ) -> Option<Next<'a>> {
        let unsent = cause == Cause::Unsent;
        let idempotent = self.request.method.is_idempotent() || unsent;
        if !can_rewind {
            return None;
        }
        let failed = !matches!(cause, Cause::Status(status) if status < 500);
        let stable = self.service.routing.split.stable();
        if self.service.policies.shield
            && failed
            && idempotent
            && place.version != stable
            && !place.shielded
        {
            return Some(Next::Shield);
        }
        let retry = &self.service.policies.retry;
        let wanted = match cause {
            Cause::Unsent => retry.on.connect,
            Cause::Reset => retry.on.reset,
            Cause::Timeout => retry.on.timeout || retry.on.statuses.contains(&504),
            Cause::Status(status) => retry.on.statuses.contains(&status),
        };
        let may = wanted
            && (idempotent || retry.all_methods)
            && place.tries < retry.tries
            && !place.shielded;
        if !may {
            return None;
        }
        let guard = held.take().or_else(|| self.enter_retry(place, cause))?;
        let pays = self.worker.spend(self.service);
        pays.then(|| Next::Retry(cause.reason(), guard))
    }

    /// The ceiling holds for retries of answers, by which an overloaded application would be loaded more. When an endpoint dies,
    /// everything that was in flight on it fails at once and goes elsewhere: that is for the budget alone to bound.
    fn enter_retry(&self, place: &Place, cause: Cause) -> Option<Guard<'_>> {
        let ceiling = match cause {
            Cause::Status(_) => self.service.policies.limits.retries,
            Cause::Unsent | Cause::Reset | Cause::Timeout => 0,
        };
        let retries = &self.service.versions[place.version].load.retries;
        let guard = retries.try_enter(ceiling);
        if guard.is_none() {
            self.shard(place.version)
                .limit_rejected(Limit::Retries.index());
        }
        guard
    }

    /// Gets ready for the next try: counts it, waits a little, rewinds the body. The guard is held while the retry runs.
    async fn prepare<'a>(
        &self,
        place: &mut Place,
        next: Next<'a>,
        upload: &mut Upload,
    ) -> Option<Guard<'a>> {
        upload.rewind();
        match next {
            Next::Shield => {
                self.shard(place.version).shielded();
                place.shielded = true;
                place.version = self.service.routing.split.stable();
                None
            }
            Next::Retry(reason, guard) => {
                self.shard(place.version).retry(reason);
                let wait = self
                    .worker
                    .with_rng(|rng| budget::backoff(place.tries, rng));
                tokio::time::sleep(wait).await;
                Some(guard)
            }
        }
    }
}

/// A request in flight on a version.
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
