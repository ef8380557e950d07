//! Parsing of response heads (RFC 9112 §4 and §5).
//!
//! Responses come from applications that we serve, not from attackers, so harmless deviations are tolerated; whatever makes
//! the end of the body ambiguous is not.

use std::mem::MaybeUninit;

use super::coding::Lengths;
use super::connection::ConnectionOptions;
use super::head::{FEW, Field, HeadLimits, HeaderSlots, HttpVersion, MANY, Span, find, tabulate};
use super::head_cache::ParsedHead;
use super::request::from_httparse;
use super::{FieldId, Framing, HeadCache, Method, Reject, plain, target};
use crate::reason::Reason;

/// Offset after the status in `HTTP/1.1 200`.
const STATUS_END: usize = 12;

/// A parsed response head, as offsets into the buffer that it was parsed from.
///
/// It is meaningless without that buffer, which must not be changed or moved up until the head is no longer used. Everything in it
/// was validated, so that it can be forwarded line by line.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// Status code, 100 to 999.
    pub status: u16,
    /// Reason phrase as received.
    pub reason: Span,
    /// HTTP version.
    pub version: HttpVersion,
    /// Field lines in the order received.
    pub fields: Vec<Field>,
    /// Framing of the body, which depends on the method of the request: `Empty`, `Length` (may be 0), `Chunked` or
    /// `UntilClose`.
    pub framing: Framing,
    /// Value of `Content-Length`, even if no body follows (HEAD, 304; RFC 9110 §8.6).
    pub content_length: Option<u64>,
    /// Whether the connection can be reused (RFC 9112 §9.3).
    pub keep_alive: bool,
    /// Value of `Upgrade`; only for 101.
    pub upgrade: Option<Span>,
    /// Length of the head in bytes.
    pub len: usize,
}

impl ResponseHead {
    /// Creates an empty head, to be filled by [`Self::parse`].
    pub fn new() -> Self {
        Self {
            status: 0,
            reason: Span::default(),
            version: HttpVersion::H11,
            fields: Vec::new(),
            framing: Framing::Empty,
            content_length: None,
            keep_alive: true,
            upgrade: None,
            len: 0,
        }
    }

    /// Returns the value of the first field with this class.
    pub fn field(&self, id: FieldId) -> Option<Span> {
        find(&self.fields, id)
    }

    /// Parses the head at the start of `buf`, of a response to a request with this method.
    ///
    /// Returns as [`super::RequestHead::parse`] does. A 1xx response is a head of its own with `Empty` framing. The
    /// `Content-Length` of a 1xx or 204, where RFC 9110 §8.6 forbids it, and repeated equal ones are marked `hop`.
    ///
    /// # Errors
    /// For malformed syntax, ambiguous framing, and heads beyond `limits`. The caller responds with 502.
    ///
    /// Budget: 1,695 instructions (`just instructions`: parse_response).
    pub fn parse(
        &mut self,
        buf: &[u8],
        method: Method,
        limits: &HeadLimits,
    ) -> Result<Option<usize>, Reject> {
        self.parse_with(buf, method, limits, None)
    }

    /// Parses as [`Self::parse`] does, faster if a similar head is in the cache, which learns heads by this.
    ///
    /// # Errors
    /// As [`Self::parse`].
    ///
    /// Budget: 200 instructions (`just instructions`: repeat_response).
    pub fn parse_cached(
        &mut self,
        buf: &[u8],
        method: Method,
        limits: &HeadLimits,
        cache: &mut HeadCache<Self>,
    ) -> Result<Option<usize>, Reject> {
        // In response to HEAD the same head has no body.
        let cache = (method != Method::Head).then_some(cache);
        self.parse_with(buf, method, limits, cache)
    }

    #[inline]
    fn parse_with(
        &mut self,
        buf: &[u8],
        method: Method,
        limits: &HeadLimits,
        mut cache: Option<&mut HeadCache<Self>>,
    ) -> Result<Option<usize>, Reject> {
        let window = &buf[..buf.len().min(limits.bytes)];
        if let Some(cache) = &mut cache
            && let Some(known) = cache.find(window, limits)
        {
            self.repeat(known.head);
            return Ok(Some(self.len));
        }
        if let Some(b'\r' | b'\n') = window.first() {
            return Err(Reject::bad(Reason::EmptyLines));
        }
        if let Some((line, at)) = plain::split_status_line(window) {
            let similar = cache.as_ref().and_then(|cache| cache.similar(window));
            let fields = &mut self.fields;
            if let Some(end) = plain::split_fields(window, at, limits.fields, similar, fields) {
                self.status = line.status;
                self.reason = line.reason;
                self.version = plain::VERSION;
                self.interpret(window, method, end)?;
                if let Some(cache) = cache {
                    cache.learn((window, 0, end), limits, self);
                }
                return Ok(Some(end));
            }
        }
        if let Some(end) = self.split_unusual(window, limits)? {
            self.interpret(window, method, end)?;
            Ok(Some(end))
        } else if buf.len() >= limits.bytes {
            Err(Reject {
                status: 431,
                reason: Reason::HeadTooLarge,
            })
        } else {
            Ok(None)
        }
    }

