//! One attempt: the request goes up while the answer is awaited, then the answer comes down. One task, no channels.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::active::Active;
use super::body::{Flow, Upload, UploadError};
use super::error::Broken;
use super::headers::{Fields, Outgoing, Request, Uncached};
use super::tunnel;
use super::wire::{Downstream, Gone, PumpError, Upstream, WireError};
use crate::config::spec::Timeouts;
use crate::http1::{FieldId, Framing, Method};
use crate::net::Watch;

/// A response may pause for so long after the total time has passed before it counts as no longer moving.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// A client that sends nothing any more has mostly left. One that half-closed its connection and waits gets an answer that comes, and
/// goes on, without a pause longer than this.
pub const HALF_CLOSED: Duration = Duration::from_millis(500);

/// A response that sets a session's cookie must not be kept for others.
pub const UNCACHEABLE: (&str, &str) = ("cache-control", "no-store");

/// What an attempt works under.
#[derive(Debug)]
pub struct Terms<'a> {
    /// Its task's deadline.
    pub watch: &'a Watch,
    /// The service's time limits.
    pub timeouts: &'a Timeouts,
    /// Longest silence of the client inside its body.
    pub body_timeout: Duration,
    /// When the request's head was read.
    pub started: Instant,
    /// What is done about the answer.
    pub reply: &'a Reply<'a>,
    /// The endpoint that works for it.
    pub active: &'a Active<'a>,
}

/// What is done about an attempt's answer before the client sees it.
pub struct Reply<'a> {
    /// Asked with the final status: whether the answer is dropped, because there will be another attempt.
    pub drop: &'a dyn Fn(u16, &Upload) -> bool,
    /// Longest wait for its head.
    pub first_byte: Duration,
    /// A session's cookie to set; it makes the answer uncacheable.
    pub cookie: Option<&'a str>,
    /// When its head came; kept where `timed`.
    pub head_at: Cell<Option<Instant>>,
    /// Whether anybody asks when the head came.
    pub timed: bool,
}

impl std::fmt::Debug for Reply<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply")
            .field("first_byte", &self.first_byte)
            .finish_non_exhaustive()
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Done {
    /// Its status.
    pub status: u16,
    /// For gRPC: how the call ended.
    pub grpc: Option<u8>,
    /// It became a tunnel, which has ended.
    pub tunnel: bool,
}

/// An attempt that broke.
#[derive(Debug)]
pub struct Failure {
    /// How.
    pub broken: Broken,
    /// The head of the answer went to the client already: all that can be done is to cut it.
    pub answered: bool,
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        Self {
            broken,
            answered: false,
        }
    }
}

impl Terms<'_> {
    fn total_left(&self) -> Option<Duration> {
        self.timeouts
            .total
            .map(|total| total.saturating_sub(self.started.elapsed()))
    }

    /// Arms the watch for a wait for the answer's head; says what a miss means.
    fn arm_first_byte(&self) -> Broken {
        match self.total_left() {
            Some(left) if left < self.reply.first_byte => {
                self.watch.arm(left);
                Broken::Total
            }
            _ => {
                self.watch.arm(self.reply.first_byte);
                Broken::FirstByte
            }
        }
    }

    fn arm_silence(&self, limit: Duration) {
        let wait = self
            .total_left()
            .map_or(limit, |left| limit.min(left.max(PAUSE)));
        self.watch.arm(wait);
    }

    pub(super) fn is_due(&self, cx: &Context<'_>) -> bool {
        self.watch.expired(cx)
    }
}

