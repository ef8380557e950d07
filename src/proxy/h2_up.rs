//! The endpoint's side of an exchange over HTTP/2: one stream. Dropping an unfinished stream resets
//! it with CANCEL, which tells the endpoint to stop its work.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use h2::RecvStream;
use h2::client::ResponseFuture;
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue, MAX_FORWARDS, TE, VIA};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Uri};

use super::h2::{ReceiveHalf, SendHalf, wire_error};
use super::headers::{Fields, H2Fields, KnownFields, Request, RequestEdits};
use super::wire::{BodyPiece, Sink, Source, Upstream, WireError};
use crate::config::spec;
use crate::http1::{Framing, Method, Reject, number};
use crate::http2::Flaw;
use crate::reason::Reason;
use crate::upstream::Endpoint;
use crate::upstream::h2_conns::Lease;

/// An HTTP/2 stream to an endpoint.
#[derive(Debug)]
pub(crate) struct H2Up {
    // Fields are dropped in this order: both halves before the lease, so that the stream is closed
    // when its slot becomes free for another one.
    receive: Option<ReceiveHalf>,
    send: Option<SendHalf>,
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    head: Option<http::Request<()>>,
    method: Method,
    status: u16,
    fields: HeaderMap,
    present: KnownFields,
    sent: bool,
    begun: bool,
    refused: bool,
    lease: Lease,
}

impl H2Up {
    /// Prepares a stream for `request` on the leased connection. Nothing is sent yet.
    ///
    /// # Errors
    /// 400 if the target or authority can't be expressed in HTTP/2.
    pub(crate) fn new<F: Fields>(
        lease: Lease,
        endpoint: &Endpoint,
        request: &Request<'_, F>,
        edits: Option<&RequestEdits<'_>>,
    ) -> Result<Self, Reject> {
        Ok(Self {
            receive: None,
            send: None,
            response: None,
            body: None,
            head: Some(head_of(endpoint, request, edits, lease.used)?),
            method: request.method,
            status: 0,
            fields: HeaderMap::new(),
            present: KnownFields::default(),
            sent: false,
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

    /// Takes the connection out of use for further requests.
    pub(crate) fn retire(&self) {
        self.lease.retire();
    }

    /// Classifies a stream error: a request that the peer refused can be sent elsewhere.
    fn broke(&mut self, error: h2::Error) -> WireError {
        // h2 reports GOAWAY only on streams above its last stream identifier, which the peer hasn't
        // processed (RFC 9113 §6.8). Streams below it continue.
        let refused = error.is_remote()
            && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM));
        if refused && !self.begun {
            self.refused = true;
            self.lease.retire();
        }
        wire_error(error)
    }

    /// Whether the last head has no body (RFC 9110 §6.4.1).
    fn is_bodiless(&self) -> bool {
        self.method == Method::Head || matches!(self.status, 100..200 | 204 | 304)
    }

    fn begin(&mut self, head: http::response::Parts) {
        self.begun = true;
        self.status = head.status.as_u16();
        self.fields = head.headers;
        self.present = KnownFields::of(&self.fields);
    }
}

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The constant for a field name that the proxy adds. Sparing the parser matters here: these fields
/// are in every request.
fn own_name(name: &'static [u8]) -> HeaderName {
    match name {
        b"x-forwarded-for" => X_FORWARDED_FOR.clone(),
        b"x-forwarded-host" => X_FORWARDED_HOST.clone(),
        b"x-forwarded-proto" => X_FORWARDED_PROTO.clone(),
        b"via" => VIA,
        b"max-forwards" => MAX_FORWARDS,
        _ => {
            debug_assert_eq!(name, b"x-request-id");
            X_REQUEST_ID.clone()
        }
    }
}

/// Builds the request head. `used`: the connection has carried a request before.
fn head_of<F: Fields>(
    endpoint: &Endpoint,
    request: &Request<'_, F>,
    edits: Option<&RequestEdits<'_>>,
    used: bool,
) -> Result<http::Request<()>, Reject> {
    let mut head = http::Request::new(());
    *head.method_mut() = http::Method::from_bytes(request.method_text)
        .map_err(|_| Reject::bad(Reason::BadMethod))?;
    *head.version_mut() = http::Version::HTTP_2;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(match endpoint.spec.scheme {
        spec::Scheme::Https => Scheme::HTTPS,
        _ => Scheme::HTTP,
    });
    let authority = edits.and_then(|e| e.authority).unwrap_or(request.authority);
    let target = edits.and_then(|e| e.target).unwrap_or(request.target);
    uri.authority = Some(if authority.is_empty() {
        Authority::try_from(&*endpoint.authority)
            .unwrap_or_else(|_| Authority::from_static("localhost"))
    } else {
        Authority::try_from(authority).map_err(|_| Reject::bad(Reason::BadHost))?
    });
    uri.path_and_query =
        Some(PathAndQuery::try_from(target).map_err(|_| Reject::bad(Reason::BadTarget))?);
    *head.uri_mut() = Uri::from_parts(uri).map_err(|_| Reject::bad(Reason::BadTarget))?;
    let fields = head.headers_mut();
    let edited = edits.and_then(|edits| edits.fields.as_ref());
    let drops = |name: &[u8]| edited.is_some_and(|edits| edits.drops(name));
    request
        .fields
        .put_map(fields, |id, name| request.is_ours(id) || drops(name.get()));
    let mut value = Vec::new();
    request.each_added(|name, parts| {
        if drops(name) {
            return;
        }
        value.clear();
        parts.iter().for_each(|part| value.extend_from_slice(part));
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            fields.append(own_name(name), value);
        }
    });
    for (name, value) in edited.iter().flat_map(|edits| edits.values()) {
        if let Ok(mut value) = HeaderValue::from_bytes(value) {
            // As below.
            value.set_sensitive(used && name == TRACEPARENT);
            fields.append(name, value);
        }
    }
    // Values that never repeat would evict useful entries from the HPACK dynamic table (RFC 7541
    // §4.4). The first request leaves the names there; afterwards the values are sent as
    // never-indexed literals.
    for name in [&X_REQUEST_ID, &X_FORWARDED_FOR] {
        if let Some(value) = fields.get_mut(name) {
            value.set_sensitive(used);
        }
    }
    if let Framing::Length(n) = request.framing {
        fields.insert(CONTENT_LENGTH, HeaderValue::from(n));
    }
    if request.te_trailers {
        fields.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(head)
}

impl Upstream for H2Up {
    type Fields<'a> = H2Fields<'a>;