    /// Takes over what the same head means.
    fn repeat(&mut self, known: &Self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        fields.extend_from_slice(&known.fields);
        *self = Self { fields, ..*known };
    }

    /// Splits a head that isn't plain: unusual, incomplete or malformed. Returns where it ends.
    #[cold]
    fn split_unusual(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Option<usize>, Reject> {
        if limits.fields <= FEW {
            let slots = &mut [const { MaybeUninit::uninit() }; FEW];
            self.split_with(buf, limits, slots)
        } else {
            let slots = &mut [const { MaybeUninit::uninit() }; MANY];
            self.split_with(buf, limits, slots)
        }
    }

    fn split_with<'b, const N: usize>(
        &mut self,
        buf: &'b [u8],
        limits: &HeadLimits,
        slots: &mut HeaderSlots<'b, N>,
    ) -> Result<Option<usize>, Reject> {
        let mut raw = httparse::Response::new(&mut []);
        let slots = &mut slots[..limits.fields.min(N)];
        let parsed = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut raw, buf, slots);
        let end = match parsed {
            Ok(httparse::Status::Complete(n)) => n,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::Version) => {
                return match target::reject_version(buf) {
                    Some(reject) => Err(reject),
                    None => Ok(None),
                };
            }
            Err(error) => return Err(from_httparse(error)),
        };
        self.status = raw.code.unwrap_or_default();
        if self.status < 100 {
            return Err(Reject::bad(Reason::BadStatus));
        }
        self.version = target::version(raw.version);
        tabulate(buf, raw.headers, end, &mut self.fields)?;
        let line_end = self
            .fields
            .first()
            .map_or(end - 2, |f| f.line.start as usize)
            - 2;
        // Without a reason phrase, the space before it may be missing as well; the span is then empty at the line's end.
        self.reason = Span::new(line_end.min(STATUS_END + 1), line_end);
        Ok(Some(end))
    }

    /// Interprets the parts of the head, which ends at `end`.
    fn interpret(&mut self, buf: &[u8], method: Method, end: usize) -> Result<(), Reject> {
        self.len = end;
        let http11 = self.version == HttpVersion::H11;
        let informational = self.status < 200;
        let bare = informational || self.status == 204;
        let mut lengths = Lengths::default();
        let mut connection = ConnectionOptions::default();
        let mut upgrade = None;
        for field in &mut self.fields {
            match field.id {
                FieldId::ContentLength => {
                    field.hop = !lengths.equal_length(field.value.of(buf))? || bare;
                }
                FieldId::TransferEncoding => lengths.coding(field.value.of(buf))?,
                FieldId::Connection => connection.see(field.value.of(buf)),
                FieldId::Upgrade if !field.value.is_empty() => upgrade = Some(field.value),
                _ => {}
            }
        }
        connection.mark(buf, &mut self.fields, false)?;
        // A coding is checked even if no body follows: a recipient further down might take it for the framing.
        let coded = lengths.has_coding();
        if coded {
            check_coding(&lengths, http11)?;
        }
        self.content_length = lengths.length;
        self.keep_alive = connection.persists(http11);
        // RFC 9112 §6.3, items 1, 4, 6 and 8.
        self.framing = if bare || self.status == 304 || method == Method::Head {
            Framing::Empty
        } else if coded {
            Framing::Chunked
        } else if let Some(n) = lengths.length {
            Framing::Length(n)
        } else {
            self.keep_alive = false;
            Framing::UntilClose
        };
        if self.status == 204 && (coded || lengths.length.is_some_and(|n| n > 0)) {
            // The upstream may send the body that it announced, which would be taken for the next response.
            self.keep_alive = false;
        }
        self.upgrade = None;
        if self.status == 101 {
            // RFC 9110 §15.2.2: the response must name the new protocol.
            if !connection.upgrade || upgrade.is_none() || !http11 {
                return Err(Reject::bad(Reason::BadUpgrade));
            }
            self.upgrade = upgrade;
        }
        Ok(())
    }
}

impl ParsedHead for ResponseHead {
    #[inline]
    fn fields(&self) -> &[Field] {
        &self.fields
    }
}

impl Default for ResponseHead {
    fn default() -> Self {
        Self::new()
    }
}

/// Checks a response's `Transfer-Encoding` (RFC 9112 §6.1).
///
/// The framing counts as faulty if the server speaks HTTP/1.0, as the RFC requires, or if there is a `Content-Length` as
/// well, which may be an attempt at response splitting (§6.3).
fn check_coding(lengths: &Lengths, http11: bool) -> Result<(), Reject> {
    if !http11 {
        return Err(Reject::bad(Reason::CodingInHttp10));
    }
    if lengths.length.is_some() {
        return Err(Reject::bad(Reason::LengthAndCoding));
    }
    lengths.check_coding()
}

#[cfg(test)]
mod tests;
