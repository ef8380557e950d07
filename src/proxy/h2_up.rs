//! The endpoint's side of an exchange over HTTP/2: one stream. Dropping an unfinished stream resets
//! it with CANCEL, which tells the endpoint to stop its work.

use std::task::{Context, Poll, ready};

use http::HeaderMap;

use super::h2::{H2Stream, wire_error};
use super::headers::{Fields, H1Fields, Request, RequestEdits};
use super::websocket::{KEY, is_websocket};
use super::wire::{BodyPiece, NoConnection, Sink, Source, Upstream, WireError};
use crate::config::spec;
use crate::http1::{FieldId, Framing, Method, Reject};
use crate::http2::{ErrorCode, HeadBlock, HeadWriter, Indexing, RequestKind, StreamError};
use crate::reason::Reason;
use crate::upstream::Endpoint;
use crate::upstream::h2_conns::Lease;

/// The progress of an extended CONNECT (RFC 8441 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TunnelState {
    /// No final response has arrived.
    Asked,
    /// The status of the final response was a 2xx.
    Accepted,
    /// The status was another one. The response goes to the client like any other.
    Refused,
}

/// An HTTP/2 stream to an endpoint. A request for a WebSocket becomes an extended CONNECT, which the caller allows for.
#[derive(Debug)]
pub(crate) struct H2Up {
    // Fields are dropped in this order: the stream before the lease, so that it is closed when its
    // slot becomes free for another one.
    stream: Option<H2Stream>,
    /// The last head that was received.
    head: Option<Box<HeadBlock>>,
    /// Whether the final head was consumed, so that the body may be read.
    reads_body: bool,
    https: bool,
    /// The authority for a request that has none.
    authority: Box<str>,
    method: Method,
    tunnel: Option<TunnelState>,
    begun: bool,
    refused: bool,
    lease: Lease,
}

impl H2Up {
    /// Prepares a stream for `request` on the leased connection. Nothing is sent yet.
    ///
    /// # Errors
    /// 400 if the target can't be expressed in HTTP/2.
    pub(crate) fn new<F: Fields>(
        lease: Lease,
        endpoint: &Endpoint,
        request: &Request<'_, F>,
        edits: Option<&RequestEdits<'_>>,
    ) -> Result<Self, Reject> {
        let target = edits.and_then(|e| e.target).unwrap_or(request.target);
        if target.is_empty() {
            return Err(Reject::bad(Reason::BadTarget));
        }
        let authority = match request.authority.is_empty() {
            true => Box::from(&*endpoint.authority),
            false => Box::default(),
        };
        Ok(Self {
            stream: None,
            head: None,
            reads_body: false,
            https: endpoint.spec.scheme == spec::Scheme::Https,
            authority,
            method: request.method,
            tunnel: request
                .upgrade
                .is_some_and(is_websocket)
                .then_some(TunnelState::Asked),
            begun: false,
            refused: false,
            lease,
        })
    }

    /// Whether the peer has guaranteed that it didn't process the request (RFC 9113 §8.7).
    pub(crate) fn was_refused(&self) -> bool {
        self.refused
    }

    /// Whether the connection carried a request before this one.
    pub(crate) fn was_used(&self) -> bool {
        self.lease.used
    }

