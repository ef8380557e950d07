//! A partial HPACK decoder (RFC 7541): it finds pseudo-header fields and a `#` in `:path`, nothing else.
//!
//! A field is often a single byte that refers to an entry of the dynamic table, so the table must be tracked. Only the
//! size and the kind of each entry are kept, not its text: sizes determine which entries are evicted.

use std::collections::VecDeque;

use super::huffman;

/// Maximum size of the dynamic table: the initial value of `SETTINGS_HEADER_TABLE_SIZE` (RFC 9113 §6.5.2), which the proxy
/// changes on neither side.
const TABLE_SIZE: usize = 4096;
/// Added to the lengths of name and value for the size of an entry (RFC 7541 §4.1).
const ENTRY_OVERHEAD: usize = 32;
/// Maximum accepted integer; RFC 7541 §5.1 requires a limit. No valid length or index comes near it.
const MAX_INTEGER: usize = 1 << 24;

/// Lengths of the names in the static table (RFC 7541 Appendix A).
const STATIC: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14,
    16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10,
    25, 17, 10, 4, 3, 16,
];

/// Entry 14 of the static table as an indexed field (RFC 7541 §6.1): the last of its pseudo-header fields.
const PSEUDO_LAST: u8 = 0x80 | 14;

/// What was found in a header block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BlockContent {
    /// Whether it contains a pseudo-header field.
    pub(super) pseudo: bool,
    /// Whether it contains a `:path` with `#`.
    pub(super) fragment: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LiteralKind {
    Path,
    Pseudo,
    Regular,
}

#[derive(Clone, Copy, Debug)]
struct Name {
    kind: LiteralKind,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct TableEntry {
    name: Name,
    size: usize,
    fragment: bool,
}

/// The decoder of one direction of a connection, with its dynamic table.
#[derive(Debug)]
pub(super) struct FieldTable {
    /// The newest first.
    entries: VecDeque<TableEntry>,
    size: usize,
    max_size: usize,
}

impl FieldTable {
    /// Creates a decoder with an empty table.
    pub(super) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            max_size: TABLE_SIZE,
        }
    }

    /// Decodes a complete header block.
    ///
    /// Returns `None` if it is malformed; the state of the table is then unknown, and no further block can be decoded.
    pub(super) fn read(&mut self, block: &[u8]) -> Option<BlockContent> {
        let mut seen = BlockContent::default();
        let mut rest = Reader(block);
        while let Some(&first) = rest.0.first() {
            // The representations of RFC 7541 §6, by the first bits.
            let (entry, kept) = match first {
                // A pseudo-header field of the static table: most of a request's head.
                0x81..=PSEUDO_LAST => {
                    rest.0 = &rest.0[1..];
                    seen.pseudo = true;
                    continue;
                }
                // Indexed field (§6.1).
                0x80.. => (self.entry(rest.integer(7)?)?, false),
                // Literal with incremental indexing (§6.2.1).
                0x40.. => (self.literal(&mut rest, 6, true)?, true),
                // Dynamic table size update (§6.3).
                0x20.. => {
                    let max_size = rest.integer(5)?;
                    if max_size > TABLE_SIZE {
                        return None;
                    }
                    self.max_size = max_size;
                    self.evict(0);
                    continue;
                }
                // Literal without indexing or never indexed (§6.2.2, §6.2.3).
                _ => (self.literal(&mut rest, 4, false)?, false),
            };
            seen.pseudo |= entry.name.kind != LiteralKind::Regular;
            seen.fragment |= entry.fragment;
            if kept {
                self.add(entry);
            }
        }
        Some(seen)
    }

    /// Returns the entry at an index of the static and dynamic tables (RFC 7541 §2.3.3); `None` for an invalid one.
    fn entry(&self, index: usize) -> Option<TableEntry> {
        match index.checked_sub(STATIC.len() + 1) {
            Some(at) => self.entries.get(at).copied(),
            None => {
                // Entries 1 to 14 of the static table are pseudo-header fields; 4 and 5 are `:path`. Index 0 is invalid.
                let len = *STATIC.get(index.checked_sub(1)?)?;
                let kind = match index {
                    4 | 5 => LiteralKind::Path,
                    ..=14 => LiteralKind::Pseudo,
                    _ => LiteralKind::Regular,
                };
                Some(TableEntry {
                    name: Name {
                        kind,
                        len: len.into(),
                    },
                    // A static entry is never added to the table as it is, so its size is not needed.
                    size: 0,
                    fragment: false,
                })
            }
        }
    }

    /// Decodes a field with a literal value, whose name index has a prefix of `prefix` bits.
    ///
    /// `kept` says whether the field is added to the table; only then is the size of the result correct.
    fn literal(&self, rest: &mut Reader<'_>, prefix: u32, kept: bool) -> Option<TableEntry> {
        let name = match rest.integer(prefix)? {
            0 => rest.name()?,
            index => self.entry(index)?.name,
        };
        let is_path = name.kind == LiteralKind::Path;
        let (huffman, value) = rest.string()?;
        let mut fragment = false;
        let len = if !huffman {
            fragment = is_path && memchr::memchr(b'#', value).is_some();
            value.len()
        } else if is_path || kept {
            // Other Huffman strings are skipped: neither their text nor their decoded length matters.
            huffman::decode(value, |byte| fragment |= is_path && byte == b'#')?
        } else {
            0
        };
        Some(TableEntry {
            name,
            size: name.len + len + ENTRY_OVERHEAD,
            fragment,
        })
    }

    fn add(&mut self, entry: TableEntry) {
        self.evict(entry.size);
        // An entry larger than the table empties it and is not added (RFC 7541 §4.4).
        if entry.size <= self.max_size {
            self.size += entry.size;
            self.entries.push_front(entry);
        }
    }

    /// Evicts the oldest entries until `room` bytes fit (RFC 7541 §4.3, §4.4).
    fn evict(&mut self, room: usize) {
        while self.size + room > self.max_size
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size;
        }
    }
}

