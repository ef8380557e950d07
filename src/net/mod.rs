//! What every room that touches a socket needs: one stream type, and buffers that are lent and given back.

pub(crate) mod budget;
pub(crate) mod buffer;
pub(crate) mod clock;
pub(crate) mod date;
pub(crate) mod keepalive;
mod origin;
pub(crate) mod outbox;
pub(crate) mod pipe;
mod socket_file;
pub(crate) mod stream;

pub(crate) use budget::{BudgetShare, ByteBudget};
pub(crate) use buffer::{Buffer, Buffers};
pub(crate) use clock::{OwnedTaskControl, TaskControl, TaskControls, TaskPhase};
pub(crate) use outbox::{Outbox, OutgoingPiece};
pub(crate) use socket_file::SocketFile;
pub(crate) use stream::Stream;
