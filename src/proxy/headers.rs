//! Rewriting of heads: which fields are forwarded, removed or added.
//!
//! [`Fields`] hides how a head is stored (both codecs fill a table of offsets into field lines), so
//! heads are translated between protocols without an intermediate copy. [`Request`] is what routing
//! and encoders read; [`Outgoing`] is a response on its way to the client.

use std::fmt;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};

pub use super::id::RequestId;
use super::peer::Peer;
use crate::http1::lists::elements;
use crate::http1::{FieldId, Framing, Method, Reject, number};
use crate::net::proxy_header::ProxySource;
use crate::routing;

mod edits;
mod fields;
mod length;

pub use edits::{RenderedFields, RequestEdits};
pub use fields::{Fields, H1Fields, LazyField, NoFields, Uncached};
pub(crate) use length::ContentLength;

/// Adds a field to a map. A name or value that isn't valid there, which the codecs have rejected
/// already, is skipped.
pub fn add(map: &mut HeaderMap, name: &[u8], value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
        map.append(name, value);
    }
}

/// A request head as routing and encoders see it. The same for all tries of the request.
///
/// It borrows from the head in the connection's memory, which stays as it is until the exchange has ended. The edges build it only
/// of a head that they have checked, so nothing in it has to be validated again. What configuration changes about it, such as the
/// target, is passed beside it.
#[derive(Debug)]
pub struct Request<'a, F> {
    /// The fields as received.
    pub fields: F,
    /// The class of the method.
    pub method: Method,
    /// The method as received.
    pub method_text: &'a [u8],
    /// The authority as received, with port. May be empty in HTTP/1.0.
    pub authority: &'a [u8],
    /// The host in lower case, without port and trailing dot.
    pub host: &'a str,
    /// The target for the endpoint: the path without dot segments, and the query as received.
    pub target: &'a [u8],
    /// Length of the path in `target`.
    pub path_len: usize,
    /// The path as received, except that the listener may have merged slashes.
    pub typed_path: &'a [u8],
    /// The framing of the body. `UntilClose` means an HTTP/2 body of unknown length.
    pub framing: Framing,
    /// Whether the client's head says that nothing follows it. Over HTTP/2 an empty DATA frame may end a message instead, as that
    /// of a gRPC call without messages, for which servers wait.
    pub ends_with_head: bool,
    /// Whether the client sent `Expect: 100-continue`.
    pub expect_continue: bool,
    /// The value of `Upgrade`, if the client asks for an upgrade.
    pub upgrade: Option<&'a [u8]>,
    /// Whether the client sent `TE: trailers`.
    pub te_trailers: bool,
    /// The element to add to `Via`, if the listener has one.
    pub via: Option<&'a str>,
    /// The peer of the connection.
    pub peer: &'a Peer,
    /// The client's address: the peer's, or the one that a trusted peer forwards for.
    pub client: IpAddr,
    /// The request id.
    pub id: RequestId,
}

impl<F> Request<'_, F> {
    /// The path for the log. The query is left out because it may hold secrets.
    pub(crate) fn logged_path(&self) -> impl fmt::Display {
        String::from_utf8_lossy(&self.target[..self.path_len])
    }
}

impl<F: Fields> routing::RequestView for Request<'_, F> {
    fn method(&self) -> &[u8] {
        self.method_text
    }
    fn host(&self) -> &str {
        self.host
    }
    fn path(&self) -> &[u8] {
        &self.target[..self.path_len]
    }
    fn query(&self) -> Option<&[u8]> {
        self.target.get(self.path_len + 1..)
    }
    fn any_field(&self, name: &str, see: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.fields.any(name, see)
    }
    fn client(&self) -> IpAddr {
        self.client
    }
    fn certificate(&self) -> Option<&routing::ClientCertificate> {
        self.peer.certificate.as_deref()
    }
}

