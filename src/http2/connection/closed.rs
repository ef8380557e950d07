//! What is remembered of streams that are closed, to tell frames that crossed with our reset from errors of the peer.

use std::collections::VecDeque;
use std::ops::Range;

use crate::http2::ErrorCode;

/// Streams that were reset by us and are remembered: the peer may have sent frames for them before it knew.
const RESETS: usize = 512;
/// Ranges of identifiers that are remembered as skipped. Few clients skip any, and those do so once, at the start.
const SKIPPED: usize = 8;

/// The identifier that a client uses after `newest`, which is 0 before its first stream. It uses odd ones (RFC 9113 §5.1.1).
pub(super) fn next_id(newest: u32) -> u32 {
    match newest {
        0 => 1,
        newest => newest + 2,
    }
}

/// Identifiers of closed streams.
#[derive(Debug, Default)]
pub(super) struct ClosedStreams {
    /// Streams that were reset by us.
    reset: VecDeque<u32>,
    /// Identifiers below that of a later stream, which the client never used and thereby closed (RFC 9113 §5.1.1).
    skipped: VecDeque<Range<u32>>,
}

impl ClosedStreams {
    /// Remembers a stream that was reset by us.
    pub(super) fn add_reset(&mut self, id: u32) {
        if self.reset.len() == RESETS {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
    }

    /// Whether the stream is known to have been reset by us.
    pub(super) fn was_reset(&self, id: u32) -> bool {
        self.reset.contains(&id)
    }

    /// Remembers which identifiers a client has skipped by opening `next` after `newest`, which is 0 before its first stream.
    pub(super) fn opened(&mut self, newest: u32, next: u32) {
        let skipped = next_id(newest)..next;
        if skipped.is_empty() {
            return;
        }
        if self.skipped.len() == SKIPPED {
            self.skipped.pop_front();
        }
        self.skipped.push_back(skipped);
    }

    /// The error of a client's HEADERS on a closed stream that we haven't reset. Both codes end the connection.
    pub(super) fn error_of_head(&self, id: u32) -> ErrorCode {
        match self.skipped.iter().any(|range| range.contains(&id)) {
            // A new stream with an identifier that isn't above all earlier ones (RFC 9113 §5.1.1).
            true => ErrorCode::PROTOCOL_ERROR,
            // A stream that the client itself has ended (RFC 9113 §5.1).
            false => ErrorCode::STREAM_CLOSED,
        }
    }

    /// Frees unused memory.
    pub(super) fn shrink(&mut self) {
        self.reset.shrink_to_fit();
        self.skipped.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_identifiers_that_were_never_used_are_skipped() {
        let mut closed = ClosedStreams::default();
        let ids = [3, 5, 7, 13, 15];
        ids.into_iter().fold(0, |newest, id| {
            closed.opened(newest, id);
            id
        });
        for id in (1..=15).step_by(2) {
            let code = match ids.contains(&id) {
                true => ErrorCode::STREAM_CLOSED,
                false => ErrorCode::PROTOCOL_ERROR,
            };
            assert_eq!(closed.error_of_head(id), code, "{id}");
        }
    }

    #[test]
    fn little_is_remembered() {
        let mut closed = ClosedStreams::default();
        for n in 1..10_000 {
            closed.opened(10 * n - 9, 10 * n + 1);
            closed.add_reset(n);
        }
        assert!(closed.skipped.len() <= SKIPPED && closed.reset.len() <= RESETS);
        assert!(closed.was_reset(9_999) && !closed.was_reset(1));
    }
}
