//! One exchange on an open connection.
//!
//! It has two phases, so that the caller can still retry after the first. [`ask`] sends the request
//! until the head of the final response has arrived; the client has seen nothing of it yet.
//! [`answer`] relays the response. Both directions may be active in either phase: the body may
//! still be on its way up while the response comes down. Each phase is one `poll_fn` that polls
//! both directions, the client's state and the deadline.
//!
//! If the upstream has completed its response but the client reads slowly, [`answer`] returns early
//! and [`deliver`] sends the rest from memory, while the upstream connection serves other requests.

mod answer;
mod ask;
mod client;
mod deliver;
mod grpc;

pub(super) use answer::{AnswerParts, Answered, answer};
pub(super) use ask::ask;
pub(super) use deliver::{Arrived, Remainder, deliver};
pub(super) use grpc::is_grpc;

use super::body::UploadError;
use super::error::ExchangeError;
use super::wire::{PumpError, WireError};

/// The failure of an upload whose cause is the client. A sink error of the upstream is handled by
/// both phases themselves; the one that arrives here comes from the client's connection.
pub(super) fn client_side(error: UploadError) -> ExchangeError {
    match error {
        UploadError::TooLarge => ExchangeError::BodyTooLarge,
        UploadError::Pump(PumpError::Source(WireError::Bad(reject))) => {
            ExchangeError::Malformed(reject)
        }
        UploadError::Pump(PumpError::Source(error) | PumpError::Sink(error)) => {
            ExchangeError::ClientGone(Some(error))
        }
    }
}
