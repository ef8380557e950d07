//! The client's side of an exchange over HTTP/2: one stream.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, DATE, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use super::h2::{FrameAllowance, PSEUDO_IN_TRAILERS, ReceiveHalf, SendHalf, wire_error};
use super::headers::{self, Fields, Outgoing};
use super::wire::{BodyPiece, Downstream, Gone, Sink, Source, WireError};
use crate::http1::FieldId;
use crate::http2::Flaws;
use crate::net::{ByteBudget, Outbox, OutgoingPiece as Out, date};

/// A stream counts as a bulk upload once more than this many bytes of its body were consumed.
pub(crate) const BULK: u64 = 16 * 1024;

/// Number of bulk uploads on a connection, which decides about the size of its window.
pub(crate) type Bulk = Rc<Cell<usize>>;

/// What the streams of a connection share.
#[derive(Debug)]
pub(crate) struct OfConnection {
    /// The output queue.
    pub outbox: Outbox,
    /// The client's frame allowance.
    pub progress: FrameAllowance,
    /// Protocol errors noticed outside the h2 crate.
    pub flaws: Flaws,
    /// Budget for buffered request bodies.
    pub bodies: ByteBudget,
    /// Budget for completed responses.
    pub answers: ByteBudget,
    /// The bulk upload counter.
    pub bulk: Bulk,
    /// A response has been delivered completely.
    pub has_completed: Cell<bool>,
}

/// An HTTP/2 stream from a client.
#[derive(Debug)]
pub(crate) struct H2Down {
    receive: ReceiveHalf,
    respond: SendResponse<Out>,
    send: Option<SendHalf>,
    connection: Rc<OfConnection>,
    /// Bytes of the request body that were consumed.
    taken: u64,
}

impl Drop for H2Down {
    fn drop(&mut self) {
        if self.taken > BULK {
            let bulk = &self.connection.bulk;
            bulk.set(bulk.get() - 1);
        }
    }
}

impl H2Down {
    /// A stream whose request head was received, with END_STREAM if `ended`. `length` is its
    /// `content-length`.
    pub(crate) fn new(
        body: RecvStream,
        ended: bool,
        respond: SendResponse<Out>,
        length: Option<u64>,
        connection: Rc<OfConnection>,
    ) -> Self {
        Self {
            receive: ReceiveHalf::new(body, ended, length, connection.flaws.clone()),
            respond,
            send: None,
            connection,
            taken: 0,
        }
    }

    /// Whether the client has reset the stream. Doesn't register a waker.
    pub(crate) fn is_taken_back(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.poll_gone(&mut cx).is_ready()
    }

    fn reset(&mut self, reason: Reason) {
        match &mut self.send {
            Some(send) => send.reset(reason),
            None => self.respond.send_reset(reason),
        }
    }

    /// Resets a stream whose response is missing or incomplete.
    pub(crate) fn abort(mut self) {
        self.reset(Reason::INTERNAL_ERROR);
    }

    fn send_half(&mut self) -> Result<&mut SendHalf, WireError> {
        self.send.as_mut().ok_or(WireError::Cut)
    }
}

fn status_of(status: u16) -> Result<StatusCode, WireError> {
    StatusCode::from_u16(status).map_err(|_| WireError::Cut)
}

impl Downstream for H2Down {
    /// Never called: HTTP/2 has no `Upgrade` (RFC 9113 §8.6).
    fn open_tunnel(&mut self) {}

    fn send_response<F: Fields>(&mut self, response: &Outgoing<'_, F>) -> Result<(), WireError> {
        let mut head = Response::new(());
        *head.status_mut() = status_of(response.status)?;
        let map = head.headers_mut();
        response.fields.put_map(map, |id, name| {
            id == FieldId::ContentLength || response.drops(name.get())
        });
        response.each_added(|name, value| headers::add(map, name, value));
        if response.lacks_date() {
            map.insert(DATE, date::value());
        }
        let ended = !response.framing.has_body();
        if !ended && response.fields.first(FieldId::Trailer).is_some() {
            response.fields.any("trailer", &mut |names| {
                headers::add(map, b"trailer", names);
                false
            });
        }
        if let Some(n) = response.declared_length
            && response.status != 204
            && let Ok(value) = HeaderValue::from_str(itoa::Buffer::new().format(n))
        {
            map.insert(CONTENT_LENGTH, value);
        }
        let stream = self
            .respond
            .send_response(head, ended)
            .map_err(wire_error)?;
        let outbox = self.connection.outbox.clone();
        let progress = self.connection.progress.clone();
        self.send = Some(SendHalf::new(stream, ended, outbox, Some(progress)));
        Ok(())
    }

    fn send_informational<F: Fields>(&mut self, status: u16, fields: &F) -> Result<(), WireError> {
        let mut head = Response::new(());
        *head.status_mut() = status_of(status)?;
        fields.put_map(head.headers_mut(), |id, _| id == FieldId::ContentLength);
        self.respond.send_informational(head).map_err(wire_error)
    }

    fn has_completed_a_response(&self) -> bool {
        self.connection.has_completed.get()
    }

    fn body_budget(&self) -> ByteBudget {
        self.connection.bodies.clone()
    }

    fn answer_budget(&self) -> ByteBudget {
        self.connection.answers.clone()
    }

    fn poll_taken_back(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_gone(cx).map(drop)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        match &mut self.send {
            // The response is complete, so a reset can't take anything back.
            Some(send) if send.has_ended() => Poll::Pending,
            Some(send) => send.poll_reset(cx).map(|()| Gone::Left),
            None => self.respond.poll_reset(cx).map(|_| Gone::Left),
        }
    }
}

impl Source for H2Down {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>> {
        let polled = ready!(self.receive.poll_piece(cx));
        if matches!(&polled, Err(WireError::Bad(reject)) if *reject == PSEUDO_IN_TRAILERS) {
            // A malformed message is a stream error (RFC 9113 §8.1.1). For trailers that are only
            // too large, the client gets a response.
            self.reset(Reason::PROTOCOL_ERROR);
        }
        Poll::Ready(polled)
    }
    fn data(&self) -> &[u8] {
        self.receive.data()
    }
    fn consume(&mut self, n: usize) {
        self.receive.consume(n);
        let before = self.taken;
        self.taken += n as u64;
        if before <= BULK && self.taken > BULK {
            let bulk = &self.connection.bulk;
            bulk.set(bulk.get() + 1);
        }
    }
    fn take_trailers(&mut self) -> HeaderMap {
        self.receive.take_trailers()
    }
    fn remaining(&self) -> Option<u64> {
        self.receive.remaining()
    }
}

impl Sink for H2Down {
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, WireError>> {
        self.send_half()?.poll_write(cx, data).map_err(wire_error)
    }
    fn poll_finish(
        &mut self,
        _: &mut Context<'_>,
        trailers: Option<&HeaderMap>,
    ) -> Poll<Result<(), WireError>> {
        Poll::Ready(self.send_half()?.finish(trailers).map_err(wire_error))
    }
    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        // Informational heads need no flush: h2 has queued them on the connection.
        Poll::Ready(match &mut self.send {
            Some(send) => send.flush().map_err(wire_error),
            None => Ok(()),
        })
    }
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.poll_finish(cx, None)
    }
}
