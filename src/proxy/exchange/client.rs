//! The client while its response is delivered.

use std::task::{Context, Poll};

use crate::proxy::context::HALF_CLOSED;
use crate::proxy::error::ExchangeError;
use crate::proxy::silence::Silence;
use crate::proxy::wire::{Gone, Recipient};

/// The client's side of a response: whether it is still there, and when it last made progress.
#[derive(Debug)]
pub(super) struct ClientState {
    pub(super) half_closed: bool,
    /// Bytes moved both ways when the deadline was last armed.
    moved: u64,
}

impl Default for ClientState {
    fn default() -> Self {
        Self {
            half_closed: false,
            // Differs from any real count, so that the first check arms the deadline.
            moved: u64::MAX,
        }
    }
}

impl ClientState {
    /// Checks whether the client has closed its connection, and restarts the idle timeout if any
    /// byte has moved. `moved` counts both directions.
    pub(super) fn check<D: Recipient>(
        &mut self,
        silence: Silence<'_>,
        task: &mut Context<'_>,
        moved: u64,
        uploaded: bool,
        down: &mut D,
    ) -> Result<(), ExchangeError> {
        let mut has_just_closed = false;
        // While the body is still arriving, reads belong to the upload, which sees the close itself.
        if uploaded && !self.half_closed {
            match down.poll_gone(task) {
                Poll::Ready(Gone::Left) => return Err(ExchangeError::ClientGone(None)),
                Poll::Ready(Gone::HalfClosed) => {
                    (self.half_closed, has_just_closed) = (true, true);
                }
                Poll::Pending => {}
            }
        }
        if moved != self.moved || has_just_closed {
            self.moved = moved;
            let idle = silence.timeouts.idle;
            silence.arm(match self.half_closed {
                true => HALF_CLOSED.min(idle),
                false => idle,
            });
        }
        Ok(())
    }
}
