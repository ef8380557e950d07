//! Encoding of header blocks (RFC 7541 §6).
//!
//! A field that repeats costs one hash of a few of its bytes and one pass over the hashes of the table. Values that never
//! repeat are written as they are; looking for them and adding them would only evict others.

use super::integer::{put_integer, put_string};
use super::table::{DynamicTable, Entry};
use super::{MAX_TABLE, OVERHEAD, static_table};
use crate::http1::FieldId;
use crate::http1::fields::has_uppercase;

/// How a field is represented (RFC 7541 §6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexing {
    /// For values that repeat: the first one is added to the dynamic table, the next ones refer to it.
    Incremental,
    /// For values that don't repeat.
    Without,
    /// For secrets, and for what was received in this form: nobody on the way may add it to a table (RFC 7541 §7.1.3).
    Never,
}

impl Indexing {
    /// The usual representation of a field; `sensitive` if it was received as never indexed.
    ///
    /// Identifiers, lengths, validators and locations are assumed not to repeat. Neither do cookies, on a connection that
    /// several clients share; and an entry that one client has put into the table must tell nothing about those of others
    /// (RFC 7541 §7.1).
    #[inline]
    pub fn of(id: FieldId, name: &[u8], sensitive: bool) -> Self {
        if sensitive {
            return Self::Never;
        }
        match id {
            FieldId::Authorization | FieldId::ProxyAuthorization => Self::Never,
            FieldId::XRequestId
            | FieldId::XForwardedFor
            | FieldId::Forwarded
            | FieldId::ContentLength
            | FieldId::Cookie
            | FieldId::SetCookie => Self::Without,
            FieldId::Other if is_unique(name) => Self::Without,
            _ => Self::Incremental,
        }
    }
}

/// Whether a field without a class has values that rarely repeat.
#[inline]
fn is_unique(name: &[u8]) -> bool {
    let names: &[&[u8]] = match name.len() {
        2 => &[b"b3"],
        3 => &[b"age"],
        4 => &[b"etag"],
        5 => &[b":path"],
        8 => &[b"location"],
        11 => &[b"traceparent", b"x-b3-spanid"],
        12 => &[b"x-b3-traceid"],
        13 => &[b"if-none-match", b"last-modified"],
        17 => &[b"if-modified-since"],
        _ => return false,
    };
    names.iter().any(|n| n.eq_ignore_ascii_case(name))
}

/// Hashes of an entry of the table.
#[derive(Clone, Copy, Debug)]
struct Hashes {
    name: u32,
    field: u32,
}

/// The encoder of one direction of a connection.
///
/// Blocks must be sent in the order in which they are encoded, and completely. Which fields get into the table is its own choice,
/// since the decoder follows any.
#[derive(Debug)]
pub struct Encoder {
    table: DynamicTable<Hashes>,
    /// The smallest size of the table since the last block, if its size has changed.
    smallest: Option<usize>,
    /// Where in the table the next field is likely to be. Heads resemble each other, so fields follow each other in the order
    /// in which those of an earlier head were added.
    next: usize,
    lowercase: Vec<u8>,
}

impl Encoder {
    /// Creates an encoder with an empty table.
    pub const fn new() -> Self {
        Self {
            table: DynamicTable::new(),
            smallest: None,
            next: 0,
            lowercase: Vec::new(),
        }
    }

    /// Applies the peer's `SETTINGS_HEADER_TABLE_SIZE`. The table is never larger than its initial size.
    pub fn set_max_size(&mut self, size: u32) {
        let size = MAX_TABLE.min(size as usize);
        if size != self.table.max_size() {
            let smallest = self.smallest.unwrap_or(size);
            self.smallest = Some(smallest.min(size));
            self.table.set_max_size(size);
        }
    }