/// Runs one attempt on an open connection.
///
/// # Errors
/// How it broke, and whether the client has seen a part of the answer.
pub async fn run<D: Downstream, U: Upstream, F: Fields>(
    terms: &Terms<'_>,
    request: &Request<'_, F>,
    upload: &mut Upload,
    down: &mut D,
    up: &mut U,
) -> Result<Done, Failure> {
    up.send_request(request).map_err(Broken::Upstream)?;
    #[cfg(test)]
    super::stumble(request.target, "asked");
    let mut uploaded = false;
    loop {
        let awaited = await_head(terms, request, upload, &mut uploaded, down, up).await;
        terms.watch.set_behind(None);
        awaited?;
        let status = up.status();
        if status == 101 {
            let protocol = up.fields().first(FieldId::Upgrade).map(<[u8]>::to_vec);
            // In the middle of a body nobody could tell its framing from the tunnel's bytes.
            if !uploaded || !is_asked_for(request.upgrade, protocol.as_deref()) {
                let bad = crate::http1::Reject::bad("unasked-upgrade");
                return Err(Broken::Upstream(WireError::Bad(bad)).into());
            }
            return tunnel::run(terms, down, up).await;
        }
        if status >= 200 {
            if terms.reply.timed {
                terms.reply.head_at.set(Some(Instant::now()));
            }
            if (terms.reply.drop)(status, upload) {
                return Err(Broken::Dropped(status).into());
            }
            break;
        }
        down.send_informational(status, &up.fields())
            .map_err(|_| Broken::ClientGone)?;
        up.next();
        terms.arm_silence(terms.body_timeout);
        poll_fn(|cx| match down.poll_flush(cx) {
            Poll::Pending if terms.is_due(cx) => Poll::Ready(Err(WireError::Cut)),
            polled => polled,
        })
        .await
        .map_err(|_| Broken::ClientGone)?;
    }
    respond(terms, request, upload, uploaded, down, up).await
}

/// Whether the upstream switches to a protocol that the client named (RFC 9110 §7.8).
fn is_asked_for(asked: Option<&[u8]>, switched_to: Option<&[u8]>) -> bool {
    let (Some(asked), Some(switched_to)) = (asked, switched_to) else {
        return false;
    };
    let mut named = asked.split(|&b| b == b',').map(<[u8]>::trim_ascii);
    named.any(|protocol| protocol.eq_ignore_ascii_case(switched_to.trim_ascii()))
}

/// Sends the body up until the answer's head is there.
async fn await_head<D: Downstream, U: Upstream, F: Fields>(
    terms: &Terms<'_>,
    request: &Request<'_, F>,
    upload: &mut Upload,
    uploaded: &mut bool,
    down: &mut D,
    up: &mut U,
) -> Result<(), Broken> {
    let mut miss = None;
    let mut pace = None;
    let mut deaf = false;
    poll_fn(|cx| {
        if !*uploaded && !deaf {
            match upload.poll(cx, down, up) {
                Poll::Ready(Ok(())) => *uploaded = true,
                // The upstream takes no more, but it may have said why.
                Poll::Ready(Err(UploadError::Pump(PumpError::Sink(_)))) => deaf = true,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(client_side(e))),
                Poll::Pending => {}
            }
        }
        match up.poll_head(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(e)) => return Poll::Ready(Err(Broken::Upstream(e))),
            Poll::Pending => {}
        }
        if *uploaded || deaf {
            if miss.is_none() {
                miss = Some(terms.arm_first_byte());
            }
            match down.poll_gone(cx) {
                Poll::Ready(Gone::Left) => return Poll::Ready(Err(Broken::ClientGone)),
                Poll::Ready(Gone::HalfClosed) if !matches!(miss, Some(Broken::ClientGone)) => {
                    terms.watch.arm(HALF_CLOSED);
                    miss = Some(Broken::ClientGone);
                }
                _ => {}
            }
        } else {
            if down.poll_taken_back(cx).is_ready() {
                return Poll::Ready(Err(Broken::ClientGone));
            }
            let pace = pace
                .get_or_insert_with(|| super::hold::pace(request, terms.body_timeout, terms.watch));
            let (flow, now_ms) = (upload.flow(), terms.watch.now_ms());
            if let Some(wait) = pace.news(now_ms, flow.moved, !flow.waits_for_sink) {
                terms.arm_silence(wait);
                terms.watch.set_behind(pace.behind_at());
            }
        }
        if terms.is_due(cx) {
            return Poll::Ready(Err(if terms.watch.is_shut() {
                Broken::Shut
            } else if let Some(miss) = miss.take() {
                miss
            } else if upload.flow().waits_for_sink {
                Broken::FirstByte
            } else {
                Broken::ClientSilent
            }));
        }
        Poll::Pending
    })
    .await
}

/// How a client broke that was sending its body.
pub(super) fn client_side(error: UploadError) -> Broken {
    match error {
        UploadError::TooLarge => Broken::TooLarge,
        UploadError::Pump(PumpError::Source(WireError::Bad(reject))) => Broken::Client(reject),
        UploadError::Pump(_) => Broken::ClientGone,
    }
}

