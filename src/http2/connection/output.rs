//! Output: DATA under flow control, and the output buffer.
//!
//! The buffer is bounded: beyond [`BATCH`] bytes streams queue until some of it was written. If the transport takes no more,
//! [`MOST`] is the limit, so that responses can be finished, and each stream has at most [`STREAM_MOST`]. The queue also serves
//! the connection's window, so that no stream starves another one.

use std::task::{Context, Poll};

use super::stream::interest;
use super::{Core, StreamError};
use crate::http2::ErrorCode;
use crate::http2::frame::{self, HEADER_LEN, flag};

/// DATA is accepted while the output buffer holds less than this and the transport has not refused any.
const BATCH: usize = 56 * 1024;
/// The same while the transport takes no more.
const MOST: usize = 512 * 1024;
/// Most bytes of frames that answer those of the peer: nothing more is read from one that causes more of them and reads none.
const CONTROL_MOST: usize = 256 * 1024;
/// Most bytes of one stream in the buffer.
const STREAM_MOST: usize = 64 * 1024;
/// Less room than this is not worth a frame.
const LEAST_ROOM: usize = 4 * 1024;
/// Number of bytes that a stream gets when its turn comes.
const GRANT: usize = 16 * 1024;

impl Core {
    /// Bytes that wait to be written.
    pub(crate) fn output(&self) -> &[u8] {
        &self.out[self.written..]
    }

    /// The first `n` bytes of [`Self::output`] were written.
    pub(crate) fn wrote(&mut self, n: usize) {
        self.written += n;
        if self.written > self.out.len() / 2 {
            self.out.drain(..self.written);
            self.out_start += self.written as u64;
            self.written = 0;
        }
        self.grant();
    }

    /// The index in the output buffer of a stream's last DATA frame, if nothing of it was written yet.
    fn unwritten_data(&self, key: usize) -> Option<usize> {
        let at = self.streams[key].last_data?.checked_sub(self.out_start)? as usize;
        (at >= self.written).then_some(at)
    }

    /// Lends memory for output, if there is none.
    pub(crate) fn lend_output(&mut self, take: impl FnOnce() -> Vec<u8>) {
        if self.out.capacity() == 0 {
            self.out = take();
        }
    }

    /// Takes back the memory for output, if nothing waits in it.
    pub(crate) fn reclaim_output(&mut self) -> Option<Vec<u8>> {
        let is_unused = self.out.is_empty() && self.out.capacity() > 0;
        is_unused.then(|| std::mem::take(&mut self.out))
    }

    /// Whether so much waits to be written that nothing more is to be read.
    pub(crate) fn is_congested(&self) -> bool {
        self.output().len() >= MOST + CONTROL_MOST
    }

    /// The transport takes no more output at the moment, or does so again.
    pub(crate) fn set_stalled(&mut self, is_stalled: bool) {
        if self.is_stalled != is_stalled {
            self.is_stalled = is_stalled;
            self.grant();
        }
    }

    fn room(&self) -> usize {
        let most = if self.is_stalled { MOST } else { BATCH };
        most.saturating_sub(self.output().len() + self.granted)
    }

    /// Room for one stream's own data.
    fn own_room(&self, key: usize) -> usize {
        let stream = &self.streams[key];
        match stream.data_end > self.out_start + self.written as u64 {
            true => STREAM_MOST.saturating_sub(stream.unwritten),
            false => STREAM_MOST,
        }
    }

    /// Waits until some of `wanted` bytes may be sent, and reserves them: the caller sends exactly as many.
    fn poll_claim(
        &mut self,
        cx: &Context<'_>,
        key: usize,
        wanted: usize,
    ) -> Poll<Result<usize, StreamError>> {
        let (room, own_room) = (self.room(), self.own_room(key));
        let stream = &mut self.streams[key];
        if let Some(error) = stream.error {
            return Poll::Ready(Err(error));
        }
        let window = stream.send_window.max(0) as usize;
        let most = wanted.min(window).min(own_room);
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        if stream.granted > 0 && most > 0 {
            let granted = std::mem::take(&mut stream.granted);
            // The rest of the grant goes back: the caller may want less than when it was queued.
            let n = most.min(granted);
            self.granted -= granted;
            self.send_window += (granted - n) as i64;
            return Poll::Ready(Ok(n));
        }
        let connection = self.send_window.max(0) as usize;
        let has_room = room >= LEAST_ROOM || room >= most;
        // Not past those that wait already, or else a busy stream could keep them waiting for ever.
        if most > 0 && !stream.queued && self.blocked.is_empty() && has_room && connection > 0 {
            let n = most.min(room).min(connection);
            self.send_window -= n as i64;
            return Poll::Ready(Ok(n));
        }
        stream.register(cx, interest::SEND);
        stream.wanted = wanted;
        // Without a window of its own it is woken by WINDOW_UPDATE, and only then takes its place in the queue.
        if window > 0 && !stream.queued {
            stream.queued = true;
            self.blocked.push_back(key);
        }
        Poll::Pending
    }