    /// Begins a header block; must be called for each.
    #[inline]
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(smallest) = self.smallest.take() {
            self.put_size_updates(smallest, out);
        }
    }

    /// Announces a change of the table's size: the smallest since the last block, if that isn't the current one, and the
    /// current one (RFC 7541 §4.2).
    #[cold]
    fn put_size_updates(&mut self, smallest: usize, out: &mut Vec<u8>) {
        let size = self.table.max_size();
        if smallest < size {
            put_integer(out, 0x20, 5, smallest);
        }
        put_integer(out, 0x20, 5, size);
    }

    /// Appends `:status`. `status` is below 1000.
    #[inline]
    pub fn put_status(&mut self, out: &mut Vec<u8>, status: u16) {
        let index = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                debug_assert!(status < 1000);
                let digit = |n: u16| b'0' + (n % 10) as u8;
                let value = [digit(status / 100), digit(status / 10), digit(status)];
                return self.put_repeated(out, b":status", &value);
            }
        };
        out.push(0x80 | index);
    }

    /// Appends a field. Its name may have upper-case letters, which HTTP/2 forbids and are converted (RFC 9113 §8.2.1).
    ///
    /// Pseudo-header fields are appended in the same way; they have to be first.
    #[inline]
    pub fn put(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8], indexing: Indexing) {
        if has_uppercase(name) {
            let mut lowercase = std::mem::take(&mut self.lowercase);
            lowercase.clear();
            lowercase.extend(name.iter().map(u8::to_ascii_lowercase));
            self.put_lowercase(out, &lowercase, value, indexing);
            self.lowercase = lowercase;
        } else {
            self.put_lowercase(out, name, value, indexing);
        }
    }

    /// Appends a field as [`Self::put`] does, whose name is known to be in lower case.
    #[inline]
    fn put_lowercase(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8], indexing: Indexing) {
        debug_assert!(!has_uppercase(name));
        let size = name.len() + value.len() + OVERHEAD;
        // `:method`, `:scheme` and `:path: /` are nearly always in the static table. Others are not, with one exception.
        if let [b':', ..] | [_, _, _, _, _, _, b'-', b'e', ..] = name
            && let Some(index) = static_table::index_of(name)
            && let Some(index) = static_table::with_value(index, name, value)
        {
            put_integer(out, 0x80, 7, index);
        } else if indexing == Indexing::Incremental && size <= self.table.max_size() / 4 * 3 {
            self.put_repeated(out, name, value);
        } else {
            self.put_once(out, name, value, indexing);
        }
    }

    /// Appends a field that may be in the dynamic table, and otherwise adds it.
    #[inline]
    fn put_repeated(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        let next = self.table.get(self.next);
        if next.is_some_and(|entry| self.is_field(entry, name, value)) {
            return self.put_hit(out, self.next);
        }
        let of_name = hash(name, 0);
        let hashes = Hashes {
            name: of_name,
            field: hash(value, of_name),
        };
        let found = self
            .table
            .position(|entry| entry.tag.field == hashes.field && self.is_field(entry, name, value));
        match found {
            Some(at) => self.put_hit(out, at),
            None => self.put_added(out, self.name_index(name), (name, value), hashes),
        }
    }

    /// Appends a field of the dynamic table (RFC 7541 §6.1).
    #[inline]
    fn put_hit(&mut self, out: &mut Vec<u8>, at: usize) {
        // Index 0 is the newest, so the entry that was added after this one is before it.
        // After the newest entry there is none: the index wraps, and `get` finds nothing.
        self.next = at.wrapping_sub(1);
        put_integer(out, 0x80, 7, static_table::LEN + 1 + at);
    }

    /// Appends a literal and adds it to the table (RFC 7541 §6.2.1).
    fn put_added(
        &mut self,
        out: &mut Vec<u8>,
        index: Option<usize>,
        (name, value): (&[u8], &[u8]),
        hashes: Hashes,
    ) {
        put_name(out, 0x40, 6, index, name);
        put_string(out, value);
        self.table
            .add(&[name, value], (name.len(), value.len()), hashes);
        // The entry that it points to has moved by one.
        self.next = self.next.wrapping_add(1);
    }

    /// Appends a literal that isn't added to the table. So that its name need not be sent again, the first value of a name
    /// without an index is added after all.
    fn put_once(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8], indexing: Indexing) {
        let index = self.name_index(name);
        let size = name.len() + value.len() + OVERHEAD;
        let is_new = index.is_none() && size <= self.table.max_size() / 4;
        if indexing == Indexing::Without && is_new {
            let of_name = hash(name, 0);
            let hashes = Hashes {
                name: of_name,
                field: hash(value, of_name),
            };
            return self.put_added(out, None, (name, value), hashes);
        }
        let first = if indexing == Indexing::Never { 0x10 } else { 0 };
        put_name(out, first, 4, index, name);
        put_string(out, value);
    }

    /// Whether the entry has this name and value.
    #[inline]
    fn is_field(&self, entry: &Entry<Hashes>, name: &[u8], value: &[u8]) -> bool {
        if usize::from(entry.name_len) != name.len() {
            return false;
        }
        match self.table.text(entry).split_at_checked(name.len()) {
            Some((n, v)) => v.len() == value.len() && n == name && v == value,
            None => false,
        }
    }

    /// Returns the index of a name in the static or dynamic table.
    #[inline]
    fn name_index(&self, name: &[u8]) -> Option<usize> {
        static_table::index_of(name).or_else(|| {
            let of_name = hash(name, 0);
            let at = self.table.position(|entry| {
                entry.tag.name == of_name
                    && usize::from(entry.name_len) == name.len()
                    && self.table.text(entry).starts_with(name)
            })?;
            Some(static_table::LEN + 1 + at)
        })
    }

    /// Size of the dynamic table.
    #[cfg(test)]
    pub(super) fn table_size(&self) -> usize {
        self.table.size()
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Appends the name of a literal: its index, or itself after index 0.
#[inline]
fn put_name(out: &mut Vec<u8>, first: u8, prefix: u32, index: Option<usize>, name: &[u8]) {
    match index {
        Some(index) => put_integer(out, first, prefix, index),
        None => {
            out.push(first);
            put_string(out, name);
        }
    }
}

/// Hashes the length and up to 24 bytes of a text: the first, the middle and the last ones.
///
/// An equal hash is always followed by a comparison, and the table is small, so a poor or an attacked hash costs little.
#[inline]
fn hash(text: &[u8], seed: u32) -> u32 {
    // Odd numbers without a pattern: the fractions of the golden ratio, and of the square roots of 2 and 3.
    const K: [u64; 3] = [
        0x9e37_79b9_7f4a_7c15,
        0x6a09_e667_f3bc_c909,
        0xbb67_ae85_84ca_a73b,
    ];
    let mix = |hash: u64, word: [u8; 8], k: u64| {
        (hash ^ u64::from_le_bytes(word))
            .wrapping_mul(k)
            .rotate_left(29)
    };
    let seed = u64::from(seed) << 32 | text.len() as u64;
    let hash = match (text.first_chunk(), text.last_chunk()) {
        (Some(first), Some(last)) => {
            let mut hash = mix(mix(seed, *first, K[0]), *last, K[1]);
            if text.len() > 16 {
                let middle = text.len() / 2 - 4;
                // More than 16 bytes have 8 from there on.
                if let Some(middle) = text[middle..].first_chunk() {
                    hash = mix(hash, *middle, K[2]);
                }
            }
            hash
        }
        _ => {
            let mut word = [0; 8];
            word[..text.len()].copy_from_slice(text);
            mix(seed, word, K[0])
        }
    };
    (hash.wrapping_mul(K[1]) >> 32) as u32
}