/// Sends the answer down; what is left of the request's body goes on going up.
async fn respond<D: Downstream, U: Upstream, F: Fields>(
    terms: &Terms<'_>,
    request: &Request<'_, F>,
    upload: &mut Upload,
    mut uploaded: bool,
    down: &mut D,
    up: &mut U,
) -> Result<Done, Failure> {
    let status = up.status();
    let framing = if request.method == Method::Head {
        Framing::Empty
    } else {
        up.framing()
    };
    let is_grpc = up
        .fields()
        .first(FieldId::ContentType)
        .is_some_and(|t| t.starts_with(b"application/grpc"));
    let mut grpc = if is_grpc {
        up.fields().first(FieldId::GrpcStatus).map(grpc_status)
    } else {
        None
    };
    let head = Head {
        status,
        framing,
        told_length: up.content_length(),
    };
    if terms.watch.is_closing() {
        // Announced while the request was in flight: its answer is the first that can say so.
        down.close_after();
    }
    match terms.reply.cookie {
        None => head.send(down, up.fields(), &[]),
        Some(line) => head.send(
            down,
            Uncached(up.fields()),
            &[("set-cookie", line), UNCACHEABLE],
        ),
    }
    .map_err(|_| Broken::ClientGone)?;
    #[cfg(test)]
    super::stumble(request.target, "answering");
    up.next();
    if !matches!(framing, Framing::Length(_) | Framing::Empty) {
        terms.active.becomes_stream();
    }
    if down.wants_chunks() && up.lend_chunks() {
        down.take_chunks();
    }
    let mut flow = Flow::default();
    let mut moved = u64::MAX;
    let mut half_closed = false;
    let result = poll_fn(|cx| {
        if !uploaded {
            match upload.poll(cx, down, up) {
                Poll::Pending => {}
                Poll::Ready(Err(UploadError::Pump(PumpError::Sink(_))) | Ok(())) => uploaded = true,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(client_side(e))),
            }
        }
        match flow.poll(cx, up, down) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(PumpError::Source(e))) => return Poll::Ready(Err(Broken::Upstream(e))),
            Poll::Ready(Err(PumpError::Sink(_))) => return Poll::Ready(Err(Broken::ClientGone)),
            Poll::Pending => {}
        }
        let mut news = false;
        if uploaded && !half_closed {
            match down.poll_gone(cx) {
                Poll::Ready(Gone::Left) => return Poll::Ready(Err(Broken::ClientGone)),
                Poll::Ready(Gone::HalfClosed) => (half_closed, news) = (true, true),
                Poll::Pending => {}
            }
        }
        let now = flow.moved + upload.flow().moved;
        if now != moved || news {
            moved = now;
            let idle = terms.timeouts.idle;
            terms.arm_silence(if half_closed {
                HALF_CLOSED.min(idle)
            } else {
                idle
            });
        }
        if terms.is_due(cx) {
            let client = flow.waits_for_sink || half_closed;
            return Poll::Ready(Err(match terms.watch.is_shut() {
                true => Broken::Shut,
                false if client => Broken::ClientGone,
                false => Broken::Idle,
            }));
        }
        Poll::Pending
    })
    .await;
    if let Err(broken) = result {
        return Err(Failure {
            broken,
            answered: true,
        });
    }
    if is_grpc && let Some(code) = flow.trailers.as_ref().and_then(|t| t.get("grpc-status")) {
        grpc = Some(grpc_status(code.as_bytes()));
    }
    Ok(Done {
        status,
        grpc: if is_grpc { grpc.or(Some(2)) } else { None },
        tunnel: false,
    })
}

/// What the head of an answer says besides its fields.
struct Head {
    status: u16,
    framing: Framing,
    told_length: Option<u64>,
}

impl Head {
    fn send<D: Downstream, F: Fields>(
        &self,
        down: &mut D,
        fields: F,
        added: &[(&'static str, &str)],
    ) -> Result<(), WireError> {
        down.send_response(&Outgoing {
            status: self.status,
            fields,
            framing: self.framing,
            told_length: self.told_length,
            added,
            upgrade: None,
        })
    }
}

/// A `grpc-status` as a number; what is none counts as 2 (unknown).
fn grpc_status(text: &[u8]) -> u8 {
    std::str::from_utf8(text)
        .ok()
        .and_then(|t| t.parse().ok())
        .unwrap_or(2)
}
