//! The HTTP/1 codec, both directions, without I/O: bytes in, offsets and decisions out.
//!
//! * [`head`]: request and response heads, parsed in place: an offset table over the read buffer, no map, no copy.
//! * [`fields`]: what a field is to a proxy (hop-by-hop, framing, ours), by one look at its name. [`method`]: the same for methods.
//! * [`framing`]: where a body ends: length, chunked, until close; decoding and pass-through. [`trailers`]: what may come after it.
//! * [`path`]: dot segments. [`authority`]: hosts and ports. [`lists`], [`number`], [`status`]: small words of the grammar.
//!
//! Every rejection is a [`Reject`]: the status that answers it and a short reason for `x-cutover-reason`.

pub mod authority;
mod chunked;
mod coding;
mod connection;
pub(crate) mod fields;
pub mod framing;
pub(crate) mod head;
pub mod lists;
pub(crate) mod method;
pub(crate) mod number;
pub mod path;
mod request;
mod response;
pub(crate) mod status;
pub(crate) mod target;
pub(crate) mod trailers;

pub use fields::FieldId;
pub use framing::{BodyDecoder, DecodeStep, Framing};
pub use head::{Field, HeadLimits, HttpVersion, Span};
pub use method::Method;
pub use request::RequestHead;
pub use response::ResponseHead;

/// Why bytes from outside are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The status that answers it downstream (from an upstream it always amounts to 502).
    pub status: u16,
    /// A short token, `[a-z0-9-]+`, for `x-cutover-reason`, logs and tests.
    pub reason: &'static str,
}

impl Reject {
    /// 400 with this reason.
    pub const fn bad(reason: &'static str) -> Self {
        Self {
            status: 400,
            reason,
        }
    }
}

impl std::fmt::Display for Reject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason)
    }
}
