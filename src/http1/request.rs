//! Parsing of request heads (RFC 9112 §3 and §5).
//!
//! [`plain`] or else httparse splits the head into its parts; everything that decides about framing, routing and persistence
//! is checked here. A head may arrive in pieces: each call parses from the start again, so the result never depends on how the
//! bytes were split.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use super::authority::KnownHost;
use super::coding::Lengths;
use super::connection::ConnectionOptions;
use super::fields::has_underscore;
use super::head::{FEW, Field, HeadLimits, HeaderSlots, HttpVersion, MANY, Span, find, tabulate};
use super::head_cache::ParsedHead;
use super::lists::{has_element, is_token_byte};
use super::method::MAX_METHOD;
use super::{FieldId, Framing, HeadCache, Method, Reject, plain, target};
use crate::reason::Reason;

/// Maximum number of empty lines before a request; RFC 9112 §2.2 asks servers to ignore at least one.
const MAX_EMPTY_LINES: usize = 4;

const TOO_LARGE: Reject = Reject {
    status: 431,
    reason: Reason::HeadTooLarge,
};

/// A parsed request head, as offsets into the buffer that it was parsed from.
///
/// A connection keeps one and reuses it, so parsing does not allocate once the table of fields has grown.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The method as received.
    pub method_span: Span,
    /// The request target as received: origin-form, absolute-form or `*` (RFC 9112 §3.2).
    pub target: Span,
    /// Path and query within `target`. In absolute-form the path may be empty, also before `?`; it then means `/`.
    pub path_and_query: Span,
    /// The authority, with port, in the case received: that of an absolute-form target, which overrides `Host` (RFC 9112
    /// §3.2.2), otherwise that of `Host`. Empty only for HTTP/1.0 without `Host`.
    pub authority: Span,
    /// HTTP version.
    pub version: HttpVersion,
    /// Field lines in the order received.
    pub fields: Vec<Field>,
    /// Framing of the body: `Empty` without length and coding, `Length` (may be 0) or `Chunked`.
    pub framing: Framing,
    /// Whether the connection persists after this exchange (RFC 9112 §9.3).
    pub keep_alive: bool,
    /// Whether the client waits for a 100 (Continue). Not set for HTTP/1.0, where the expectation must be ignored, or for a
    /// request without a body (RFC 9110 §10.1.1).
    pub expect_continue: bool,
    /// Value of `Upgrade`, if the connection may be upgraded: an HTTP/1.1 request with `Connection: upgrade` and a single
    /// `Upgrade` line, which doesn't offer h2c (RFC 9110 §7.8).
    pub upgrade: Option<Span>,
    /// Whether `TE` contains `trailers` (RFC 9110 §10.1.4).
    pub te_trailers: bool,
    /// Length of the head in bytes, including empty lines before it.
    pub len: usize,
    known_host: KnownHost,
}

impl RequestHead {
    /// Creates an empty head, to be filled by [`Self::parse`].
    pub fn new() -> Self {
        Self {
            method: Method::Get,
            method_span: Span::default(),
            target: Span::default(),
            path_and_query: Span::default(),
            authority: Span::default(),
            version: HttpVersion::H11,
            fields: Vec::new(),
            framing: Framing::Empty,
            keep_alive: true,
            expect_continue: false,
            upgrade: None,
            te_trailers: false,
            len: 0,
            known_host: KnownHost::default(),
        }
    }

    /// The host of the request, in lower case, without port and trailing dot. `buf` is the buffer that the head was parsed from.
    pub fn host<'a>(&'a self, buf: &'a [u8]) -> Cow<'a, str> {
        self.known_host.host(self.authority.of(buf))
    }

    /// Returns the value of the first field with this class.
    pub fn field(&self, id: FieldId) -> Option<Span> {
        find(&self.fields, id)
    }

