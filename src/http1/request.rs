//! Request heads.

use std::mem::MaybeUninit;

use super::coding::Lengths;
use super::connection::ConnectionOptions;
use super::fields::has_underscore;
use super::head::{FEW, Field, HeadLimits, HeaderSlots, HttpVersion, MANY, Span, find, tabulate};
use super::lists::{has_element, is_token_byte};
use super::{FieldId, Framing, Method, Reject, authority, target};

/// Longest method that is looked at.
const MAX_METHOD: usize = 32;
/// So many empty lines before a request are forgiven (RFC 9112 §2.2 asks for one).
const MAX_EMPTY_LINES: usize = 4;

const TOO_LARGE: Reject = Reject {
    status: 431,
    reason: "head-too-large",
};

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
    /// Path and query inside `target` (for absolute-form what follows the authority: there the path may be empty, meaning `/`, also before `?`).
    pub path_and_query: Span,
    /// The authority that counts: of an absolute-form target, else of `Host`. With port, not lower-cased. Empty only for HTTP/1.0 without Host.
    pub authority: Span,
    /// HTTP version.
    pub version: HttpVersion,
    /// Field lines in order.
    pub fields: Vec<Field>,
    /// How the request's body is framed: Empty (neither length nor coding), Length (also of 0) or Chunked.
    pub framing: Framing,
    /// Whether the connection may live on after this exchange.
    pub keep_alive: bool,
    /// `Expect: 100-continue` from an HTTP/1.1 client that has a body to send (any other expectation is 417).
    pub expect_continue: bool,
    /// `Connection: upgrade` from an HTTP/1.1 client, with one `Upgrade` line without h2c: its value.
    pub upgrade: Option<Span>,
    /// `TE` contains `trailers`.
    pub te_trailers: bool,
    /// Length of the head in bytes, leading empty lines included.
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
            version: HttpVersion::H11,
            fields: Vec::new(),
            framing: Framing::Empty,
            keep_alive: true,
            expect_continue: false,
            upgrade: None,
            te_trailers: false,
            len: 0,
        }
    }

    /// The value of the first field with this identity.
    pub fn field(&self, id: FieldId) -> Option<Span> {
        find(&self.fields, id)
    }

    /// Parses `buf`, which begins with a head. `Ok(None)`: more bytes are needed (and those seen so far break no limit).
    /// `Ok(Some(n))`: the head is the first `n` bytes (leading empty lines, at most 4, included); `self` describes it.
    ///
    /// What it says does not depend on how the bytes came: a head that is refused when whole is refused for the same reason
    /// when it grows byte by byte.
    ///
    /// # Errors
    /// What HOSTILE.md (framing, names, resources) calls for; the connection must be closed after the answer.
    ///
    /// Budget: 2,300 instructions (`just instructions`: parse_request).
    /// Budget: 6,400 instructions (`just instructions`: parse_browser).
    pub fn parse(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Option<usize>, Reject> {
        // Bytes beyond the limit are never looked at: where the head ends doesn't depend on how much was read.
        let window = &buf[..buf.len().min(limits.bytes)];
        let start = skip_empty_lines(window)?;
        let found = if limits.fields <= FEW {
            self.parse_with(
                window,
                start,
                limits,
                &mut [const { MaybeUninit::uninit() }; FEW],
            )
        } else {
            self.parse_with(
                window,
                start,
                limits,
                &mut [const { MaybeUninit::uninit() }; MANY],
            )
        }?;
        if found.is_none() && buf.len() >= limits.bytes {
            return Err(TOO_LARGE);
        }
        Ok(found)
    }

    #[inline]
    fn parse_with<'b, const N: usize>(
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
            Err(error) => return refuse(error, &buf[start..], limits),
        };
        // On a complete parse all three are there.
        let (method, target) = (raw.method.unwrap_or_default(), raw.path.unwrap_or_default());
        self.method_span = Span::new(start, start + method.len());
        let target_start = start + method.len() + 1;
        self.target = Span::new(target_start, target_start + target.len());
        if method.len() > MAX_METHOD || target.len() > limits.target {
            return check_line(&buf[start..], limits).map(|()| None);
        }
        self.method = Method::from_bytes(method.as_bytes());
        self.version = target::version(raw.version);
        self.interpret(buf, raw.headers, end, limits)?;
        self.len = end;
        Ok(Some(end))
    }

    fn interpret<'b>(
        &mut self,
        buf: &'b [u8],
        headers: &[httparse::Header<'b>],
        end: usize,
        limits: &HeadLimits,
    ) -> Result<(), Reject> {
        let mut said = Said::default();
        let http11 = self.version == HttpVersion::H11;
        tabulate(buf, headers, end, &mut self.fields, |field, name, value| {
            match field.id {
                FieldId::Other if !limits.underscores && has_underscore(name) => {
                    return Err(Reject::bad("underscore-in-name"));
                }
                FieldId::Host => said.host(field.value, value)?,
                FieldId::ContentLength => said.lengths.only_length(value)?,
                FieldId::TransferEncoding => said.lengths.coding(value)?,
                FieldId::Connection => said.connection.see(value),
                FieldId::Upgrade => said.upgrade(field.value, value),
                FieldId::Te => said.te_trailers |= has_element(value, b"trailers"),
                FieldId::Expect => said.expect(value)?,
                _ => {}
            }
            Ok(())
        })?;
        let parts = target::split(buf, self.target, self.method)?;
        self.path_and_query = parts.path_and_query;
        if said.host.is_none() && http11 {
            return Err(Reject::bad("missing-host"));
        }
        self.authority = parts.authority.or(said.host).unwrap_or_default();
        self.framing = said.framing(http11)?;
        said.connection.mark(buf, &mut self.fields, true)?;
        self.keep_alive = said.connection.persists(http11);
        self.expect_continue = said.expects && http11 && self.framing.has_body();
        self.te_trailers = said.te_trailers;
        self.upgrade = if http11 && said.connection.upgrade && !said.upgrade_refused {
            said.upgrade
        } else {
            None
        };
        Ok(())
    }
}

