//! The parts that request and response heads share: spans, limits and field lines.
//!
//! A head becomes a table of [`Field`]s, which refer to the read buffer by offsets, so that a parsed head has no lifetime and
//! its memory is reused. Where httparse tokenizes a head, [`tabulate`] builds the table from its slices.

use std::mem::MaybeUninit;

use super::{FieldId, Reject};
use crate::reason::Reason;

/// A range of bytes, relative to the first byte of the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Offset after the last byte.
    pub end: u32,
}

impl Span {
    /// Creates the span from `start` to `end`, exclusive.
    #[inline]
    pub(crate) fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= u32::MAX as usize);
        Self {
            start: start as u32,
            end: end as u32,
        }
    }

    /// Returns the number of bytes.
    #[inline]
    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Returns the span of the same bytes in a head in which they start `by` bytes later, or earlier if it is negative.
    #[inline]
    pub(super) fn moved(self, by: i32) -> Self {
        Self {
            start: self.start.wrapping_add_signed(by),
            end: self.end.wrapping_add_signed(by),
        }
    }

    /// Whether the span has no bytes.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Returns the bytes of `head` in this span.
    ///
    /// # Panics
    /// If `head` is shorter than the head that was parsed.
    #[inline]
    pub fn of(self, head: &[u8]) -> &[u8] {
        &head[self.start as usize..self.end as usize]
    }
}

/// Limits on a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Maximum bytes of the whole head, else 431. The read buffer must be able to hold them.
    pub bytes: usize,
    /// Maximum number of fields, else 431; at most 256.
    pub fields: usize,
    /// Maximum bytes of the request target, else 414.
    pub target: usize,
    /// Whether `_` is allowed in field names, else 400. CGI-like gateways don't distinguish it from `-`.
    pub underscores: bool,
}

/// HTTP/1 version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.0
    H10,
    /// HTTP/1.1
    H11,
}

/// One field line.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Class of the name.
    pub id: FieldId,
    /// The name, as received.
    pub name: Span,
    /// The value, without surrounding white space (RFC 9112 §5.1).
    pub value: Span,
    /// The whole line with its CRLF; consecutive forwarded lines can be copied as one run.
    pub line: Span,
    /// Whether the field must not be forwarded: it is hop-by-hop, or named by `Connection`.
    pub hop: bool,
    /// Whether it came in HTTP/2 as never indexed, and has to be sent on in this form (RFC 7541 §6.2.3).
    pub sensitive: bool,
}

impl Field {
    /// Returns the field as it is in a head in which it starts `by` bytes later, or earlier if it is negative.
    #[inline]
    pub(super) fn moved(self, by: i32) -> Self {
        Self {
            name: self.name.moved(by),
            value: self.value.moved(by),
            line: self.line.moved(by),
            ..self
        }
    }
}

/// Stack space for the headers that httparse finds.
pub(super) type HeaderSlots<'b, const N: usize> = [MaybeUninit<httparse::Header<'b>>; N];

/// Number of header slots on the stack if the limit on fields permits.
pub(super) const FEW: usize = 128;
/// Maximum number of header slots; no head may have more fields.
pub(super) const MANY: usize = 256;

/// Returns the value of the first field with this class.
pub(super) fn find(fields: &[Field], id: FieldId) -> Option<Span> {
    fields.iter().find(|f| f.id == id).map(|f| f.value)
}

/// Fills `fields` from the headers that httparse found in `buf`, whose head ends at `end`.
///
/// httparse accepts a bare LF as a line end, as RFC 9112 §2.2 permits; we don't, because recipients differ about it. Since
/// httparse permits only white space between a value and the next line, checking the two bytes before each line suffices.
///
/// # Errors
/// 400 `bare-lf`.
pub(super) fn tabulate(
    buf: &[u8],
    headers: &[httparse::Header<'_>],
    end: usize,
    fields: &mut Vec<Field>,
) -> Result<(), Reject> {
    // httparse returns slices of `buf`, so differences of addresses are offsets into it.
    let base = buf.as_ptr() as usize;
    fields.clear();
    fields.reserve(headers.len());
    let first = headers
        .first()
        .map_or(end - 2, |h| h.name.as_ptr() as usize - base);
    ends_with_crlf(buf, first)?;
    for (i, header) in headers.iter().enumerate() {
        let start = header.name.as_ptr() as usize - base;
        let line_end = match headers.get(i + 1) {
            Some(next) => next.name.as_ptr() as usize - base,
            None => end - 2,
        };
        ends_with_crlf(buf, line_end)?;
        let name = header.name.as_bytes();
        let value = header.value.as_ptr() as usize - base;
        let id = FieldId::of(name);
        fields.push(Field {
            id,
            name: Span::new(start, start + name.len()),
            value: Span::new(value, value + header.value.len()),
            line: Span::new(start, line_end),
            hop: id.is_hop_by_hop(),
            sensitive: false,
        });
    }
    ends_with_crlf(buf, end)
}

#[inline]
fn ends_with_crlf(buf: &[u8], end: usize) -> Result<(), Reject> {
    if buf[..end].ends_with(b"\r\n") {
        Ok(())
    } else {
        Err(Reject::bad(Reason::BareLf))
    }
}
