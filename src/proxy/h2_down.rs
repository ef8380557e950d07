//! The client's side of an exchange over HTTP/2: one stream.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::HeaderMap;

use super::error::ExchangeError;
use super::h2::{H2Sender, H2Stream, wire_error};
use super::headers::{Fields, Outgoing};
use super::websocket::ACCEPT;
use super::wire::{BodyPiece, Downstream, Gone, NoConnection, Recipient, Sink, Source, WireError};
use crate::http1::FieldId;
use crate::http2::{ErrorCode, Indexing, StreamError, StreamHandle};
use crate::net::{ByteBudget, date};

/// A stream counts as a bulk upload once more than this many bytes of its body were consumed.
pub(crate) const BULK: u64 = 16 * 1024;

/// Number of bulk uploads on a connection, which determines the size of its window.
pub(crate) type Bulk = Rc<Cell<usize>>;

/// The state that the streams of a connection share.
#[derive(Debug)]
pub(crate) struct OfConnection {
    /// Budget for buffered request bodies.
    pub bodies: ByteBudget,
    /// Budget for completed responses.
    pub answers: ByteBudget,
    /// Number of bulk uploads.
    pub bulk: Bulk,
    /// Whether a response has been delivered completely.
    pub has_completed: Cell<bool>,
}

/// An HTTP/2 stream from a client.
#[derive(Debug)]
pub(crate) struct H2Down {
    stream: H2Stream,
    connection: Rc<OfConnection>,
    /// Number of bytes of the request body that were consumed.
    taken: u64,
    bulk: Option<BulkUpload>,
}

/// A stream that only has to be sent the rest of its response.
#[derive(Debug)]
pub(crate) struct H2Rest {
    pub(crate) sender: H2Sender,
    /// The upload counts until the stream has ended.
    _bulk: Option<BulkUpload>,
}

/// Counts a stream as a bulk upload, until it is dropped.
#[derive(Debug)]
struct BulkUpload(Bulk);

impl BulkUpload {
    fn new(bulk: &Bulk) -> Self {
        bulk.set(bulk.get() + 1);
        Self(bulk.clone())
    }
}

impl Drop for BulkUpload {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl H2Down {
    /// A stream whose request head was received, with END_STREAM if `ended`. `length` is its
    /// `content-length`.
    pub(crate) fn new(
        handle: StreamHandle,
        ended: bool,
        length: Option<u64>,
        connection: Rc<OfConnection>,
    ) -> Self {
        let mut stream = H2Stream::new(handle, false);
        stream.expect(ended, length);
        Self {
            stream,
            connection,
            taken: 0,
            bulk: None,
        }
    }

    /// Why the stream has failed: what the client has sent is malformed, or it has reset the stream. Doesn't register a waker.
    pub(crate) fn failure(&self) -> Option<ExchangeError> {
        Some(match self.stream.handle().error()? {
            StreamError::Malformed(reject) => ExchangeError::Malformed(reject),
            _ => ExchangeError::ClientGone(None),
        })
    }

    /// Resets a stream whose response is missing or incomplete.
    pub(crate) fn abort(self) {
        self.into_rest().abort();
    }

    /// What is needed to send the rest of the response. Nothing more is read of the request.
    pub(crate) fn into_rest(self) -> H2Rest {
        H2Rest {
            sender: self.stream.sender,
            _bulk: self.bulk,
        }
    }

    fn answered(&mut self) -> Result<&mut H2Sender, WireError> {
        match self.stream.sender.head_sent() {
            true => Ok(&mut self.stream.sender),
            false => Err(WireError::Cut),
        }
    }
}

impl H2Rest {
    /// Resets a stream whose response is incomplete.
    pub(crate) fn abort(self) {
        self.sender.reset(ErrorCode::INTERNAL_ERROR);
    }
}

impl Recipient for H2Down {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        self.stream.sender.poll_gone(cx)
    }
}

impl Downstream for H2Down {
    const SWITCHED: u16 = 200;
    const TAKES_UNDELIVERED: bool = true;

    type Connection = NoConnection;

    fn detach(&mut self) -> Option<NoConnection> {
        None
    }

    /// A tunnel's bytes are DATA like others (RFC 8441 §5).
    fn open_tunnel(&mut self) {}

    fn send_response<F: Fields>(&mut self, response: &Outgoing<'_, F>) -> Result<(), WireError> {
        let ended = !response.framing.has_body();
        // The answer to a key, of which the client has sent none (RFC 8441 §5).
        let opens = response.upgrade.is_some();
        let is_accept = |name: &[u8]| opens && name.eq_ignore_ascii_case(ACCEPT.as_bytes());
        let sent = self.stream.sender.send_head(ended, |head| {
            head.status(response.status);
            response.fields.each_marked(|id, name, value, sensitive| {
                if id != FieldId::ContentLength && !is_accept(name) && !response.drops(name) {
                    head.put(name, value, Indexing::of(id, name, sensitive));
                }
            });
            response.each_added(|name, value| {
                let id = FieldId::of(name);
                // `Connection` and `Upgrade` of a 426 must not be sent over HTTP/2 (RFC 9113 §8.2.2).
                if !matches!(id, FieldId::Connection | FieldId::Upgrade) && !is_accept(name) {
                    head.put(name, value, Indexing::of(id, name, false));
                }
            });
            if response.lacks_date() {
                head.put(b"date", date::value().as_bytes(), Indexing::Incremental);
            }
            if !ended {
                let put = |names: &[u8]| head.put(b"trailer", names, Indexing::Incremental);
                response.fields.each_announcement(put);
            }
            if let Some(n) = response.declared_length
                && response.status != 204
            {
                let mut text = itoa::Buffer::new();
                head.put(b"content-length", text.format(n).as_bytes(), LENGTH);
            }
        });
        sent.map_err(wire_error)
    }

    fn send_informational<F: Fields>(&mut self, status: u16, fields: &F) -> Result<(), WireError> {
        let sent = self.stream.handle().send_head(false, |head| {
            head.status(status);
            fields.each_marked(|id, name, value, sensitive| {
                if id != FieldId::ContentLength {
                    head.put(name, value, Indexing::of(id, name, sensitive));
                }
            });
        });
        sent.map_err(wire_error)
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
}

/// The indexing of fields that contain lengths.
const LENGTH: Indexing = Indexing::Without;

impl Source for H2Down {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>> {
        // A malformed message was reset by the connection. For trailers that are only too large, the client gets a response.
        self.stream.poll_piece(cx)
    }
    fn data(&self) -> &[u8] {
        self.stream.data()
    }
    fn consume(&mut self, n: usize) {
        self.stream.consume(n);
        self.taken += n as u64;
        if self.taken > BULK && self.bulk.is_none() {
            self.bulk = Some(BulkUpload::new(&self.connection.bulk));
        }
    }
    fn take_trailers(&mut self) -> HeaderMap {
        self.stream.take_trailers()
    }
    fn remaining(&self) -> Option<u64> {
        self.stream.remaining()
    }
    fn release_input(&mut self) {
        self.stream.release_input();
    }
}

impl Sink for H2Down {
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, WireError>> {
        self.answered()?.poll_write(cx, data)
    }
    fn poll_finish(
        &mut self,
        cx: &mut Context<'_>,
        trailers: Option<&HeaderMap>,
    ) -> Poll<Result<(), WireError>> {
        self.answered()?.poll_finish(cx, trailers)
    }
    /// Accepted bytes are in the connection's output already.
    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.poll_finish(cx, None)
    }
}
