//! The state of one stream, and why it failed.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Waker};

use crate::http1::Reject;
use crate::http2::{ErrorCode, HeadBlock};

/// Events that a stream's task waits for. A task registers one waker for all of them.
pub(super) mod interest {
    /// Data, heads, trailers or the end of the message.
    pub(in super::super) const RECEIVE: u8 = 1;
    /// Room to send data.
    pub(in super::super) const SEND: u8 = 2;
    /// A reset, or the end of the connection.
    pub(in super::super) const RESET: u8 = 4;
}

/// Why a stream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamError {
    /// The stream was reset.
    Reset {
        /// The reason given.
        code: ErrorCode,
        /// Whether the peer has reset it.
        by_peer: bool,
    },
    /// The peer's message was malformed, and the stream was reset for it (RFC 9113 §8.1.1).
    Malformed(Reject),
    /// The peer has announced by GOAWAY that it hasn't processed the stream and won't (RFC 9113 §6.8).
    Unprocessed(ErrorCode),
    /// An error of the connection.
    Connection(ErrorCode),
    /// The transport failed or ended.
    Io(io::ErrorKind),
}

/// One stream. The buffers aside it takes less than 256 bytes.
///
/// The connection owns it. `closed` is final: afterwards the stream gets and sends nothing, and only what was received before can
/// still be taken. Received bytes count as `unreleased` until the handle is done with them, then as `unannounced`, and at last
/// again in `receive_window`.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    waker: Option<Waker>,
    interest: u8,
    /// Both sides have ended, or the stream was reset. It then no longer counts as open.
    pub(super) closed: bool,
    pub(super) error: Option<StreamError>,

    /// The peer has sent END_STREAM.
    pub(super) receive_ended: bool,
    /// The head of the message has arrived; of a response, the final one.
    pub(super) has_head: bool,
    /// The request is an extended CONNECT, after whose head both sides send DATA only (RFC 9113 §8.5, RFC 8441 §5).
    pub(super) is_tunnel: bool,
    /// The request's method is HEAD, so that the response's `content-length` counts nothing.
    pub(super) is_head_request: bool,
    /// Bytes of DATA that the declared length still allows.
    pub(super) content_left: Option<u64>,
    /// DATA that was not taken by the handle yet.
    pub(super) data: Vec<u8>,
    /// Heads of responses that were not taken yet.
    pub(super) heads: VecDeque<Box<HeadBlock>>,
    pub(super) trailers: Option<Box<HeadBlock>>,
    /// Number of bytes that the peer may still send.
    pub(super) receive_window: i64,
    /// Received bytes that the handle hasn't released yet.
    pub(super) unreleased: usize,
    /// Released bytes that were not announced to the peer yet.
    pub(super) unannounced: usize,

    /// END_STREAM was queued.
    pub(super) send_ended: bool,
    /// Number of bytes that the peer's window still allows.
    pub(super) send_window: i64,
    /// Position of the last DATA frame in the connection's output.
    pub(super) last_data: Option<u64>,
    /// Position after the last DATA, and how many bytes were queued since all of it had been written.
    pub(super) data_end: u64,
    pub(super) unwritten: usize,
    /// Bytes of the connection's window and output buffer that are reserved for this stream.
    pub(super) granted: usize,
    /// Number of bytes that the stream wanted to send when it was queued.
    pub(super) wanted: usize,
    /// The stream is in the connection's queue for room.
    pub(super) queued: bool,
}

impl Stream {
    /// Whether the peer's message has ended and all that followed its head was taken.
    pub(super) fn is_over(&self) -> bool {
        self.receive_ended && self.data.is_empty() && self.trailers.is_none()
    }

    pub(super) fn new(id: u32, receive_window: u32, send_window: u32) -> Self {
        Self {
            id,
            waker: None,
            interest: 0,
            closed: false,
            error: None,
            receive_ended: false,
            has_head: false,
            is_tunnel: false,
            is_head_request: false,
            content_left: None,
            data: Vec::new(),
            heads: VecDeque::new(),
            trailers: None,
            receive_window: receive_window.into(),
            unreleased: 0,
            unannounced: 0,
            send_ended: false,
            send_window: send_window.into(),
            last_data: None,
            data_end: 0,
            unwritten: 0,
            granted: 0,
            wanted: 0,
            queued: false,
        }
    }

    /// Registers the task for events. The latest waker is woken for all of them.
    pub(super) fn register(&mut self, cx: &Context<'_>, interest: u8) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
        self.interest |= interest;
    }

    /// Wakes the task if it waits for one of these events.
    pub(super) fn wake(&mut self, events: u8) {
        if self.interest & events != 0 {
            self.interest &= !events;
            if let Some(waker) = &self.waker {
                waker.wake_by_ref();
            }
        }
    }

    pub(super) fn wake_all(&mut self) {
        self.wake(interest::RECEIVE | interest::SEND | interest::RESET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_small() {
        assert!(size_of::<Stream>() <= 256, "{}", size_of::<Stream>());
    }
}
