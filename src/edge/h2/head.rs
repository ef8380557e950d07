//! Validates an HTTP/2 request head and converts it to the [`Request`] that the data path uses.
//!
//! The codec has checked what RFC 9113 calls malformed. The rest is rejected here, with the same reasons as over HTTP/1.

use std::borrow::Cow;

use crate::config::spec::ProxyLimits;
use crate::edge::request::{RequestTarget, client_of};
use crate::http1::{FieldId, Framing, Method, Reject, authority, path};
use crate::http2::HeadBlock;
use crate::proxy::RejectedHead;
use crate::proxy::headers::{Fields, H1Fields, Request};
use crate::proxy::id::RequestId;
use crate::proxy::via::Via;
use crate::proxy::websocket;
use crate::reason::Reason;

use super::state::ConnectionState;

/// Longest method that is accepted, in bytes.
const MAX_METHOD: usize = 32;

/// A validated head.
pub(super) struct RequestHead<'a> {
    block: &'a HeadBlock,
    /// The method, as far as the proxy distinguishes methods.
    pub method: Method,
    authority: &'a [u8],
    host: Cow<'a, str>,
    target: RequestTarget<'a>,
    framing: Framing,
    expect_continue: bool,
    /// Whether the request is a WebSocket handshake by extended CONNECT.
    is_websocket: bool,
}

impl<'a> RequestHead<'a> {
    /// Validates a head. `ended` says that no body follows. `known` returns the length of the host in an authority that the
    /// connection has accepted before, so that it is not checked again.
    ///
    /// # Errors
    /// The first reason to reject the head.
    pub(super) fn new(
        block: &'a HeadBlock,
        ended: bool,
        (limits, merge_slashes): (&ProxyLimits, bool),
        known: impl Fn(&[u8]) -> Option<usize>,
    ) -> Result<Self, Reject> {
        let is_websocket = is_websocket(block);
        let method = method_of(block)?;
        if let Some(reject) = block.too_large {
            return Err(reject);
        }
        if let Some(malformed) = block.malformed {
            return Err(malformed.reject());
        }
        if !limits.underscores && block.has_underscore {
            return Err(Reject::bad(Reason::UnderscoreInName));
        }
        let authority = authority_of(block)?;
        let host = match known(authority) {
            Some(len) => std::str::from_utf8(&authority[..len])
                .unwrap_or_default()
                .into(),
            None => {
                authority::check(authority)?;
                authority::host(authority)
            }
        };
        if block.path().len() > limits.target_bytes {
            return Err(Reject {
                status: 414,
                reason: Reason::TargetTooLong,
            });
        }
        let target = RequestTarget::new(block.path(), merge_slashes)?;
        let framing = match block.content_length {
            // What follows belongs to the tunnel, and CONNECT has no other content (RFC 9110 §9.3.6).
            Some(1..) if is_websocket => return Err(Reject::bad(Reason::BadContentLength)),
            _ if is_websocket => Framing::Empty,
            Some(n) => Framing::Length(n),
            None if ended => Framing::Empty,
            None => Framing::UntilClose,
        };
        let expects = expectation(block)?;
        Ok(Self {
            block,
            method,
            authority,
            host,
            target,
            framing,
            expect_continue: expects && framing.has_body(),
            is_websocket,
        })
    }

    /// The authority as sent, and the length of the host in it unless the host had to be normalised.
    pub(super) fn authority(&self) -> (&'a [u8], Option<usize>) {
        let plain = matches!(self.host, Cow::Borrowed(_));
        (self.authority, plain.then_some(self.host.len()))
    }