    /// Frees the memory that isn't needed once a response has started and arrived: its head, and buffers beyond the rest of its
    /// content.
    pub(crate) fn release_memory(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.shrink();
            if let Some(head) = self.head.take() {
                stream.handle().recycle(head);
            }
        }
    }

    /// Takes the connection out of use for further requests.
    pub(crate) fn retire(&self) {
        self.lease.retire();
    }

    /// Decides by the final response whether the stream is a tunnel.
    fn settle_tunnel(&mut self) {
        let status = self.head.as_ref().map_or(0, |head| head.status);
        if self.tunnel.is_none() || status < 200 {
            return;
        }
        if status < 300 {
            self.tunnel = Some(TunnelState::Accepted);
        } else {
            self.tunnel = Some(TunnelState::Refused);
            if let Some(stream) = &mut self.stream {
                // Nothing will be sent. A failure only says that the stream is closed already.
                let _ = stream.sender.finish(None);
            }
        }
    }

    /// Classifies a stream error: a request that the peer refused can be sent elsewhere.
    fn broke(&mut self, error: StreamError) -> WireError {
        let refused = match error {
            StreamError::Unprocessed(_) => true,
            StreamError::Reset { code, by_peer } => by_peer && code == ErrorCode::REFUSED_STREAM,
            _ => false,
        };
        if refused && !self.begun {
            self.refused = true;
            self.lease.retire();
        }
        wire_error(error)
    }

    /// Whether the last head has no body (RFC 9110 §6.4.1).
    fn is_bodiless(&self) -> bool {
        self.method == Method::Head || matches!(self.status(), 100..200 | 204 | 304)
    }

    fn stream(&mut self) -> Result<&mut H2Stream, WireError> {
        self.stream.as_mut().ok_or(WireError::Cut)
    }

    /// The stream, once its body may be read.
    fn body(&mut self) -> Result<&mut H2Stream, WireError> {
        match &mut self.stream {
            Some(stream) if self.reads_body => Ok(stream),
            _ => Err(WireError::Cut),
        }
    }

    /// Writes the request head.
    fn put_head<F: Fields>(
        &self,
        head: &mut HeadWriter<'_>,
        request: &Request<'_, F>,
        edits: Option<&RequestEdits<'_>>,
    ) {
        let target = edits.and_then(|e| e.target).unwrap_or(request.target);
        let authority = edits.and_then(|e| e.authority).unwrap_or(request.authority);
        let authority = match authority {
            b"" => self.authority.as_bytes(),
            authority => authority,
        };
        let scheme: &[u8] = if self.https { b"https" } else { b"http" };
        let method: &[u8] = match self.tunnel {
            Some(_) => b"CONNECT",
            None => request.method_text,
        };
        head.put(b":method", method, Indexing::Incremental);
        if self.tunnel.is_some() {
            head.put(b":protocol", b"websocket", Indexing::Incremental);
        }
        head.put(b":scheme", scheme, Indexing::Incremental);
        head.put(b":authority", authority, Indexing::Incremental);
        // Pseudo-header fields come first (RFC 9113 §8.3), then the client's, those of the proxy, and those of the configuration.
        head.put(b":path", target, Indexing::Without);
        let edited = edits.and_then(|edits| edits.fields.as_ref());
        let drops = |name: &[u8]| edited.is_some_and(|edits| edits.drops(name));
        request.fields.each_marked(|id, name, value, sensitive| {
            let is_key = self.tunnel.is_some() && name.eq_ignore_ascii_case(KEY.as_bytes());
            if !request.is_ours(id) && !is_key && !drops(name) {
                head.put(name, value, Indexing::of(id, name, sensitive));
            }
        });
        let mut joined = Vec::new();
        request.each_added(|name, parts| {
            if drops(name) {
                return;
            }
            let value = match parts {
                [value] => value,
                parts => {
                    joined.clear();
                    parts.iter().for_each(|part| joined.extend_from_slice(part));
                    &joined[..]
                }
            };
            head.put(name, value, Indexing::of(FieldId::of(name), name, false));
        });
        for (name, value) in edited.iter().flat_map(|edits| edits.values()) {
            let name = name.as_str().as_bytes();
            head.put(name, value, Indexing::of(FieldId::of(name), name, false));
        }
        if let Framing::Length(n) = request.framing {
            let mut text = itoa::Buffer::new();
            head.put(
                b"content-length",
                text.format(n).as_bytes(),
                Indexing::Without,
            );
        }
        if request.framing.has_body() {
            let put = |names: &[u8]| head.put(b"trailer", names, Indexing::Incremental);
            request.fields.each_announcement(put);
        }
        if request.te_trailers {
            head.put(b"te", b"trailers", Indexing::Incremental);
        }
    }
}

impl Upstream for H2Up {
    type Fields<'a> = H1Fields<'a>;

    const ANSWERS_KEYS: bool = false;

    type Connection = NoConnection;

    fn detach(&mut self) -> Option<NoConnection> {
        None
    }

    fn open_tunnel(&mut self) {
        if let Some(stream) = &mut self.stream {
            self.reads_body = true;
            stream.expect(false, None);
        }
    }

    fn switched_to(&self) -> Option<&[u8]> {
        (self.tunnel == Some(TunnelState::Accepted)).then_some(b"websocket")
    }

