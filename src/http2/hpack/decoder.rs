//! Decoding of header blocks (RFC 7541 §3 and §6).

use super::integer::Reader;
use super::static_table::{self, ENTRIES};
use super::table::DynamicTable;
use super::{MAX_TABLE, huffman};
use crate::http2::code::ErrorCode;
use crate::http2::head::{BlockLimits, HeadBlock, HeadKind};
use crate::http2::line::LineTraits;

/// A block may decode to this many times the permitted size before it counts as an attack. What exceeds the limit is
/// dropped, but takes time: a single byte can stand for a field of 4 KiB.
const BOMB: usize = 8;

/// The decoder of one direction of a connection.
///
/// The dynamic table holds HTTP/1 lines, `name: value CRLF`, and what is known of each, so that a field which refers to it
/// is a copy.
#[derive(Debug)]
pub struct Decoder {
    table: DynamicTable<LineTraits>,
}

impl Decoder {
    /// Creates a decoder with an empty table.
    pub const fn new() -> Self {
        Self {
            table: DynamicTable::new(),
        }
    }

    /// Decodes a complete header block into `head`, which is cleared first.
    ///
    /// A malformed message or one beyond `limits` is no error of the connection: it is recorded in `head`, and the whole
    /// block is decoded, so that the table stays what the peer's encoder expects.
    ///
    /// # Errors
    /// Errors of the connection: `COMPRESSION_ERROR` for a block that can't be decoded (RFC 9113 §4.3), `ENHANCE_YOUR_CALM`
    /// for one that decodes to eight times the permitted size. The decoder can't be used after it.
    pub fn decode(
        &mut self,
        block: &[u8],
        kind: HeadKind,
        limits: &BlockLimits,
        head: &mut HeadBlock,
    ) -> Result<(), ErrorCode> {
        head.clear();
        self.fields(block, (kind, limits), head)
            .ok_or(ErrorCode::COMPRESSION_ERROR)?;
        if is_bomb(head, limits) {
            return Err(ErrorCode::ENHANCE_YOUR_CALM);
        }
        head.finish(kind);
        Ok(())
    }

    /// Decodes all fields; `None` if a representation is invalid. Stops early at a [`BOMB`].
    fn fields(
        &mut self,
        block: &[u8],
        context: (HeadKind, &BlockLimits),
        head: &mut HeadBlock,
    ) -> Option<()> {
        let mut rest = self.size_updates(Reader(block))?;
        // The representations of RFC 7541 §6, by the first bits.
        while let Some(&first) = rest.0.first() {
            match first {
                0x80.. => self.indexed(rest.integer(7)?, context, head)?,
                0x40.. => self.literal(&mut rest, 6, true, context, head)?,
                // A table size update after the first field (RFC 7541 §4.2).
                0x20.. => return None,
                _ => self.literal(&mut rest, 4, false, context, head)?,
            }
            // The table is out of step from here on. That doesn't matter, since the connection ends.
            if head.too_large.is_some() && is_bomb(head, context.1) {
                return Some(());
            }
        }
        Some(())
    }

    /// Applies the table size updates, which may only be at the start of a block (RFC 7541 §4.2 and §6.3).
    #[inline]
    fn size_updates<'b>(&mut self, mut rest: Reader<'b>) -> Option<Reader<'b>> {
        while let Some(0x20..0x40) = rest.0.first() {
            let max_size = rest.integer(5)?;
            if max_size > MAX_TABLE {
                return None;
            }
            self.table.set_max_size(max_size);
        }
        Some(rest)
    }

    /// Adds the field at an index of the static and dynamic tables (RFC 7541 §6.1).
    #[inline]
    fn indexed(
        &self,
        index: usize,
        context: (HeadKind, &BlockLimits),
        head: &mut HeadBlock,
    ) -> Option<()> {
        let (line, name_len, traits) = self.line(index)?;
        let start = head.bytes.len();
        head.bytes.extend_from_slice(line);
        head.accept(start, name_len, traits, false, context);
        Some(())
    }

    /// Returns the line at an index of the static and dynamic tables (RFC 7541 §2.3.3), the length of its name and what is
    /// known of it; `None` for an invalid index.
    #[inline]
    fn line(&self, index: usize) -> Option<(&[u8], usize, LineTraits)> {
        if let Some(at) = index.checked_sub(static_table::LEN + 1) {
            let entry = self.table.get(at)?;
            let line = self.table.text(entry);
            return Some((line, entry.name_len.into(), entry.tag));
        }
        let entry = ENTRIES.get(index.checked_sub(1)?)?;
        Some((entry.line, entry.name_len, entry.traits))
    }

    /// Decodes a field with a literal value (RFC 7541 §6.2). The index of its name has a prefix of `prefix` bits.
    fn literal(
        &mut self,
        rest: &mut Reader<'_>,
        prefix: u32,
        is_added: bool,
        context: (HeadKind, &BlockLimits),
        head: &mut HeadBlock,
    ) -> Option<()> {
        // Never indexed (RFC 7541 §6.2.3).
        let sensitive = !is_added && rest.0.first()? & 0x10 != 0;
        let start = head.bytes.len();
        let (name_len, of_name) = match rest.integer(prefix)? {
            0 => {
                put_string(rest, &mut head.bytes)?;
                let name = &head.bytes[start..];
                let found = (name.len(), LineTraits::of_name(name));
                head.bytes.extend_from_slice(b": ");
                found
            }
            index => {
                let (line, len, traits) = self.line(index)?;
                head.bytes.extend_from_slice(&line[..len + 2]);
                (len, traits)
            }
        };
        let value = head.bytes.len();
        put_string(rest, &mut head.bytes)?;
        let traits = of_name.with_value(&head.bytes[value..]);
        let lens = (name_len, head.bytes.len() - value);
        head.bytes.extend_from_slice(b"\r\n");
        if is_added {
            self.table.add(&[&head.bytes[start..]], lens, traits);
        }
        head.accept(start, name_len, traits, sensitive, context);
        Some(())
    }

    /// Size of the dynamic table.
    #[cfg(test)]
    pub(super) fn table_size(&self) -> usize {
        self.table.size()
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

fn is_bomb(head: &HeadBlock, limits: &BlockLimits) -> bool {
    head.size > limits.bytes.saturating_mul(BOMB)
}

/// Appends a decoded string literal.
#[inline]
fn put_string(rest: &mut Reader<'_>, out: &mut Vec<u8>) -> Option<()> {
    let (is_huffman, text) = rest.string()?;
    if is_huffman {
        huffman::decode(text, out)
    } else {
        out.extend_from_slice(text);
        Some(())
    }
}