    /// The host in lower case, without port.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn request<'s>(&'s self, shared: &'s ConnectionState) -> Request<'s, H1Fields<'s>> {
        let fields = H1Fields {
            head: &self.block.bytes,
            fields: &self.block.fields,
        };
        let id = shared.worker.request_id(fields.first(FieldId::XRequestId));
        self.request_with(shared, id)
    }

    /// The request with an id that was chosen before.
    #[inline]
    pub(super) fn request_with<'s>(
        &'s self,
        shared: &'s ConnectionState,
        id: RequestId,
    ) -> Request<'s, H1Fields<'s>> {
        let fields = H1Fields {
            head: &self.block.bytes,
            fields: &self.block.fields,
        };
        Request {
            method: self.method,
            method_text: match self.is_websocket {
                true => b"GET",
                false => self.block.method(),
            },
            authority: self.authority,
            host: &self.host,
            target: &self.target.path_and_query,
            path_len: self.target.path_len,
            typed_path: &self.target.typed_path,
            framing: self.framing,
            ends_with_head: self.block.end_stream,
            expect_continue: self.expect_continue,
            upgrade: self.is_websocket.then_some(b"websocket"),
            te_trailers: self.block.te_trailers,
            via: shared.listener.via.as_ref().map(Via::http2),
            peer: &shared.peer,
            client: client_of(&shared.peer, &shared.listener.trusted, &fields),
            id,
            fields,
        }
    }
}

/// The parts of a head that can be logged although [`RequestHead::new`] rejects it.
pub(super) fn rejected(block: &HeadBlock) -> RejectedHead<'_> {
    RejectedHead {
        method: Method::from_bytes(block.method()),
        method_text: block.method(),
        host: authority::host(block.authority().unwrap_or_default()),
        path: &block.path()[..path::len(block.path())],
    }
}

/// Whether the request is an extended CONNECT that begins a WebSocket (RFC 8441 §5).
fn is_websocket(block: &HeadBlock) -> bool {
    block
        .protocol()
        .is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

/// Makes an extended CONNECT for WebSocket the handshake that HTTP/1 has for it, which is a GET with a key (RFC 6455 §4.1). HTTP/2
/// does without one (RFC 8441 §5), so the proxy chooses it. Other heads stay as they are.
pub(super) fn complete_handshake(block: &mut HeadBlock, nonce: impl FnOnce() -> u128) {
    if is_websocket(block) {
        let key = websocket::key_of(nonce());
        block.set(websocket::KEY.as_bytes(), &key);
    }
}

/// The method, which is GET for a WebSocket.
fn method_of(block: &HeadBlock) -> Result<Method, Reject> {
    let text = block.method();
    match Method::from_bytes(text) {
        Method::Connect if is_websocket(block) => Ok(Method::Get),
        Method::Connect if block.protocol().is_some() => Err(Reject {
            status: 501,
            reason: Reason::ConnectProtocol,
        }),
        Method::Connect => Err(Reject {
            status: 405,
            reason: Reason::Connect,
        }),
        _ if text.len() > MAX_METHOD => Err(Reject {
            status: 501,
            reason: Reason::MethodTooLong,
        }),
        method => Ok(method),
    }
}

/// Returns `:authority`, or else `Host`. If both are present they have to agree (RFC 9113 §8.3.1).
fn authority_of(block: &HeadBlock) -> Result<&[u8], Reject> {
    if block.hosts > 1 {
        return Err(Reject::bad(Reason::DuplicateHost));
    }
    let host = match block.hosts {
        0 => None,
        _ => block.field(FieldId::Host),
    };
    match (block.authority(), host) {
        (Some(named), Some(host)) if !named.eq_ignore_ascii_case(host) => {
            Err(Reject::bad(Reason::AuthorityUnlikeHost))
        }
        (Some(one), _) | (None, Some(one)) => Ok(one),
        (None, None) => Err(Reject::bad(Reason::MissingHost)),
    }
}

/// Whether the client waits for 100 Continue. Any other expectation is answered by 417 (RFC 9110 §10.1.1).
fn expectation(block: &HeadBlock) -> Result<bool, Reject> {
    if !block.present.has(FieldId::Expect) {
        return Ok(false);
    }
    match block.field(FieldId::Expect) {
        None => Ok(false),
        Some(value) if value.eq_ignore_ascii_case(b"100-continue") => Ok(true),
        Some(_) => Err(Reject {
            status: 417,
            reason: Reason::Expect,
        }),
    }
}
