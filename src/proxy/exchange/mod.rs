//! An exchange on an open connection, in two phases: [`ask`] sends the request until the final head of the response is
//! there; then the caller decides; [`answer`] sends the response to the client. One task, no channels. Of a response that has arrived
//! whole before its client took it, [`deliver`] sends what is left, without the upstream.

mod answer;
mod ask;
mod deliver;

pub(super) use answer::{AnswerParts, Answered, answer, is_grpc};
pub(super) use ask::ask;
pub(super) use deliver::{Arrived, Remainder, deliver};

use super::body::UploadError;
use super::error::ExchangeError;
use super::wire::{PumpError, WireError};

/// What the client did wrong while it was sending its body.
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
