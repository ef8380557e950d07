//! HPACK, the compression of header blocks (RFC 7541).
//!
//! [`Decoder`] turns a block into a [`HeadBlock`](super::head::HeadBlock), [`Encoder`] appends one to a buffer. Both keep
//! their dynamic table in one buffer and allocate nothing once it has grown.

mod decoder;
mod encoder;
mod huffman;
mod integer;
mod static_table;
mod table;

pub use decoder::Decoder;
pub use encoder::{Encoder, Indexing};

/// Maximum size of a dynamic table: the initial value of `SETTINGS_HEADER_TABLE_SIZE` (RFC 9113 §6.5.2). The proxy announces
/// no other, and uses no more of the peer's.
const MAX_TABLE: usize = 4096;

/// Added to the lengths of name and value for the size of an entry (RFC 7541 §4.1).
const OVERHEAD: usize = 32;

#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod tests;

/// Writes the strings of a block of literals, as [`integer::put_string`] does, in Huffman code.
#[cfg(test)]
pub(super) fn with_huffman(block: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = integer::Reader(block);
    while let Some((&first, fields)) = rest.0.split_first() {
        assert!(matches!(first, 0 | 0x10 | 0x40), "a literal with its name");
        out.push(first);
        rest.0 = fields;
        for _ in 0..2 {
            let (_, text) = rest.string().expect("a string");
            let mut coded = Vec::new();
            huffman::encode(text, &mut coded);
            integer::put_integer(&mut out, 0x80, 7, coded.len());
            out.extend_from_slice(&coded);
        }
    }
    out
}
