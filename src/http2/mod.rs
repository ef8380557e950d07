//! The HTTP/2 codec (RFC 9113, RFC 7541), without I/O; and an inspector for connections of the h2 crate.
//!
//! * [`frame`]: parsing, checking and writing of frames. [`code`]: error codes.
//! * [`hpack`]: the compression of header blocks, in both directions.
//! * [`head`]: a decoded header block: its fields in the table that the HTTP/1 codec fills as well, so that what follows is
//!   independent of the protocol. [`malformed`]: what RFC 9113 calls malformed, which is an error of one stream.
//!
//! The h2 crate silently cuts a fragment off `:path` and drops pseudo-header fields in trailers. Both make a message
//! malformed (RFC 9113 §8.1.1, §8.3), and another recipient might read it differently, so the inspector finds them in the
//! bytes as they arrive. `inspect` follows frames and reports each frame header; `fields` decodes as much of the header
//! blocks as is needed for that, and `huffman` the strings in them.

pub mod code;
mod connection;
mod fields;
pub mod frame;
pub mod head;
pub mod hpack;
mod huffman;
mod inspect;
mod line;
pub mod malformed;

pub(crate) use code::ErrorCode;
pub(crate) use connection::{
    Config, Connection, Core, HeadWriter, Incoming, Sender, StreamError, StreamHandle,
};
pub(crate) use head::{BlockLimits, HeadBlock, HeadKind};
pub(crate) use hpack::{Decoder, Encoder, Indexing};
pub(crate) use inspect::{Flaw, Flaws, Frame, Inspector, SenderRole, kind};
pub(crate) use malformed::Malformed;