    fn send_request<F: Fields>(
        &mut self,
        request: &Request<'_, F>,
        edits: Option<&RequestEdits<'_>>,
    ) -> Result<(), WireError> {
        let has_more = request.framing.has_body() || !request.ends_with_head;
        let ended = !has_more && self.tunnel.is_none();
        let kind = match self.tunnel {
            Some(_) => RequestKind::Tunnel,
            None if self.method == Method::Head => RequestKind::Head,
            None => RequestKind::Ordinary,
        };
        let sent = self
            .lease
            .sender
            .send_request(ended, kind, |head| self.put_head(head, request, edits));
        match sent {
            Ok(handle) => {
                self.stream = Some(H2Stream::new(handle, ended));
                Ok(())
            }
            Err(error) => {
                // The connection was closed after it was leased. Nothing was sent, so the request
                // counts as refused.
                self.refused = true;
                self.lease.retire();
                Err(wire_error(error))
            }
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        match ready!(self.stream()?.handle().poll_response(cx)) {
            Ok(head) => {
                self.begun = true;
                if let (Some(former), Some(stream)) = (self.head.replace(head), &self.stream) {
                    stream.handle().recycle(former);
                }
                self.settle_tunnel();
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(self.broke(error))),
        }
    }

    fn status(&self) -> u16 {
        match self.tunnel {
            Some(TunnelState::Accepted) => 101,
            _ => self.head.as_ref().map_or(0, |head| head.status),
        }
    }

    fn fields(&self) -> H1Fields<'_> {
        match &self.head {
            Some(head) => H1Fields {
                head: &head.bytes,
                fields: &head.fields,
            },
            None => H1Fields {
                head: &[],
                fields: &[],
            },
        }
    }

    fn framing(&self) -> Framing {
        let has_ended = |stream: &H2Stream| stream.handle().is_over();
        if self.is_bodiless() {
            Framing::Empty
        } else if self.stream.as_ref().is_none_or(has_ended) {
            Framing::Length(0)
        } else {
            match self.content_length() {
                Some(n) if n > 0 => Framing::Length(n),
                // Also with a declared length of 0 whose end is still to come: trailers may follow.
                _ => Framing::UntilClose,
            }
        }
    }

    fn content_length(&self) -> Option<u64> {
        self.head.as_ref()?.content_length
    }

    fn next(&mut self) {
        if self.status() < 200 {
            return;
        }
        // In a response to HEAD and in a 304, `content-length` is the length of another message
        // (RFC 9110 §8.6).
        let length = match self.is_bodiless() {
            true => Some(0),
            false => self.content_length(),
        };
        if let Some(stream) = &mut self.stream {
            self.reads_body = true;
            stream.expect(false, length);
        }
    }

    fn has_begun(&self) -> bool {
        self.begun
    }

    fn may_have_sent(&self) -> bool {
        self.stream.is_some()
    }
}

impl Source for H2Up {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>> {
        let polled = ready!(self.body()?.poll_piece(cx));
        if let (Err(WireError::Bad(_)), Some(stream)) = (&polled, &self.stream) {
            // A malformed response is a stream error (RFC 9113 §8.1.1). Merely dropping the stream
            // would send CANCEL.
            stream.sender.reset(ErrorCode::PROTOCOL_ERROR);
        }
        Poll::Ready(polled)
    }
    fn data(&self) -> &[u8] {
        self.stream.as_ref().map_or(&[], H2Stream::data)
    }
    fn consume(&mut self, n: usize) {
        if let Some(stream) = &mut self.stream {
            stream.consume(n);
        }
    }
    fn take_trailers(&mut self) -> HeaderMap {
        self.stream
            .as_mut()
            .map(H2Stream::take_trailers)
            .unwrap_or_default()
    }
    fn remaining(&self) -> Option<u64> {
        self.stream
            .as_ref()
            .filter(|_| self.reads_body)
            .and_then(H2Stream::remaining)
    }
    fn has_arrived(&self) -> bool {
        self.reads_body && self.stream.as_ref().is_some_and(H2Stream::has_arrived)
    }
}

impl Sink for H2Up {
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, WireError>> {
        self.stream()?.sender.poll_write(cx, data)
    }
    fn poll_finish(
        &mut self,
        cx: &mut Context<'_>,
        trailers: Option<&HeaderMap>,
    ) -> Poll<Result<(), WireError>> {
        if self.tunnel == Some(TunnelState::Asked) {
            // The request has no body. Its end isn't the end of the tunnel.
            return Poll::Ready(Ok(()));
        }
        self.stream()?.sender.poll_finish(cx, trailers)
    }
    /// Accepted bytes are in the connection's output already.
    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.poll_finish(cx, None)
    }
}