impl Default for RequestHead {
    fn default() -> Self {
        Self::new()
    }
}

/// What the fields of a request said.
#[derive(Default)]
struct Said {
    host: Option<Span>,
    lengths: Lengths,
    connection: ConnectionOptions,
    upgrade: Option<Span>,
    upgrade_refused: bool,
    te_trailers: bool,
    expects: bool,
}

impl Said {
    #[inline]
    fn host(&mut self, span: Span, value: &[u8]) -> Result<(), Reject> {
        if self.host.replace(span).is_some() {
            return Err(Reject::bad("duplicate-host"));
        }
        authority::check(value)
    }

    fn upgrade(&mut self, span: Span, value: &[u8]) {
        // Two lines, or HTTP/2 among the wishes: no upgrade at all, which a client must bear.
        self.upgrade_refused |=
            self.upgrade.is_some() || value.is_empty() || has_element(value, b"h2c");
        self.upgrade = Some(span);
    }

    fn expect(&mut self, value: &[u8]) -> Result<(), Reject> {
        if !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(Reject {
                status: 417,
                reason: "expect",
            });
        }
        self.expects = true;
        Ok(())
    }

    #[inline]
    fn framing(&self, http11: bool) -> Result<Framing, Reject> {
        match (self.lengths.has_coding(), self.lengths.length) {
            (false, None) => Ok(Framing::Empty),
            (false, Some(n)) => Ok(Framing::Length(n)),
            (true, Some(_)) => Err(Reject::bad("length-and-coding")),
            (true, None) if !http11 => Err(Reject::bad("coding-in-http10")),
            (true, None) => self.lengths.check_coding().map(|()| Framing::Chunked),
        }
    }
}

/// How many bytes of empty lines come first.
#[inline]
fn skip_empty_lines(buf: &[u8]) -> Result<usize, Reject> {
    let mut at = 0;
    while let Some(b'\r' | b'\n') = buf.get(at) {
        match buf[at..] {
            [b'\r'] => break,
            [b'\r', b'\n', ..] if at < 2 * MAX_EMPTY_LINES => at += 2,
            [b'\r', b'\n', ..] => return Err(Reject::bad("empty-lines")),
            _ => return Err(Reject::bad("bare-lf")),
        }
    }
    Ok(at)
}

/// The limits of a request line, which may still be growing.
#[cold]
fn check_line(line: &[u8], limits: &HeadLimits) -> Result<(), Reject> {
    let method = line.iter().take_while(|&&b| is_token_byte(b)).count();
    if method > MAX_METHOD {
        return Err(Reject {
            status: 501,
            reason: "method-too-long",
        });
    }
    if line.get(method) == Some(&b' ') {
        let target = &line[method + 1..];
        let len = target
            .iter()
            .take_while(|&&b| b > b' ' && b != 0x7f)
            .count();
        if len > limits.target {
            return Err(Reject {
                status: 414,
                reason: "target-too-long",
            });
        }
    }
    Ok(())
}

/// What to answer when httparse refuses. `Ok(None)` where more bytes decide.
#[cold]
fn refuse(
    error: httparse::Error,
    head: &[u8],
    limits: &HeadLimits,
) -> Result<Option<usize>, Reject> {
    check_line(head, limits)?;
    Err(match error {
        httparse::Error::Version => {
            let version = head.splitn(3, |&b| b == b' ').nth(2).unwrap_or_default();
            match target::refuse_version(version) {
                Some(reject) => reject,
                None => return Ok(None),
            }
        }
        error => of_parser(error),
    })
}

/// The rejection that an error of httparse's amounts to.
pub(super) fn of_parser(error: httparse::Error) -> Reject {
    match error {
        httparse::Error::HeaderName => Reject::bad("bad-field-name"),
        httparse::Error::HeaderValue => Reject::bad("bad-field-value"),
        httparse::Error::NewLine => Reject::bad("bad-line-end"),
        httparse::Error::Status => Reject::bad("bad-status"),
        httparse::Error::Token => Reject::bad("bad-request-line"),
        httparse::Error::TooManyHeaders => Reject {
            status: 431,
            reason: "too-many-fields",
        },
        httparse::Error::Version => Reject::bad("bad-version"),
    }
}

#[cfg(test)]
mod tests;
