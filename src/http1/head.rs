//! What request and response heads have in common: spans, limits, field lines.

use std::mem::MaybeUninit;

use super::{FieldId, Reject};

/// A range of bytes counted from the head's first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last.
    pub end: u32,
}

impl Span {
    /// From `start` up to `end`, exclusive.
    #[inline]
    pub(super) fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= u32::MAX as usize);
        Self {
            start: start as u32,
            end: end as u32,
        }
    }

    /// Number of bytes.
    #[inline]
    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// No bytes.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The bytes of `head` that this names.
    #[inline]
    pub fn of(self, head: &[u8]) -> &[u8] {
        &head[self.start as usize..self.end as usize]
    }
}

/// Ceilings for a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the whole head; more is 431. The read buffer must hold as many.
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
pub enum HttpVersion {
    /// HTTP/1.0
    H10,
    /// HTTP/1.1
    H11,
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

/// Room for the slices that httparse finds, on the stack.
pub(super) type HeaderSlots<'b, const N: usize> = [MaybeUninit<httparse::Header<'b>>; N];

/// Heads of up to so many fields are parsed with little stack.
pub(super) const FEW: usize = 128;
/// No head has more fields than this, whatever the limits say.
pub(super) const MANY: usize = 256;

/// The value of the first field with this identity.
pub(super) fn find(fields: &[Field], id: FieldId) -> Option<Span> {
    fields.iter().find(|f| f.id == id).map(|f| f.value)
}

/// Fills the table of fields from what httparse found in `buf`, whose head ends at `end`, and shows each field and its value to `see`.
///
/// httparse takes a bare LF for a line end; here every line must end with CRLF. It lets nothing but white space stand between a value and the
/// next line, so that looking at the two bytes before each line suffices.
#[inline]
pub(super) fn tabulate<'b>(
    buf: &'b [u8],
    headers: &[httparse::Header<'b>],
    end: usize,
    fields: &mut Vec<Field>,
    mut see: impl FnMut(&mut Field, &'b [u8], &'b [u8]) -> Result<(), Reject>,
) -> Result<(), Reject> {
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
        let mut field = Field {
            id,
            name: Span::new(start, start + name.len()),
            value: Span::new(value, value + header.value.len()),
            line: Span::new(start, line_end),
            hop: id.is_hop_by_hop(),
        };
        see(&mut field, name, header.value)?;
        fields.push(field);
    }
    ends_with_crlf(buf, end)
}

#[inline]
fn ends_with_crlf(buf: &[u8], end: usize) -> Result<(), Reject> {
    if buf[..end].ends_with(b"\r\n") {
        Ok(())
    } else {
        Err(Reject::bad("bare-lf"))
    }
}
