//! Delivery to a slow client: the upstream has completed its response, and the rest of it is sent
//! from memory. The upstream connection and the request's slot have been released already.

use std::future::poll_fn;
use std::task::{Context, Poll};

use http::HeaderMap;

use super::client::ClientState;
use super::grpc;
use crate::net::BudgetShare;
use crate::proxy::body::Flow;
use crate::proxy::context::RequestContext;
use crate::proxy::error::{AttemptError, ExchangeError};
use crate::proxy::h1::Memory;
use crate::proxy::h2_up::H2Up;
use crate::proxy::headers::Fields;
use crate::proxy::observe::Recording;
use crate::proxy::silence::Silence;
use crate::proxy::wire::{BodyPiece, Downstream, PumpError, Recipient, Source, WireError};

/// A response that was received completely, and delivered in part.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(super) status: u16,
    /// For gRPC: the status of the call in the head, if it has one.
    pub(super) grpc_status: Option<Option<u8>>,
    pub(super) flow: Flow,
    pub(super) client: ClientState,
    /// Memory charged to the budget for such responses, until this is dropped.
    pub(super) _share: Option<BudgetShare>,
}

/// The undelivered rest of a response body.
#[derive(Debug)]
pub(crate) enum Remainder {
    /// The first `left` bytes in the input buffer of an HTTP/1 connection.
    H1 { mem: Box<Memory>, left: usize },
    /// The same bytes, copied out of a buffer that would have been much larger.
    Small { bytes: Box<[u8]>, sent: u32 },
    /// A stream that the upstream has ended, with data in its receive queue. It doesn't count
    /// towards the concurrent streams of the connection.
    H2(Box<H2Up>),
}

impl Remainder {
    /// The first `left` bytes in the input buffer. Clients may be slow for long and many at a time, so a small rest is copied,
    /// and its buffer goes back to the pool.
    pub(crate) fn of_h1(mem: Memory, left: usize) -> Self {
        if !mem.is_roomy_for(left) || u32::try_from(left).is_err() {
            return Self::H1 {
                mem: Box::new(mem),
                left,
            };
        }
        let bytes = mem.input.bytes()[..left].into();
        Self::Small { bytes, sent: 0 }
    }
}

impl Source for Remainder {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>> {
        match self {
            Self::H1 { left: 0, .. } => Poll::Ready(Ok(BodyPiece::End)),
            Self::H1 { left, .. } => Poll::Ready(Ok(BodyPiece::Data(*left))),
            Self::Small { bytes, sent } => Poll::Ready(Ok(match bytes.len() - *sent as usize {
                0 => BodyPiece::End,
                left => BodyPiece::Data(left),
            })),
            Self::H2(up) => up.poll_piece(cx),
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            Self::H1 { mem, left } => &mem.input.bytes()[..*left],
            Self::Small { bytes, sent } => &bytes[*sent as usize..],
            Self::H2(up) => up.data(),
        }
    }

    fn consume(&mut self, n: usize) {
        match self {
            Self::H1 { mem, left } => {
                mem.input.consume(n);
                *left -= n;
            }
            Self::Small { sent, .. } => *sent += n as u32,
            Self::H2(up) => up.consume(n),
        }
    }

    fn take_trailers(&mut self) -> HeaderMap {
        match self {
            // An HTTP/1 response counts as arrived only after its trailers have been read.
            Self::H1 { .. } | Self::Small { .. } => HeaderMap::new(),
            Self::H2(up) => up.take_trailers(),
        }
    }

    fn remaining(&self) -> Option<u64> {
        match self {
            Self::H1 { .. } | Self::Small { .. } => Some(0),
            Self::H2(up) => up.remaining(),
        }
    }
}

/// Sends the rest of a response to the client.
///
/// # Errors
/// [`ExchangeError::ClientGone`] if the client closes its connection or reads nothing for
/// `timeouts.idle`; [`ExchangeError::Shutdown`] at the end of a drain.
pub(crate) async fn deliver<D: Downstream, F: Fields>(
    cx: &RequestContext<'_, F>,
    arrived: &mut Arrived,
    remainder: &mut Remainder,
    recording: &mut Recording<'_>,
    down: &mut D,
) -> Result<(), AttemptError> {
    let result = poll_fn(|task| arrived.poll(cx.silence(), task, remainder, down)).await;
    recording.record.bytes_sent = arrived.flow.bytes();
    result.map_err(|error| AttemptError {
        error,
        answered: true,
    })
}

impl Arrived {
    /// Sends the client what it takes. The errors are those of [`deliver()`].
    pub(in crate::proxy) fn poll<D: Recipient>(
        &mut self,
        silence: Silence<'_>,
        task: &mut Context<'_>,
        remainder: &mut Remainder,
        down: &mut D,
    ) -> Poll<Result<(), ExchangeError>> {
        match self.flow.poll(task, remainder, down) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(PumpError::Source(e))) => {
                return Poll::Ready(Err(ExchangeError::Upstream(e)));
            }
            Poll::Ready(Err(PumpError::Sink(e))) => {
                return Poll::Ready(Err(ExchangeError::ClientGone(Some(e))));
            }
            Poll::Pending => {}
        }
        self.client
            .check(silence, task, self.flow.moved, true, down)?;
        if silence.watch.expired(task) {
            return Poll::Ready(Err(match silence.watch.is_shut() {
                true => ExchangeError::Shutdown,
                false => ExchangeError::ClientGone(None),
            }));
        }
        Poll::Pending
    }

    /// Bytes of the body that were sent.
    pub(in crate::proxy) fn bytes(&self) -> u64 {
        self.flow.bytes()
    }

    /// The status of the response, and for gRPC that of the call.
    pub(crate) fn outcome(&self) -> (u16, Option<u8>) {
        let trailers = self.flow.trailers.as_deref();
        (self.status, grpc::outcome(self.grpc_status, trailers))
    }
}