    /// Gives room and window to the streams that wait for them.
    pub(super) fn grant(&mut self) {
        for _ in 0..self.blocked.len() {
            let (room, connection) = (self.room(), self.send_window.max(0) as usize);
            if room < LEAST_ROOM || connection == 0 {
                return;
            }
            let Some(key) = self.blocked.pop_front() else {
                return;
            };
            let own_room = self.own_room(key);
            // It keeps its place among those that wait, and its turn passes.
            if own_room == 0 {
                self.blocked.push_back(key);
                continue;
            }
            let stream = &mut self.streams[key];
            stream.queued = false;
            let window = stream.send_window.max(0) as usize;
            let most = stream.wanted.min(window).min(own_room);
            let n = most.min(GRANT).min(room).min(connection);
            stream.granted += n;
            self.granted += n;
            self.send_window -= n as i64;
            stream.wake(interest::SEND);
        }
    }

    /// Returns what a stream has claimed and won't use, and takes it out of the queue.
    pub(super) fn release_grant(&mut self, key: usize) {
        let stream = &mut self.streams[key];
        let unused = std::mem::take(&mut stream.granted);
        if std::mem::take(&mut stream.queued) {
            self.blocked.retain(|blocked| *blocked != key);
        }
        if unused > 0 {
            self.granted -= unused;
            self.send_window += unused as i64;
            self.grant();
        }
    }

    /// Sends some of `data`.
    pub(super) fn poll_send(
        &mut self,
        cx: &Context<'_>,
        key: usize,
        data: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        if self.streams[key].send_ended {
            let closed = StreamError::Reset {
                code: ErrorCode::STREAM_CLOSED,
                by_peer: false,
            };
            return Poll::Ready(Err(closed));
        }
        let claimed = self.poll_claim(cx, key, data.len());
        if let Poll::Ready(Ok(n)) = claimed {
            self.put_data(key, &data[..n]);
        }
        claimed
    }

    /// Queues DATA. What fits is appended to the last frame, since a body that arrives in tiny pieces would otherwise become as
    /// many frames.
    fn put_data(&mut self, key: usize, mut data: &[u8]) {
        // `unwritten` begins anew once all of the stream's data has been written.
        let own_room = self.own_room(key);
        let stream = &mut self.streams[key];
        stream.send_window -= data.len() as i64;
        stream.unwritten = STREAM_MOST - own_room + data.len();
        self.budget.sent(data.len());
        let most = frame::DEFAULT_MAX_FRAME;
        if let Some(at) = self.unwritten_data(key) {
            let [a, b, c] = [self.out[at], self.out[at + 1], self.out[at + 2]];
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            // Only if no other frame follows it.
            if at + HEADER_LEN + len == self.out.len() {
                let (more, rest) = data.split_at(data.len().min(most - len));
                self.out.extend_from_slice(more);
                let len = (len + more.len()) as u32;
                self.out[at..at + 3].copy_from_slice(&len.to_be_bytes()[1..]);
                data = rest;
            }
        }
        let stream = &mut self.streams[key];
        for piece in data.chunks(most) {
            stream.last_data = Some(self.out_start + self.out.len() as u64);
            frame::put_data_header(&mut self.out, stream.id, piece.len(), false);
            self.out.extend_from_slice(piece);
        }
        stream.data_end = self.out_start + self.out.len() as u64;
        self.notify();
    }

    /// Ends our side of a stream, with END_STREAM on its last frame if that is still there.
    pub(super) fn finish(&mut self, key: usize) -> Result<(), StreamError> {
        let stream = &mut self.streams[key];
        if let Some(error) = stream.error {
            return Err(error);
        }
        if stream.send_ended {
            return Ok(());
        }
        let id = stream.id;
        match self.unwritten_data(key) {
            // The fifth byte of a frame header has the flags.
            Some(at) => self.out[at + 4] |= flag::END_STREAM,
            None => frame::put_data_header(&mut self.out, id, 0, true),
        }
        self.budget.sent(0);
        self.send_ended(key);
        Ok(())
    }

    /// END_STREAM was queued.
    pub(super) fn send_ended(&mut self, key: usize) {
        let stream = &mut self.streams[key];
        stream.send_ended = true;
        let is_closed = stream.receive_ended;
        self.release_grant(key);
        if is_closed {
            self.close(key);
        }
        self.notify();
    }

    /// The peer has enlarged the window of the connection (`key` is `None`) or of a stream.
    ///
    /// # Errors
    /// The window would exceed its maximum.
    pub(super) fn window_update(&mut self, key: Option<usize>, by: u32) -> Result<(), ErrorCode> {
        let window = match key {
            Some(key) => &mut self.streams[key].send_window,
            None => &mut self.send_window,
        };
        // What was granted is taken from the window, but not sent: the peer doesn't know of it.
        let reserved = if key.is_none() {
            self.granted as i64
        } else {
            0
        };
        if *window + reserved + i64::from(by) > i64::from(frame::MAX_WINDOW) {
            return Err(ErrorCode::FLOW_CONTROL_ERROR);
        }
        *window += i64::from(by);
        match key {
            Some(key) => {
                let stream = &mut self.streams[key];
                if stream.send_window > 0 && !stream.queued {
                    stream.wake(interest::SEND);
                }
            }
            None => self.grant(),
        }
        Ok(())
    }
}
