//! The handover: a new process (the successor) takes over the listening sockets of the running one (the predecessor), without
//! refusing or resetting a connection.
//!
//! The predecessor listens on `handover-<hash>.sock`, next to the control socket. The protocol runs over one connection:
//!
//! 1. Successor sends `Hello`. It has compiled its configuration and lacks only the sockets.
//! 2. Predecessor sends `Offer`, followed by the descriptors of all its listening sockets (`SCM_RIGHTS`). It keeps serving.
//! 3. Successor starts accepting on the same sockets, in parallel with the predecessor, then sends `Serving`.
//! 4. Predecessor sends `Released`. It still accepts.
//! 5. Successor sends `Claimed`. From here on the sockets and their files belong to it.
//! 6. Predecessor stops accepting, sends `Released` again and drains its connections. No accept queue is closed, because the
//!    successor holds the same sockets.
//!
//! At every moment at least one of the processes serves, even if the other one dies:
//!
//! * If the successor fails or dies before step 5, the connection closes and the predecessor continues as before. No socket file
//!   has been removed, because the successor owns none until step 6.
//! * If the predecessor dies after step 2, the connection closes without a frame and the successor continues with the sockets
//!   that it has. A predecessor that is alive but gives up the takeover always says so, in a `Released` frame with a reason.
//!
//! Programs of format 1 have no steps 5 and 6: they stop accepting before they send `Released`.

mod frames;
mod predecessor;
mod successor;
mod wire;

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::edge::inherit::Label;
use crate::edge::tls::TicketSecret;
use crate::snapshot::ServiceState;
use crate::upstream::resolve::record::{AddressSet, LookupName};

pub(crate) use frames::EndpointName;
pub(crate) use predecessor::serve;
pub(crate) use successor::{Confirmed, Predecessor, ask};
pub(crate) use wire::message;

/// Timeout for each step of the other side.
const PATIENCE: Duration = Duration::from_secs(10);

/// The state that a process passes to its successor.
#[derive(Debug)]
pub(crate) struct HandoverState {
    /// The running generation.
    pub(crate) generation: u64,
    /// Endpoints that operators are draining.
    pub(crate) draining: Vec<EndpointName>,
    /// Effective split, gate and sessions, by service.
    pub(crate) services: Vec<ServiceState>,
    /// The secrets of TLS tickets.
    pub(crate) tickets: Vec<TicketSecret>,
    /// The addresses of names of endpoints.
    pub(crate) names: Vec<(LookupName, AddressSet)>,
    /// Duplicates of all listening sockets.
    pub(crate) sockets: Vec<(Label, OwnedFd)>,
    /// Dropped when the takeover has succeeded or failed.
    pub(crate) undecided: oneshot::Sender<()>,
}

/// Requests of the handover task to the control thread.
#[derive(Debug)]
pub(crate) enum HandoverRequest {
    /// Send the state that a successor needs.
    State(oneshot::Sender<HandoverState>),
    /// The successor has claimed the sockets: stop accepting.
    Release(Release),
}

/// The release of the sockets to a successor that serves on them.
#[derive(Debug)]
pub(crate) struct Release {
    /// Addresses of sockets that the successor doesn't want.
    pub(crate) unwanted: Vec<String>,
    /// Process id of the successor, if the kernel knows it.
    pub(crate) pid: Option<i32>,
    /// Receives the endpoints that are being drained, once the sockets are released.
    pub(crate) done: oneshot::Sender<Vec<EndpointName>>,
}

#[cfg(test)]
mod tests;
