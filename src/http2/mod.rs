//! An inspector for HTTP/2 that runs beside the h2 crate, on the same bytes.
//!
//! The h2 crate silently cuts a fragment off `:path` and drops pseudo-header fields in trailers. Both make a message
//! malformed (RFC 9113 §8.1.1, §8.3), and another recipient might read it differently, so the inspector finds them in the
//! bytes as they arrive. [`inspect`] follows frames and reports each frame header; [`fields`] decodes as much of the header
//! blocks as is needed for that, and [`huffman`] the strings in them.

mod fields;
mod huffman;
mod inspect;

pub(crate) use inspect::{Flaw, Flaws, Frame, Inspector, SenderRole, kind};