    /// Parses the head at the start of `buf`.
    ///
    /// `Ok(None)` means that more bytes are needed and that those received break no limit. `Ok(Some(n))` means that the head
    /// is the first `n` bytes, including up to 4 empty lines before it, and that `self` describes it.
    ///
    /// The result does not depend on how the bytes arrived: a head that is rejected as a whole is rejected for the same
    /// reason if it arrives byte by byte.
    ///
    /// # Errors
    /// For malformed syntax, ambiguous framing, an invalid `Host`, and heads beyond `limits`. The connection must be closed
    /// after the response, because the start of the next request is unknown.
    ///
    /// Budget: 1,445 instructions (`just instructions`: parse_request).
    /// Budget: 4,450 instructions (`just instructions`: parse_browser).
    pub fn parse(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Option<usize>, Reject> {
        self.parse_with(buf, limits, None)
    }

    /// Parses as [`Self::parse`] does, faster if a head with the same fields is in the cache, which learns heads by this.
    ///
    /// # Errors
    /// As [`Self::parse`].
    ///
    /// Budget: 700 instructions (`just instructions`: repeat_request).
    pub fn parse_cached(
        &mut self,
        buf: &[u8],
        limits: &HeadLimits,
        cache: &mut HeadCache<Self>,
    ) -> Result<Option<usize>, Reject> {
        self.parse_with(buf, limits, Some(cache))
    }

    #[inline]
    fn parse_with(
        &mut self,
        buf: &[u8],
        limits: &HeadLimits,
        mut cache: Option<&mut HeadCache<Self>>,
    ) -> Result<Option<usize>, Reject> {
        // Bytes beyond the limit are ignored. Otherwise a head that is too large would be accepted if one read happened to
        // return all of it.
        let window = &buf[..buf.len().min(limits.bytes)];
        let start = skip_empty_lines(window)?;
        let line = plain::split_request_line(window, start)
            .filter(|(line, _)| line.target.len() <= limits.target);
        if let Some((line, at)) = line {
            self.method_span = line.method;
            self.target = line.target;
            self.version = plain::VERSION;
            let rest = &window[at..];
            if let Some(cache) = &mut cache
                && let Some(known) = cache.find(rest, limits)
            {
                let by = at as i32 - known.start as i32;
                return self.repeat(window, known.head, by).map(Some);
            }
            let similar = cache.as_ref().and_then(|cache| cache.similar(rest));
            let fields = &mut self.fields;
            if let Some(end) = plain::split_fields(window, at, limits.fields, similar, fields) {
                self.interpret(window, end)?;
                // The authority of a target in absolute form isn't that of the fields.
                if let Some(cache) = cache
                    && self.target == self.path_and_query
                {
                    cache.learn((rest, at, end - at), limits, self);
                }
                return Ok(Some(end));
            }
        }
        if let Some(end) = self.split_unusual(window, start, limits)? {
            self.interpret(window, end)?;
            Ok(Some(end))
        } else if buf.len() >= limits.bytes {
            Err(TOO_LARGE)
        } else {
            Ok(None)
        }
    }

    /// Takes over what the fields of `known` mean, which start `by` bytes later here. The request line may be another.
    fn repeat(&mut self, buf: &[u8], known: &Self, by: i32) -> Result<usize, Reject> {
        self.method = Method::from_bytes(self.method_span.of(buf));
        let parts = target::split(buf, self.target, self.method)?;
        let host = known.authority.moved(by);
        self.known_host.check(host.of(buf))?;
        self.path_and_query = parts.path_and_query;
        self.authority = parts.authority.unwrap_or(host);
        self.fields.clear();
        if by == 0 {
            self.fields.extend_from_slice(&known.fields);
        } else {
            let moved = known.fields.iter().map(|field| field.moved(by));
            self.fields.extend(moved);
        }
        self.framing = known.framing;
        self.keep_alive = known.keep_alive;
        self.expect_continue = known.expect_continue;
        self.upgrade = known.upgrade.map(|value| value.moved(by));
        self.te_trailers = known.te_trailers;
        self.len = known.len.wrapping_add_signed(by as isize);
        Ok(self.len)
    }

    /// Splits a head that isn't plain: unusual, incomplete or malformed. Returns where it ends.
    #[cold]
    fn split_unusual(
        &mut self,
        buf: &[u8],
        start: usize,
        limits: &HeadLimits,
    ) -> Result<Option<usize>, Reject> {
        let end = if limits.fields <= FEW {
            let slots = &mut [const { MaybeUninit::uninit() }; FEW];
            self.split_with(buf, start, limits, slots)
        } else {
            let slots = &mut [const { MaybeUninit::uninit() }; MANY];
            self.split_with(buf, start, limits, slots)
        }?;
        let may_reject = end.is_some() && !limits.underscores;
        if may_reject && self.fields.iter().any(|f| has_underscore(f.name.of(buf))) {
            return Err(Reject::bad(Reason::UnderscoreInName));
        }
        Ok(end)
    }

    fn split_with<'b, const N: usize>(
        &mut self,
        buf: &'b [u8],
        start: usize,
        limits: &HeadLimits,
        slots: &mut HeaderSlots<'b, N>,
    ) -> Result<Option<usize>, Reject> {
        let mut raw = httparse::Request::new(&mut []);
        let slots = &mut slots[..limits.fields.min(N)];
        let end = match raw.parse_with_uninit_headers(&buf[start..], slots) {
            Ok(httparse::Status::Complete(n)) => start + n,
            Ok(httparse::Status::Partial) => {
                return check_line(&buf[start..], limits).map(|()| None);
            }
            Err(error) => return reject(error, &buf[start..], limits),
        };
        // httparse sets method, path and version before it returns `Complete`.
        let (method, target) = (raw.method.unwrap_or_default(), raw.path.unwrap_or_default());
        self.method_span = Span::new(start, start + method.len());
        let target_start = start + method.len() + 1;
        self.target = Span::new(target_start, target_start + target.len());
        if method.len() > MAX_METHOD || target.len() > limits.target {
            return check_line(&buf[start..], limits).map(|()| None);
        }
        self.version = target::version(raw.version);
        tabulate(buf, raw.headers, end, &mut self.fields)?;
        Ok(Some(end))
    }

