//! Parsing of response heads (RFC 9112 §4 and §5).
//!
//! Responses come from applications that we serve, not from attackers, so harmless deviations are tolerated; whatever makes
//! the end of the body ambiguous is not.

use std::mem::MaybeUninit;

use super::coding::Lengths;
use super::connection::ConnectionOptions;
use super::head::{FEW, Field, HeadLimits, HeaderSlots, HttpVersion, MANY, Span, find, tabulate};
use super::request::from_httparse;
use super::{FieldId, Framing, Method, Reject, target};
use crate::reason::Reason;

/// Offset after the status in `HTTP/1.1 200`.
const STATUS_END: usize = 12;

/// A parsed response head, as offsets into the buffer that it was parsed from.
#[derive(Debug)]
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
    /// Budget: 2,500 instructions (`just instructions`: parse_response).
    pub fn parse(
        &mut self,
        buf: &[u8],
        method: Method,
        limits: &HeadLimits,
    ) -> Result<Option<usize>, Reject> {
        let window = &buf[..buf.len().min(limits.bytes)];
        if let Some(b'\r' | b'\n') = window.first() {
            return Err(Reject::bad(Reason::EmptyLines));
        }
        let found = if limits.fields <= FEW {
            self.parse_with(
                window,
                method,
                limits,
                &mut [const { MaybeUninit::uninit() }; FEW],
            )
        } else {
            self.parse_with(
                window,
                method,
                limits,
                &mut [const { MaybeUninit::uninit() }; MANY],
            )
        }?;
        if found.is_none() && buf.len() >= limits.bytes {
            return Err(Reject {
                status: 431,
                reason: Reason::HeadTooLarge,
            });
        }
        Ok(found)
    }

    #[inline]
    fn parse_with<'b, const N: usize>(
        &mut self,
        buf: &'b [u8],
        method: Method,
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
        self.interpret(buf, raw.headers, end, method)?;
        let line_end = self
            .fields
            .first()
            .map_or(end - 2, |f| f.line.start as usize)
            - 2;
        // Without a reason phrase, the space before it may be missing as well; the span is then empty at the line's end.
        self.reason = Span::new(line_end.min(STATUS_END + 1), line_end);
        self.len = end;
        Ok(Some(end))
    }

    fn interpret<'b>(
        &mut self,
        buf: &'b [u8],
        headers: &[httparse::Header<'b>],
        end: usize,
        method: Method,
    ) -> Result<(), Reject> {
        let http11 = self.version == HttpVersion::H11;
        let informational = self.status < 200;
        let bare = informational || self.status == 204;
        let mut lengths = Lengths::default();
        let mut connection = ConnectionOptions::default();
        let mut upgrade = None;
        tabulate(buf, headers, end, &mut self.fields, |field, _, value| {
            match field.id {
                FieldId::ContentLength => field.hop = !lengths.equal_length(value)? || bare,
                FieldId::TransferEncoding => lengths.coding(value)?,
                FieldId::Connection => connection.see(value),
                FieldId::Upgrade if !value.is_empty() => upgrade = Some(field.value),
                _ => {}
            }
            Ok(())
        })?;
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
