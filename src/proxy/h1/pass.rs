//! Forwarding of small messages in tunnels: one read, one write, and no buffer before or after.
//! All tunnels of a worker thus use the same buffer in turn, and it stays in the CPU cache.

use std::task::Poll;

use super::H1;
use crate::net::buffer::{HUGE, LARGE};
use crate::net::{Stream, StreamSocket};
use crate::proxy::wire::{PumpError, Source};

impl H1 {
    /// Forwards a small message; see [`Source::pass`].
    #[inline]
    pub(super) fn pass_to(&mut self, to: &StreamSocket) -> Result<Option<usize>, PumpError> {
        // With TLS the number of decrypted bytes isn't known in advance, so they take the copying path.
        let Stream::Clear(from) = &self.stream else {
            return Ok((!self.has_nothing_to_read()).then_some(0));
        };
        let input = &mut self.mem.input;
        if self.eof || !input.is_empty() {
            return Ok(Some(0));
        }
        if self.stream.has_nothing_to_read() {
            return Ok(None);
        }
        let buffers = &self.mem.buffers;
        buffers.equip(input, LARGE);
        let room = input.room();
        let mut sent = 0;
        match from.read_now(room) {
            Poll::Pending => {}
            Poll::Ready(Err(e)) => return Err(PumpError::Source(e.into())),
            Poll::Ready(Ok(0)) => self.eof = true,
            Poll::Ready(Ok(n)) if n == room.len() => {
                // More bytes are probably waiting. They are left to the copying path, which uses larger buffers.
                self.ceiling = HUGE;
                input.filled(n);
            }
            Poll::Ready(Ok(n)) => {
                sent = to
                    .send_now(&room[..n])
                    .map_err(|e| PumpError::Sink(e.into()))?;
                if sent < n {
                    input.filled(n);
                    input.consume(sent);
                }
            }
        }
        buffers.release(input);
        Ok(Some(sent))
    }
}
