//! After 101: bytes both ways until both sides have ended, or one broke. A message costs one read and one write, and a direction
//! in which nothing has come since is not asked again.
//!
//! A tunnel may be silent for as long as both sides are there. When one has ended, the other may have gone without a word, or have
//! nothing to say any more: then a silence ends the tunnel.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::task::coop;

use super::active::Active;
use super::body::Flow;
use super::context::RequestContext;
use super::error::ExchangeError;
use super::headers::{Fields, Outgoing};
use super::observe::Recording;
use super::tries::Served;
use super::wire::{Downstream, PumpError, Sink, Source, Upstream};
use crate::http1::{FieldId, Framing};
use crate::net::TaskControl;

/// How long a tunnel of which one side has ended may go without a byte from the other.
const HALF_OPEN: Duration = Duration::from_secs(30);

/// Hands the 101 on, then the bytes.
///
/// # Errors
/// The client can't be told.
pub(crate) async fn run<D: Downstream, U: Upstream, F: Fields>(
    cx: &RequestContext<'_, F>,
    active: &mut Active<'_>,
    recording: &mut Recording<'_>,
    down: &mut D,
    up: &mut U,
) -> Result<Served, ExchangeError> {
    let protocol = up
        .fields()
        .first(FieldId::Upgrade)
        .map(<[u8]>::to_vec)
        .unwrap_or_default();
    down.send_response(&Outgoing {
        status: 101,
        fields: up.fields(),
        framing: Framing::UntilClose,
        declared_length: None,
        added: &[],
        upgrade: Some(&protocol),
    })
    .map_err(|e| ExchangeError::ClientGone(Some(e)))?;
    recording.record.status = 101;
    recording.record.tunnel = true;
    up.next();
    up.open_tunnel();
    down.open_tunnel();
    active.becomes_stream();
    cx.watch.disarm();
    let mut tunnel = Tunnel::new();
    poll_fn(|task| tunnel.poll_in_time(task, down, up, cx.watch)).await;
    let record = &mut recording.record;
    record.bytes_received = tunnel.rising.flow.moved;
    record.bytes_sent = tunnel.falling.flow.moved;
    Ok(Served::Tunnel)
}

/// Both directions.
struct Tunnel {
    rising: Half,
    falling: Half,
    /// Who is woken by the sides that rest.
    waker: Waker,
    /// Bytes that had passed when the deadline was armed last: a side has ended.
    timed_at: Option<u64>,
}

impl Tunnel {
    fn new() -> Self {
        Self {
            rising: Half::default(),
            falling: Half::default(),
            waker: Waker::noop().clone(),
            timed_at: None,
        }
    }

    /// Ready when both directions have ended, one broke, or the time is over; `watch` has no deadline of another's.
    #[inline]
    fn poll_in_time(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut (impl Source + Sink),
        up: &mut (impl Source + Sink),
        watch: &TaskControl,
    ) -> Poll<()> {
        if self.poll(cx, down, up).is_ready() {
            return Poll::Ready(());
        }
        if self.rising.flow.is_source_done() || self.falling.flow.is_source_done() {
            let moved = Some(self.rising.flow.moved + self.falling.flow.moved);
            if self.timed_at != moved {
                self.timed_at = moved;
                watch.arm(HALF_OPEN);
            }
        }
        if watch.expired(cx) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Ready when both directions have ended, or one broke.
    #[inline]
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut (impl Source + Sink),
        up: &mut (impl Source + Sink),
    ) -> Poll<()> {
        if !self.waker.will_wake(cx.waker()) {
            self.waker.clone_from(cx.waker());
            (self.rising.flow.idle, self.falling.flow.idle) = (false, false);
        }
        let rising = self.rising.poll(cx, down, up);
        let falling = self.falling.poll(cx, up, down);
        match (rising, falling) {
            (Poll::Ready(Err(_)), _)
            | (_, Poll::Ready(Err(_)))
            | (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

/// One direction of a tunnel: when its source has ended, so does its sink.
#[derive(Default)]
struct Half {
    flow: Flow,
    shut: bool,
}

impl Half {
    #[inline]
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
        sink: &mut impl Sink,
    ) -> Poll<Result<(), PumpError>> {
        if self.flow.idle {
            let passed = match sink.splice_sink() {
                Some((to, _)) if !self.flow.is_piped() => source.pass(to)?,
                _ => (!source.has_no_news()).then_some(0),
            };
            let Some(n) = passed else {
                return Poll::Pending;
            };
            sink.spliced_to(n);
            self.flow.moved += n as u64;
            if source.poll_news(cx).is_pending() {
                self.stay();
                return Poll::Pending;
            }
        }
        if !self.shut {
            if self.flow.poll(cx, source, sink)?.is_pending() {
                if self.flow.idle {
                    source.release_input();
                    sink.release_output();
                    self.stay();
                }
                return Poll::Pending;
            }
            ready!(sink.poll_shutdown(cx)).map_err(PumpError::Sink)?;
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Rests, unless it waits only because this task has had its turn: then the source doesn't know yet whom to wake.
    #[inline]
    fn stay(&mut self) {
        self.flow.idle = coop::has_budget_remaining();
    }
}

#[cfg(test)]
#[path = "tunnel_tests.rs"]
mod tests;
