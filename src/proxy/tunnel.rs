//! The tunnel after a 101, or a 200 to the extended CONNECT of HTTP/2: relays bytes in both directions until both have ended or one has failed.
//!
//! Most tunnels are idle most of the time, so an idle direction holds no buffers, is skipped when
//! the other one wakes the task, and forwards a small message with one read and one write.
//!
//! Between two connections of HTTP/1 it runs in a task of its own ([`task`]).
//!
//! While both sides are open, a tunnel may be silent for any time. Once one side has ended, silence
//! of the other one ends the tunnel ([`HALF_OPEN`]): its peer may be gone or have nothing left to
//! send.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::task::coop;

use super::active::Active;
use super::body::Flow;
use super::context::RequestContext;
use super::edit;
use super::error::ExchangeError;
use super::headers::{Fields, Outgoing};
use super::observe::Recording;
use super::outcome::Served;
use super::websocket::{self, ACCEPT};
use super::wire::{Downstream, PumpError, Sink, Source, Upstream};
use crate::http1::Framing;
use crate::net::TaskControl;

mod task;

/// Longest silence of a tunnel after one side has ended.
const HALF_OPEN: Duration = Duration::from_secs(30);

/// Relays the 101 to the client, as a 200 over HTTP/2, then runs the tunnel. The end of a tunnel is never a failure, since the
/// protocol inside isn't known.
///
/// # Errors
/// [`ExchangeError::ClientGone`] if the 101 can't be sent.
pub(crate) async fn run<D: Downstream, U: Upstream, F: Fields>(
    cx: &RequestContext<'_, F>,
    active: &mut Active<'_>,
    recording: &mut Recording<'_>,
    down: &mut D,
    up: &mut U,
) -> Result<Served, ExchangeError> {
    let protocol = up.switched_to().map(<[u8]>::to_vec).unwrap_or_default();
    let accept = (!U::ANSWERS_KEYS).then(|| websocket::accept_for(cx.request));
    let accept = accept.iter().flatten();
    let added: Vec<_> = accept.map(|accept| (ACCEPT, &**accept)).collect();
    let edits = edit::of_response(cx.snapshot, recording);
    down.send_response(&Outgoing {
        status: D::SWITCHED,
        fields: up.fields(),
        framing: Framing::UntilClose,
        declared_length: None,
        added: &added,
        fixed: added.len(),
        edits: edits.as_ref(),
        upgrade: Some(&protocol),
    })
    .map_err(|e| ExchangeError::ClientGone(Some(e)))?;
    drop(edits);
    recording.record.status = D::SWITCHED;
    recording.record.tunnel = true;
    up.next();
    up.open_tunnel();
    down.open_tunnel();
    active.becomes_stream();
    recording.became_stream();
    cx.watch.disarm();
    let moved = match (down.detach(), up.detach()) {
        (Some(down), Some(up)) => task::relay(down, up, cx.watch).await,
        // Boxed because they are rare: inline, their state would enlarge every request's future.
        (Some(mut down), None) => {
            Box::pin(async move { in_place(&mut down, up, cx.watch).await }).await
        }
        (None, Some(mut up)) => {
            Box::pin(async move { in_place(down, &mut up, cx.watch).await }).await
        }
        (None, None) => Box::pin(in_place(down, up, cx.watch)).await,
    };
    let record = &mut recording.record;
    (record.bytes_received, record.bytes_sent) = (moved.up, moved.down);
    Ok(Served::Tunnel)
}

/// Runs a tunnel in the task of the request, which is where streams of HTTP/2 are polled.
async fn in_place(
    down: &mut (impl Source + Sink),
    up: &mut (impl Source + Sink),
    watch: &TaskControl,
) -> Moved {
    let mut tunnel = Tunnel::new();
    poll_fn(|task| tunnel.poll_in_time(task, down, up, watch)).await;
    tunnel.moved()
}

/// Bytes that a tunnel has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Moved {
    /// Bytes from the client to the endpoint.
    up: u64,
    /// Bytes from the endpoint to the client.
    down: u64,
}

/// The deadline of a tunnel of which one side has ended.
#[derive(Debug, Default)]
struct HalfOpen {
    /// Bytes moved when the deadline was last armed. Set once a side has ended.
    armed_at: Option<Moved>,
}

impl HalfOpen {
    /// Ready when the deadline has passed. `moved` is set once a side has ended; each change renews the deadline. `watch` must
    /// not be armed by anything else.
    #[inline]
    fn poll(&mut self, cx: &Context<'_>, watch: &TaskControl, moved: Option<Moved>) -> Poll<()> {
        if moved.is_some() && self.armed_at != moved {
            self.armed_at = moved;
            watch.arm(HALF_OPEN);
        }
        match watch.expired(cx) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

struct Tunnel {
    upload: Half,
    download: Half,
    /// The waker that is registered with the sources of idle directions.
    waker: Waker,
    deadline: HalfOpen,
}

impl Tunnel {
    fn new() -> Self {
        Self {
            upload: Half::default(),
            download: Half::default(),
            waker: Waker::noop().clone(),
            deadline: HalfOpen::default(),
        }
    }

    fn moved(&self) -> Moved {
        Moved {
            up: self.upload.flow.bytes(),
            down: self.download.flow.bytes(),
        }
    }

    /// Whether one side has ended, or both.
    fn is_half_open(&self) -> bool {
        self.upload.flow.is_source_done() || self.download.flow.is_source_done()
    }

    /// Ready when the tunnel has ended or its deadline has passed. `watch` must not be armed by
    /// anything else.
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
        let moved = self.is_half_open().then(|| self.moved());
        self.deadline.poll(cx, watch, moved)
    }

    /// Ready when both directions have ended or one has failed.
    #[inline]
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut (impl Source + Sink),
        up: &mut (impl Source + Sink),
    ) -> Poll<()> {
        // An idle direction isn't polled and thus doesn't register the waker again. If the waker has
        // changed, both directions have to be polled in full.
        if !self.waker.will_wake(cx.waker()) {
            self.waker.clone_from(cx.waker());
            (self.upload.flow.idle, self.download.flow.idle) = (false, false);
        }
        let upload = self.upload.poll(cx, down, up);
        let download = self.download.poll(cx, up, down);
        match (upload, download) {
            (Poll::Ready(Err(_)), _)
            | (_, Poll::Ready(Err(_)))
            | (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

/// One direction of a tunnel. The end of its source closes the write side of its sink.
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
            // `None`: nothing has arrived, and the waker is still registered.
            let passed = match sink.splice_sink() {
                Some((to, _)) if !self.flow.is_piped() => source.pass(to)?,
                _ => (!source.has_nothing_to_read()).then_some(0),
            };
            let Some(n) = passed else {
                return Poll::Pending;
            };
            sink.spliced_to(n);
            self.flow.moved += n as u64;
            if source.poll_news(cx).is_pending() {
                self.mark_idle();
                return Poll::Pending;
            }
        }
        if !self.shut {
            if self.flow.poll(cx, source, sink)?.is_pending() {
                if self.flow.idle {
                    source.release_input();
                    sink.release_output();
                    self.mark_idle();
                }
                return Poll::Pending;
            }
            ready!(sink.poll_shutdown(cx)).map_err(PumpError::Sink)?;
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Marks the direction as idle. Not if tokio's cooperative budget is used up: the source was
    /// pending for that reason alone then, and hasn't registered the waker.
    #[inline]
    fn mark_idle(&mut self) {
        self.flow.idle = coop::has_budget_remaining();
    }
}

#[cfg(test)]
#[path = "tunnel_tests.rs"]
mod tests;
