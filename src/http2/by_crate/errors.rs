//! Errors of the h2 crate as those of a stream.

use crate::http1::Reject;
use crate::http2::{ErrorCode, StreamError};
use crate::reason::Reason;

/// The error of calls on a stream whose side has ended.
pub(super) const CLOSED: StreamError = StreamError::Reset {
    code: ErrorCode::STREAM_CLOSED,
    by_peer: false,
};

/// The stream was reset by the peer, as far as is known.
pub(super) fn reset(code: h2::Reason) -> StreamError {
    StreamError::Reset {
        code: ErrorCode(code.into()),
        by_peer: true,
    }
}

/// Maps an error of a stream. `malformed` is the reason if the crate has reset the stream because of the peer's message: it doesn't
/// say what is wrong with it.
pub(super) fn of_stream(error: &h2::Error, malformed: Reason) -> StreamError {
    match error.reason() {
        Some(h2::Reason::PROTOCOL_ERROR) if error.is_reset() && error.is_library() => {
            StreamError::Malformed(Reject::bad(malformed))
        }
        Some(code) if error.is_reset() => StreamError::Reset {
            code: ErrorCode(code.into()),
            by_peer: error.is_remote(),
        },
        // Only streams above the last identifier in the peer's GOAWAY, and those that were never opened, get it as their error.
        Some(code) if error.is_go_away() && error.is_remote() => {
            StreamError::Unprocessed(ErrorCode(code.into()))
        }
        _ => of_connection(error),
    }
}

/// Maps the error that has ended a connection.
pub(super) fn of_connection(error: &h2::Error) -> StreamError {
    match (error.reason(), error.get_io()) {
        (Some(code), _) => StreamError::Connection(ErrorCode(code.into())),
        (None, Some(error)) => StreamError::Io(error.kind()),
        // A call that the state of the stream forbids.
        (None, None) => CLOSED,
    }
}