    /// Interprets the parts of the head, which ends at `end`, as far as the proxy needs them.
    fn interpret(&mut self, buf: &[u8], end: usize) -> Result<(), Reject> {
        self.len = end;
        self.method = Method::from_bytes(self.method_span.of(buf));
        let mut seen = RequestFields::default();
        let http11 = self.version == HttpVersion::H11;
        for field in &self.fields {
            match field.id {
                FieldId::Host => {
                    seen.host(field.value)?;
                    self.known_host.check(field.value.of(buf))?;
                }
                FieldId::ContentLength => seen.lengths.only_length(field.value.of(buf))?,
                FieldId::TransferEncoding => seen.lengths.coding(field.value.of(buf))?,
                FieldId::Connection => seen.connection.see(field.value.of(buf)),
                FieldId::Upgrade => seen.upgrade(field.value, field.value.of(buf)),
                FieldId::Te => seen.te_trailers |= has_element(field.value.of(buf), b"trailers"),
                FieldId::Expect => seen.expect(field.value.of(buf))?,
                _ => {}
            }
        }
        let parts = target::split(buf, self.target, self.method)?;
        self.path_and_query = parts.path_and_query;
        // RFC 9112 §3.2: required in HTTP/1.1, even if the target is in absolute-form.
        if seen.host.is_none() && http11 {
            return Err(Reject::bad(Reason::MissingHost));
        }
        self.authority = parts.authority.or(seen.host).unwrap_or_default();
        self.framing = seen.framing(http11)?;
        seen.connection.mark(buf, &mut self.fields, true)?;
        self.keep_alive = seen.connection.persists(http11);
        self.expect_continue = seen.expects && http11 && self.framing.has_body();
        self.te_trailers = seen.te_trailers;
        self.upgrade = if http11 && seen.connection.upgrade && !seen.upgrade_refused {
            seen.upgrade
        } else {
            None
        };
        Ok(())
    }
}

impl ParsedHead for RequestHead {
    #[inline]
    fn fields(&self) -> &[Field] {
        &self.fields
    }
}

impl Default for RequestHead {
    fn default() -> Self {
        Self::new()
    }
}

/// The fields of a request that the proxy interprets, as collected so far.
#[derive(Default)]
struct RequestFields {
    host: Option<Span>,
    lengths: Lengths,
    connection: ConnectionOptions,
    upgrade: Option<Span>,
    upgrade_refused: bool,
    te_trailers: bool,
    expects: bool,
}

impl RequestFields {
    /// Adds a `Host` line; RFC 9112 §3.2 requires a 400 for a second one.
    #[inline]
    fn host(&mut self, span: Span) -> Result<(), Reject> {
        match self.host.replace(span) {
            None => Ok(()),
            Some(_) => Err(Reject::bad(Reason::DuplicateHost)),
        }
    }