/// Reads primitives from the rest of a header block.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    /// Reads an integer with a prefix of `prefix` bits (RFC 7541 §5.1).
    #[inline]
    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        let mask = (1 << prefix) - 1;
        let mut value = usize::from(*first) & mask;
        if value < mask {
            return Some(value);
        }
        let mut shift = 0;
        loop {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return Some(value);
            }
            // Five more bytes at most: enough for every accepted value, with leading zeros, and no overflow.
            if shift > 28 || value > MAX_INTEGER {
                return None;
            }
        }
    }

    /// Reads a string literal (RFC 7541 §5.2): whether it is Huffman-coded, and its encoded bytes.
    #[inline]
    fn string(&mut self) -> Option<(bool, &'b [u8])> {
        let huffman = self.0.first()? & 0x80 != 0;
        let len = self.integer(7)?;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some((huffman, text))
    }

    /// Reads a literal name. Only its length and its first bytes are needed to classify it.
    fn name(&mut self) -> Option<Name> {
        const PATH: &[u8; 5] = b":path";
        let (huffman, text) = self.string()?;
        let mut start = [0; PATH.len()];
        let mut len = 0;
        let mut each = |byte| {
            if let Some(first) = start.get_mut(len) {
                *first = byte;
            }
            len += 1;
        };
        if huffman {
            huffman::decode(text, each)?;
        } else {
            text.iter().for_each(|&byte| each(byte));
        }
        let kind = match start {
            [b':', ..] if len == PATH.len() && start == *PATH => LiteralKind::Path,
            [b':', ..] => LiteralKind::Pseudo,
            _ => LiteralKind::Regular,
        };
        Some(Name { kind, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: BlockContent = BlockContent {
        pseudo: false,
        fragment: false,
    };
    const PSEUDO: BlockContent = BlockContent {
        pseudo: true,
        fragment: false,
    };
    const FRAGMENT: BlockContent = BlockContent {
        pseudo: true,
        fragment: true,
    };

    /// A literal field with its name written out; `kind` is its first byte.
    fn literal(kind: u8, name: &str, value: &str) -> Vec<u8> {
        let mut block = vec![kind, name.len() as u8];
        block.extend(name.as_bytes());
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
        block
    }

    #[test]
    fn the_requests_of_the_rfc_are_followed() {
        // RFC 7541 C.4: three requests in Huffman code.
        let first: &[u8] = &[
            0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab,
            0x90, 0xf4, 0xff,
        ];
        let second: &[u8] = &[
            0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf,
        ];
        let third: &[u8] = &[
            0x82, 0x87, 0x85, 0xbf, 0x40, 0x88, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f,
            0x89, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf,
        ];
        let mut table = FieldTable::new();
        for (block, size) in [(first, 57), (second, 110), (third, 164)] {
            assert_eq!(table.read(block), Some(PSEUDO));
            assert_eq!(table.size, size);
        }
        // `custom-key`, `cache-control` and `:authority`, by their places in the table.
        for (index, seen) in [(62, NOTHING), (63, NOTHING), (64, PSEUDO)] {
            assert_eq!(table.read(&[0x80 | index]), Some(seen), "{index}");
        }
        assert_eq!(table.read(&[0x80 | 65]), None);
    }

    #[test]
    fn the_responses_of_the_rfc_are_followed_through_evictions() {
        // RFC 7541 C.6: three responses in Huffman code, with a table of 256 bytes.
        let date = |last: u8| {
            let mut text = vec![
                0x61, 0x96, 0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95,
                0x04, 0x0b, 0x81, 0x66, 0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff,
            ];
            text[22] = last;
            text
        };
        let first = [
            &[
                0x3f, 0xe1, 0x01, 0x48, 0x82, 0x64, 0x02, 0x58, 0x85, 0xae, 0xc3, 0x77, 0x1a, 0x4b,
            ][..],
            &date(0x1b),
            &[
                0x6e, 0x91, 0x9d, 0x29, 0xad, 0x17, 0x18, 0x63, 0xc7, 0x8f, 0x0b, 0x97, 0xc8, 0xe9,
                0xae, 0x82, 0xae, 0x43, 0xd3,
            ],
        ]
        .concat();
        let mut table = FieldTable::new();
        assert_eq!(table.read(&first), Some(PSEUDO));
        assert_eq!((table.size, table.entries.len()), (222, 4));
        let second = [0x48, 0x83, 0x64, 0x0e, 0xff, 0xc1, 0xc0, 0xbf];
        assert_eq!(table.read(&second), Some(PSEUDO));
        assert_eq!((table.size, table.entries.len()), (222, 4));
    }

    #[test]
    fn pseudo_header_fields_are_found_however_they_are_written() {
        for kind in [0x00, 0x10, 0x40] {
            for (name, seen) in [
                (":path", PSEUDO),
                (":status", PSEUDO),
                (":x", PSEUDO),
                ("path", NOTHING),
                ("", NOTHING),
            ] {
                let mut table = FieldTable::new();
                let block = literal(kind, name, "/");
                assert_eq!(table.read(&block), Some(seen), "{kind:x} {name}");
                let again = table.read(&[0xbe]);
                let want = (kind == 0x40).then_some(seen);
                assert_eq!(again, want, "{kind:x} {name}");
            }
        }
        for index in 1..=61 {
            let seen = if index <= 14 { PSEUDO } else { NOTHING };
            assert_eq!(FieldTable::new().read(&[0x80 | index]), Some(seen));
        }
        assert_eq!(FieldTable::new().read(&[0x80]), None, "no field 0");
    }

    #[test]
    fn a_fragment_is_found_in_paths_only() {
        // `/#` in Huffman code is 011000 111111111010 and padding.
        let huffman = [0x04, 0x83, 0b0110_0011, 0b1111_1110, 0b1011_1111];
        assert_eq!(FieldTable::new().read(&huffman), Some(FRAGMENT));
        for kind in [0x00, 0x10, 0x40] {
            let mut table = FieldTable::new();
            let block = literal(kind, ":path", "/a#b");
            assert_eq!(table.read(&block), Some(FRAGMENT));
            if kind == 0x40 {
                // The value is in the table too; a name taken from it comes without.
                assert_eq!(table.read(&[0xbe]), Some(FRAGMENT));
                assert_eq!(table.read(&[0x7e, 1, b'/']), Some(PSEUDO));
            }
            let other = literal(kind, "referer", "/a#b");
            assert_eq!(table.read(&other), Some(NOTHING));
        }
    }

    #[test]
    fn entries_leave_the_table_when_it_is_full() {
        let mut table = FieldTable::new();
        // 32 + 1 + 7 bytes each: 102 of them fit.
        for n in 0..200 {
            let block = literal(0x40, "x", &format!("{n:07}"));
            assert_eq!(table.read(&block), Some(NOTHING));
            assert_eq!(table.entries.len(), 102.min(n + 1));
        }
        assert_eq!(
            table.read(&[0x3f, 0x61]),
            Some(NOTHING),
            "at most 128 bytes"
        );
        assert_eq!((table.entries.len(), table.size), (3, 120));
        assert_eq!(
            table.read(&literal(0x40, "x", &"y".repeat(100))),
            Some(NOTHING)
        );
        assert_eq!((table.entries.len(), table.size), (0, 0));
    }

    #[test]
    fn what_ends_too_early_or_is_too_large_is_refused() {
        for block in [
            &[0x40][..],
            &[0x40, 3, b'a'],
            &[0x40, 1, b'a', 5, b'b'],
            &[0x7f],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x3f, 0xe2, 0x1f],
        ] {
            assert_eq!(FieldTable::new().read(block), None, "{block:x?}");
        }
    }
}
