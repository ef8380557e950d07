//! What the proxy reads of HTTP/2 itself, beside the h2 crate: frame heads, and of header blocks as much as the crate hides.
//!
//! The crate cuts a fragment off `:path` and drops pseudo-header fields in trailers, both without a word. Both are malformed (RFC 9113
//! §8.1.1, §8.3), and a peer further along might read them in another way, so they are found here, on the bytes as they arrive.

mod fields;
mod huffman;
mod inspect;

pub(crate) use inspect::{Flaw, Flaws, Frame, Inspector, SenderRole, kind};