    /// Never called: HTTP/2 has no `Upgrade` (RFC 9113 §8.6).
    fn open_tunnel(&mut self) {}

    /// The edits are part of the head that [`H2Up::new`] has prepared.
    fn send_request<F: Fields>(
        &mut self,
        request: &Request<'_, F>,
        _: Option<&RequestEdits<'_>>,
    ) -> Result<(), WireError> {
        let head = self.head.take().ok_or(WireError::Cut)?;
        let ended = !request.framing.has_body();
        match self.lease.sender.send_request(head, ended) {
            Ok((response, stream)) => {
                self.sent = true;
                self.response = Some(response);
                let outbox = self.lease.outbox();
                self.send = Some(SendHalf::new(stream, ended, outbox, None));
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
        let Some(response) = &mut self.response else {
            return Poll::Ready(Err(WireError::Cut));
        };
        if let Some(early) = ready!(response.poll_informational(cx)) {
            return Poll::Ready(match early {
                Ok(early) => {
                    self.begin(early.into_parts().0);
                    Ok(())
                }
                Err(error) => Err(self.broke(error)),
            });
        }
        match ready!(Pin::new(response).poll(cx)) {
            Ok(response) => {
                let (head, body) = response.into_parts();
                self.begin(head);
                self.body = Some(body);
                self.response = None;
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(self.broke(error))),
        }
    }

    fn status(&self) -> u16 {
        self.status
    }

    fn fields(&self) -> H2Fields<'_> {
        H2Fields {
            map: &self.fields,
            present: self.present,
        }
    }

    fn framing(&self) -> Framing {
        if self.is_bodiless() {
            Framing::Empty
        } else if self.body.as_ref().is_none_or(RecvStream::is_end_stream) {
            Framing::Length(0)
        } else {
            match self.content_length() {
                Some(n) if n > 0 => Framing::Length(n),
                _ => Framing::UntilClose,
            }
        }
    }

    fn content_length(&self) -> Option<u64> {
        number::decimal(self.fields.get(CONTENT_LENGTH)?.as_bytes())
    }

    fn next(&mut self) {
        if let Some(body) = self.body.take() {
            let body_ended = body.is_end_stream();
            let flaws = self.lease.flaws();
            if body_ended {
                // The inspector can't tell a head from trailers when both have END_STREAM. This was
                // a head, where pseudo-header fields belong, so its note is discarded.
                flaws.take(body.stream_id().as_u32(), Flaw::PseudoInTrailers);
            }
            // In a response to HEAD and in a 304, `content-length` is that of another message
            // (RFC 9110 §8.6).
            let length = match self.is_bodiless() {
                true => Some(0),
                false => self.content_length(),
            };
            self.receive = Some(ReceiveHalf::new(body, body_ended, length, flaws));
        }
    }

    fn has_begun(&self) -> bool {
        self.begun
    }

    fn may_have_sent(&self) -> bool {
        self.sent
    }
}

impl Source for H2Up {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>> {
        let Some(receive) = &mut self.receive else {
            return Poll::Ready(Err(WireError::Cut));
        };
        let polled = ready!(receive.poll_piece(cx));
        if let (Err(WireError::Bad(_)), Some(send)) = (&polled, &mut self.send) {
            // A malformed response is a stream error (RFC 9113 §8.1.1). Merely dropping the stream
            // would send CANCEL.
            send.reset(h2::Reason::PROTOCOL_ERROR);
        }
        Poll::Ready(polled)
    }
    fn data(&self) -> &[u8] {
        self.receive.as_ref().map_or(&[], ReceiveHalf::data)
    }
    fn consume(&mut self, n: usize) {
        if let Some(receive) = &mut self.receive {
            receive.consume(n);
        }
    }
    fn take_trailers(&mut self) -> HeaderMap {
        self.receive
            .as_mut()
            .map(ReceiveHalf::take_trailers)
            .unwrap_or_default()
    }
    fn remaining(&self) -> Option<u64> {
        self.receive.as_ref().and_then(ReceiveHalf::remaining)
    }
    fn has_arrived(&self) -> bool {
        self.receive.as_ref().is_some_and(ReceiveHalf::has_arrived)
    }
}

impl H2Up {
    fn send_half(&mut self) -> Result<&mut SendHalf, WireError> {
        self.send.as_mut().ok_or(WireError::Cut)
    }
}

impl Sink for H2Up {
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
        Poll::Ready(self.send_half()?.flush().map_err(wire_error))
    }
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.poll_finish(cx, None)
    }
}
