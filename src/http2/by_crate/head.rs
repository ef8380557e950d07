//! Heads between the types of the http crate and the table of fields.

use h2::ext::Protocol;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, uri};

use crate::http2::line::LineTraits;
use crate::http2::{BlockLimits, HeadBlock, HeadKind, Indexing};

/// A head that is being written.
#[derive(Debug, Default)]
pub(super) struct HeadFields {
    status: u16,
    method: Vec<u8>,
    scheme: Vec<u8>,
    authority: Vec<u8>,
    path: Vec<u8>,
    protocol: Vec<u8>,
    map: HeaderMap,
}

/// Collects the fields of one head, pseudo-header fields first.
pub(crate) struct HeadWriter<'a>(&'a mut HeadFields);

impl HeadWriter<'_> {
    /// `:status`
    pub(crate) fn status(&mut self, status: u16) {
        self.0.status = status;
    }

    /// A field, whose name may have upper case. The crate chooses how it is indexed, unless that is forbidden.
    pub(crate) fn put(&mut self, name: &[u8], value: &[u8], indexing: Indexing) {
        let pseudo = match name {
            b":method" => &mut self.0.method,
            b":scheme" => &mut self.0.scheme,
            b":authority" => &mut self.0.authority,
            b":path" => &mut self.0.path,
            b":protocol" => &mut self.0.protocol,
            _ => return self.append(name, value, indexing),
        };
        *pseudo = value.to_vec();
    }

    fn append(&mut self, name: &[u8], value: &[u8], indexing: Indexing) {
        let parsed = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value));
        // Heads were checked when they were received, and more strictly.
        if let (Ok(name), Ok(mut value)) = parsed {
            value.set_sensitive(indexing == Indexing::Never);
            self.0.map.append(name, value);
        }
    }
}

impl HeadFields {
    /// The fields that `write` puts.
    pub(super) fn written(write: impl FnOnce(&mut HeadWriter<'_>)) -> Self {
        let mut fields = Self::default();
        write(&mut HeadWriter(&mut fields));
        fields
    }

    /// Whether this is an informational response.
    pub(super) fn is_informational(&self) -> bool {
        (100..200).contains(&self.status)
    }

    /// A request; `None` if the http crate can't express it.
    pub(super) fn into_request(self) -> Option<Request<()>> {
        let mut request = Request::new(());
        *request.method_mut() = Method::from_bytes(&self.method).ok()?;
        let mut parts = uri::Parts::default();
        parts.scheme = Some(Scheme::try_from(&self.scheme[..]).ok()?);
        parts.authority = Some(Authority::try_from(&self.authority[..]).ok()?);
        parts.path_and_query = Some(PathAndQuery::try_from(&self.path[..]).ok()?);
        *request.uri_mut() = Uri::from_parts(parts).ok()?;
        *request.headers_mut() = self.map;
        if !self.protocol.is_empty() {
            let protocol = Protocol::from(std::str::from_utf8(&self.protocol).ok()?);
            request.extensions_mut().insert(protocol);
        }
        Some(request)
    }

    /// A response; `None` if the http crate can't express it.
    pub(super) fn into_response(self) -> Option<Response<()>> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(self.status).ok()?;
        *response.headers_mut() = self.map;
        Some(response)
    }

    /// Trailers.
    pub(super) fn into_trailers(self) -> HeaderMap {
        self.map
    }
}

/// Fills a block in the way that the HPACK decoder does.
struct BlockBuilder<'a> {
    block: Box<HeadBlock>,
    kind: HeadKind,
    limits: &'a BlockLimits,
}

impl<'a> BlockBuilder<'a> {
    fn new(kind: HeadKind, limits: &'a BlockLimits) -> Self {
        Self {
            block: Box::default(),
            kind,
            limits,
        }
    }

    fn put(&mut self, name: &[u8], value: &[u8], sensitive: bool) {
        let bytes = &mut self.block.bytes;
        let start = bytes.len();
        for part in [name, b": ", value, b"\r\n"] {
            bytes.extend_from_slice(part);
        }
        let traits = LineTraits::of_name(name).with_value(value);
        let context = (self.kind, self.limits);
        self.block
            .accept(start, name.len(), traits, sensitive, context);
    }

    fn finish(mut self, map: &HeaderMap, end_stream: bool) -> Box<HeadBlock> {
        for (name, value) in map {
            let sensitive = value.is_sensitive();
            self.put(name.as_str().as_bytes(), value.as_bytes(), sensitive);
        }
        self.block.finish(self.kind);
        self.block.end_stream = end_stream;
        self.block
    }
}

/// The block of a request that was received.
pub(super) fn of_request<B>(
    request: &Request<B>,
    (extended_connect, end_stream): (bool, bool),
    limits: &BlockLimits,
) -> Box<HeadBlock> {
    let mut builder = BlockBuilder::new(HeadKind::Request { extended_connect }, limits);
    let (uri, method) = (request.uri(), request.method());
    let protocol = request.extensions().get::<Protocol>();
    builder.put(b":method", method.as_str().as_bytes(), false);
    if method != Method::CONNECT || protocol.is_some() {
        // The crate has checked the scheme, and drops it if there is no authority.
        let scheme = uri.scheme_str().unwrap_or("http");
        builder.put(b":scheme", scheme.as_bytes(), false);
        let path = uri.path_and_query().map_or("", PathAndQuery::as_str);
        builder.put(b":path", path.as_bytes(), false);
    }
    if let Some(authority) = uri.authority() {
        builder.put(b":authority", authority.as_str().as_bytes(), false);
    }
    if let Some(protocol) = protocol {
        builder.put(b":protocol", protocol.as_ref(), false);
    }
    builder.finish(request.headers(), end_stream)
}

/// The block of a response that was received.
pub(super) fn of_response<B>(
    response: &Response<B>,
    end_stream: bool,
    limits: &BlockLimits,
) -> Box<HeadBlock> {
    let mut builder = BlockBuilder::new(HeadKind::Response, limits);
    builder.put(b":status", response.status().as_str().as_bytes(), false);
    builder.finish(response.headers(), end_stream)
}

/// The block of trailers that were received.
pub(super) fn of_trailers(trailers: &HeaderMap, limits: &BlockLimits) -> Box<HeadBlock> {
    BlockBuilder::new(HeadKind::Trailers, limits).finish(trailers, true)
}
