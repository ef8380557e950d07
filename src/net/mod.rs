//! What every room that touches a socket needs: one stream type, and buffers that are lent and given back.

pub mod buffer;
pub mod stream;

pub use buffer::{Buffer, Buffers};
pub use stream::Stream;
