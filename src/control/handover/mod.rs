//! Handover: a new process (the successor) takes the sockets of the running one (the predecessor). No connection is refused or
//! reset.
//!
//! The predecessor listens at `handover-<hash>.sock` beside the control socket. Over one connection:
//!
//! 1. Successor: `Hello`. It has read and compiled its configuration; it lacks only the sockets.
//! 2. Predecessor: `Offer`, then the descriptors of every socket on which it listens. It goes on serving.
//! 3. Successor: its workers accept on the same sockets, beside the predecessor's; then `Serving`.
//! 4. Predecessor: `Released`. It still accepts.
//! 5. Successor: `Claimed`. From here on the sockets and their files are its own.
//! 6. Predecessor: stops accepting without closing any queue (the successor holds the same sockets), `Released` again, and
//!    drains.
//!
//! One of them serves at every instant, whichever of them dies:
//!
//! * The successor fails or dies before step 5: the connection ends, and the predecessor goes on as if nothing had been asked.
//!   No file was removed, because the successor doesn't own any before step 6.
//! * The predecessor dies after step 2: the connection ends without a word, and the successor goes on with what it has. A
//!   predecessor that lives and doesn't want to go on with the takeover says so (`Released` with a reason).
//!
//! A program of format 1 has no steps 5 and 6: it stops accepting before it sends `Released`.

mod frames;
mod predecessor;
mod successor;
mod wire;

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::edge::inherit::Label;
use crate::snapshot::ServiceState;

pub(crate) use frames::EndpointName;
pub(crate) use predecessor::serve;
pub(crate) use successor::{Confirmed, Predecessor, ask};
pub(crate) use wire::message;

/// Longest time for a step of the other side.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a process passes to its successor.
#[derive(Debug)]
pub(crate) struct HandoverState {
    /// The generation that it runs.
    pub(crate) generation: u64,
    /// What an operator drains.
    pub(crate) draining: Vec<EndpointName>,
    /// Split, gate and sessions.
    pub(crate) services: Vec<ServiceState>,
    /// Every socket on which it listens.
    pub(crate) sockets: Vec<(Label, OwnedFd)>,
    /// Dropped when the takeover is decided.
    pub(crate) undecided: oneshot::Sender<()>,
}

/// What the handover asks of the control thread.
#[derive(Debug)]
pub(crate) enum HandoverRequest {
    /// Everything that a successor needs.
    State(oneshot::Sender<HandoverState>),
    /// The successor serves: stop accepting.
    Release(Release),
}

/// The successor serves.
#[derive(Debug)]
pub(crate) struct Release {
    /// Addresses of sockets that it doesn't want.
    pub(crate) unwanted: Vec<String>,
    /// Its process.
    pub(crate) pid: Option<i32>,
    /// Told what is drained, when the sockets are given up.
    pub(crate) done: oneshot::Sender<Vec<EndpointName>>,
}

#[cfg(test)]
mod tests;