impl<F: Fields> Request<'_, F> {
    /// Whether the proxy writes or removes this field, so that the client's value isn't copied.
    pub fn is_ours(&self, id: FieldId) -> bool {
        match id {
            FieldId::Host
            | FieldId::ContentLength
            | FieldId::TransferEncoding
            | FieldId::XForwardedFor => true,
            FieldId::XForwardedProto | FieldId::XForwardedHost => {
                !self.peer.trusted || self.fields.first(id).is_none()
            }
            FieldId::Forwarded | FieldId::ClientInfo => !self.peer.trusted,
            FieldId::Via => self.via.is_some(),
            FieldId::MaxForwards => self.hops_left().is_some(),
            FieldId::Expect => !self.expect_continue,
            FieldId::XRequestId => matches!(self.id, RequestId::Ours(_)),
            _ => false,
        }
    }

    /// The origin of the request, for a header of the PROXY protocol.
    pub(crate) fn proxy_source(&self) -> ProxySource<'_> {
        self.peer.proxy_source(self.client, self.id_text())
    }

    /// The text of the request id.
    pub fn id_text(&self) -> &[u8] {
        match &self.id {
            RequestId::Ours(id) => id,
            RequestId::Theirs => self.fields.first(FieldId::XRequestId).unwrap_or_default(),
        }
    }

    /// The value of `Max-Forwards` (RFC 9110 §7.6.2). `None` if it is absent, malformed, or not
    /// defined for the method.
    #[inline]
    pub fn hops_left(&self) -> Option<u64> {
        match self.method {
            Method::Options | Method::Trace => {
                number::decimal(self.fields.first(FieldId::MaxForwards)?)
            }
            _ => None,
        }
    }

    /// Whether the client used https, towards this proxy or a trusted one before it. A proxy that
    /// doesn't replace `X-Forwarded-Proto` appends to it, so the first element is the client's.
    pub fn is_https(&self) -> bool {
        let forwarded = || elements(self.fields.first(FieldId::XForwardedProto)?).next();
        self.peer.tls
            || (self.peer.trusted && forwarded().is_some_and(|p| p.eq_ignore_ascii_case(b"https")))
    }

    /// Calls `put` with name and value of each field that the proxy adds to the request. A value is
    /// the concatenation of its parts.
    pub fn each_added(&self, mut put: impl FnMut(&'static [u8], &[&[u8]])) {
        self.each_of_peer(&mut put);
        self.each_of_request(put);
    }

    /// The added fields that say where the request came from. From a peer that isn't trusted they
    /// are [`Peer::forwarded_lines`].
    fn each_of_peer(&self, mut put: impl FnMut(&'static [u8], &[&[u8]])) {
        if self.peer.trusted {
            let chain = self.fields.list("x-forwarded-for");
            put(b"x-forwarded-for", &[&chain, self.peer.text()]);
        } else {
            put(b"x-forwarded-for", &[self.peer.text()]);
        }
        if self.is_ours(FieldId::XForwardedProto) {
            put(b"x-forwarded-proto", &[self.peer.scheme()]);
        }
    }

    /// The other added fields.
    fn each_of_request(&self, mut put: impl FnMut(&'static [u8], &[&[u8]])) {
        if self.is_ours(FieldId::XForwardedHost) && !self.authority.is_empty() {
            put(b"x-forwarded-host", &[self.authority]);
        }
        if let RequestId::Ours(id) = &self.id {
            put(b"x-request-id", &[id]);
        }
        match self.via {
            Some(via) if self.fields.first(FieldId::Via).is_some() => {
                put(b"via", &[&self.fields.list("via"), via.as_bytes()]);
            }
            Some(via) => put(b"via", &[via.as_bytes()]),
            None => {}
        }
        if let Some(hops) = self.hops_left() {
            let hops = hops.saturating_sub(1);
            put(
                b"max-forwards",
                &[itoa::Buffer::new().format(hops).as_bytes()],
            );
        }
    }

    /// Writes the complete head for an HTTP/1.1 endpoint. `host` replaces an empty authority.
    ///
    /// Budget: 1,075 instructions (`just instructions`: serialise).
    pub fn put_h1(&self, out: &mut Vec<u8>, host: &[u8], edits: Option<&RequestEdits<'_>>) {
        let (mut target, mut authority) = (self.target, self.authority);
        let mut fields = None;
        if let Some(edits) = edits {
            target = edits.target.unwrap_or(target);
            authority = edits.authority.unwrap_or(authority);
            fields = edits.fields.as_ref();
        }
        out.extend_from_slice(self.method_text);
        out.push(b' ');
        out.extend_from_slice(target);
        out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
        out.extend_from_slice(if authority.is_empty() {
            host
        } else {
            authority
        });
        out.extend_from_slice(b"\r\n");
        let length = ContentLength::new(match self.framing {
            Framing::Length(n) => Some(n),
            _ => None,
        });
        match fields {
            None => self.put_fields(out, &length),
            Some(fields) => self.put_edited_fields(out, &length, fields),
        }
        length.put(out);
        match self.framing {
            Framing::Empty | Framing::Length(_) => {}
            Framing::Chunked | Framing::UntilClose => {
                out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                let put = |names: &[u8]| put_line(out, b"trailer", names);
                self.fields.each_announcement(put);
            }
        }
        if let Some(protocol) = self.upgrade {
            // One line: some applications read only one of several.
            out.extend_from_slice(match self.te_trailers {
                true => b"connection: upgrade, te\r\nupgrade: ".as_slice(),
                false => b"connection: upgrade\r\nupgrade: ",
            });
            out.extend_from_slice(protocol);
            out.extend_from_slice(b"\r\n");
        }
        if self.te_trailers {
            out.extend_from_slice(b"te: trailers\r\n");
            if self.upgrade.is_none() {
                out.extend_from_slice(b"connection: te\r\n");
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    /// As [`Self::is_ours`], except for the line of the length that is passed on.
    #[inline]
    fn replaces(&self, id: FieldId, field: LazyField<'_>, length: &ContentLength) -> bool {
        match id {
            FieldId::ContentLength => !length.takes(field.value()),
            _ => self.is_ours(id),
        }
    }

    #[inline]
    fn put_fields(&self, out: &mut Vec<u8>, length: &ContentLength) {
        self.fields
            .put_lines(out, |id, field| self.replaces(id, field, length));
        if !self.peer.trusted {
            out.extend_from_slice(self.peer.forwarded_lines());
        }
        let mut put = |name: &[u8], parts: &[&[u8]]| put_parts(out, name, parts);
        if self.peer.trusted {
            self.each_of_peer(&mut put);
        }
        self.each_of_request(put);
    }

    /// The edits also apply to the fields that the proxy adds.
    #[cold]
    fn put_edited_fields(
        &self,
        out: &mut Vec<u8>,
        length: &ContentLength,
        edits: &RenderedFields<'_>,
    ) {
        self.fields.put_lines(out, |id, field| {
            edits.drops(field.name()) || self.replaces(id, field, length)
        });
        self.each_added(|name, parts| {
            if !edits.drops(name) {
                put_parts(out, name, parts);
            }
        });
        for (name, value) in edits.values() {
            put_line(out, name.as_str().as_bytes(), value);
        }
    }
}

#[inline]
fn put_parts(out: &mut Vec<u8>, name: &[u8], parts: &[&[u8]]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
}

/// The head of a final response on its way to the client.
///
/// Built once for each response, just before the encoder of the client's protocol writes it. Connection-specific fields are the
/// encoder's business: `fields` still has those of the endpoint.
#[derive(Debug)]
pub struct Outgoing<'a, F> {
    /// Status of the response: 101, or 200 to 999.
    pub status: u16,
    /// The fields of the endpoint's response, or [`NoFields`].
    pub fields: F,
    /// The framing of the body on the upstream side.
    pub framing: Framing,
    /// The value of `content-length`, even if no body follows (HEAD, 304).
    pub declared_length: Option<u64>,
    /// Fields that the proxy adds.
    pub added: &'a [(&'static str, &'a str)],
    /// Number of fields in `added`, from the first, that are not edited.
    pub fixed: usize,
    /// Edits of the fields.
    pub edits: Option<&'a RenderedFields<'a>>,
    /// The protocol that a 101 switches to.
    pub upgrade: Option<&'a [u8]>,
}

impl<F: Fields> Outgoing<'_, F> {
    /// Whether `Date` is missing. A recipient with a clock has to add it (RFC 9110 §6.6.1).
    pub fn lacks_date(&self) -> bool {
        if self.status < 200 {
            return false;
        }
        let has_date = match self.edits {
            None => self.fields.first(FieldId::Date).is_some(),
            Some(edits) => {
                let is_kept = !edits.drops(b"date");
                (is_kept && self.fields.first(FieldId::Date).is_some())
                    || edits.values().any(|(name, _)| name == http::header::DATE)
            }
        };
        !has_date && !self.added.iter().any(|(name, _)| *name == "date")
    }

    /// Whether a received field of this name is dropped.
    #[inline]
    pub fn drops(&self, name: &[u8]) -> bool {
        self.edits.is_some_and(|edits| edits.drops(name))
    }

    /// Calls `put` with each field that is added to those of the endpoint.
    #[inline]
    pub fn each_added(&self, mut put: impl FnMut(&[u8], &[u8])) {
        let Some(edits) = self.edits else {
            for (name, value) in self.added {
                put(name.as_bytes(), value.as_bytes());
            }
            return;
        };
        let (fixed, own) = self.added.split_at(self.fixed.min(self.added.len()));
        let kept = own.iter().filter(|(name, _)| !edits.drops(name.as_bytes()));
        for (name, value) in fixed.iter().chain(kept) {
            put(name.as_bytes(), value.as_bytes());
        }
        for (name, value) in edits.values() {
            // Cookies don't replace one another.
            let is_fixed = |(fixed, _): &(&str, &str)| name == *fixed && *fixed != "set-cookie";
            if !fixed.iter().any(is_fixed) {
                put(name.as_str().as_bytes(), value);
            }
        }
    }
}

/// Writes a field line.
#[inline]
pub fn put_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes every field of a map as lines.
pub fn put_map(out: &mut Vec<u8>, map: &HeaderMap) {
    for (name, value) in map {
        put_line(out, name.as_str().as_bytes(), value.as_bytes());
    }
}

/// Parses an HTTP/1 trailer section, without the fields that must not appear in trailers (RFC 9110
/// §6.5.1).
///
/// # Errors
/// A malformed section.
pub fn trailer_map(section: &[u8]) -> Result<HeaderMap, Reject> {
    let mut map = HeaderMap::new();
    for trailer in crate::http1::framing::trailers(section)? {
        let parsed = (
            HeaderName::from_bytes(trailer.name),
            HeaderValue::from_bytes(trailer.value),
        );
        if let (Ok(name), Ok(value)) = parsed {
            map.append(name, value);
        }
    }
    Ok(map)
}
