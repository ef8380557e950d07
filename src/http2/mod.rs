//! The HTTP/2 codec (RFC 9113, RFC 7541), without I/O.
//!
//! * [`frame`]: parsing, checking and writing of frames. [`code`]: error codes.
//! * [`hpack`]: the compression of header blocks, in both directions.
//! * [`head`]: a decoded header block: its fields in the table that the HTTP/1 codec fills as well, so that what follows is
//!   independent of the protocol. [`malformed`]: what RFC 9113 calls malformed, which is an error of one stream.
//! * `connection`: a connection and its streams, as server and as client. With the cargo feature `h2-crate`, `by_crate` takes its place.

#[cfg(feature = "h2-crate")]
mod by_crate;
pub mod code;
#[cfg_attr(
    feature = "h2-crate",
    allow(dead_code, unused_imports, reason = "`by_crate` takes its place")
)]
mod connection;
pub mod frame;
pub mod head;
pub mod hpack;
mod line;
pub mod malformed;

#[cfg(feature = "h2-crate")]
pub(crate) use by_crate::{Connection, Core, HeadWriter, Incoming, Sender, StreamHandle};
pub(crate) use code::ErrorCode;
pub(crate) use connection::{Config, RequestKind, StreamError};
#[cfg(not(feature = "h2-crate"))]
pub(crate) use connection::{Connection, Core, HeadWriter, Incoming, Sender, StreamHandle};
#[cfg(fuzzing)]
pub use connection::{Request, fuzz as fuzz_connection, requests};
pub(crate) use head::PackedHead;
pub use head::{BlockLimits, HeadBlock, HeadKind};
pub use hpack::{Decoder, Encoder, Indexing};