    fn upgrade(&mut self, span: Span, value: &[u8]) {
        // A server may ignore `Upgrade` (RFC 9110 §7.8). We do for h2c, which would bypass the proxy, and for several lines,
        // which recipients may combine differently.
        self.upgrade_refused |=
            self.upgrade.is_some() || value.is_empty() || has_element(value, b"h2c");
        self.upgrade = Some(span);
    }

    /// Adds an `Expect` line. Other expectations than 100-continue are rejected with 417 (RFC 9110 §10.1.1).
    fn expect(&mut self, value: &[u8]) -> Result<(), Reject> {
        if !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(Reject {
                status: 417,
                reason: Reason::Expect,
            });
        }
        self.expects = true;
        Ok(())
    }

    /// Determines the framing of a request's body (RFC 9112 §6.3).
    ///
    /// A request with both length and coding is rejected, as §6.1 permits: it may be an attempt at request smuggling. An
    /// HTTP/1.0 message with a coding must be treated as if its framing were faulty (§6.1).
    #[inline]
    fn framing(&self, http11: bool) -> Result<Framing, Reject> {
        match (self.lengths.has_coding(), self.lengths.length) {
            (false, None) => Ok(Framing::Empty),
            (false, Some(n)) => Ok(Framing::Length(n)),
            (true, Some(_)) => Err(Reject::bad(Reason::LengthAndCoding)),
            (true, None) if !http11 => Err(Reject::bad(Reason::CodingInHttp10)),
            (true, None) => self.lengths.check_coding().map(|()| Framing::Chunked),
        }
    }
}

/// Returns the number of bytes of empty lines at the start of `buf`.
#[inline]
fn skip_empty_lines(buf: &[u8]) -> Result<usize, Reject> {
    let mut at = 0;
    while let Some(b'\r' | b'\n') = buf.get(at) {
        match buf[at..] {
            [b'\r'] => break,
            [b'\r', b'\n', ..] if at < 2 * MAX_EMPTY_LINES => at += 2,
            [b'\r', b'\n', ..] => return Err(Reject::bad(Reason::EmptyLines)),
            _ => return Err(Reject::bad(Reason::BareLf)),
        }
    }
    Ok(at)
}

/// Checks the limits on the request line, which may be incomplete.
///
/// httparse has no such limits. Without this check, a method or target that is too long would only be rejected when it
/// fills the buffer, and with the wrong status.
#[cold]
fn check_line(line: &[u8], limits: &HeadLimits) -> Result<(), Reject> {
    let method = line.iter().take_while(|&&b| is_token_byte(b)).count();
    if method > MAX_METHOD {
        return Err(Reject {
            status: 501,
            reason: Reason::MethodTooLong,
        });
    }
    // Without a method the line is malformed from its first byte on, however long the rest is.
    if method > 0 && line.get(method) == Some(&b' ') {
        let target = &line[method + 1..];
        let len = target
            .iter()
            .take_while(|&&b| b > b' ' && b != 0x7f)
            .count();
        if len > limits.target {
            return Err(Reject {
                status: 414,
                reason: Reason::TargetTooLong,
            });
        }
    }
    Ok(())
}

/// Converts an error of httparse; `Ok(None)` if more bytes are needed to tell the kind of error.
#[cold]
fn reject(
    error: httparse::Error,
    head: &[u8],
    limits: &HeadLimits,
) -> Result<Option<usize>, Reject> {
    check_line(head, limits)?;
    Err(match error {
        httparse::Error::Version => {
            let version = head.splitn(3, |&b| b == b' ').nth(2).unwrap_or_default();
            match target::reject_version(version) {
                Some(reject) => reject,
                None => return Ok(None),
            }
        }
        error => from_httparse(error),
    })
}

/// Converts an error of httparse, apart from details of the version.
pub(super) fn from_httparse(error: httparse::Error) -> Reject {
    match error {
        httparse::Error::HeaderName => Reject::bad(Reason::BadFieldName),
        httparse::Error::HeaderValue => Reject::bad(Reason::BadFieldValue),
        httparse::Error::NewLine => Reject::bad(Reason::BadLineEnd),
        httparse::Error::Status => Reject::bad(Reason::BadStatus),
        httparse::Error::Token => Reject::bad(Reason::BadRequestLine),
        httparse::Error::TooManyHeaders => Reject {
            status: 431,
            reason: Reason::TooManyFields,
        },
        httparse::Error::Version => Reject::bad(Reason::BadVersion),
    }
}

#[cfg(test)]
mod tests;
