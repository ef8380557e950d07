//! Request and response heads, parsed in place.

use super::{FieldId, Framing, Reject};

/// A range of bytes counted from the head's first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last.
    pub end: u32,
}

impl Span {
    /// The bytes of `head` that this names.
    #[inline]
    pub fn of(self, head: &[u8]) -> &[u8] {
        &head[self.start as usize..self.end as usize]
    }
}

/// Ceilings for a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the whole head; more is 431.
    pub bytes: usize,
    /// Fields; more is 431. At most 256.
    pub fields: usize,
    /// Bytes of the request target; more is 414.
    pub target: usize,
    /// Whether `_` in a field name is let through; else 400.
    pub underscores: bool,
}

/// HTTP/1 minor versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    H10,
    /// HTTP/1.1
    H11,
}

/// Request methods, closed for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "each is the method of that name")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Trace,
    Connect,
    /// A token that isn't registered here; passed on as typed, the label `other`.
    Other,
}

/// One field line.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// What it is to us.
    pub id: FieldId,
    /// Its name, as typed.
    pub name: Span,
    /// Its value without surrounding white space.
    pub value: Span,
    /// The whole line with its CRLF: consecutive lines that stay can be copied as one run.
    pub line: Span,
    /// Not to be forwarded: hop-by-hop, or named by `Connection`.
    pub hop: bool,
}

/// A parsed request head: offsets only; whoever reads it brings the bytes again.
/// Kept per connection and reused, so that parsing allocates nothing after warm-up.
#[derive(Debug)]
pub struct RequestHead {
    /// The method's class.
    pub method: Method,
    /// The method as typed.
    pub method_span: Span,
    /// The request target as typed: origin-form, absolute-form or `*`.
    pub target: Span,
    /// Path and query inside `target` (for absolute-form what follows the authority; may be empty there, meaning `/`).
    pub path_and_query: Span,
    /// The authority that counts: of an absolute-form target, else of `Host`. With port, not lower-cased. Empty only for HTTP/1.0 without Host.
    pub authority: Span,
    /// HTTP version.
    pub version: Version,
    /// Field lines in order.
    pub fields: Vec<Field>,
    /// How the request's body is framed: Empty, Length or Chunked.
    pub framing: Framing,
    /// Whether the connection may live on after this exchange.
    pub keep_alive: bool,
    /// `Expect: 100-continue` from an HTTP/1.1 client (any other expectation is 417).
    pub expect_continue: bool,
    /// `Connection: upgrade` with an `Upgrade` other than h2c: the value of `Upgrade`.
    pub upgrade: Option<Span>,
    /// `TE` contains `trailers`.
    pub te_trailers: bool,
    /// `Connection` names a field of ours (x-forwarded-*, x-request-id, …); they are marked `hop`, ours are added all the same.
    pub len: usize,
}

impl RequestHead {
    /// An empty one, to be filled by [`Self::parse`].
    pub fn new() -> Self {
        Self {
            method: Method::Get,
            method_span: Span::default(),
            target: Span::default(),
            path_and_query: Span::default(),
            authority: Span::default(),
            version: Version::H11,
            fields: Vec::new(),
            framing: Framing::Empty,
            keep_alive: true,
            expect_continue: false,
            upgrade: None,
            te_trailers: false,
            len: 0,
        }
    }

    /// Parses `buf`, which begins with a head. `Ok(None)`: more bytes are needed (and those seen so far break no limit).
    /// `Ok(Some(n))`: the head is the first `n` bytes (leading empty lines, at most 4, included); `self` describes it.
    ///
    /// # Errors
    /// What HOSTILE.md (framing, names, resources) calls for; the connection must be closed after the answer.
    pub fn parse(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Option<usize>, Reject> {
        let _ = (buf, limits);
        Ok(None)
    }
}

impl Default for RequestHead {
    fn default() -> Self {
        Self::new()
    }
}

/// A parsed response head.
#[derive(Debug)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    /// The reason phrase as typed.
    pub reason: Span,
    /// HTTP version.
    pub version: Version,
    /// Field lines in order.
    pub fields: Vec<Field>,
    /// How the body is framed, for the method asked: Empty, Length, Chunked or UntilClose.
    pub framing: Framing,
    /// What `Content-Length` said, also where no body follows (HEAD, 304).
    pub content_length: Option<u64>,
    /// Whether the connection may be used again.
    pub keep_alive: bool,
    /// For 101: the value of `Upgrade`.
    pub upgrade: Option<Span>,
    /// Length of the head in bytes.
    pub len: usize,
}

impl ResponseHead {
    /// An empty one, to be filled by [`Self::parse`].
    pub fn new() -> Self {
        Self {
            status: 0,
            reason: Span::default(),
            version: Version::H11,
            fields: Vec::new(),
            framing: Framing::Empty,
            content_length: None,
            keep_alive: true,
            upgrade: None,
            len: 0,
        }
    }

    /// Parses `buf`, which begins with a response head to a request with this method. 1xx heads are heads of their own (framing Empty).
    ///
    /// # Errors
    /// Anything ambiguous or malformed; the caller answers 502.
    pub fn parse(
        &mut self,
        buf: &[u8],
        method: Method,
        limits: &HeadLimits,
    ) -> Result<Option<usize>, Reject> {
        let _ = (buf, method, limits);
        Ok(None)
    }
}

impl Default for ResponseHead {
    fn default() -> Self {
        Self::new()
    }
}
