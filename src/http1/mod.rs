//! The HTTP/1 codec for requests and responses (RFC 9110, RFC 9112), without I/O: bytes in, offsets and decisions out.
//!
//! * [`head`]: the parts that request and response heads share. A head is parsed in place into a table of offsets over the
//!   read buffer, without a map and without copies; `plain` does it in one pass for heads of the usual form, and `head_cache` recognises heads that repeat.
//! * [`fields`]: classifies field names: hop-by-hop, framing, added by the proxy. [`method`]: the same for methods.
//! * [`framing`]: finds the end of a body (length, chunked, until close), decoding it or passing it on as it is.
//!   [`trailers`]: the trailer section after it.
//! * [`path`]: dot segments and ambiguous paths. [`authority`]: hosts and ports. [`lists`], [`number`], [`status`]: small
//!   parts of the grammar.
//!
//! The codec is strict where recipients are known to differ, because a difference between two recipients in a chain is
//! what request smuggling exploits (RFC 9112 §11.2). Every rejection is a [`Reject`].

pub mod authority;
mod chunked;
mod coding;
mod connection;
mod decode_step;
pub(crate) mod fields;
pub mod framing;
pub(crate) mod head;
mod head_cache;
pub mod lists;
pub(crate) mod method;
pub(crate) mod number;
pub mod path;
mod plain;
mod request;
mod response;
pub(crate) mod status;
pub mod target;
pub(crate) mod trailers;

pub use fields::FieldId;
pub use framing::{BodyDecoder, DecodeStep, Framing};
pub use head::{Field, HeadLimits, HttpVersion, Span};
pub use head_cache::HeadCache;
pub use method::Method;
pub use request::RequestHead;
pub use response::ResponseHead;

use crate::reason::Reason;

/// The rejection of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Status of the response to a rejected request. A rejected response always becomes a 502.
    pub status: u16,
    /// Reason for `x-cutover-reason`, logs and metrics.
    pub reason: Reason,
}

impl Reject {
    /// Creates a 400 with this reason.
    pub const fn bad(reason: Reason) -> Self {
        Self {
            status: 400,
            reason,
        }
    }
}

impl std::fmt::Display for Reject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason.as_str())
    }
}
