//! The possible outcomes of a try.

use super::error::{AttemptError, ExchangeError};
use super::exchange::Arrived;
use super::retry::Next;
use super::undelivered::Undelivered;

/// How a forwarded request ended successfully.
#[derive(Debug)]
pub(crate) enum Served {
    /// The client has the complete response.
    Answered,
    /// The upstream switched protocols, and the tunnel has ended.
    Tunnel,
    /// The upstream has completed its response. The host of the client's stream sends the rest of it.
    Undelivered(Box<Undelivered>),
}

/// Why a try didn't serve the request.
#[derive(Debug)]
pub(super) enum TryError {
    /// The exchange failed.
    Failed(AttemptError),
    /// The response had a status that is retried, and was dropped.
    Superseded(Next),
    /// The reused connection turned out to be closed. Another endpoint is tried at once, and
    /// it counts as a failure of neither endpoint nor version.
    Stale,
}

impl From<ExchangeError> for TryError {
    fn from(error: ExchangeError) -> Self {
        Self::Failed(error.into())
    }
}

/// The outcome of a successful try. `R` is the undelivered rest of a response body.
pub(super) enum Tried<R> {
    /// The client has been served.
    Served(Served),
    /// The upstream has completed its response, and the client hasn't read all of it.
    Arrived(Box<Arrived>, R),
}

impl Tried<()> {
    /// Adds the rest of the response, if it is needed.
    #[inline]
    pub(super) fn with_remainder<R>(self, rest: impl FnOnce() -> R) -> Tried<R> {
        match self {
            Self::Served(served) => Tried::Served(served),
            Self::Arrived(arrived, ()) => Tried::Arrived(arrived, rest()),
        }
    }
}
