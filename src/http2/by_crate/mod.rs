//! A connection with the interface of [`connection`](super::connection), by the h2 crate, for the cargo feature `h2-crate`: with it a
//! regression of our own codec can be told from a feature. To be removed after one release.
//!
//! The crate wants a transport, and the interface has none: [`pipe`] is one in memory, and [`core`] polls the crate's connection
//! ([`engine`]) in place whenever something has changed. [`stream`] is one stream, [`sender`] opens those of a client, [`head`] converts
//! heads, [`errors`] errors, and [`frame_scanner`] finds the boundaries of frames, about which the crate says nothing.
//!
//! What the crate can't do is missing:
//! * A malformed head may end the connection. Otherwise the crate resets the stream and reports no request; of a response or a body
//!   only the stream is known, not the defect.
//! * It drops the fragment of a path, pseudo-header fields in trailers, and the mark of fields that were received as never indexed.
//! * Limits on frames and resets are the crate's. It answers heads beyond the announced size by itself, with 431.
//! * Each call that sends data makes a frame, and the end of a body one more.
//! * Memory is neither lent, kept for later streams, nor given back.

mod core;
mod engine;
mod errors;
mod frame_scanner;
mod head;
mod pipe;
mod sender;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use self::core::{Connection, Core, Incoming};
pub(crate) use self::head::HeadWriter;
pub(crate) use self::sender::Sender;
pub(crate) use self::stream::StreamHandle;
