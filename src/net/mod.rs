//! Building blocks for code that reads and writes sockets: one stream type for all transports, pooled buffers with byte budgets,
//! pipes for `splice(2)`, headers of the PROXY protocol, and deadlines that cost a request only a store.

pub(crate) mod budget;
pub(crate) mod buffer;
pub mod clock;
pub(crate) mod congestion;
pub(crate) mod date;
#[cfg(test)]
pub(crate) mod fixtures;
mod framed;
pub mod keepalive;
mod listener_id;
pub(crate) mod pipe;
pub(crate) mod proxy_header;
pub(crate) mod proxy_protocol;
mod reactor;
pub(crate) mod send_queue;
mod socket_file;
pub(crate) mod stream;
mod stream_socket;
mod time_origin;

pub(crate) use budget::{BudgetShare, ByteBudget};
pub(crate) use buffer::{Buffer, Buffers};
pub(crate) use clock::{OwnedTaskControl, TaskControl, TaskControls, TaskPhase};
pub(crate) use framed::FramedStream;
pub use listener_id::ListenerId;
#[cfg(test)]
pub(crate) use reactor::pretend_busy;
pub(crate) use reactor::{DEFERRED_MOST, send_deferred};
pub use socket_file::SocketFile;
pub use stream::Stream;
pub use stream_socket::StreamSocket;
