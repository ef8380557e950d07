//! [`Fields`] and its implementations: the fields of a received head, independent of the protocol.

use super::put_line;
use crate::http1::FieldId;
use crate::http1::fields::is_named;
use crate::http1::head::{Field, Span};

/// Read access to the fields of a head. Fields that `Connection` names are treated as absent
/// (RFC 9110 §7.6.1).
pub trait Fields {
    /// Calls `see` with class, name and value of every end-to-end field.
    fn each(&self, see: impl FnMut(FieldId, &[u8], &[u8]));
    /// Like [`Self::each`], and tells whether the sender asked that the value never enters a compression table (RFC 7541 §6.2.3).
    fn each_marked(&self, mut see: impl FnMut(FieldId, &[u8], &[u8], bool)) {
        self.each(|id, name, value| see(id, name, value, false));
    }
    /// Calls `see` with each value of the field `name` (lower case) until it returns `true`. Returns
    /// whether it did.
    fn any(&self, name: &str, see: &mut dyn FnMut(&[u8]) -> bool) -> bool;
    /// The first value of a field that has a class of its own.
    fn first(&self, id: FieldId) -> Option<&[u8]>;

    /// All values of a field joined with commas, with a separator at the end so that an element can
    /// be appended. Empty if the field is absent.
    fn list(&self, name: &str) -> Vec<u8> {
        let mut list = Vec::new();
        self.any(name, &mut |value| {
            if !value.is_empty() {
                list.extend_from_slice(value);
                list.extend_from_slice(b", ");
            }
            false
        });
        list
    }

    /// Calls `see` with each value of `Trailer`, which counts as hop-by-hop: it is sent on only where trailers can follow.
    fn each_announcement(&self, mut see: impl FnMut(&[u8])) {
        if self.first(FieldId::Trailer).is_some() {
            self.any("trailer", &mut |names| {
                see(names);
                false
            });
        }
    }

    /// Writes the end-to-end fields as HTTP/1 lines, except those for which `drop` is true.
    fn put_lines(&self, out: &mut Vec<u8>, drop: impl Fn(FieldId, LazyField<'_>) -> bool) {
        self.each(|id, name, value| {
            if !drop(id, LazyField::of(name, value)) {
                put_line(out, name, value);
            }
        });
    }
}

/// A field whose name and value are looked up in the head only if they are asked for.
#[derive(Clone, Copy, Debug)]
pub struct LazyField<'a> {
    /// The name, and the bytes that it is in.
    name: (Span, &'a [u8]),
    value: (Span, &'a [u8]),
}

impl<'a> LazyField<'a> {
    /// A field that is known.
    #[inline]
    fn of(name: &'a [u8], value: &'a [u8]) -> Self {
        let all = |text: &'a [u8]| (Span::new(0, text.len()), text);
        Self {
            name: all(name),
            value: all(value),
        }
    }

    /// The name.
    #[inline]
    pub fn name(self) -> &'a [u8] {
        self.name.0.of(self.name.1)
    }

    /// The value.
    #[inline]
    pub fn value(self) -> &'a [u8] {
        self.value.0.of(self.value.1)
    }
}

/// Fields of a head: an offset table, and the bytes it points into.
#[derive(Clone, Copy, Debug)]
pub struct H1Fields<'a> {
    /// The bytes of the head.
    pub head: &'a [u8],
    /// The offset table, one entry for each line.
    pub fields: &'a [Field],
}

/// Whether `Connection` names the field. Fields that are hop-by-hop by definition are not
/// forwarded, but the proxy itself may read them.
#[inline]
fn is_stripped(field: &Field) -> bool {
    field.hop && !field.id.is_hop_by_hop()
}

impl Fields for H1Fields<'_> {
    #[inline]
    fn each(&self, mut see: impl FnMut(FieldId, &[u8], &[u8])) {
        for field in self.fields {
            if !field.hop {
                see(
                    field.id,
                    field.name.of(self.head),
                    field.value.of(self.head),
                );
            }
        }
    }

    #[inline]
    fn each_marked(&self, mut see: impl FnMut(FieldId, &[u8], &[u8], bool)) {
        for field in self.fields {
            if !field.hop {
                let (name, value) = (field.name.of(self.head), field.value.of(self.head));
                see(field.id, name, value, field.sensitive);
            }
        }
    }

    fn any(&self, name: &str, see: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let name = name.as_bytes();
        let Some(last) = name.last() else {
            return false;
        };
        // Most names of the same length end in another letter, whatever its case.
        let may_be = |f: &Field| {
            f.name.len() == name.len() && (self.head[f.name.end as usize - 1] ^ last) & !0x20 == 0
        };
        let named =
            |f: &&Field| may_be(f) && is_named(f.name.of(self.head), name) && !is_stripped(f);
        let mut named = self.fields.iter().filter(named);
        named.any(|f| see(f.value.of(self.head)))
    }

    fn first(&self, id: FieldId) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|f| f.id == id && !is_stripped(f))
            .map(|f| f.value.of(self.head))
    }

    /// Consecutive lines that are kept are copied in one piece.
    #[inline]
    fn put_lines(&self, out: &mut Vec<u8>, drop: impl Fn(FieldId, LazyField<'_>) -> bool) {
        let mut run: Option<(u32, u32)> = None;
        for field in self.fields {
            let lazy = LazyField {
                name: (field.name, self.head),
                value: (field.value, self.head),
            };
            if field.hop || drop(field.id, lazy) {
                continue;
            }
            run = match run {
                Some((start, end)) if end == field.line.start => Some((start, field.line.end)),
                Some((start, end)) => {
                    out.extend_from_slice(&self.head[start as usize..end as usize]);
                    Some((field.line.start, field.line.end))
                }
                None => Some((field.line.start, field.line.end)),
            };
        }
        if let Some((start, end)) = run {
            out.extend_from_slice(&self.head[start as usize..end as usize]);
        }
    }
}

/// The empty set of fields, for responses of the proxy itself.
#[derive(Clone, Copy, Debug)]
pub struct NoFields;

impl Fields for NoFields {
    fn each(&self, _: impl FnMut(FieldId, &[u8], &[u8])) {}
    fn any(&self, _: &str, _: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        false
    }
    fn first(&self, _: FieldId) -> Option<&[u8]> {
        None
    }
}

/// Fields without `Cache-Control` and `Expires`, which the proxy replaces by `no-store`.
#[derive(Clone, Copy, Debug)]
pub struct Uncached<F>(pub F);

impl<F: Fields> Fields for Uncached<F> {
    fn each(&self, mut see: impl FnMut(FieldId, &[u8], &[u8])) {
        self.0.each(|id, name, value| {
            let keeps = |of: &[u8]| name.eq_ignore_ascii_case(of);
            if !keeps(b"cache-control") && !keeps(b"expires") {
                see(id, name, value);
            }
        });
    }
    fn any(&self, name: &str, see: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.0.any(name, see)
    }
    fn first(&self, id: FieldId) -> Option<&[u8]> {
        self.0.first(id)
    }
}
