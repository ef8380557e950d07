//! `wait`: requests that wait until an endpoint is usable again instead of failing.
//!
//! A request waits before it is forwarded if its version has no usable endpoint and no other one takes over, or if others wait
//! for the version already. It also waits after it could not connect: nothing was sent then, so that it can be sent later
//! whatever its method. After the wait it is routed again, by the latest configuration: its version may have been replaced.

use std::time::Instant;

use super::connection::Queued;
use super::context::RequestContext;
use super::error::ExchangeError;
use super::headers::Fields;
use super::hold_queue::Awaited;
use super::observe::Recording;
use super::placing::Placed;
use super::wire::Downstream;
use crate::index::VersionIx;
use crate::telemetry::record::Reason;
use crate::upstream::limits::{ActiveGuard, Limit};

/// A request that waits or has waited.
#[derive(Debug)]
pub(super) struct Hold<'a> {
    /// The time at which the request gives up.
    until: Instant,
    /// The number of the request in the queues of the worker.
    number: u64,
    /// Counts the request under `wait_pending`.
    _pending: ActiveGuard<'a>,
}

/// Why a request has to wait.
#[derive(Debug)]
pub(super) struct Missed {
    /// Index of the version that the request is for.
    pub version: VersionIx,
    /// Why its last try failed; `None` if there was none.
    pub error: Option<ExchangeError>,
}

/// Whether a request has to wait before it is forwarded. `has_waited`: it has just been released.
#[inline]
pub(super) fn must_wait<F>(cx: &RequestContext<'_, F>, placed: &Placed, has_waited: bool) -> bool {
    let (worker, service) = (cx.worker, cx.service);
    if service.policies.wait.is_none() {
        return false;
    }
    let version = placed.aim.version;
    let is_awaited = || {
        let name = &service.versions[version].name;
        worker.holds.is_awaited(service.slot, name, placed.pinned)
    };
    !worker.has_healthy_endpoint(service, version) || (!has_waited && is_awaited())
}

/// Whether a request whose last try failed in this way waits for another one. Assumes that its body can be sent again.
pub(super) fn may_wait<F>(
    cx: &RequestContext<'_, F>,
    error: &ExchangeError,
    has_waited: bool,
) -> bool {
    if cx.service.policies.wait.is_none() {
        return false;
    }
    match error {
        ExchangeError::NoEndpoint => true,
        ExchangeError::Connect(error) => matches!(
            error.reason(),
            Reason::ConnectRefused
                | Reason::ConnectTimeout
                | Reason::ConnectFailed
                | Reason::UnresolvedName
        ),
        // More requests were released than there was room for, because other workers release requests as well.
        ExchangeError::Limit(Limit::Requests | Limit::Pending) => has_waited,
        _ => false,
    }
}

/// Waits until the request may be routed again.
///
/// # Errors
/// The reason why the request fails: too many wait already, the client left, the process is shutting down, or nothing became
/// usable in time. In the last case it is the error of the last try, if there was one.
pub(super) async fn wait<'a, F: Fields, D: Downstream>(
    cx: &RequestContext<'a, F>,
    placed: &Placed,
    hold: &mut Option<Hold<'a>>,
    missed: Missed,
    recording: &mut Recording<'_>,
    down: &mut D,
) -> Result<(), ExchangeError> {
    let Missed { version, error } = missed;
    let began = Instant::now();
    let waited = match hold_of(cx, hold, began) {
        Some(hold) => in_queue(cx, placed, hold, (version, error.is_some()), down).await,
        None => Err(ExchangeError::Limit(Limit::WaitPending)),
    };
    recording.add_queued(began.elapsed());
    let failed = match (waited, error) {
        (Ok(()), _) => return Ok(()),
        // This error has been recorded as that of the last try.
        (Err(ExchangeError::NoEndpoint), Some(error)) => return Err(error),
        (Err(failed), _) => failed,
    };
    if let ExchangeError::NoEndpoint | ExchangeError::Limit(_) = failed {
        recording.begin_try(version, None);
        recording.fail_try(&failed, None);
    }
    if let ExchangeError::Limit(limit) = failed {
        recording.limited(limit);
    }
    Err(failed)
}

/// The hold of the request, which begins `now` if it hasn't waited before. `None` if too many wait already, or nothing is waited
/// for any more.
fn hold_of<'h, 'a, F>(
    cx: &RequestContext<'a, F>,
    hold: &'h mut Option<Hold<'a>>,
    now: Instant,
) -> Option<&'h Hold<'a>> {
    if hold.is_none() {
        let service: &'a _ = cx.service;
        let policy = service.policies.wait.as_ref()?;
        *hold = Some(Hold {
            until: now + policy.longest,
            number: cx.worker.holds.next_number(),
            _pending: service.held.try_enter(policy.pending)?,
        });
    }
    hold.as_ref()
}

async fn in_queue<F: Fields, D: Downstream>(
    cx: &RequestContext<'_, F>,
    placed: &Placed,
    hold: &Hold<'_>,
    (version, refused): (VersionIx, bool),
    down: &mut D,
) -> Result<(), ExchangeError> {
    let worker = cx.worker;
    let of_version = &cx.service.versions[version];
    let _queued = Queued::enter(of_version.metrics.shard(worker.id));
    let awaited = Awaited {
        service: cx.service.slot,
        version: of_version.name.clone(),
        pinned: placed.pinned,
    };
    // The request holds its snapshot, so that no other service can have this address meanwhile.
    let compiled = std::ptr::from_ref(cx.service).addr();
    let now_ms = worker.controls.now_ms();
    let holds = &worker.holds;
    let held = holds.enter(awaited, (hold.number, compiled), refused, now_ms);
    let left = hold.until.saturating_duration_since(Instant::now());
    let on_timeout = || ExchangeError::NoEndpoint;
    cx.while_wanted(down, left, on_timeout, |task| {
        held.poll_release(task).map(Ok)
    })
    .await
}
