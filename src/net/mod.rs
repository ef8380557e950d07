//! What every room that touches a socket needs: one stream type, and buffers that are lent and given back.

pub mod budget;
pub mod buffer;
pub mod clock;
pub mod date;
pub(crate) mod keepalive;
mod origin;
pub mod outbox;
pub mod pipe;
mod socket_file;
pub mod stream;

pub use budget::{BudgetShare, ByteBudget};
pub use buffer::{Buffer, Buffers};
pub use clock::{OwnedTaskControl, TaskControl, TaskControls, TaskPhase};
pub use outbox::{Outbox, OutgoingPiece};
pub use socket_file::SocketFile;
pub use stream::Stream;
